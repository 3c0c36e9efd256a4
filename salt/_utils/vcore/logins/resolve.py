"""Logins of a resolved node."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..people.settings import ADMINISTRATORS
from .settings import LoginSettings


def _logins(logins: LoginSettings, groups: Collection[str]) -> dict[str, Any]:
    """Who may log in on a node; of the groups, also those that the site does not make, so that they can be missing."""
    return {
        "groups": list(logins.groups),
        "made_elsewhere": [group for group in logins.groups if group not in groups and group != ADMINISTRATORS],
    }
