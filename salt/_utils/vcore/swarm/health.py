"""How the swarm and its services are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.paths import Paths
from . import membership


def _swarm(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    try:
        seen = membership.overview()
    except VcoreError as error:
        return [
            result("Docker's swarm answers", False, str(error), "see that Docker runs, then run bootstrap.sh again")
        ]
    ok = seen["swarm"] == "active"
    checks = [result("Docker's swarm answers", ok, f"it is {seen['swarm']}", "run salt-call state.apply")]
    for name in pillar["services"]:
        found = seen["services"].get(name)
        healthy = bool(found) and is_healthy(found)
        saw = f"{found['healthy']} of {found['desired']} tasks" if found else "there is no such service"
        remedy = f"run salt-call state.apply; docker service logs {name} and docker service ps {name} say more"
        checks.append(result(f"the service {name} is healthy", healthy, saw, remedy))
    return checks


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


def is_healthy(service: Mapping[str, Any]) -> bool:
    """Whether a service runs well: all its tasks are healthy, and the site wants it."""
    return service["healthy"] >= service["desired"] and service["state"] in ("settled", "waiting")
