"""What a site may write about networks, and what the head's own network says against it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..certificates.settings import _certificate_problems
from ..host.network import BRIDGE_INTERFACE, Route
from ..kernel.documents import Document, Problem
from ..kernel.models import (
    SSH_KEY,
    Model,
    ServiceName,
    field,
)
from ..slurm import settings

if TYPE_CHECKING:
    from ..kernel.site import Configuration, Site


class NetworkSettings(Model):
    """The core's networks; none may overlap a network that the head already has a route to."""

    name: ServiceName | Literal["virtual_core"] = field(
        "virtual_core", description="Name of the overlay network that the services share.", example="genomics"
    )
    subnet: str = field("172.18.0.0/24", description="IPv4 network of the overlay.", example="10.99.0.0/24")
    bridge_subnet: str = field(
        "172.18.1.0/24",
        description="IPv4 network of the bridge through which containers reach the outside.",
        example="10.99.1.0/24",
    )
    ingress_subnet: str = field(
        "172.18.2.0/24",
        description="IPv4 network that swarm keeps for itself; no service of the core uses it.",
        example="10.99.2.0/24",
    )


#: The settings above that name a network.
SUBNETS = ("subnet", "bridge_subnet", "ingress_subnet")


def _network_problems(site: Site, document: Document) -> list[Problem]:
    problems = []
    networks: dict[str, ipaddress.IPv4Network] = {}
    for setting in SUBNETS:
        location = ("network", setting)
        value = getattr(site.network, setting)
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError as error:
            problems.append(document.problem(location, f"has to be an IPv4 network such as 172.18.0.0/24: {error}"))
            continue
        if network.prefixlen > 28:
            problems.append(document.problem(location, f"{network} is too small; a /28 is the least"))
        for other, taken in networks.items():
            if network.overlaps(taken):
                problems.append(document.problem(location, f"{network} overlaps {other}, which is {taken}"))
        networks[setting] = network
    return problems


def _key_problems(site: Site, document: Document) -> list[Problem]:
    return [
        document.problem(("authorized_keys", index), "has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'")
        for index, key in enumerate(site.authorized_keys)
        if not SSH_KEY.fullmatch(key)
    ]


def host_problems(configuration: Configuration, document: Document, routes: Iterable[Route]) -> list[Problem]:
    """What the head's own network and files say against a configuration that is valid in itself."""
    site = configuration.site
    problems = []
    routes = list(routes)
    for setting in SUBNETS:
        network = ipaddress.IPv4Network(getattr(site.network, setting))
        for route in routes:
            if route.network.overlaps(network) and route.interface != BRIDGE_INTERFACE:
                message = f"{network} overlaps {route.network}, which this host reaches by {route.interface}"
                problems.append(document.problem(("network", setting), message))
                break
    if site.build.ca_bundle and not Path(site.build.ca_bundle).is_file():
        problems.append(document.problem(("build", "ca_bundle"), f"{site.build.ca_bundle} does not exist"))
    problems.extend(_certificate_problems(configuration, document))
    problems.extend(settings.host_problems(site.slurm, document))
    return problems
