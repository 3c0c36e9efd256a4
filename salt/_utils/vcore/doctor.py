"""End-to-end checks: each says what it tried, what it saw, and what to do when it failed.

The core's own checks are here; a service names the brain module that has its own with ``checks:`` in service.yaml,
a module with ``check(pillar, paths) -> list of checks``.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import core, pki, status, storage, swarm_client
from .authority import Authority
from .checks import Check, result
from .errors import VcoreError
from .paths import Paths


def _configuration(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    found = core.problems(paths)
    return [result("the site file is valid", not found, "; ".join(found) or "no problem", f"correct {paths.site}")]


def _master(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    checks = []
    for port, purpose in ((4505, "publishes jobs"), (4506, "takes returns")):
        try:
            socket.create_connection((pillar["head"]["address"], port), timeout=3).close()
            ok, saw = True, "it answers"
        except OSError as error:
            ok, saw = False, str(error)
        checks.append(result(f"the Salt master {purpose} on port {port}", ok, saw, "run bootstrap.sh again"))
    return checks


def _swarm(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    try:
        seen = swarm_client.overview()
    except VcoreError as error:
        return [
            result("Docker's swarm answers", False, str(error), "see that Docker runs, then run bootstrap.sh again")
        ]
    ok = seen["swarm"] == "active"
    checks = [result("Docker's swarm answers", ok, f"it is {seen['swarm']}", "run salt-call state.apply")]
    for name in pillar["services"]:
        found = seen["services"].get(name)
        healthy = bool(found) and status.is_healthy(found)
        saw = f"{found['healthy']} of {found['desired']} tasks" if found else "there is no such service"
        remedy = f"run salt-call state.apply; docker service logs {name} and docker service ps {name} say more"
        checks.append(result(f"the service {name} is healthy", healthy, saw, remedy))
    return checks


def _names(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    checks = []
    for name, service in pillar["services"].items():
        if service["node"] is None:
            continue
        full, wanted = f"{name}.{pillar['site']['domain']}", pillar["nodes"][service["node"]]["address"]
        try:
            saw = socket.gethostbyname(full)
        except OSError as error:
            saw = str(error)
        checks.append(result(f"the name {full} leads to {wanted}", saw == wanted, saw, "run salt-call state.apply"))
    return checks


def _certificates(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    checks = []
    for leaf in pki.wanted_all(pillar):
        try:
            found = Authority(paths.authority, pki.policy(pillar)).verify(leaf)
        except (VcoreError, OSError) as error:
            found = [str(error)]
        saw = "; ".join(found) or "chain, names and dates are right"
        checks.append(result(f"the certificate {leaf.name} verifies", not found, saw, "run salt-call state.apply"))
    return checks


def _disk(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    disk = status.disk(Path(pillar["base_directory"]))
    saw = f"{disk['used_percent']} % used, {disk['free'] // 2**20} MiB free"
    ok = disk["used_percent"] <= status.DISK_LIMIT
    return [result(f"{disk['path']} has room", ok, saw, "free space, or move base_directory to a larger disk")]


def _storage(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    return storage.check(pillar)


CHECKS: list[Callable[[Mapping[str, Any], Paths], list[Check]]] = [
    _configuration,
    _master,
    _swarm,
    _names,
    _certificates,
    _disk,
    _storage,
]


def examine(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Run every check of the core and of the services that are switched on, in that order."""
    checks = [check for group in CHECKS for check in group(pillar, paths)]
    for service in pillar["services"].values():
        if service["checks"]:
            module = importlib.import_module(f"{__package__}.{service['checks']}")
            checks.extend(module.check(pillar, paths))
    return checks
