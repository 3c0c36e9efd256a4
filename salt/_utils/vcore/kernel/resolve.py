"""Resolves a valid configuration to plain data: everything that the states need, and each node's part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import NODE_NAME
from ..base.paths import Paths
from . import areas
from .site import Configuration


@areas.face("resolve")
class Part(Protocol):
    """An area's part of the pillar."""

    #: The keys of the pillar that the area provides.
    KEYS: Sequence[str]

    def resolve(self, configuration: Configuration, parts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of :attr:`KEYS` as plain data; ``parts`` resolves those of other areas when asked."""


@areas.face("on_node")
class Own(Protocol):
    """Keys of a node's own entry (``node``) that an area adds to its roles and address."""

    def own(self, resolved: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return further keys for ``node``, which has ``name``, ``roles`` and the entry from the nodes' part."""


@areas.face("on_node")
class View(Protocol):
    """What an area shows to nodes other than the head."""

    def view(self, resolved: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the area's keys of the node's pillar."""


@areas.face("on_node")
class Secrets(Protocol):
    """The secrets that a node other than the head needs on the host itself."""

    def secrets(self, resolved: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return these secrets, each as service and name."""


class _Parts(Mapping[str, Any]):
    """The parts of the pillar, each resolved on first access, so that no part has to know its place in an order."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.givers = {key: (area, part) for area, part in areas.asked(Part).items() for key in part.KEYS}
        self.made: dict[str, Any] = {}
        self.under_way: list[str] = []

    def __getitem__(self, key: str) -> Any:
        if key not in self.made:
            area, part = self.givers[key]
            if area in self.under_way:
                raise VcoreError(
                    tr(
                        "parts of the pillar wait for each other: {under_way}",
                        under_way=" -> ".join([*self.under_way, area]),
                    )
                )
            self.under_way.append(area)
            self.made |= part.resolve(self.configuration, self)
            self.under_way.pop()
        return self.made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.givers)

    def __len__(self) -> int:
        return len(self.givers)


def resolve(configuration: Configuration) -> dict[str, Any]:
    """Return everything that follows from a configuration as plain data: the content of the head's pillar."""
    site, parts = configuration.site, _Parts(configuration)
    return {
        "site": site.site.model_dump(mode="json"),
        "base_directory": site.base_directory,
        "head": {"name": configuration.head, "address": parts["nodes"][configuration.head]["address"]},
        "states": states(configuration.paths),
        **parts,
    }


#: The state files that an area can have: for every node, and for the head only.
STATES = ("node", "head")


def states(paths: Paths) -> dict[str, list[str]]:
    """Return the areas that have states in ``salt/states/areas/<area>``: for every ``node``, and for the ``head``."""
    return {
        name: [area for area in areas.names() if (paths.area_states / area / f"{name}.sls").is_file()]
        for name in STATES
    }


#: The kernel's own keys that every node sees.
COMMON_KEYS = ("site", "base_directory", "head", "states")


def node_pillar(resolved: Mapping[str, Any], minion: str) -> dict[str, Any]:
    """Return one minion's part of the resolved configuration; {} for a minion that the site does not name.

    The head gets all of it. Another node gets what it needs to find and trust the core, and what each area shows it.
    """
    node = _node(resolved, minion)
    if node is None:
        return {}
    if "head" in node["roles"]:
        return {**resolved, "node": node}
    seen = {key: resolved[key] for key in COMMON_KEYS}
    for area in areas.asked(View).values():
        seen |= area.view(resolved, node)
    return {**seen, "node": node}


def _node(resolved: Mapping[str, Any], minion: str) -> dict[str, Any] | None:
    known = resolved["nodes"].get(minion)
    if known is None or not NODE_NAME.fullmatch(minion):
        return None
    node = {"name": minion, **known}
    for area in areas.asked(Own).values():
        node |= area.own(resolved, node)
    return node


def node_secrets(resolved: Mapping[str, Any], minion: str) -> list[tuple[str, str]]:
    """Return the secrets (service, name) that a node needs on the host itself; none for the head, which has a store."""
    node = _node(resolved, minion)
    if node is None or "head" in node["roles"]:
        return []
    return [secret for area in areas.asked(Secrets).values() for secret in area.secrets(resolved, node)]
