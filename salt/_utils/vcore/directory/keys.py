"""Settings of services that are derived from the site's domain: base DNs."""

from __future__ import annotations

from collections.abc import Callable


def directory_suffix(domain: str) -> str:
    """Return the base DN for a domain (RFC 2247): ``dc=core,dc=example,dc=org`` for ``core.example.org``."""
    return ",".join(f"dc={label}" for label in domain.split("."))


#: By the name that ``derived:`` uses: the function from domain to value, and its description in the reference.
DERIVED: dict[str, tuple[Callable[[str], str], str]] = {
    "directory_suffix": (directory_suffix, "derived from `vcore.site.domain`"),
}
