"""Settings of a service that follow from the site's domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

DerivedName = Literal["directory_suffix"]


def directory_suffix(domain: str) -> str:
    """The base DN that follows from a domain (RFC 2247): ``core.example.org`` is ``dc=core,dc=example,dc=org``."""
    return ",".join(f"dc={label}" for label in domain.split("."))


#: How a setting with ``derived:`` follows from the site's domain, and how the reference says so.
DERIVED: dict[DerivedName, tuple[Callable[[str], str], str]] = {
    "directory_suffix": (directory_suffix, "made of `vcore.site.domain`"),
}
