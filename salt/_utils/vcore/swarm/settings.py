"""Networks and authorized keys in the site file, and conflicts with the head's own networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal

from ..base.messages import tr
from ..host.network import BRIDGE_INTERFACE, Route
from ..kernel.documents import Problem
from ..kernel.models import (
    SSH_KEY,
    Model,
    ServiceName,
    field,
)
from ..kernel.sections import Section
from ..kernel.site import Configuration


class NetworkSettings(Model):
    """The core's networks; none may overlap a network to which the head already has a route."""

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
        description="IPv4 network that swarm reserves for itself; no service of the core uses it.",
        example="10.99.2.0/24",
    )


#: The settings above that are IPv4 networks.
SUBNETS = ("subnet", "bridge_subnet", "ingress_subnet")


NETWORK: Section[NetworkSettings] = Section("network", NetworkSettings, description="The core's networks.")
AUTHORIZED_KEYS: Section[list[str]] = Section(
    "authorized_keys",
    list[str],
    description="Public ssh keys of administrators who may log in to the containers as root; if empty, no sshd runs.",
    example=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampl ada"],
)

SECTIONS = (NETWORK, AUTHORIZED_KEYS)


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of the networks and keys that do not depend on this host."""
    return _network_problems(configuration) + [
        configuration.document.problem(
            ("authorized_keys", index), tr("has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'")
        )
        for index, key in enumerate(AUTHORIZED_KEYS.of(configuration.site))
        if not SSH_KEY.fullmatch(key)
    ]


def _network_problems(configuration: Configuration) -> list[Problem]:
    document, found = configuration.document, []
    networks: dict[str, ipaddress.IPv4Network] = {}
    for setting in SUBNETS:
        location = ("network", setting)
        value = getattr(NETWORK.of(configuration.site), setting)
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError as error:
            found.append(
                document.problem(location, tr("has to be an IPv4 network such as 172.18.0.0/24: {error}", error=error))
            )
            continue
        if network.prefixlen > 28:
            found.append(document.problem(location, tr("{network} is too small; use a /28 or larger", network=network)))
        for other, taken in networks.items():
            if network.overlaps(taken):
                found.append(
                    document.problem(
                        location,
                        tr("{network} overlaps {other}, which is {taken}", network=network, other=other, taken=taken),
                    )
                )
        networks[setting] = network
    return found


def host_problems(configuration: Configuration, routes: Sequence[Route]) -> list[Problem]:
    """Return a problem for each network that overlaps one which this host reaches by another interface."""
    found = []
    for setting in SUBNETS:
        network = ipaddress.IPv4Network(getattr(NETWORK.of(configuration.site), setting))
        for route in routes:
            if route.network.overlaps(network) and route.interface != BRIDGE_INTERFACE:
                message = tr(
                    "{network} overlaps {network_2}, which this host reaches by {interface}",
                    network=network,
                    network_2=route.network,
                    interface=route.interface,
                )
                found.append(configuration.document.problem(("network", setting), message))
                break
    return found
