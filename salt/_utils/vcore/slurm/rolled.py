"""Nodes of SLURM in a roll: drained, waited for, resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REASON = "update of the compute image"


class Slurm:
    """SLURM of the core."""

    def __init__(self, pillar: Mapping[str, Any]) -> None:
        self.pillar = pillar

    def drain(self, node: str) -> bool:
        from . import queue

        if node not in queue.show_nodes(self.pillar):
            return False
        return bool(queue.drain(self.pillar, node, REASON))

    def jobs(self, node: str) -> list[str]:
        from . import queue

        known = node in queue.show_nodes(self.pillar)
        return queue.jobs_on(self.pillar, node).get(node, []) if known else []

    def started(self, node: str) -> int | None:
        from . import queue

        found = queue.show_nodes(self.pillar).get(node) or {}
        return found.get("slurmd_start")

    def is_back(self, node: str, before: int | None) -> bool:
        from . import queue

        found = queue.show_nodes(self.pillar).get(node)
        # A node that SLURM does not have yet comes to it when its hardware is known.
        return found is None or (queue.is_well(found) and found["slurmd_start"] != before)

    def release(self, node: str) -> None:
        from . import queue

        queue.release(self.pillar, node, REASON)
