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

from ..base.checks import Check, result
from ..base.paths import Paths
from ..certificates.health import _certificates
from ..services.health import _names
from ..storage import health
from ..swarm.health import _swarm
from . import pillar as kernel_pillar
from . import status


def _configuration(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    found = kernel_pillar.problems(paths)
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


def _disk(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    disk = status.disk(Path(pillar["base_directory"]))
    saw = f"{disk['used_percent']} % used, {disk['free'] // 2**20} MiB free"
    ok = disk["used_percent"] <= status.DISK_LIMIT
    return [result(f"{disk['path']} has room", ok, saw, "free space, or move base_directory to a larger disk")]


def _storage(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    return health.check(pillar)


CHECKS: list[Callable[[Mapping[str, Any], Paths], list[Check]]] = [
    _configuration,
    _master,
    _swarm,
    _names,
    _certificates,
    _disk,
    _storage,
]


#: The modules of the services' own checks.
MODULES = {
    "accounting_client": "slurm.sacctmgr",
    "directory": "directory.health",
    "directory_web": "directory.web",
    "file_router": "file_router.health",
    "login_host": "login.health",
    "pending": "enrolment.health",
    "slurm_checks": "slurm.health",
}


def examine(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Run every check of the core and of the services that are switched on, in that order."""
    checks = [check for group in CHECKS for check in group(pillar, paths)]
    for service in pillar["services"].values():
        if service["checks"]:
            module = importlib.import_module(f"vcore.{MODULES.get(service['checks'], service['checks'])}")
            checks.extend(module.check(pillar, paths))
    return checks
