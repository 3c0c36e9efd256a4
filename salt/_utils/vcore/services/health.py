"""Checks that the names of the services resolve to their nodes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.messages import tr
from ..base.paths import Paths


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check that the name of each service resolves to the address of its node."""
    found = []
    for name, service in pillar["services"].items():
        if service["node"] is None:
            continue
        full, wanted = f"{name}.{pillar['site']['domain']}", pillar["nodes"][service["node"]]["address"]
        try:
            saw = socket.gethostbyname(full)
        except OSError as error:
            saw = str(error)
        found.append(
            result(
                tr("the name {full} leads to {wanted}", full=full, wanted=wanted),
                saw == wanted,
                saw,
                tr("run salt-call state.apply"),
            )
        )
    return found
