"""Where a resolved service runs. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def runs_on(service: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a resolved service runs on a node (``name``, ``roles``)."""
    if service["node"] is None:
        return service["placement"] in node["roles"]
    return bool(service["node"] == node["name"])
