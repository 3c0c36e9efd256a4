"""The nodes of a resolved site, those that were enrolled included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Site
from ..logins.resolve import _logins
from . import registry

#: What a node's part of the registry shows of it.
ENROLLED_KEYS = ("enrolled", "swarm_id", "forgotten", "hardware", "retiring")


def _nodes(
    site: Site, head: str, head_address: str, enrolled: Mapping[str, registry.Entry]
) -> dict[str, dict[str, Any]]:
    """Every node by name: those of the site file, and those that were enrolled; what the site says of one wins."""
    nodes: dict[str, dict[str, Any]] = {
        name: {
            "roles": list(node.roles),
            "address": node.address or (head_address if name == head else None),
            "logins": _logins(node.logins, site.groups) if node.logins else None,
        }
        for name, node in site.nodes.items()
    }
    for name, entry in enrolled.items():
        if name not in nodes and entry["roles"]:
            nodes[name] = {"roles": list(entry["roles"]), "address": None, "logins": None}
    for name, node in nodes.items():
        entry = enrolled.get(name, dict(registry.UNKNOWN))
        node["address"] = node["address"] or entry["address"]
        node |= {key: entry[key] for key in ENROLLED_KEYS}
    return nodes
