"""
What the core puts on every host
================================

Salt's own ``file.directory`` and ``file.blockreplace`` report other changes in a plan than when they apply; these
report the same.
"""

try:
    from vcore.adapter import converge

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def names_present(name, addresses):
    """
    Let this host find the core's services by name, through a block of its own in /etc/hosts.

    addresses
        A mapping from an address to the names that it has; an empty one takes the block away.
    """

    def difference():
        lines = __salt__["vcore_host.names_difference"](addresses)
        return {"/etc/hosts": lines} if lines else {}

    return converge(
        name,
        test=__opts__["test"],
        difference=difference,
        apply=lambda _: __salt__["vcore_host.write_names"](addresses),
        unchanged="The names in /etc/hosts are as they should be.",
        planned="The names in /etc/hosts would be changed.",
        done="The names in /etc/hosts were changed.",
    )


def directories_present(name, directories):
    """
    Make sure that folders exist with the owner, group and mode that their services need.

    directories
        A mapping from a path to ``owner``, ``group`` (numbers) and ``mode`` (an octal string).
    """

    def difference():
        found = {
            path: __salt__["vcore_host.directory_difference"](path, wanted) for path, wanted in directories.items()
        }
        return {path: changes for path, changes in found.items() if changes}

    def apply(changes):
        for path in changes:
            __salt__["vcore_host.make_directory"](path, directories[path])

    return converge(
        name,
        test=__opts__["test"],
        difference=difference,
        apply=apply,
        unchanged="The data folders are as they should be.",
        planned="The data folders would be changed.",
        done="The data folders were changed.",
    )
