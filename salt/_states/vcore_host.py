"""
What the core puts on every host
================================

Salt's own ``file.directory`` and ``file.blockreplace`` report other changes in a plan than when they apply; these
report the same.
"""

from salt.exceptions import CommandExecutionError


def __virtual__():
    return True if "vcore_host.write_names" in __salt__ else (False, "the module vcore_host is not available")


def _carry_out(name, changes, apply, what):
    """The one shape of every state here: nothing to do, a plan, or the same changes made."""
    ret = {"name": name, "result": True, "changes": changes, "comment": f"{what} are as they should be."}
    if changes and __opts__["test"]:
        ret.update(result=None, comment=f"{what} would be changed.")
    elif changes:
        try:
            apply()
            ret["comment"] = f"{what} were changed."
        except CommandExecutionError as error:
            ret.update(result=False, changes={}, comment=str(error))
    return ret


def names_present(name, addresses):
    """
    Let this host find the core's services by name, through a block of its own in /etc/hosts.

    addresses
        A mapping from an address to the names that it has; an empty one takes the block away.
    """
    lines = __salt__["vcore_host.names_difference"](addresses)
    changes = {"/etc/hosts": lines} if lines else {}
    return _carry_out(name, changes, lambda: __salt__["vcore_host.write_names"](addresses), "The names in /etc/hosts")


def directories_present(name, directories):
    """
    Make sure that folders exist with the owner, group and mode that their services need.

    directories
        A mapping from a path to ``owner``, ``group`` (numbers) and ``mode`` (an octal string).
    """
    found = {path: __salt__["vcore_host.directory_difference"](path, wanted) for path, wanted in directories.items()}
    changes = {path: difference for path, difference in found.items() if difference}

    def apply():
        for path in changes:
            __salt__["vcore_host.make_directory"](path, directories[path])

    return _carry_out(name, changes, apply, "The data folders")
