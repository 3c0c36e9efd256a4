"""
The front door on the master: compute nodes, which join, come to work, and leave
================================================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.nodes import overview, retirement, rounds
    from vcore.nodes.master import Master

    __virtualname__ = "vcore"


def _shown(data):
    """Have salt-run print this with salt/_output/vcore.py, unless --out says otherwise."""
    return {"outputter": "vcore", "data": data}


def _ended(told):
    """What was done, with exit code 1 where not all of it is ok: salt-run takes that from here only."""
    return _shown(told if told["ok"] else {**told, "retcode": 1})


def reconcile(node=None, wait=600):
    """
    Bring compute nodes to work now: the code, their states, the swarm, SLURM. The master does this by itself, too.

    node
        Converge this node, whether that is due or not; by default all nodes are looked at, and those converged that
        are due.

    wait
        Seconds that it waits for nodes at most; what is not finished then goes on without it.

    Returns what was done for each node, and what it took in seconds. The exit code is 0 only when nothing failed.
    Raises an error, and does nothing, for a node that takes no part, with the reason.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.reconcile
        salt-run vcore.reconcile compute-1
        salt-run vcore.reconcile --out json
    """
    with adapter.runner_errors():
        asked, wait = None if node is None else str(node), float(wait)
        return _ended(
            rounds.reconcile(Paths.from_opts(__opts__), Master(__opts__), node=asked, wait=wait, say=adapter.say)
        )


def nodes():
    """
    Every node of the core: roles, key, place in the swarm, state in SLURM with its reason, and how its last convergence
    went. Times are in seconds since 1970.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.nodes
        salt-run vcore.nodes --out json
    """
    with adapter.runner_errors():
        return _shown(overview.nodes(Paths.from_opts(__opts__), Master(__opts__)))


def retire(nodes, dead=False, cancel=False, timeout=86400):
    """
    Take compute nodes out of the core. They are drained, and as their jobs end they leave SLURM and the swarm, the core
    is taken off them with all secrets, and their keys are deleted. Run it again to go on from where it was cut off.

    nodes
        A node, or several as SLURM writes them: ``compute-[1-8,12]``.

    dead
        The machines are gone for good: they are not waited for, and not touched. Their jobs are SLURM's to requeue.

    cancel
        Keep the nodes after all, as long as they have not left SLURM.

    timeout
        Seconds that their jobs may still take; who has some then stays drained, and this ends with exit code 1.

    Returns what was done with each, why one goes no further, and what remains to do: a node that the site file names
    has to be taken out there, too. Raises an error for a node that runs services of its own; then nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.retire compute-1
        salt-run vcore.retire compute-[1-8] timeout=600
        salt-run vcore.retire compute-1 dead=True
        salt-run vcore.retire compute-1 cancel=True
    """
    with adapter.runner_errors():
        leaving = retirement.Retirement(Paths.from_opts(__opts__), Master(__opts__), str(nodes), adapter.say)
        return _ended(leaving.cancel() if cancel is True else leaving.run(dead=dead is True, timeout=float(timeout)))
