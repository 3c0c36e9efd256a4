"""What accounting does when people change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import VcoreError
from ..base.paths import Paths
from .names import ACCOUNTING

if TYPE_CHECKING:
    from ..people.plans import Present

log = logging.getLogger(__name__)


def follow(pillar: Mapping[str, Any], paths: Paths, look: Callable[[], Present]) -> None:
    """Bring SLURM's accounting up to date with changed people at once.

    A failure is only logged: the next run of the states, or the reconciler's next round, makes up for it.
    """
    if ACCOUNTING not in pillar["services"]:
        return
    from . import sacctmgr

    try:
        sacctmgr.synchronise(pillar, paths, look())
    except VcoreError as error:
        log.warning("SLURM's accounts do not follow yet: %s", error)
