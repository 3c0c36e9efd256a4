"""What a node sees of the swarm, and what it needs to join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.names import JOIN_TOKEN


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the networks."""
    return {"network": resolved["network"]}


def secrets(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the token to join by, for a compute node that is in no swarm and is not leaving."""
    joins = "compute" in node["roles"] and node["swarm_id"] is None and not node["retiring"]
    return [JOIN_TOKEN] if joins else []
