"""Secrets of the file router that follow from the site's routes and instruments."""

from __future__ import annotations

from collections.abc import Mapping

from ..services.catalogue import Secret
from .settings import Instrument, Route


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
