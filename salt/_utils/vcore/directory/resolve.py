"""How others reach the directory, and its rules for passwords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The directory's settings that Samba goes by, too, on whichever node it runs.
POLICY_KEYS = ("lockout_duration", "lockout_failures", "password_minimum_length")


def directory_access(services: Mapping[str, Any], domain: str) -> dict[str, Any] | None:
    """How a host outside of the overlay reaches the directory (``uri``, ``suffix``), and its rules for passwords
    (``policy``); None where it is off.
    """
    service = services.get("ldap")
    if service is None:
        return None
    name, port = f"ldap.{domain}", service["ports"]["ldaps"]["number"]
    return {
        "uri": f"ldaps://{name}" + ("" if port == 636 else f":{port}"),
        "suffix": service["settings"]["suffix"],
        "policy": {key: service["settings"][key] for key in POLICY_KEYS},
    }
