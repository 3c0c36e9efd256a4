"""What the certificates of a service say once the site is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..kernel.site import Configuration
from ..services import settings as services_settings
from .settings import SUPPLIED


def service_names(name: str, node: str, domain: str, more: Iterable[str] = ()) -> list[str]:
    """Return the DNS names that a certificate of a service carries."""
    return list(dict.fromkeys([name, f"{name}.{domain}", node, f"{node}.{domain}", "localhost", *more]))


def extend(configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Give each certificate its names, its addresses, and the one that the site brings in its place."""
    chosen = services_settings.SERVICES.of(configuration.site).get(name)
    brought = SUPPLIED.of(chosen) if chosen else {}
    place = service["node"] or configuration.head
    address = parts["nodes"][place]["address"]
    for item, certificate in service["certificates"].items():
        supplied = brought.get(item)
        certificate |= {
            "names": service_names(name, place, configuration.site.site.domain, certificate["names"]),
            "addresses": [address, "127.0.0.1"] if address else ["127.0.0.1"],
            "supplied": supplied.model_dump(mode="json") if supplied else None,
        }
