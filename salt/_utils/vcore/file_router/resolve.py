"""Shares, routes and instruments of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from .settings import INSTRUMENTS, ROUTES, SHARES

KEYS = ("shares", "routes", "instruments")


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three sections of the site; a share or route without a path gets its name as its folder."""
    site = configuration.site
    placed = {
        section.name: {
            name: {**entry.model_dump(mode="json"), "path": entry.path or name}
            for name, entry in section.of(site).items()
        }
        for section in (SHARES, ROUTES)
    }
    instruments = {name: entry.model_dump(mode="json") for name, entry in INSTRUMENTS.of(site).items()}
    return {**placed, "instruments": instruments}
