"""The status of the swarm and its services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from . import membership

#: The overview of a service that is not on the swarm.
ABSENT = {"image": None, "desired": 1, "running": 0, "healthy": 0, "since": None, "state": "absent", "message": ""}


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``services`` by name, each with ``ok``, and ``swarm``: ``{state, nodes, rolls, error}``.

    ``nodes`` are those of :func:`vcore.swarm.membership.overview`; ``rolls`` has, by service, the nodes that still need
    its update; ``error`` says why the swarm could not be asked, or is None.
    """
    try:
        seen, error = membership.overview(), None
    except VcoreError as problem:
        seen, error = {"swarm": "unknown", "nodes": [], "services": {}, "rolls": {}}, str(problem)
    swarm = {"state": seen["swarm"], "nodes": seen["nodes"], "rolls": seen["rolls"], "error": error}
    return {"services": _services(pillar, seen["services"]), "swarm": swarm}


def _services(pillar: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    wanted, domain = pillar["services"], pillar["site"]["domain"]
    services = {
        name: {
            "title": service["title"],
            "node": service["node"] or service["placement"],
            "addresses": [f"{port}://{name}.{domain}:{data['number']}" for port, data in service["ports"].items()],
            **seen.get(name, ABSENT),
        }
        for name, service in wanted.items()
    }
    for name in sorted(set(seen) - set(wanted)):
        stray: dict[str, Any] = {"title": tr("not in the site"), "node": None, "addresses": []}
        services[name] = {**stray, **seen[name], "state": "superfluous"}
    return judged(services)


def judged(services: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the services with ``ok`` added, which says whether they run well."""
    return {name: {**service, "ok": is_healthy(service)} for name, service in services.items()}


def is_healthy(service: Mapping[str, Any]) -> bool:
    """Return whether a service runs well: all its tasks are healthy, and the site wants it."""
    return service["healthy"] >= service["desired"] and service["state"] in ("settled", "waiting")


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return the problems of the swarm and of each service."""
    error = facts.get("swarm", {}).get("error")
    found = [error] if error else []
    for name, service in facts.get("services", {}).items():
        if service["ok"]:
            continue
        if service["state"] == "superfluous":
            found.append(tr("service {name}: runs, but the site does not want it; apply the states", name=name))
        elif service["state"] == "absent":
            found.append(tr("service {name}: does not exist; apply the states", name=name))
        else:
            detail = f": {service['message']}" if service["message"] else ""
            found.append(
                tr(
                    "service {name}: {healthy} of {desired} tasks are healthy{detail}",
                    name=name,
                    healthy=service["healthy"],
                    desired=service["desired"],
                    detail=detail,
                )
            )
    return found


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check the swarm and each service of the site."""
    try:
        seen = membership.overview()
    except VcoreError as error:
        remedy = tr("see that Docker runs, then run bootstrap.sh again")
        return [result(tr("Docker's swarm answers"), False, str(error), remedy)]
    ok = seen["swarm"] == "active"
    found = [
        result(
            tr("Docker's swarm answers"), ok, tr("it is {swarm}", swarm=seen["swarm"]), tr("run salt-call state.apply")
        )
    ]
    for name in pillar["services"]:
        service = seen["services"].get(name)
        healthy = bool(service) and is_healthy(service)
        saw = (
            tr("{healthy} of {desired} tasks", healthy=service["healthy"], desired=service["desired"])
            if service
            else tr("there is no such service")
        )
        remedy = tr(
            "run salt-call state.apply; docker service logs {name} and docker service ps {name} say more", name=name
        )
        found.append(result(tr("the service {name} is healthy", name=name), healthy, saw, remedy))
    return found
