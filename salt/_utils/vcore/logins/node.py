"""Logins of a resolved node."""

from __future__ import annotations

from typing import Any, TypedDict

from ..kernel.site import Configuration, NodeSettings
from ..people.settings import ADMINISTRATORS, GROUPS
from .settings import LOGINS


class LoginsPart(TypedDict):
    """``logins`` of a node in the pillar: the groups that may log in, and those of them that the site does not make."""

    groups: list[str]
    made_elsewhere: list[str]


def extend(configuration: Configuration, node: NodeSettings | None) -> dict[str, Any]:
    """Return ``logins`` of a node, None if nobody may log in. Groups that are made elsewhere can be missing."""
    said = LOGINS.of(node) if node else None
    if said is None:
        return {"logins": None}
    ours = {*GROUPS.of(configuration.site), ADMINISTRATORS}
    logins: LoginsPart = {
        "groups": list(said.groups),
        "made_elsewhere": [group for group in said.groups if group not in ours],
    }
    return {"logins": logins}
