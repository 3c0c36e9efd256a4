"""The status of the core: the facts that the head can see, and the problems among them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.messages import tr
from ..base.paths import Paths
from . import areas, convergence

#: A base directory that is fuller than this, in percent, is a problem.
DISK_LIMIT = 90


@areas.face("health")
class Facts(Protocol):
    """An area's status: its facts, and the problems among them."""

    def facts(self, pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the area's keys of ``vcore.status``; ``so_far`` has those of the areas that it uses.

        If something does not answer, the facts say so; no :class:`VcoreError` is raised.
        """

    def problems(self, facts: Mapping[str, Any]) -> list[str]:
        """Return the problems among the facts, one sentence each; the area's keys may be missing."""


def collect(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Return the status of the core: ``{ok, problems, disk, convergence}`` and the keys of each area.

    Each service, node and certificate has ``ok``. Sizes are in bytes, times are RFC 3339 (UTC) or seconds since 1970.
    The number of requests to Docker is fixed, however many services and nodes there are.
    """
    facts: dict[str, Any] = {"disk": disk(Path(pillar["base_directory"])), "convergence": convergence.last(paths)}
    for area in areas.asked(Facts).values():
        facts |= area.facts(pillar, paths, facts)
    found = problems(facts)
    return {"ok": not found, "problems": found, **facts}


def disk(path: Path) -> dict[str, Any]:
    """Return size and free space (bytes) and use (percent) of the file system that ``path`` is or will be on."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return {
        "path": str(path),
        "total": usage.total,
        "free": usage.free,
        # As df(1) counts: space that is reserved for root is not available.
        "used_percent": round(100 * usage.used / (usage.used + usage.free), 1),
    }


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return the problems among the facts, one sentence each."""
    found = []
    last = facts["convergence"]
    if last is None:
        found.append(tr("there was no convergence yet: run salt-call state.apply"))
    elif not last["ok"]:
        found.append(tr("the last convergence failed: {failed}", failed=", ".join(last["failed"])))
    for area in areas.asked(Facts).values():
        found += area.problems(facts)
    if facts["disk"]["used_percent"] > DISK_LIMIT:
        found.append(
            tr(
                "disk: {path} is {used_percent} % full",
                path=facts["disk"]["path"],
                used_percent=facts["disk"]["used_percent"],
            )
        )
    return found
