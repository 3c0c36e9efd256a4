"""
The front door for people: what an administrator does about passwords
=====================================================================

All run on the head. What is printed is for people; ``--out json`` gives programs the same facts.
"""

import contextlib

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.directory import client
    from vcore.file_router import passwords

    __virtualname__ = "vcore"


@contextlib.contextmanager
def _administrator():
    """The pillar, the folders, and a connection to the directory as its administrator."""
    pillar, paths = adapter.head(__pillar__), Paths.from_opts(__opts__)
    with client.open_administrator(pillar, paths) as connection:
        yield pillar, paths, connection


def samba_user_add(name, reset=False):
    """
    Make a person's account on a file router that keeps passwords of its own (``password_scheme: tdbsam``).

    It gets a random one-time password. Returns the file, readable by root only, that holds it; its owner needs it
    once, for ``salt-call vcore.sync_password --boot`` on the file router.

    reset
        Give an existing account a new one-time password: for who forgot it, or got a new password in the directory.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.samba_user_add ada
    """
    with adapter.salt_errors(), _administrator() as (pillar, paths, connection):
        return str(passwords.add_account(pillar, paths, connection, adapter.name(name), reset=reset is True))


def password_check(name):
    """
    Tell whether the directory and the file router have the same password for a person, and since when (UTC).

    The exit code is 0 only when they have. No hash and no password is returned.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.password_check ada
        salt-call vcore.password_check ada --out json
    """
    with adapter.salt_errors(), _administrator() as (pillar, _, connection):
        found = passwords.check(pillar, connection, adapter.name(name))
    if not found["in_sync"]:
        __context__["retcode"] = 1
    return found
