"""Security identifiers (SID) of the domain and its people."""

from __future__ import annotations

import hashlib

# --- identifiers ----------------------------------------------------------------------------------------------------


def domain_sid(suffix: str) -> str:
    """The security identifier of the core's Samba: it follows from the directory's suffix, so that every part of the
    core, and a server that is made anew, knows it without asking.
    """
    digest = hashlib.sha256(f"vcore domain {suffix.lower()}".encode()).digest()
    parts = (int.from_bytes(digest[start : start + 4], "big") for start in (0, 4, 8))
    return "S-1-5-21-" + "-".join(str(part) for part in parts)


def person_sid(suffix: str, uid_number: int) -> str:
    """The security identifier of an account, from its number, as Samba's algorithm has it (2 * number + 1000)."""
    return f"{domain_sid(suffix)}-{2 * uid_number + 1000}"
