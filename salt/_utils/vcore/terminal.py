"""How areas display what functions such as ``vcore.status`` return: the faces, and the building blocks of tables.

``salt/_output/vcore.py`` asks the areas. ``--out json`` bypasses all of this and prints the complete data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .kernel import areas

__all__ = ["Group", "RenderableType", "Shapes", "Status", "Table", "Text", "age", "good", "plain", "since", "table"]


@areas.face("tables")
class Status(Protocol):
    """An area's part of the page of ``vcore.status``."""

    #: Position on the page: parts with lower numbers come first.
    PLACE: int

    def status(self, facts: Mapping[str, Any]) -> Sequence[RenderableType]:
        """Return the area's part of the page; keys of ``facts`` may be missing."""


@areas.face("tables")
class Shapes(Protocol):
    """How an area displays the values that its own functions return."""

    #: For each kind of value: a function that recognises it, and one that displays it.
    SHAPES: Sequence[tuple[Callable[[Any], bool], Callable[[Any], RenderableType]]]


def has(key: str) -> Callable[[Any], bool]:
    """Return a function that recognises mappings with this key."""
    return lambda value: isinstance(value, Mapping) and key in value


def plain(value: Any) -> Text:
    """Return text without control characters, since strangers may have written it, into the directory for instance."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or "-"
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def table(*columns: str, right: Sequence[int] = (), whole: Sequence[int] = ()) -> Table:
    """Return an empty table; columns in ``right`` are right-aligned, those in ``whole`` are never folded."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        justify: Any = "right" if index in right else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=index in whole)
    return made


def good(text: str, ok: bool) -> Text:
    """Return text in the colour of success or failure."""
    return Text(text, style="green" if ok else "bold red")


def age(seconds: float) -> str:
    """Return a duration in its largest unit: ``3 d``, ``4 min``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"


def since(stamp: str | None) -> str:
    """Return the time since an RFC 3339 time (UTC), which Docker writes with nanoseconds; ``-`` for none."""
    if not stamp:
        return "-"
    return age(time.time() - (time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone))
