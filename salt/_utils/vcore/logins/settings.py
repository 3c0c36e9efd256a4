"""What a site may write about logins on a node."""

from __future__ import annotations

from ..kernel.models import (
    Model,
    field,
)
from ..people.settings import GroupName


class LoginSettings(Model):
    """Logins of the core's people on a node itself, outside of containers."""

    groups: list[GroupName] = field(
        default_factory=list, description="Groups whose members may log in; none means everybody.", example=["genomics"]
    )
