"""The directory in the pillar of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``directory``: how to reach it, and its password rules."""
    return {"directory": resolved["directory"]}
