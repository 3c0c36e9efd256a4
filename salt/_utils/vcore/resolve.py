"""From a valid configuration to plain data: everything that the states need, and each node's part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .catalogue import DERIVED
from .models import NODE_NAME
from .site import Configuration, ServiceSettings


def service_names(name: str, node: str, domain: str, more: Iterable[str] = ()) -> list[str]:
    """The DNS names that a certificate of a service carries."""
    return list(dict.fromkeys([name, f"{name}.{domain}", node, f"{node}.{domain}", "localhost", *more]))


def resolve(configuration: Configuration, *, head_address: str) -> dict[str, Any]:
    """Everything that follows from a configuration, as plain data: what the head's pillar holds.

    ``head_address`` is used where the site names no address for the head.
    """
    site, head = configuration.site, configuration.head
    nodes = {
        name: {"roles": list(node.roles), "address": node.address or (head_address if name == head else None)}
        for name, node in site.nodes.items()
    }
    services = {name: _resolve_service(name, configuration, nodes) for name in _in_order(configuration)}
    return {
        "site": site.site.model_dump(mode="json"),
        "base_directory": site.base_directory,
        "network": site.network.model_dump(mode="json"),
        "nodes": nodes,
        "head": {"name": head, "address": nodes[head]["address"]},
        "names": _names(services, nodes, site.site.domain),
        "authorized_keys": list(site.authorized_keys),
        "monitoring": "monitoring" in services,
        "registry": f"registry.{site.site.domain}:5000",
        "build": site.build.model_dump(mode="json"),
        "certificate_authority": site.certificate_authority.model_dump(mode="json"),
        "services": services,
    }


def _names(services: Mapping[str, Any], nodes: Mapping[str, Any], domain: str) -> dict[str, list[str]]:
    """The names that the services answer by, by the address of the node that each runs on."""
    names: dict[str, list[str]] = {}
    for name, service in services.items():
        if service["node"] is not None:
            names.setdefault(nodes[service["node"]]["address"], []).append(f"{name}.{domain}")
    return names


def _in_order(configuration: Configuration) -> list[str]:
    """The services that are switched on, each behind the ones that it requires."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for required in sorted(configuration.catalogue[name].requires):
                visit(required)
            order.append(name)

    for name in sorted(name for name, on in configuration.enabled.items() if on):
        visit(name)
    return order


def _resolve_service(name: str, configuration: Configuration, nodes: Mapping[str, Any]) -> dict[str, Any]:
    site, service = configuration.site, configuration.catalogue[name]
    chosen = site.services.get(name, ServiceSettings())
    node = None if service.mode == "global" else chosen.node or configuration.head
    resolved = service.model_dump(mode="json")
    settings = service.settings_model().model_validate(chosen.settings).model_dump(mode="json")
    for setting, definition in service.settings.items():
        if definition.derived is not None and settings[setting] is None:
            derive, _ = DERIVED[definition.derived]
            settings[setting] = derive(site.site.domain)
    for volume, data in resolved["volumes"].items():
        data["source"] = f"{site.base_directory}/{name}/{volume}"
    for certificate, data in resolved["certificates"].items():
        place = node or configuration.head
        supplied = chosen.certificates.get(certificate)
        address = nodes[place]["address"]
        data["names"] = service_names(name, place, site.site.domain, data["names"])
        data["addresses"] = [address, "127.0.0.1"] if address else ["127.0.0.1"]
        data["supplied"] = supplied.model_dump(mode="json") if supplied else None
    memory = chosen.memory.model_dump(mode="json", exclude_none=True)
    resolved.update(name=name, node=node, settings=settings, memory={**resolved["memory"], **memory})
    return resolved


def node_pillar(resolved: Mapping[str, Any], minion: str) -> dict[str, Any]:
    """The part of the resolved configuration that one minion gets; nothing for a minion that the site does not name.

    The head gets all of it. Another node gets what it needs to trust and find the core, and the data folders of the
    services that run on it.
    """
    node = resolved["nodes"].get(minion)
    if node is None or not NODE_NAME.fullmatch(minion):
        return {}
    own = {"name": minion, **node}
    if "head" in node["roles"]:
        return {**resolved, "node": own}
    common = {key: resolved[key] for key in ("site", "base_directory", "network", "head", "names", "registry")}
    services = {
        name: {"name": name, "node": service["node"], "volumes": service["volumes"]}
        for name, service in resolved["services"].items()
        if service["node"] == minion or (service["node"] is None and service["placement"] in node["roles"])
    }
    return {**common, "node": own, "services": services}
