"""What a site may write about nodes."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Literal

from ..kernel.documents import Document, Problem, shown
from ..kernel.models import (
    Model,
    field,
)
from ..logins.settings import LoginSettings

if TYPE_CHECKING:
    from ..kernel.site import Site


class NodeSettings(Model):
    """One machine of the core, keyed by its minion id."""

    roles: list[Literal["head", "compute"]] = field(
        min_length=1, description="What the machine does.", example=["head"]
    )
    address: str | None = field(
        None,
        description="IPv4 address by which the other nodes reach it; the head finds its own when this is left out.",
        example="10.0.0.1",
    )
    logins: LoginSettings | None = field(
        None,
        description="Lets people of the core log in on this machine; without it nobody of them can.",
        example={"groups": ["genomics"]},
    )


def _node_problems(site: Site, document: Document) -> list[Problem]:
    problems = []
    heads = [name for name, node in site.nodes.items() if "head" in node.roles]
    if len(heads) != 1:
        message = f"exactly one node has the role head, not {len(heads)}" + (f": {', '.join(heads)}" if heads else "")
        problems.append(document.problem(("nodes",), message))
    seen: dict[str, str] = {}
    for name, node in site.nodes.items():
        if len(set(node.roles)) < len(node.roles):
            problems.append(document.problem(("nodes", name, "roles"), "names a role twice"))
        for index, group in enumerate(node.logins.groups if node.logins else ()):
            if group == site.accounts.group:
                message = f"everybody is in {group}, which lists no members: leave groups empty to let everybody in"
                problems.append(document.problem(("nodes", name, "logins", "groups", index), message))
        location = ("nodes", name, "address")
        if node.address is None:
            continue
        try:
            address = str(ipaddress.IPv4Address(node.address))
        except ValueError:
            problems.append(document.problem(location, f"has to be an IPv4 address, not {shown(node.address)}"))
            continue
        if address in seen:
            problems.append(document.problem(location, f"{address} is the address of {seen[address]} already"))
        seen[address] = name
    return problems
