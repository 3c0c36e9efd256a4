"""The pillar of a node, as Salt's modules read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import VcoreError


def head(pillar: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole configuration of the core, from the head's ``__pillar__``.

    Raises:
        VcoreError: the site has a mistake, in the words of the external pillar, or this node is not the head.
    """
    if "_errors" in pillar:
        raise VcoreError("\n".join(pillar["_errors"]))
    data: Mapping[str, Any] = pillar.get("vcore") or {}
    if "head" not in data.get("node", {}).get("roles", []):
        raise VcoreError("this is answered on the head of a core only; ask there")
    return data
