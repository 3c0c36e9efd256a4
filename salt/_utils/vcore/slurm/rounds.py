"""What SLURM is owed when nodes have joined, changed or left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import Busy, VcoreError
from ..base.paths import Paths
from .names import COMPUTE, CONTROLLER

# The rest is imported where it is used: with what SLURM needs it takes a while to load, and most rounds owe nothing.
if TYPE_CHECKING:
    from ..nodes.rounds import Owed

COLUMN = "slurm"


def _is_managed(owed: Owed) -> bool:
    """Whether the core has a SLURM of its own that is there already."""
    from . import controller

    return controller.manages(owed.pillar) and CONTROLLER in owed.services


def changed(owed: Owed) -> None:
    """Bring slurmctld's configuration to what the registry says, or what a site's own SLURM is offered."""
    from . import controller, offer

    offer.write_offer(owed.pillar, owed.paths)
    if _is_managed(owed):
        with owed.step("slurm"):
            controller.configure(owed.pillar, owed.paths)


def labelled(owed: Owed) -> list[str]:
    """Have nodes take jobs again that the system drained; those that were drained by hand stay so."""
    if not _is_managed(owed):
        return []
    from . import configuration

    with owed.step("resume"):
        known = configuration.compute_nodes(owed.pillar)
        return _resume(owed.pillar, owed.paths, [name for name in owed.well if name in known])


def _resume(pillar: Mapping[str, Any], paths: Paths, names: Sequence[str]) -> list[str]:
    """Resume nodes. What a roll drained is its own to resume, as long as it is under way: one that was cut off resumes
    nothing, and a slurmctld that was killed forgets its last seconds.
    """
    from ..swarm import rolling
    from . import queue

    try:
        with rolling.alone(COMPUTE, paths):
            return queue.resume(pillar, names, abandoned=[f"{queue.OURS}{rolling.REASON}"])
    except Busy:
        return queue.resume(pillar, names)


def catch_up(owed: Owed) -> None:
    """Have accounting know of people who were made or changed by nobody who tells it, such as on the directory's web
    page. Nodes do not wait for that, and the next full round tries again.
    """
    if not _is_managed(owed):
        return
    from . import sacctmgr

    try:
        with owed.step("accounts"):
            sacctmgr.synchronise(owed.pillar, owed.paths)
    except VcoreError as error:
        owed.say(f"SLURM's accounts do not follow the directory: {error}")


def columns(pillar: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return state in ``words`` and ``reason`` of every node in SLURM, and why there are none if it cannot be asked."""
    from . import controller, queue

    if not controller.manages(pillar):
        return {}, None
    try:
        found = queue.show_nodes(pillar)
    except VcoreError as error:
        return {}, f"SLURM: {error}"
    return {n: {"words": queue.state_words(node), "reason": node["reason"]} for n, node in found.items()}, None
