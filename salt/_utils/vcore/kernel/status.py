"""How the core is: what the head can see of it, and what of that is not well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import VcoreError
from ..base.paths import Paths
from ..certificates import x509
from ..certificates.authority import Authority
from ..certificates.health import is_good
from ..enrolment import health as enrolment_health
from ..file_router import health as file_router_health
from ..nodes import decisions, overview
from ..nodes.health import _ill_node, _nodes
from ..storage import health as storage_health
from ..swarm import membership
from ..swarm.health import _services, is_healthy
from . import convergence

#: A base directory that is fuller than this is a problem, in percent.
DISK_LIMIT = 90


def collect(pillar: Mapping[str, Any], paths: Paths, keys: Path) -> dict[str, Any]:
    """The state of the core with its problems: ``{ok, problems, services, nodes, certificates, disk, convergence,
    reconciler, file_router, storage, pending}``. ``keys`` is where the master keeps its keys.

    Each service, node and certificate says whether it is well (``ok``). Sizes are in bytes, times in RFC 3339 (UTC) or
    seconds since 1970. It costs a fixed number of requests to Docker, however many services and nodes there are.
    """
    unavailable = []
    try:
        seen = membership.overview()
    except VcoreError as error:
        seen = {"nodes": [], "services": {}}
        unavailable.append(str(error))
    try:
        authority = Authority(paths.authority, x509.policy(pillar))
        certificates = authority.leaves(x509.wanted_all(pillar))
    except (VcoreError, OSError) as error:
        certificates = {}
        unavailable.append(str(error))
    remembered = decisions.load(paths)
    facts = judged(
        {
            "services": _services(pillar, seen["services"]),
            "nodes": _nodes(pillar, seen["nodes"], remembered),
            "certificates": certificates,
            "disk": disk(Path(pillar["base_directory"])),
            "convergence": convergence.last(paths),
            "reconciler": overview.reconciler(remembered),
            "file_router": file_router_health.facts(pillar, paths),
            "storage": storage_health.facts(pillar),
            "pending": enrolment_health.waiting(paths, keys),
        }
    )
    found = unavailable + problems(facts)
    return {"ok": not found, "problems": found, **facts}


def disk(path: Path) -> dict[str, Any]:
    """Size, room and use of the file system that ``path`` lies on, or will lie on: bytes, and percent."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return {
        "path": str(path),
        "total": usage.total,
        "free": usage.free,
        # As df(1) counts: what is reserved for root is not to be had.
        "used_percent": round(100 * usage.used / (usage.used + usage.free), 1),
    }


def judged(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, with ``ok`` in each service, node and certificate."""
    judges: dict[str, Callable[[Mapping[str, Any]], bool]] = {
        "services": is_healthy,
        "nodes": lambda node: node["state"] == "ready" and not node.get("error"),
        "certificates": is_good,
    }
    return {
        **facts,
        **{
            kind: {name: {**entry, "ok": judge(entry)} for name, entry in facts[kind].items()}
            for kind, judge in judges.items()
        },
    }


def problems(facts: Mapping[str, Any]) -> list[str]:
    """What of :func:`judged` facts is not well, a sentence each."""
    found = []
    last = facts["convergence"]
    if last is None:
        found.append("there was no convergence yet: run salt-call state.apply")
    elif not last["ok"]:
        found.append(f"the last convergence failed: {', '.join(last['failed'])}")
    ill = {
        kind: {name: entry for name, entry in facts[kind].items() if not entry["ok"]}
        for kind in ("services", "nodes", "certificates")
    }
    for name, service in ill["services"].items():
        if service["state"] == "superfluous":
            found.append(f"service {name}: runs, but the site does not want it; apply the states")
        elif service["state"] == "absent":
            found.append(f"service {name}: is not there; apply the states")
        else:
            detail = f": {service['message']}" if service["message"] else ""
            found.append(f"service {name}: {service['healthy']} of {service['desired']} tasks are healthy{detail}")
    found += [f"node {name}: {_ill_node(node)}" for name, node in ill["nodes"].items()]
    for name, certificate in ill["certificates"].items():
        if certificate["status"] not in Authority.WELL:
            found.append(f"certificate {name}: {certificate['status']}")
        else:
            found.append(f"certificate {name}: {certificate['days_left']} days left; apply the states to renew it")
    if facts["disk"]["used_percent"] > DISK_LIMIT:
        found.append(f"disk: {facts['disk']['path']} is {facts['disk']['used_percent']} % full")
    for part in ("reconciler", "file_router", "storage"):
        found += (facts.get(part) or {}).get("problems", [])
    return found
