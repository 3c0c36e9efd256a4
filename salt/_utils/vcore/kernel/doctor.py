"""End-to-end checks: each reports what it tried, what it saw, and what to do if it failed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.checks import Check, result
from ..base.messages import tr
from ..base.paths import Paths
from . import areas, status
from . import pillar as kernel_pillar


@areas.face("health")
class Checks(Protocol):
    """An area's end-to-end checks."""

    def checks(self, pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
        """Run the area's checks, as far as its services are on."""


def _configuration(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    found = kernel_pillar.problems(paths)
    return [
        result(
            tr("the site file is valid"),
            not found,
            "; ".join(found) or tr("no problem"),
            tr("correct {site}", site=paths.site),
        )
    ]


def _master(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    checks = []
    for port, purpose in ((4505, "publishes jobs"), (4506, "takes returns")):
        try:
            socket.create_connection((pillar["head"]["address"], port), timeout=3).close()
            ok, saw = True, tr("it answers")
        except OSError as error:
            ok, saw = False, str(error)
        checks.append(
            result(
                tr("the Salt master {purpose} on port {port}", purpose=purpose, port=port),
                ok,
                saw,
                tr("run bootstrap.sh again"),
            )
        )
    return checks


def _disk(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    disk = status.disk(Path(pillar["base_directory"]))
    saw = f"{disk['used_percent']} % used, {disk['free'] // 2**20} MiB free"
    ok = disk["used_percent"] <= status.DISK_LIMIT
    return [
        result(
            tr("{path} has room", path=disk["path"]), ok, saw, tr("free space, or move base_directory to a larger disk")
        )
    ]


#: The kernel's own checks, which come first.
CHECKS: list[Callable[[Mapping[str, Any], Paths], list[Check]]] = [_configuration, _master, _disk]


def examine(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Run every check of the core, area by area."""
    groups = [*CHECKS, *(area.checks for area in areas.asked(Checks).values())]
    return [check for group in groups for check in group(pillar, paths)]
