"""Services of a resolved site: their order, names, data and places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..directory.keys import DERIVED
from ..file_router import service as file_router_service
from ..file_router import settings as file_router_settings
from ..kernel.site import Configuration
from ..slurm import service as slurm_service
from ..storage import resolve
from .settings import ServiceSettings


def service_names(name: str, node: str, domain: str, more: Iterable[str] = ()) -> list[str]:
    """The DNS names that a certificate of a service carries."""
    return list(dict.fromkeys([name, f"{name}.{domain}", node, f"{node}.{domain}", "localhost", *more]))


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
    if name == file_router_settings.SERVICE:
        more = file_router_service.secrets(site.routes, site.instruments)
        resolved["secrets"] |= {secret: entry.model_dump(mode="json") for secret, entry in more.items()}
    if slurm["existing"] is not None:
        keys, files = slurm_service.given(slurm, resolved["secrets"])
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
            resolve.folder(site.base_directory, shared) if shared else f"{site.base_directory}/{name}/{volume}"
        )
        if shared:
            data["propagation"] = "rslave"  # it may be mounted later than the container is started
        elif name == file_router_settings.SERVICE and site.storage.kind == "path" and volume in resolve.KINDS:
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


#: What a node sees of a service that runs on it and has no states there.
NODE_KEYS = ("name", "node", "volumes", "node_states")


def runs_on(service: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a resolved service runs on a node (``name``, ``roles``)."""
    if service["node"] is None:
        return service["placement"] in node["roles"]
    return bool(service["node"] == node["name"])
