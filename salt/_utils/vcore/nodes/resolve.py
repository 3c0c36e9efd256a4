"""The nodes of a resolved site, including those that were enrolled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.paths import Paths
from ..kernel import areas
from ..kernel.site import Configuration, NodeSettings
from . import registry

KEYS = ("nodes",)

#: The keys that a node takes from its entry in the registry.
ENROLLED_KEYS = ("enrolled", "swarm_id", "forgotten", "hardware", "retiring")


@areas.face("node")
class Extends(Protocol):
    """What an area adds to a node, from its own keys of the node in the site file."""

    def extend(self, configuration: Configuration, node: NodeSettings | None) -> Mapping[str, Any]:
        """Return further keys of a node; ``node`` is None for one that the site file does not name."""


def sources(paths: Paths) -> Iterable[Path]:
    """Return the files that the result depends on: the registry."""
    return [paths.nodes]


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return every node by name: those of the site file, and enrolled ones with the roles that a token granted.

    What the site says of one wins.
    """
    site, enrolled = configuration.site, registry.Registry(configuration.paths.nodes).read()
    names = dict.fromkeys([*site.nodes, *(name for name, entry in enrolled.items() if entry["roles"])])
    return {"nodes": {name: _node(configuration, name, enrolled.get(name, dict(registry.UNKNOWN))) for name in names}}


def _node(configuration: Configuration, name: str, entry: registry.Entry) -> dict[str, Any]:
    said = configuration.site.nodes.get(name)
    own_address = configuration.address if name == configuration.head else None
    node: dict[str, Any] = {
        "roles": list(said.roles if said else entry["roles"]),
        "address": (said.address if said else None) or own_address or entry["address"],
    }
    for area in areas.asked(Extends).values():
        node |= area.extend(configuration, said)
    return node | {key: entry[key] for key in ENROLLED_KEYS}
