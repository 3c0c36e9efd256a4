"""Image builds and the registry of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..kernel.site import Configuration
from .settings import BUILD

KEYS = ("build", "registry")


class BuildPart(TypedDict):
    """``build`` of the pillar: where builds get their software from; what is None is picked up from the head."""

    source: str
    mirror: str | None
    python_index: str | None
    proxy: str | None
    ca_bundle: str | None
    refresh: str


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``build`` as the site has it, and ``registry``, HOST:PORT."""
    build = BUILD.of(configuration.site).model_dump(mode="json")
    return {"build": build, "registry": f"registry.{configuration.site.site.domain}:5000"}
