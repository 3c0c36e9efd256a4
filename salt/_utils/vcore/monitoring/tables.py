"""How measurements look to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import Group, RenderableType, Text, good, has, plain, table


def shown(value: float | str | None) -> str:
    """Return a value in few digits; ``-`` stands for none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def _limits(entry: Mapping[str, Any]) -> str:
    words = [
        f"{name} {compared} {shown(limit)}"
        for name in ("warning", "severe")
        for compared, limit in entry.get(name, {}).items()
    ]
    return ", ".join(words) or "-"


def _measurements(facts: Mapping[str, Any]) -> RenderableType:
    rows = table("", "SERVICE", "WHAT", "VALUE", "UNIT", "BAD", right=(3,), whole=(0,))
    wrong = []
    for entry in facts["measurements"]:
        colour = {"ok": "green", "severe": "bold red"}.get(entry["level"], "yellow")
        rows.add_row(
            Text(entry["level"], style=colour),
            *(plain(text) for text in (entry["service"], entry["title"], shown(entry["value"]), entry["unit"] or "-")),
            plain(_limits(entry)),
        )
        if not entry["ok"]:
            wrong.append(f"  - {entry['title']}: {entry.get('error') or entry['problem']}")
    count = len(facts["measurements"])
    said = f"{count} measurement{'' if count == 1 else 's'}"
    verdict = good(f"{said}, all well." if facts["ok"] else f"{said}, {len(wrong)} not well:", facts["ok"])
    return Group(rows, "", verdict, *(plain(line) for line in wrong))


SHAPES = ((has("measurements"), _measurements),)
