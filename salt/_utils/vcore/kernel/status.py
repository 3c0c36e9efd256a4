"""How the core is: what the head can see of it, and what of that is not well."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.paths import Paths
from . import areas, convergence

#: A base directory that is fuller than this is a problem, in percent.
DISK_LIMIT = 90


@areas.face("health")
class Facts(Protocol):
    """How an area is, and what of that is not well."""

    def facts(self, pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the area's keys of ``vcore.status``; ``so_far`` has those of the areas that it uses.

        Where something cannot be asked, the facts say so; it raises nothing of the core's own.
        """

    def problems(self, facts: Mapping[str, Any]) -> list[str]:
        """Return what of the facts is not well, a sentence each; its keys may be missing."""


def collect(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Return the state of the core with its problems: ``{ok, problems, disk, convergence}`` and the keys of each area.

    Each service, node and certificate says whether it is well (``ok``). Sizes are in bytes, times in RFC 3339 (UTC) or
    seconds since 1970. It costs a fixed number of requests to Docker, however many services and nodes there are.
    """
    facts: dict[str, Any] = {"disk": disk(Path(pillar["base_directory"])), "convergence": convergence.last(paths)}
    for area in areas.asked(Facts).values():
        facts |= area.facts(pillar, paths, facts)
    found = problems(facts)
    return {"ok": not found, "problems": found, **facts}


def disk(path: Path) -> dict[str, Any]:
    """Return size, room and use of the file system that ``path`` lies on, or will lie on: bytes, and percent."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return {
        "path": str(path),
        "total": usage.total,
        "free": usage.free,
        # As df(1) counts: what is reserved for root is not to be had.
        "used_percent": round(100 * usage.used / (usage.used + usage.free), 1),
    }


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return what of the facts is not well, a sentence each."""
    found = []
    last = facts["convergence"]
    if last is None:
        found.append("there was no convergence yet: run salt-call state.apply")
    elif not last["ok"]:
        found.append(f"the last convergence failed: {', '.join(last['failed'])}")
    for area in areas.asked(Facts).values():
        found += area.problems(facts)
    if facts["disk"]["used_percent"] > DISK_LIMIT:
        found.append(f"disk: {facts['disk']['path']} is {facts['disk']['used_percent']} % full")
    return found
