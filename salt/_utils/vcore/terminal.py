"""What areas show people of what functions such as ``vcore.status`` return: the pieces that their tables are made of.

``salt/_output/vcore.py`` asks the areas for them; the whole, and nothing but it, is what ``--out json`` prints.
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
    """What an area adds to the page of ``vcore.status``."""

    #: Where on the page: those of a lower number stand above.
    PLACE: int

    def status(self, facts: Mapping[str, Any]) -> Sequence[RenderableType]:
        """Return what to show of the facts, whose keys may be missing."""


@areas.face("tables")
class Shapes(Protocol):
    """How what an area's own functions return looks."""

    #: For each: what tells such a value, and what shows it.
    SHAPES: Sequence[tuple[Callable[[Any], bool], Callable[[Any], RenderableType]]]


def has(key: str) -> Callable[[Any], bool]:
    """Return what tells a mapping with this key."""
    return lambda value: isinstance(value, Mapping) and key in value


def plain(value: Any) -> Text:
    """Return text on which the terminal does nothing: much of it was written by others, into the directory, say."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or "-"
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def table(*columns: str, right: Sequence[int] = (), whole: Sequence[int] = ()) -> Table:
    """Return an empty table; columns of ``right`` are aligned to the right, those of ``whole`` are never folded."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        justify: Any = "right" if index in right else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=index in whole)
    return made


def good(text: str, ok: bool) -> Text:
    """Return text in the colour of what is well, or is not."""
    return Text(text, style="green" if ok else "bold red")


def age(seconds: float) -> str:
    """Return a length of time in its largest unit: ``3 d``, ``4 min``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"


def since(stamp: str | None) -> str:
    """Return how long ago an RFC 3339 time (UTC) was; Docker writes it with nanoseconds."""
    if not stamp:
        return "-"
    return age(time.time() - (time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone))
