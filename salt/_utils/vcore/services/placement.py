"""A resolved service, and where it runs. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class ServicePart(TypedDict):
    """A service below ``services`` of the pillar: its entry of the catalogue with what the site says of it.

    Another node than the head sees some of the keys only (:mod:`vcore.services.on_node`).
    """

    name: str
    title: str
    description: str
    image: dict[str, Any]
    #: The node that it is pinned to; None for a global one, which runs on nodes of the role ``placement``.
    node: str | None
    mode: Literal["replicated", "global"]
    placement: Literal["head", "compute"]
    network: Literal["overlay", "host"]
    requires: list[str]
    after: list[str]
    update: Literal["start-first", "stop-first"]
    rolled: bool
    node_states: bool
    sections: list[str]
    #: By name, as service.yaml has them, with defaults filled in.
    ports: dict[str, dict[str, Any]]
    volumes: dict[str, dict[str, Any]]
    certificates: dict[str, dict[str, Any]]
    secrets: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    #: Bytes: ``limit`` and ``reservation``, None where there is none.
    memory: dict[str, int | None]
    health: dict[str, int]
    stop_grace: int
    capabilities: list[str]
    apparmor: bool
    sysctls: dict[str, str]


def runs_on(service: ServicePart, node: Mapping[str, Any]) -> bool:
    """Whether a resolved service runs on a node (``name``, ``roles``)."""
    if service["node"] is None:
        return service["placement"] in node["roles"]
    return bool(service["node"] == node["name"])
