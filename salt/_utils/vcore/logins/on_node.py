"""What a node needs for the logins of people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def secrets(resolved: Mapping[str, Any], node: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the password with which sssd reads the directory, if people may log in on this node."""
    return [("ldap", "readonly-password")] if node["logins"] is not None and resolved["directory"] else []
