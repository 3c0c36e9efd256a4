"""What accounting does when people change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import VcoreError
from ..base.paths import Paths
from ..people.accounts import Accounts, log


def follow(pillar: Mapping[str, Any], paths: Paths, ours: Accounts) -> None:
    """Have SLURM's accounting know of changed people at once. What fails here the next run of the states makes up for,
    and so do the reconciler's rounds: the change of the directory is done, and no reason to fail.
    """
    from . import sacctmgr

    try:
        sacctmgr.synchronise(pillar, paths, ours.look())
    except VcoreError as error:
        log.warning("SLURM's accounts do not follow yet: %s", error)
