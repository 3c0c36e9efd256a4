"""Certificates as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import RenderableType, good, table

PLACE = 40


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the table of certificates."""
    certificates = table("CERTIFICATE", "STATE", "DAYS LEFT", "EXPIRES", right=(2,))
    for name, certificate in facts.get("certificates", {}).items():
        certificates.add_row(
            name,
            good(certificate["status"], certificate["ok"]),
            str(certificate.get("days_left", "-")),
            certificate.get("expires", "-"),
        )
    return [certificates]
