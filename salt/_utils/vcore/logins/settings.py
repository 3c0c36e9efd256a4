"""What a site may write about logins on a node."""

from __future__ import annotations

from ..base.messages import tr
from ..kernel.documents import Problem
from ..kernel.models import (
    Model,
    field,
)
from ..kernel.sections import Section
from ..kernel.site import Configuration
from ..people.settings import ACCOUNTS, GroupName


class LoginSettings(Model):
    """Logins of the core's people on a node itself, outside of containers."""

    groups: list[GroupName] = field(
        default_factory=list, description="Groups whose members may log in; none means everybody.", example=["genomics"]
    )


LOGINS: Section[LoginSettings | None] = Section(
    "nodes.*.logins",
    LoginSettings | None,
    default=None,
    description="Lets people of the core log in on this machine; without it none of them can.",
    example={"groups": ["genomics"]},
)

SECTIONS = (LOGINS,)


def problems(configuration: Configuration) -> list[Problem]:
    """Return a problem wherever the group of everybody is named, whose members the directory does not list."""
    everybody = ACCOUNTS.of(configuration.site).group
    message = tr(
        "everybody is in {everybody}, which lists no members: leave groups empty to let everybody in",
        everybody=everybody,
    )
    return [
        configuration.document.problem(("nodes", name, "logins", "groups", index), message)
        for name, node in configuration.site.nodes.items()
        if (logins := LOGINS.of(node)) is not None
        for index, group in enumerate(logins.groups)
        if group == everybody
    ]
