"""What SLURM is owed when nodes have joined, changed or left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import VcoreError


def slurm_states(pillar: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """State in ``words`` and ``reason`` of every node in SLURM, and why there are none where it could not be asked."""
    from . import controller, queue

    if not controller.manages(pillar):
        return {}, None
    try:
        found = queue.show_nodes(pillar)
    except VcoreError as error:
        return {}, f"SLURM: {error}"
    return {n: {"words": queue.state_words(node), "reason": node["reason"]} for n, node in found.items()}, None
