"""
The front door on the master: the swarm, and what its nodes run
===============================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.paths import Paths
    from vcore.base.secrets import Store

    __virtualname__ = "vcore"


def roll_compute(node=None, patience=604800):
    """
    Bring a new compute image, or another changed setting of it, to the compute nodes, one after another.

    Each is drained, waited for until its jobs have ended, changed over, looked at, and takes jobs again. A node that
    does not come back gets the image before again, and ends the roll. What a person has drained stays drained.

    node
        The nodes to update, with commas between them; by default all that are behind.

    patience
        Seconds to wait for the jobs of a node.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.roll_compute
        salt-run vcore.roll_compute node=compute-3
    """
    from vcore.slurm import rolling  # with docker it takes a while to load

    with adapter.runner_errors():
        try:
            patience = float(patience)
        except ValueError as error:
            raise VcoreError(str(error)) from None
        done = rolling.roll(Paths.from_opts(__opts__), node.split(",") if node else None, patience, adapter.say)
    return f"Updated: {', '.join(done)}." if done else "All compute nodes run the newest one."


def rotate_join_token():
    """
    Have Docker make a new token to join the swarm by, and keep it for new nodes. Nodes that have joined stay.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.rotate_join_token
    """
    from vcore.swarm.membership import Swarm  # with docker it takes a while to load

    with adapter.runner_errors():
        Swarm().rotate_join_token(Store(Paths.from_opts(__opts__).secrets))
    return "The swarm has a new join token; the old one is worth nothing any more."
