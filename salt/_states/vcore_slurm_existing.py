"""
A SLURM that the site has
=========================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.slurm import offer


def offered(name):
    """
    Make sure that the files which a site's own SLURM can include list the core's compute nodes as they are.

    name
        A sentence; there is one such SLURM.

    Nothing of that SLURM is written, and its slurmctld is told nothing.
    """
    paths = Paths.from_opts(__opts__)

    def steps():
        pillar = adapter.head(__pillar__)
        yield offer.differences(pillar, paths)
        offer.write_offer(pillar, paths)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("The files on offer list the compute nodes."),
        planned=tr("The files on offer would be changed."),
        done=tr("The files on offer were changed: have slurmctld read its configuration again."),
    )
