"""Checks of a site's nodes that go beyond each node's own settings."""

from __future__ import annotations

import ipaddress

from ..base.messages import tr
from ..kernel.documents import Problem, shown
from ..kernel.site import Configuration


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of the nodes: not exactly one head, repeated roles, and wrong or repeated addresses."""
    nodes, document = configuration.site.nodes, configuration.document
    found = []
    heads = [name for name, node in nodes.items() if "head" in node.roles]
    if len(heads) != 1:
        message = tr("exactly one node has the role head, not {heads}", heads=len(heads)) + (
            f": {', '.join(heads)}" if heads else ""
        )
        found.append(document.problem(("nodes",), message))
    seen: dict[str, str] = {}
    for name, node in nodes.items():
        if len(set(node.roles)) < len(node.roles):
            found.append(document.problem(("nodes", name, "roles"), tr("names a role twice")))
        location = ("nodes", name, "address")
        if node.address is None:
            continue
        try:
            address = str(ipaddress.IPv4Address(node.address))
        except ValueError:
            found.append(
                document.problem(location, tr("has to be an IPv4 address, not {address}", address=shown(node.address)))
            )
            continue
        if address in seen:
            found.append(
                document.problem(
                    location, tr("{address} is the address of {seen} already", address=address, seen=seen[address])
                )
            )
        seen[address] = name
    return found
