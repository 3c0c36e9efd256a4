"""The errors that the brain raises; each message is one that an administrator can act on.

:class:`VcoreError` is what a caller catches who only passes the message on: ``adapter`` turns it into Salt's error,
and programs in containers print it. The classes below it are for callers who do something else, and say what.

::

    VcoreError
    ├── NotFound
    ├── Invalid
    ├── CommandFailed
    ├── Busy
    ├── Unreachable
    ├── Refused
    └── Postponed

A module derives a class of its own only where the error carries data, or where nobody else tells it from another; it
gives it a name that no other class of the brain has. Images link this file: it needs the standard library only.
"""


class VcoreError(Exception):
    """Something that was asked for cannot be done; the message says what, why and what to do.

    Caught where Salt, a program or a page shows it to a person, and where one failure must not hold up the rest.
    """


class NotFound(VcoreError):
    """A thing that was named does not exist: a secret, a certificate, a person, a container, a node of the swarm.

    Caught where its absence is an answer: the service does not run here yet, no token was ever made.
    """


class Invalid(VcoreError):
    """Something that was given or kept is not what it has to be: a name, a line of a file, a filter, a journal.

    Nothing was done. Caught where the argument of a command is told from a failure of the core, and where the other
    lines of a file are gone through all the same.
    """


class CommandFailed(VcoreError):
    """A program that was run ended with an error; the message carries its last lines.

    Caught where a plan does without the program's answer.
    """


class Busy(VcoreError):
    """Somebody else holds a lock for longer than one waits, or does the same thing now.

    Caught where it is tried again later, or is done by that other one anyway.
    """


class Unreachable(VcoreError):
    """A service of the core cannot be asked: it does not run, does not answer, or not with a certificate to trust.

    Caught where one waits for it to come up, and where a plan or a clean-up does without it.
    """


class Refused(VcoreError):
    """Whoever was asked answered, and said no: to a name and password, a credential, a proof. Nothing was done.

    Caught where somebody may be let in another way or later, as between the rotation of a password and the update that
    it waits for; and where trying again would lock an account.
    """


class Postponed(VcoreError):
    """Something cannot be looked at before an earlier step of the same run is carried out; the message says which.

    Caught where a plan goes on without it.
    """
