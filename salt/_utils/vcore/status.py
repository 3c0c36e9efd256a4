"""How the core is: what the head can see of it, and what of that is not well."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import convergence, file_router, overview, pending, pki, reconcile, storage, swarm_client
from .authority import Authority
from .errors import VcoreError
from .paths import Paths

#: A base directory that is fuller than this is a problem, in percent.
DISK_LIMIT = 90
#: Certificates that have this or less and were not renewed are a problem, in days.
DAYS_LIMIT = 7


def collect(pillar: Mapping[str, Any], paths: Paths, keys: Path) -> dict[str, Any]:
    """The state of the core with its problems: ``{ok, problems, services, nodes, certificates, disk, convergence,
    reconciler, file_router, storage, pending}``. ``keys`` is where the master keeps its keys.

    Each service, node and certificate says whether it is well (``ok``). Sizes are in bytes, times in RFC 3339 (UTC) or
    seconds since 1970. It costs a fixed number of requests to Docker, however many services and nodes there are.
    """
    unavailable = []
    try:
        seen = swarm_client.overview()
    except VcoreError as error:
        seen = {"nodes": [], "services": {}}
        unavailable.append(str(error))
    try:
        authority = Authority(paths.authority, pki.policy(pillar))
        certificates = authority.leaves(pki.wanted_all(pillar))
    except (VcoreError, OSError) as error:
        certificates = {}
        unavailable.append(str(error))
    remembered = reconcile.load(paths)
    facts = judged(
        {
            "services": _services(pillar, seen["services"]),
            "nodes": _nodes(pillar, seen["nodes"], remembered),
            "certificates": certificates,
            "disk": disk(Path(pillar["base_directory"])),
            "convergence": convergence.last(paths),
            "reconciler": overview.reconciler(remembered),
            "file_router": file_router.facts(pillar, paths),
            "storage": storage.facts(pillar),
            "pending": pending.waiting(paths, keys),
        }
    )
    found = unavailable + problems(facts)
    return {"ok": not found, "problems": found, **facts}


def _services(pillar: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    absent = {"image": None, "desired": 1, "running": 0, "healthy": 0, "since": None, "state": "absent", "message": ""}
    wanted = pillar["services"]
    domain = pillar["site"]["domain"]
    services = {
        name: {
            "title": service["title"],
            "node": service["node"] or service["placement"],
            "addresses": [f"{port}://{name}.{domain}:{data['number']}" for port, data in service["ports"].items()],
            **seen.get(name, absent),
        }
        for name, service in wanted.items()
    }
    for name in sorted(set(seen) - set(wanted)):
        stray: dict[str, Any] = {"title": "not in the site", "node": None, "addresses": []}
        services[name] = {**stray, **seen[name], "state": "superfluous"}
    return services


def _nodes(pillar: Mapping[str, Any], seen: list[Any], remembered: reconcile.State) -> dict[str, Any]:
    by_id, by_name = {node["id"]: node for node in seen}, {node["name"]: node for node in seen}
    found = {}
    for name, node in pillar["nodes"].items():
        # Another node is in the swarm under the id that its manager has confirmed; this one labels itself.
        member = by_name.get(name) if "head" in node["roles"] else by_id.get(node["swarm_id"])
        found[name] = {
            # A list of its own: Salt masks whatever of the pillar itself is returned.
            "roles": [str(role) for role in node["roles"]],
            "address": node["address"],
            "state": member["state"] if member else "not joined",
            "availability": member["availability"] if member else None,
            **overview.progress(remembered, name, retiring=bool(node["retiring"])),
        }
    return found


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


def is_healthy(service: Mapping[str, Any]) -> bool:
    """Whether a service runs well: all its tasks are healthy, and the site wants it."""
    return service["healthy"] >= service["desired"] and service["state"] in ("settled", "waiting")


def is_good(certificate: Mapping[str, Any]) -> bool:
    """Whether a certificate is fine: its status is, and it does not end soon where a service uses it."""
    status = certificate["status"]
    return status in Authority.WELL and (status == "unused" or certificate["days_left"] > DAYS_LIMIT)


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


def _ill_node(node: Mapping[str, Any]) -> str:
    """What is not well with a node, in a line."""
    if node.get("retiring"):
        return "is being retired, or was, and the site file still names it: go on with salt-run vcore.retire"
    if not node.get("error"):
        return str(node["state"])
    seconds = max(round((node["next"] or 0) - time.time()), 0)
    tries = "1 try" if node["attempts"] == 1 else f"{node['attempts']} tries"
    return f"{node['error']} ({tries}, the next {f'in {seconds} s' if seconds else 'is due'})"
