"""
SLURM: its configuration, and the names of its nodes
====================================================
"""

from vcore import adapter

# vcore.slurm.controller is imported where it is used: only the head has what it needs.
with adapter.imports() as __virtual__:
    from vcore.base.files import write_atomic
    from vcore.base.messages import tr
    from vcore.base.paths import Paths


def configured(name):
    """
    Bring SLURM's configuration into place: cluster, partitions, nodes, GPUs.

    name
        A sentence; there is one SLURM.

    A slurmctld of the controller's image proves it, beside the one that runs. What that refuses fails the state, and
    the old configuration stays in force. Otherwise one ``scontrol reconfigure`` has everybody read it; jobs go on.
    A controller that is about to start, for instance with another image, proves it when it does: see ``serving``.

    Changes are unified diffs, by file.
    """
    from vcore.slurm import controller

    paths = Paths.from_opts(__opts__)

    def steps():
        pillar = adapter.head(__pillar__)
        planned = controller.plan(pillar, paths)
        yield planned.changes
        return controller.apply(pillar, paths, planned, replacing=True)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("SLURM has its configuration."),
        planned=tr("SLURM's configuration would be changed."),
        done=tr("SLURM's configuration was changed."),
    )


def serving(name):
    """
    Check that the controller goes by the configuration that is in place.

    name
        A sentence; there is one SLURM.

    It changes nothing that a plan could announce. It fails where a container that started refused the configuration;
    the one before is then in force.
    """
    from vcore.slurm import controller

    def steps():
        pillar = adapter.head(__pillar__)
        if not __opts__["test"]:
            controller.settle(pillar)
        yield {}

    return adapter.converge(name, steps(), test=__opts__["test"], unchanged=tr("SLURM goes by its configuration."))


def node_named(name):
    """
    Tell slurmd on this node by which name SLURM knows it: its minion id, whatever the host calls itself.

    name
        A sentence; a node has one slurmd.
    """
    from pathlib import Path

    def steps():
        pillar = adapter.node(__pillar__)
        wanted = f"{pillar['node']['name']}\n"
        path = Path(pillar["services"]["slurm-compute"]["volumes"]["node"]["source"]) / "name"
        old = path.read_text() if path.exists() else None
        yield {} if old == wanted else {"name": {"old": old and old.strip(), "new": wanted.strip()}}
        write_atomic(path, wanted.encode())

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("slurmd knows the name of its node."),
        planned=tr("slurmd would be told the name of its node."),
        done=tr("slurmd was told the name of its node."),
    )
