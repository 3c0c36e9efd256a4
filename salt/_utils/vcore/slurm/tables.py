"""SLURM's part of what vcore.status shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hostlist

from ..base.messages import tr
from ..terminal import RenderableType, Text, good, plain, table

PLACE = 30


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the queue: nodes by state, with reasons, and jobs by state; nothing where the core runs no SLURM."""
    slurm = facts.get("slurm")
    if not slurm:
        return []
    alike: dict[tuple[str, str, bool], list[str]] = {}
    for name, node in slurm["nodes"].items():
        alike.setdefault((node["words"], _why(node), node["ok"]), []).append(name)
    nodes = table("SLURM", "NODES", "WHY")
    for (words, why, ok), names in alike.items():
        nodes.add_row(good(words, ok), hostlist.collect_hostlist(names), plain(why or "-"))
    jobs = ", ".join(f"{count} {state}" for state, count in slurm["jobs"].items())
    return [*([nodes] if alike else []), Text(f"Queue  {jobs or 'no jobs'}")]


def _why(node: Mapping[str, Any]) -> str:
    reason = node["reason"] or ""
    return tr("drained by hand: {reason}", reason=reason or "no reason given") if node["by_hand"] else reason
