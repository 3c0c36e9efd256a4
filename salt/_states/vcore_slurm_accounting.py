"""
Accounts, people and qualities of service in SLURM's accounting
===============================================================
"""

import contextlib

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.directory import client
    from vcore.people import accounts
    from vcore.slurm import sacctmgr

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


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
    pillar = planned = None

    with contextlib.ExitStack() as stack:

        @client.remedies()
        def difference():
            nonlocal pillar, planned
            pillar = adapter.head(__pillar__)
            opened = client.open_for_state(pillar, paths, test=test)
            if isinstance(opened, str):
                return opened
            if opened is not None:
                stack.enter_context(opened)
            if not test:
                stack.enter_context(sacctmgr.exclusive(paths))
            present = accounts.Accounts(pillar, paths, opened).look()
            found = sacctmgr.plan(pillar, paths, present, test=test, part=part)
            if isinstance(found, str):
                return found
            planned = found
            return planned.changes

        def apply(changes):
            sacctmgr.apply(pillar, planned)
            return f"{len(changes)} things were put in place."

        return adapter.converge(
            name,
            test=test,
            difference=difference,
            apply=apply,
            unchanged="SLURM has the accounts of the site and the people of the directory.",
            planned=lambda changes: f"{len(changes)} things would be put in place.",
            done="Accounts were put in place.",
        )
