"""The people and groups of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from .settings import ACCOUNTS, GROUPS, PEOPLE, plain

KEYS = ("accounts", "people", "groups")


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``accounts``, and ``people`` and ``groups`` with the values that the site sets."""
    site = configuration.site
    return {
        "accounts": ACCOUNTS.of(site).model_dump(mode="json"),
        "people": {name: plain(person) for name, person in PEOPLE.of(site).items()},
        "groups": {name: plain(group) for name, group in GROUPS.of(site).items()},
    }
