"""What a node sees of the directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return how it is reached."""
    return {"directory": resolved["directory"]}
