"""From a valid configuration to plain data: everything that the states need, and each node's part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.names import JOIN_TOKEN, NODE_NAME
from ..directory.resolve import directory_access
from ..file_router import settings
from ..nodes import registry
from ..nodes.resolve import _nodes
from ..people.settings import plain
from ..services.resolve import NODE_KEYS, _in_order, _names, _resolve_service, runs_on
from ..slurm.resolve import _slurm
from ..storage import resolve as storage_resolve
from ..storage.resolve import _storage_clients
from .site import Configuration


def resolve(
    configuration: Configuration,
    *,
    head_address: str,
    enrolled: Mapping[str, registry.Entry] | None = None,
    own_slurm: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that follows from a configuration, as plain data: what the head's pillar holds.

    ``head_address`` is used where the site names no address for the head. ``enrolled`` are the nodes of the registry:
    those that the site file does not name have the roles that a token granted. ``own_slurm`` is what the files of a
    SLURM say that the site has (:func:`vcore.slurm.existing.read`).
    """
    site, head = configuration.site, configuration.head
    nodes = _nodes(site, head, head_address, enrolled or {})
    slurm = _slurm(configuration, nodes, own_slurm)
    services = {name: _resolve_service(name, configuration, nodes, slurm) for name in _in_order(configuration)}
    router = services.get(settings.SERVICE)
    stored = storage_resolve.resolved(
        site.storage.model_dump(mode="json"),
        base_directory=site.base_directory,
        domain=site.site.domain,
        router=router,
        head=head,
        address=nodes[router["node"]]["address"] if router else None,
    )
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
        "accounts": site.accounts.model_dump(mode="json"),
        "people": {name: plain(person) for name, person in site.people.items()},
        "groups": {name: plain(group) for name, group in site.groups.items()},
        "shares": {
            name: {**share.model_dump(mode="json"), "path": share.path or name} for name, share in site.shares.items()
        },
        "routes": {
            name: {**route.model_dump(mode="json"), "path": route.path or name} for name, route in site.routes.items()
        },
        "slurm": slurm,
        "storage": stored,
        "storage_clients": _storage_clients(stored, nodes),
        "instruments": {name: instrument.model_dump(mode="json") for name, instrument in site.instruments.items()},
        "services": services,
        "directory": directory_access(services, site.site.domain),
    }


def node_pillar(resolved: Mapping[str, Any], minion: str) -> dict[str, Any]:
    """The part of the resolved configuration that one minion gets; nothing for a minion that the site does not name.

    The head gets all of it. Another node gets what it needs to trust and find the core, the data folders of the
    services that run on it, and all of a service that has states for its node, with the sections of the site that
    the service names.
    """
    node = resolved["nodes"].get(minion)
    if node is None or not NODE_NAME.fullmatch(minion):
        return {}
    own = {"name": minion, **node}
    own["services"] = [name for name, service in resolved["services"].items() if runs_on(service, own)]
    own["storage"] = storage_resolve.on_node(resolved["storage"], minion)
    if "head" in node["roles"]:
        return {**resolved, "node": own}
    common = {key: resolved[key] for key in COMMON_KEYS}
    services = {}
    for name in own["services"]:
        service = resolved["services"][name]
        services[name] = service if service["node_states"] else {key: service[key] for key in NODE_KEYS}
        common |= {section: resolved[section] for section in service["sections"]}
    return {**common, "node": own, "services": services}


#: What every node sees.
COMMON_KEYS = ("site", "base_directory", "network", "head", "names", "registry", "directory", "storage")


def node_secrets(resolved: Mapping[str, Any], minion: str) -> list[tuple[str, str]]:
    """The secrets, as service and name, that a node other than the head needs on the host itself, and no other."""
    node = resolved["nodes"].get(minion)
    if node is None or "head" in node["roles"]:
        return []
    own = {"name": minion, **node}
    wanted = [("ldap", "readonly-password")] if node["logins"] is not None and resolved["directory"] else []
    if "compute" in node["roles"] and node["swarm_id"] is None and not node["retiring"]:
        wanted.append(JOIN_TOKEN)
    router = resolved["services"].get(settings.SERVICE)
    if router and runs_on(router, own):
        wanted += [
            (settings.SERVICE, f"route-{name}")
            for name, route in resolved["routes"].items()
            if route["kind"] == "mount" and route["user"]
        ]
        if router["settings"]["password_scheme"] == "tdbsam":
            wanted += [(settings.SERVICE, f"instrument-{name}") for name in resolved["instruments"]]
    return wanted
