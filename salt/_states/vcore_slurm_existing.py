"""
A SLURM that the site has
=========================
"""

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.slurm import offer

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def offered(name):
    """
    Make sure that the files which a site's own SLURM can include list the core's compute nodes as they are.

    name
        A sentence; there is one such SLURM.

    Nothing of that SLURM is written, and its slurmctld is told nothing.
    """
    paths = Paths.from_opts(__opts__)
    pillar = None

    def difference():
        nonlocal pillar
        pillar = adapter.head(__pillar__)
        return offer.differences(pillar, paths)

    return adapter.converge(
        name,
        test=__opts__["test"],
        difference=difference,
        apply=lambda _: offer.write_offer(pillar, paths) and None,
        unchanged="The files on offer list the compute nodes.",
        planned="The files on offer would be changed.",
        done="The files on offer were changed: have slurmctld read its configuration again.",
    )
