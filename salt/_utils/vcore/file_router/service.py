"""Secrets of the file router that follow from the site's routes and instruments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from ..services.catalogue import Secret
from .settings import INSTRUMENTS, ROUTES, SERVICE, Instrument, Route


def extend(configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Give the file router the secrets of its routes and instruments."""
    if name == SERVICE:
        more = secrets(ROUTES.of(configuration.site), INSTRUMENTS.of(configuration.site))
        service["secrets"] |= {secret: entry.model_dump(mode="json") for secret, entry in more.items()}


def secrets(routes: Mapping[str, Route], instruments: Mapping[str, Instrument]) -> dict[str, Secret]:
    """The secrets of the file router that follow from its routes and instruments, by name.

    The password of a route is supplied, that of an instrument is made. Only what the container uses by itself is
    handed to it: the passwords of routes that it pulls from.
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
