"""
Accounting of the batch queue
=============================

For administrators on the head.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.slurm import sacctmgr


def synchronise():
    """
    Bring the accounts and people of SLURM up to date with the site and the directory, and show what was changed.

    ``state.apply`` does the same, and so do the commands that change people. Raises CommandExecutionError when the
    directory or slurmdbd does not answer, or refuses something.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_slurm_accounting.synchronise
    """
    with adapter.salt_errors():
        return sacctmgr.synchronise(adapter.head(__pillar__), Paths.from_opts(__opts__))
