"""Show shares and routes to people, as tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..terminal import RenderableType, Text, age, good, table

PLACE = 50


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the tables of shares and of routes, each where there are any."""
    router = facts.get("file_router") or {"shares": [], "routes": {}}
    shown: list[RenderableType] = [_shares(router)] if router["shares"] else []
    if router["routes"]:
        shown += [*([""] if shown else []), _routes(router["routes"])]
    return shown


def _shares(router: Mapping[str, Any]) -> RenderableType:
    exports = {export["name"].removeprefix("/"): export for export in router["exports"]}
    shares = table("SHARE", "FOLDER", "SMB", "NFS")
    for share in router["shares"]:
        export = exports.get(share["name"])
        nfs = Text("-") if export is None else good(export["name"] if export["ok"] else "not exported", export["ok"])
        shares.add_row(share["name"], share["path"], "offered" if share["smb"] else "-", nfs)
    return shares


def _routes(routes: Mapping[str, Any]) -> RenderableType:
    rows = table("ROUTE", "KIND", "FROM", "STATE", "LAST", "MESSAGE")
    for name, route in routes.items():
        # None: the file router runs on another node, which cannot be looked at from here.
        state = Text(route["state"]) if route["ok"] is None else good(route["state"], route["ok"])
        last = age(time.time() - route["ended"]) if route.get("ended") else "-"
        rows.add_row(name, route["kind"], route["server"], state, last, Text(route["message"]))
    return rows
