"""The services in the pillar of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .placement import runs_on

#: The keys that a node sees of a service that runs on it without states there.
NODE_KEYS = ("name", "node", "volumes", "node_states")


def own(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``services``: the names of the services that run on a node."""
    return {"services": [name for name, service in resolved["services"].items() if runs_on(service, node)]}


def view(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of all services by address, the services that run on a node, and the sections that they name.

    A service that has states on the node comes whole, another one with :data:`NODE_KEYS`.
    """
    seen: dict[str, Any] = {"names": resolved["names"]}
    services = {}
    for name in node["services"]:
        service = resolved["services"][name]
        services[name] = service if service["node_states"] else {key: service[key] for key in NODE_KEYS}
        seen |= {section: resolved[section] for section in service["sections"]}
    return {**seen, "services": services}
