"""How dumps look to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import Group, RenderableType, has, plain, table


def size(count: int) -> str:
    """Return a number of bytes in its largest unit: ``6.4 MiB``."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _dump(told: Mapping[str, Any]) -> RenderableType:
    rows = table("PART", "WHAT", "SIZE", "", right=(2,), whole=(0,))
    for part in told["parts"]:
        rows.add_row(*(plain(text) for text in (part["name"], part["title"], size(part["bytes"]), part["state"])))
    written = f"{told['dump']}: of {told['domain']}, written {told['time']} by version {told['version']}"
    return Group(rows, "", plain(written))


SHAPES = ((has("dump"), _dump),)
