"""The certificate authority of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..kernel.site import Configuration
from .settings import AUTHORITY

KEYS = ("certificate_authority",)


class AuthorityPart(TypedDict):
    """``certificate_authority`` of the pillar: the site's own authority by path, or None; times in days."""

    certificate: str | None
    key: str | None
    lifetime: int
    renew_before: int


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section as the site has it."""
    return {"certificate_authority": AUTHORITY.of(configuration.site).model_dump(mode="json")}


def keeps(resolved: Mapping[str, Any]) -> bool:
    """Return whether the result may be kept: not if the site brings a certificate, which can expire by itself."""
    return not resolved["certificate_authority"]["certificate"] and not any(
        certificate["supplied"]
        for service in resolved["services"].values()
        for certificate in service["certificates"].values()
    )
