"""The networks of a resolved site, and the ssh keys that open its containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..kernel.site import Configuration
from .settings import AUTHORIZED_KEYS, NETWORK

KEYS = ("network", "authorized_keys")


class NetworkPart(TypedDict):
    """``network`` of the pillar; subnets are IPv4 networks such as 172.18.0.0/24."""

    name: str
    subnet: str
    bridge_subnet: str
    ingress_subnet: str


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``network`` and ``authorized_keys`` as the site has them."""
    site = configuration.site
    return {"network": NETWORK.of(site).model_dump(mode="json"), "authorized_keys": list(AUTHORIZED_KEYS.of(site))}
