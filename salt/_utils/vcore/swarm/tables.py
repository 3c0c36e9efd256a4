"""The display of services in ``vcore.status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import RenderableType, Text, good, since, table

PLACE = 10


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the table of services, and the updates that still wait for nodes."""
    services = table("SERVICE", "TITLE", "STATE", "NODE", "ADDRESS", "IMAGE", "SINCE", whole=(4,))
    for name, service in facts.get("services", {}).items():
        state = "healthy" if service["ok"] else f"{service['state']} ({service['healthy']}/{service['desired']})"
        services.add_row(
            name,
            service["title"],
            good(state, service["ok"]),
            service["node"] or "-",
            "\n".join(service["addresses"]) or "-",
            service["image"] or "-",
            since(service["since"]),
        )
    rolls = facts.get("swarm", {}).get("rolls", {})
    waiting = [
        Text(f"An update of {name} waits for {_several(nodes)}: salt-run vcore.roll_compute", style="yellow")
        for name, nodes in rolls.items()
        if nodes
    ]
    return [services, *waiting]


def _several(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
