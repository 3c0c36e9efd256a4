"""What a check of ``vcore.doctor`` says; the core and its services make theirs with it."""

from __future__ import annotations

from typing import Any

Check = dict[str, Any]


def result(tried: str, ok: bool, saw: str, remedy: str) -> Check:
    """One check: what was tried, whether it went well, what was seen; the remedy is only said where it is needed."""
    return {"check": tried, "ok": ok, "saw": saw, "remedy": "" if ok else remedy}
