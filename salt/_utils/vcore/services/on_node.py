"""What a node sees of the services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .placement import runs_on

#: What a node sees of a service that runs on it and has no states there.
NODE_KEYS = ("name", "node", "volumes", "node_states")


def own(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the services that run on a node."""
    return {"services": [name for name, service in resolved["services"].items() if runs_on(service, node)]}


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the services that run on a node, whole where they have states there, with the sections that they name."""
    seen: dict[str, Any] = {"names": resolved["names"]}
    services = {}
    for name in node["services"]:
        service = resolved["services"][name]
        services[name] = service if service["node_states"] else {key: service[key] for key in NODE_KEYS}
        seen |= {section: resolved[section] for section in service["sections"]}
    return {**seen, "services": services}
