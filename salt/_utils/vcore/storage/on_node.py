"""What a node sees of the storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import places


def own(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a node mounts, by kind."""
    return {"storage": places.on_node(resolved["storage"], node["name"])}


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return where homes and data are."""
    return {"storage": resolved["storage"]}
