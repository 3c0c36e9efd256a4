"""From a valid configuration to plain data: everything that the states need, and each node's part of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from . import existing, partitions, shares, storage
from . import nodes as nodes_module
from .catalogue import DERIVED
from .names import JOIN_TOKEN, NODE_NAME
from .people import ADMINISTRATORS, plain
from .site import Configuration, LoginSettings, ServiceSettings, Site


def service_names(name: str, node: str, domain: str, more: Iterable[str] = ()) -> list[str]:
    """The DNS names that a certificate of a service carries."""
    return list(dict.fromkeys([name, f"{name}.{domain}", node, f"{node}.{domain}", "localhost", *more]))


def resolve(
    configuration: Configuration,
    *,
    head_address: str,
    enrolled: Mapping[str, nodes_module.Entry] | None = None,
    own_slurm: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that follows from a configuration, as plain data: what the head's pillar holds.

    ``head_address`` is used where the site names no address for the head. ``enrolled`` are the nodes of the registry:
    those that the site file does not name have the roles that a token granted. ``own_slurm`` is what the files of a
    SLURM say that the site has (:func:`vcore.existing.read`).
    """
    site, head = configuration.site, configuration.head
    nodes = _nodes(site, head, head_address, enrolled or {})
    slurm = _slurm(configuration, nodes, own_slurm)
    services = {name: _resolve_service(name, configuration, nodes, slurm) for name in _in_order(configuration)}
    router = services.get(shares.SERVICE)
    stored = storage.resolved(
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


def _storage_clients(stored: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The addresses of the nodes that mount the storage from the file router by NFS."""
    return sorted(
        str(node["address"])
        for name, node in nodes.items()
        if node["address"] and any(root["kind"] == "nfs" for root in storage.on_node(stored, name).values())
    )


#: What a node's part of the registry shows of it.
ENROLLED_KEYS = ("enrolled", "swarm_id", "forgotten", "hardware", "retiring")


def _slurm(
    configuration: Configuration, nodes: Mapping[str, Any], own_slurm: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The batch queue, with what its clients are told of its controllers (``controller``, HOST:PORT with commas between
    several) and what a site's own says (``existing``); None each where there is none.
    """
    site, name = configuration.site, partitions.CONTROLLER
    controller = None
    if own_slurm is not None:
        controller = ",".join(own_slurm["controllers"])
    elif configuration.enabled.get(name):
        place = site.services[name].node if name in site.services else None
        port = configuration.catalogue[name].ports["slurmctld"].number
        controller = f"{nodes[place or configuration.head]['address']}:{port}"
    return {**site.slurm.model_dump(mode="json"), "controller": controller, "existing": own_slurm}


def _nodes(
    site: Site, head: str, head_address: str, enrolled: Mapping[str, nodes_module.Entry]
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
        entry = enrolled.get(name, dict(nodes_module.UNKNOWN))
        node["address"] = node["address"] or entry["address"]
        node |= {key: entry[key] for key in ENROLLED_KEYS}
    return nodes


def _logins(logins: LoginSettings, groups: Collection[str]) -> dict[str, Any]:
    """Who may log in on a node; of the groups, also those that the site does not make, so that they can be missing."""
    return {
        "groups": list(logins.groups),
        "made_elsewhere": [group for group in logins.groups if group not in groups and group != ADMINISTRATORS],
    }


def _names(services: Mapping[str, Any], nodes: Mapping[str, Any], domain: str) -> dict[str, list[str]]:
    """The names that the services answer by, by the address of the node that each runs on."""
    names: dict[str, list[str]] = {}
    for name, service in services.items():
        if service["node"] is not None:
            names.setdefault(nodes[service["node"]]["address"], []).append(f"{name}.{domain}")
    return names


def _in_order(configuration: Configuration) -> list[str]:
    """The services that are switched on, each behind the ones that it requires or comes after."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            service = configuration.catalogue[name]
            for first in sorted({*service.requires, *service.after}):
                if configuration.enabled.get(first):
                    visit(first)
            order.append(name)

    for name in sorted(name for name, on in configuration.enabled.items() if on):
        visit(name)
    return order


def _resolve_service(
    name: str, configuration: Configuration, nodes: Mapping[str, Any], slurm: Mapping[str, Any]
) -> dict[str, Any]:
    site, service = configuration.site, configuration.catalogue[name]
    chosen = site.services.get(name, ServiceSettings())
    node = None if service.mode == "global" else chosen.node or configuration.head
    resolved = service.model_dump(mode="json")
    if name == shares.SERVICE:
        more = shares.secrets(site.routes, site.instruments)
        resolved["secrets"] |= {secret: entry.model_dump(mode="json") for secret, entry in more.items()}
    if slurm["existing"] is not None:
        keys, files = existing.given(slurm, resolved["secrets"])
        for secret, path in keys.items():
            resolved["secrets"][secret]["file"] = path
        resolved["configs"] |= files
    settings = service.settings_model().model_validate(chosen.settings).model_dump(mode="json")
    for setting, definition in service.settings.items():
        if definition.derived is not None and settings[setting] is None:
            derive, _ = DERIVED[definition.derived]
            settings[setting] = derive(site.site.domain)
    if "srun" in resolved["ports"]:
        # SLURM is told the same ones: those on which srun waits for the nodes.
        resolved["ports"]["srun"] |= {"number": site.slurm.srun_ports.first, "last": site.slurm.srun_ports.last}
    for volume, data in resolved["volumes"].items():
        shared = data["shared"]
        data["source"] = (
            storage.folder(site.base_directory, shared) if shared else f"{site.base_directory}/{name}/{volume}"
        )
        if shared:
            data["propagation"] = "rslave"  # it may be mounted later than the container is started
        elif name == shares.SERVICE and site.storage.kind == "path" and volume in storage.KINDS:
            data["source"] = f"{site.storage.path}/{volume}"
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

    The head gets all of it. Another node gets what it needs to trust and find the core, the data folders of the
    services that run on it, and all of a service that has states for its node, with the sections of the site that
    the service names.
    """
    node = resolved["nodes"].get(minion)
    if node is None or not NODE_NAME.fullmatch(minion):
        return {}
    own = {"name": minion, **node}
    own["services"] = [name for name, service in resolved["services"].items() if runs_on(service, own)]
    own["storage"] = storage.on_node(resolved["storage"], minion)
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
#: The directory's settings that Samba goes by, too, on whichever node it runs.
POLICY_KEYS = ("lockout_duration", "lockout_failures", "password_minimum_length")
#: What a node sees of a service that runs on it and has no states there.
NODE_KEYS = ("name", "node", "volumes", "node_states")


def runs_on(service: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a resolved service runs on a node (``name``, ``roles``)."""
    if service["node"] is None:
        return service["placement"] in node["roles"]
    return bool(service["node"] == node["name"])


def directory_access(services: Mapping[str, Any], domain: str) -> dict[str, Any] | None:
    """How a host outside of the overlay reaches the directory (``uri``, ``suffix``), and its rules for passwords
    (``policy``); None where it is off.
    """
    service = services.get("ldap")
    if service is None:
        return None
    name, port = f"ldap.{domain}", service["ports"]["ldaps"]["number"]
    return {
        "uri": f"ldaps://{name}" + ("" if port == 636 else f":{port}"),
        "suffix": service["settings"]["suffix"],
        "policy": {key: service["settings"][key] for key in POLICY_KEYS},
    }


def node_secrets(resolved: Mapping[str, Any], minion: str) -> list[tuple[str, str]]:
    """The secrets, as service and name, that a node other than the head needs on the host itself, and no other."""
    node = resolved["nodes"].get(minion)
    if node is None or "head" in node["roles"]:
        return []
    own = {"name": minion, **node}
    wanted = [("ldap", "readonly-password")] if node["logins"] is not None and resolved["directory"] else []
    if "compute" in node["roles"] and node["swarm_id"] is None and not node["retiring"]:
        wanted.append(JOIN_TOKEN)
    router = resolved["services"].get(shares.SERVICE)
    if router and runs_on(router, own):
        wanted += [
            (shares.SERVICE, f"route-{name}")
            for name, route in resolved["routes"].items()
            if route["kind"] == "mount" and route["user"]
        ]
        if router["settings"]["password_scheme"] == "tdbsam":
            wanted += [(shares.SERVICE, f"instrument-{name}") for name in resolved["instruments"]]
    return wanted
