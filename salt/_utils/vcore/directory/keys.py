"""Settings of a service that follow from the site's domain, as base DNs do."""

from __future__ import annotations

from collections.abc import Callable


def directory_suffix(domain: str) -> str:
    """Return the base DN that follows from a domain (RFC 2247): ``core.example.org``, dc=core,dc=example,dc=org."""
    return ",".join(f"dc={label}" for label in domain.split("."))


#: How a setting with ``derived:`` follows from the site's domain, and how the reference says so.
DERIVED: dict[str, tuple[Callable[[str], str], str]] = {
    "directory_suffix": (directory_suffix, "made of `vcore.site.domain`"),
}
