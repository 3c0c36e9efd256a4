"""
Accounts, people and qualities of service in SLURM's accounting
===============================================================
"""

import contextlib

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.directory import client
    from vcore.people import accounts
    from vcore.slurm import sacctmgr


def present(name, part="all"):
    """
    Make sure that slurmdbd has the accounts and qualities of service of the site file, and everybody of the directory
    in the accounts that they may charge.

    name
        A sentence; there is one slurmdbd.

    part
        ``first`` is all but limits of GPUs, which slurmctld has to have told slurmdbd of before there can be any;
        ``gpus`` are these. Partitions may have qualities of service that slurmctld does not start without.

    Who is locked, removed, or in an account's group no more cannot submit jobs to it from then on; nothing is deleted.
    What administrators made with sacctmgr themselves stays as it is.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]

    def steps():
        pillar = adapter.head(__pillar__)
        with (
            client.connected_for_state(pillar, paths, test=test) as opened,
            contextlib.nullcontext() if test else sacctmgr.exclusive(paths),
        ):
            present = accounts.Accounts(pillar, paths, opened).look()
            planned = sacctmgr.plan(pillar, paths, present, test=test, part=part)
            if isinstance(planned, str):
                yield planned
                return
            changes = planned.changes
            yield changes, tr("{count} things would be put in place.", count=len(changes))
            sacctmgr.apply(pillar, planned)
            return tr("{count} things were put in place.", count=len(changes))

    return adapter.converge(
        name,
        steps(),
        test=test,
        unchanged=tr("SLURM has the accounts of the site and the people of the directory."),
    )
