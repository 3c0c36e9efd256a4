"""What a node sees of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a node pulls images from."""
    return {"registry": resolved["registry"]}
