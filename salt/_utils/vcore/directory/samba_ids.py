"""Security identifiers (SID) of the domain and its people."""

from __future__ import annotations

import hashlib

# --- identifiers ----------------------------------------------------------------------------------------------------


def domain_sid(suffix: str) -> str:
    """Return the security identifier of the core's Samba domain.

    It follows from the directory's suffix, so that every part of the core and a rebuilt server know it without asking.
    """
    digest = hashlib.sha256(f"vcore domain {suffix.lower()}".encode()).digest()
    parts = (int.from_bytes(digest[start : start + 4], "big") for start in (0, 4, 8))
    return "S-1-5-21-" + "-".join(str(part) for part in parts)


def person_sid(suffix: str, uid_number: int) -> str:
    """Return an account's security identifier, by Samba's algorithm: its relative id is 2 * uid number + 1000."""
    return f"{domain_sid(suffix)}-{2 * uid_number + 1000}"
