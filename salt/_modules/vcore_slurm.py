"""
SLURM of the core
=================

For administrators, on the head.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.slurm import configuration, controller, queue


def show_nodes():
    """
    Show how SLURM sees its nodes, by name: state, flags, reason and who gave it, memory in MiB, processors.

    Raises CommandExecutionError when SLURM does not run here or does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm.show_nodes
    """
    with adapter.salt_errors():
        return queue.show_nodes(adapter.head(__pillar__))


def difference():
    """
    Show what ``state.apply`` would change in SLURM's configuration, by file; an empty mapping if nothing.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm.difference
    """
    with adapter.salt_errors():
        return controller.plan(adapter.head(__pillar__), Paths.from_opts(__opts__)).changes


def left_out():
    """
    Show which compute nodes of the core SLURM does not have, and why: name, reason.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm.left_out
    """
    with adapter.salt_errors():
        return configuration.left_out(adapter.head(__pillar__))


def drain(node, reason):
    """
    Have a node take no new jobs; what runs there goes on. Returns the nodes that were changed.

    Before the reason goes ``vcore: ``, which marks what the core may take back. To drain a node so that only a person
    takes it back, use SLURM's own ``scontrol update``.

    node
        Its name, or several with commas between them.

    reason
        One line for those who wait.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm.drain compute-3 'a new disk'
    """
    with adapter.salt_errors():
        return queue.drain(adapter.head(__pillar__), node.split(","), reason)


def resume(node=None):
    """
    Have nodes take jobs again that the core drained, or that slurmctld drained for having less than it was told.

    What a person drained stays so. Returns the nodes that take jobs again.

    node
        Its name, or several with commas between them; by default all of them.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm.resume compute-3
    """
    with adapter.salt_errors():
        return queue.resume(adapter.head(__pillar__), node.split(",") if node else None)
