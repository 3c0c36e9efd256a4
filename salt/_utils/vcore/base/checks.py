"""The results of checks, as ``vcore.doctor`` shows them; the core and every area build theirs here."""

from __future__ import annotations

from typing import Any

Check = dict[str, Any]


def result(tried: str, ok: bool, saw: str, remedy: str) -> Check:
    """Return a check's result: what was tried, whether it went well, what was seen; a remedy only if it failed."""
    return {"check": tried, "ok": ok, "saw": saw, "remedy": "" if ok else remedy}
