"""What a service may say of the shared files in its volumes."""

from __future__ import annotations

from typing import Literal

from ..kernel.sections import Section

SHARED: Section[Literal["home", "data"] | None] = Section(
    "volumes.*.shared",
    Literal["home", "data"] | None,
    default=None,
    description="The site's homes or data, which every node has, instead of a directory of its own.",
    example="home",
)

KEYS = (SHARED,)
