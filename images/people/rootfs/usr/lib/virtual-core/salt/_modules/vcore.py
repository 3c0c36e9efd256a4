"""
Virtual Core for people
=======================

What a person may do on a host of the core without being an administrator.
"""

try:
    from vcore.passwords import change

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def sync_password(boot=False):
    """
    Change your password, for the directory and the file server alike.

    Asks for the current password and, twice, for the new one; or reads them as lines from standard input. They are
    never arguments. Returns a sentence that says what happened; the exit code says so to programs.

    boot
        True for the first change on a file server that keeps passwords of its own, with the one-time password that an
        administrator made there.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.sync_password
        salt-call vcore.sync_password --boot
    """
    result = change.sync_password(boot=boot is True)
    __context__["retcode"] = int(result.outcome)
    return result.sentence


# Prints the sentence alone, without the name of a minion above it.
sync_password.__outputter__ = "sentence"
