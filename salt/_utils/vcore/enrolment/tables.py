"""The display of keys that wait in ``vcore.status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import Group, RenderableType, Text, plain, table

PLACE = 60


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the table of keys that wait, if there are any; those under names of nodes are highlighted."""
    pending = facts.get("pending", {})
    if not pending.get("count"):
        return []
    rows = table("KEY THAT WAITS", "WHY", whole=(0,))
    for key in pending["keys"]:
        name = Text.assemble(plain(key["id"]), style="bold red" if key.get("node") else "")
        rows.add_row(name, plain(key["reason"]))
    more = pending["count"] - len(pending["keys"])
    return [Group(rows, *([Text(f"and {more} more: salt-key -l pre")] if more else []))]
