"""Certificates of a resolved site."""

from __future__ import annotations

from typing import Any


def _brings_certificates(data: dict[str, Any]) -> bool:
    return bool(data["certificate_authority"]["certificate"]) or any(
        certificate["supplied"]
        for service in data["services"].values()
        for certificate in service["certificates"].values()
    )
