"""Drain nodes that are to change or to leave, wait for their jobs, and resume or give up the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.paths import Paths
from . import controller, queue
from .names import COMPUTE

SERVICE, TITLE = COMPUTE, "SLURM"


def known(pillar: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that SLURM has."""
    if not names or not controller.manages(pillar):
        return []
    there = queue.show_nodes(pillar)
    return [name for name in names if name in there]


def drain(pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
    """Make nodes take no new jobs; return those that were changed, without nodes that a person had drained before."""
    return queue.drain(pillar, known(pillar, names), reason)


def running(pillar: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of the jobs on nodes, by node."""
    there = known(pillar, names)
    return queue.jobs_on(pillar, there) if there else {}


def started(pillar: Mapping[str, Any], name: str) -> int | None:
    """Return when slurmd last started on a node, in seconds since 1970; None where SLURM does not know."""
    found: int | None = (queue.show_nodes(pillar).get(name) or {}).get("slurmd_start")
    return found


def is_back(pillar: Mapping[str, Any], name: str, before: int | None) -> bool:
    """Return whether slurmd is well on a node and has started anew since ``before``, a result of :func:`started`."""
    found = queue.show_nodes(pillar).get(name)
    # SLURM gets a node once its hardware is known; until then there is nothing to wait for.
    return found is None or (queue.is_well(found) and found["slurmd_start"] != before)


def release(pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> None:
    """Resume nodes that were drained with this reason."""
    if controller.manages(pillar):
        queue.release(pillar, names, reason)


def give_up(pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
    """Set nodes down and return them; SLURM requeues their jobs or fails them, as each was submitted."""
    there = known(pillar, names)
    if there:
        queue.down(pillar, there, reason)
    return there


def forget(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Remove nodes that the registry no longer has from slurmctld's configuration; return whether that changed it."""
    return controller.manages(pillar) and bool(controller.configure(pillar, paths))
