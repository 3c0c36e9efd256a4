"""Bringing a new compute image to the nodes, whose jobs are SLURM's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..kernel import pillar as kernel_pillar
from ..swarm import rolling
from .names import COMPUTE


def roll(paths: Paths, nodes: Sequence[str] | None, patience: float, say: Callable[[str], None]) -> list[str]:
    """Bring what the site wants of compute nodes to these, or to all that are behind; return those that were updated.

    ``patience`` is how long to wait for the jobs of a node, in seconds.

    Raises:
        VcoreError: this core runs no compute nodes, or as :func:`vcore.swarm.rolling.roll` does.
    """
    pillar = kernel_pillar.head_pillar(paths)
    if COMPUTE not in pillar["services"]:
        raise VcoreError(tr("the core runs no compute nodes of SLURM; see vcore.slurm.mode of the site file"))
    return rolling.roll(COMPUTE, pillar=pillar, paths=paths, nodes=nodes, patience=patience, say=say)
