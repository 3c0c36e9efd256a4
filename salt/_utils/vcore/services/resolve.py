"""The services of a resolved site: their order, data, nodes and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.paths import Paths
from ..kernel import areas
from ..kernel.site import Configuration
from . import catalogue, settings

KEYS = ("services", "names")


@areas.face("service")
class Extends(Protocol):
    """What an area adds to services of other areas beyond their entries in the catalogue."""

    def extend(
        self, configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]
    ) -> None:
        """Change the resolved entry of the service in place; ``parts`` are the parts of the pillar."""


def sources(paths: Paths) -> Iterable[Path]:
    """Return the files of the catalogue."""
    return paths.services.glob("*/service.yaml")


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``services``, each after those that it requires, and ``names``: their DNS names, by address."""
    services = {name: _service(configuration, name, parts) for name in in_order(configuration)}
    names: dict[str, list[str]] = {}
    for name, service in services.items():
        if service["node"] is not None:
            address = parts["nodes"][service["node"]]["address"]
            names.setdefault(address, []).append(f"{name}.{configuration.site.site.domain}")
    return {"services": services, "names": names}


def in_order(configuration: Configuration) -> list[str]:
    """Return the services that are switched on, each after the ones that it requires or comes after."""
    known, on = catalogue.of(configuration), settings.enabled(configuration)
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for first in sorted({*known[name].requires, *known[name].after}):
                if on.get(first):
                    visit(first)
            order.append(name)

    for name in sorted(name for name in known if on[name]):
        visit(name)
    return order


def _service(configuration: Configuration, name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    site, service = configuration.site, catalogue.of(configuration)[name]
    chosen = settings.chosen(configuration, name)
    resolved = service.model_dump(mode="json", exclude={"uses"})  # what its traits give it is there
    values = service.settings_model().model_validate(chosen.settings).model_dump(mode="json")
    for setting, definition in service.settings.items():
        if definition.derived is not None and values[setting] is None:
            derive, _ = catalogue.derived()[definition.derived]
            values[setting] = derive(site.site.domain)
    for volume, data in resolved["volumes"].items():
        # An area whose own states create the folder sets this: see ``Extends``.
        data |= {"source": f"{site.base_directory}/{name}/{volume}", "made_elsewhere": False}
    memory = chosen.memory.model_dump(mode="json", exclude_none=True)
    resolved |= {
        "name": name,
        "node": None if service.mode == "global" else chosen.node or configuration.head,
        "settings": values,
        "memory": {**resolved["memory"], **memory},
    }
    for area in areas.asked(Extends).values():
        area.extend(configuration, name, resolved, parts)
    return resolved
