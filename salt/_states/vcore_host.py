"""
What the core puts on every host
================================

Salt's own ``file.directory`` and ``file.blockreplace`` report other changes in a plan than when they apply; these
report the same.
"""

from vcore import adapter
from vcore.base.messages import tr


def names_present(name, addresses):
    """
    Let this host find the core's services by name, through a block of its own in /etc/hosts.

    addresses
        A mapping from an address to the names that it has; an empty one takes the block away.
    """

    def steps():
        lines = __salt__["vcore_host.names_difference"](addresses)
        yield {"/etc/hosts": lines} if lines else {}
        __salt__["vcore_host.write_names"](addresses)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("The names in /etc/hosts are as they should be."),
        planned=tr("The names in /etc/hosts would be changed."),
        done=tr("The names in /etc/hosts were changed."),
    )


def directories_present(name, directories):
    """
    Make sure that folders exist with the owner, group and mode that their services need.

    directories
        A mapping from a path to ``owner``, ``group`` (numbers) and ``mode`` (an octal string).
    """

    def steps():
        found = {
            path: __salt__["vcore_host.directory_difference"](path, wanted) for path, wanted in directories.items()
        }
        changes = {path: different for path, different in found.items() if different}
        yield changes
        for path in changes:
            __salt__["vcore_host.make_directory"](path, directories[path])

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("The data folders are as they should be."),
        planned=tr("The data folders would be changed."),
        done=tr("The data folders were changed."),
    )
