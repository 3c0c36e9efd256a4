"""The secrets that the node needs on which the file router runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..services.placement import runs_on
from .settings import SERVICE


def secrets(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the secrets of the routes that the node mounts and, with the scheme tdbsam, of the instruments.

    They are (service, secret) pairs, none where the file router runs on another node.
    """
    router = resolved["services"].get(SERVICE)
    if router is None or not runs_on(router, node):
        return []
    wanted = [
        (SERVICE, f"route-{name}")
        for name, route in resolved["routes"].items()
        if route["kind"] == "mount" and route["user"]
    ]
    if router["settings"]["password_scheme"] == "tdbsam":
        wanted += [(SERVICE, f"instrument-{name}") for name in resolved["instruments"]]
    return wanted
