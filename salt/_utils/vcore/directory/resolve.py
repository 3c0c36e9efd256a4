"""How others reach the directory, and its rules for passwords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..kernel.site import Configuration
from ..services.placement import ServicePart

KEYS = ("directory",)

#: The directory's settings that Samba enforces, too, on whichever node it runs.
POLICY_KEYS = ("lockout_duration", "lockout_failures", "password_minimum_length")


class DirectoryPart(TypedDict):
    """``directory`` of the pillar: how hosts outside the overlay reach it, and its rules for passwords."""

    uri: str
    suffix: str
    policy: dict[str, Any]


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``directory``, which is None if the service is off."""
    service = parts["services"].get("ldap")
    return {"directory": _access(service, configuration.site.site.domain) if service else None}


def _access(service: ServicePart, domain: str) -> DirectoryPart:
    name, port = f"ldap.{domain}", service["ports"]["ldaps"]["number"]
    return {
        "uri": f"ldaps://{name}" + ("" if port == 636 else f":{port}"),
        "suffix": service["settings"]["suffix"],
        "policy": {key: service["settings"][key] for key in POLICY_KEYS},
    }
