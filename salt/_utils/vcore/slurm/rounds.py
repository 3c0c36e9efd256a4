"""What a round does for SLURM when nodes have joined, changed or left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import Busy, VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from .names import COMPUTE, CONTROLLER

# The rest is imported where it is used: it takes a while to load, and most rounds do not need it.
if TYPE_CHECKING:
    from ..nodes.rounds import Owed

COLUMN = "slurm"


def _is_managed(owed: Owed) -> bool:
    """Return whether the core runs its own SLURM and the swarm already has its controller."""
    from . import controller

    return controller.manages(owed.pillar) and CONTROLLER in owed.services


def changed(owed: Owed) -> None:
    """Bring slurmctld's configuration, or the files offered to a site's own SLURM, up to date with the registry."""
    from . import controller, offer

    offer.write_offer(owed.pillar, owed.paths)
    if _is_managed(owed):
        with owed.step("slurm"):
            controller.configure(owed.pillar, owed.paths)


def labelled(owed: Owed) -> list[str]:
    """Resume nodes that the system drained and return them; nodes that a person drained stay drained."""
    if not _is_managed(owed):
        return []
    from . import configuration

    with owed.step("resume"):
        known = configuration.compute_nodes(owed.pillar)
        return _resume(owed.pillar, owed.paths, [name for name in owed.well if name in known])


def _resume(pillar: Mapping[str, Any], paths: Paths, names: Sequence[str]) -> list[str]:
    """Resume nodes and return them, but leave those that a roll drained to it while it is under way.

    When no roll is under way, its nodes are resumed here: a roll that was cut off never resumes them, and a slurmctld
    that was killed may have forgotten that they were resumed.
    """
    from ..swarm import rolling
    from . import queue

    try:
        with rolling.alone(COMPUTE, paths):
            return queue.resume(pillar, names, abandoned=[f"{queue.OURS}{rolling.REASON}"])
    except Busy:
        return queue.resume(pillar, names)


def catch_up(owed: Owed) -> None:
    """Bring accounting up to date with people who were changed without telling it, such as on the directory's web page.

    A failure does not hold up nodes; the next full round tries again.
    """
    if not _is_managed(owed):
        return
    from . import sacctmgr

    try:
        with owed.step("accounts"):
            sacctmgr.synchronise(owed.pillar, owed.paths)
    except VcoreError as error:
        owed.say(tr("SLURM's accounts do not follow the directory: {error}", error=error))


def columns(pillar: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return the state (``words``) and ``reason`` of SLURM's nodes by name, and why there are none if it is silent."""
    from . import controller, queue

    if not controller.manages(pillar):
        return {}, None
    try:
        found = queue.show_nodes(pillar)
    except VcoreError as error:
        return {}, f"SLURM: {error}"
    return {n: {"words": queue.state_words(node), "reason": node["reason"]} for n, node in found.items()}, None
