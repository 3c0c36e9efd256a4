"""
The file router of the core
===========================

For administrators on the node that it runs on.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.file_router import configuration, health


def exports():
    """
    List what NFS exports now, as the paths that clients mount.

    Raises CommandExecutionError when the file router does not run on this node, or NFS does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_file_router.exports
    """
    with adapter.salt_errors():
        return health.live_exports(adapter.node(__pillar__))


def sessions():
    """
    List who is connected by SMB: person, machine, share, and how the connection is signed and encrypted.

    Raises CommandExecutionError when the file router does not run on this node, or Samba does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_file_router.sessions
    """
    with adapter.salt_errors():
        return health.sessions(adapter.node(__pillar__))


def admit_nodes():
    """
    Let the nodes that there are now in to homes and data by NFS, and change nothing else: ``state.apply`` does it, too,
    with all that the site wants. Nobody's session ends.

    Returns whether anything changed. Raises CommandExecutionError when the file router refuses the configuration; the
    old one is then in place and serves.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_file_router.admit_nodes
    """
    with adapter.salt_errors():
        return configuration.admit(adapter.node(__pillar__), Paths.from_opts(__opts__))


def difference():
    """
    Show what ``state.apply`` would change in the configuration, by file; an empty mapping if nothing.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_file_router.difference
    """
    with adapter.salt_errors():
        return configuration.plan(adapter.node(__pillar__), Paths.from_opts(__opts__), test=True).changes
