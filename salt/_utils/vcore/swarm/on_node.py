"""The swarm in the pillar of a node: its networks, and the token to join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.names import JOIN_TOKEN


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``network``: the core's networks."""
    return {"network": resolved["network"]}


def secrets(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the join token, for a compute node that is not in the swarm and not being retired."""
    joins = "compute" in node["roles"] and node["swarm_id"] is None and not node["retiring"]
    return [JOIN_TOKEN] if joins else []
