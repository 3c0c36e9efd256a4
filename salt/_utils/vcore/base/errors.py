"""The errors that the brain raises; each message is one that an administrator can act on."""


class VcoreError(Exception):
    """Something that was asked for cannot be done; the message says what, why and what to do."""


class NotFound(VcoreError):
    """A thing that was named does not exist."""


class CommandFailed(VcoreError):
    """A program that was run ended with an error; the message carries its last lines."""
