"""The secrets that the file router needs for the site's routes and instruments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from ..services.catalogue import Secret
from .settings import INSTRUMENTS, ROUTES, SERVICE, Instrument, Route


def extend(configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Add the secrets of its routes and instruments to the file router's service."""
    if name == SERVICE:
        more = secrets(ROUTES.of(configuration.site), INSTRUMENTS.of(configuration.site))
        service["secrets"] |= {secret: entry.model_dump(mode="json") for secret, entry in more.items()}


def secrets(routes: Mapping[str, Route], instruments: Mapping[str, Instrument]) -> dict[str, Secret]:
    """Return the secrets of the file router that its routes and instruments need, by name.

    The password of a route is supplied, that of an instrument is made. The container gets only those that it uses
    itself: the passwords of routes that it pulls from.
    """
    wanted = {
        f"route-{name}": Secret(
            kind="supplied",
            path=f"/run/secrets/route-{name}" if route.kind == "sync" else None,
            description=f"Password of {route.user} on {route.server}.",
        )
        for name, route in routes.items()
        if route.user
    }
    for name in instruments:
        wanted[f"instrument-{name}"] = Secret(length=20, description=f"Password of the instrument {name}.")
    return wanted
