"""SLURM, asked from outside and within, for vcore.doctor."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.paths import Paths
from ..host.configurations import Place, fingerprint
from . import configuration, controller, queue
from .controller import manages
from .queue import count_jobs, is_drained, is_well, show_nodes, state_words


def check(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Whether the controller answers, goes by its configuration, and has the nodes that it should have."""
    service = pillar["services"][configuration.CONTROLLER]
    address = pillar["nodes"][service["node"]]["address"]
    remedy = f"run salt-call state.apply, then docker service logs {configuration.CONTROLLER}"
    checks = [_listens(address, configuration.CONTROLLER_PORT, remedy)]
    try:
        nodes = queue.show_nodes(pillar)
    except VcoreError as error:
        return [*checks, result("SLURM shows its nodes", False, str(error), remedy)]
    checks.append(_configuration(pillar, remedy))
    wanted = configuration.compute_nodes(pillar)
    missing = sorted(set(wanted) ^ set(nodes))
    checks.append(
        result(
            "SLURM has the nodes of the core, and no others",
            not missing,
            ", ".join(missing) or f"{len(nodes)} nodes",
            "run salt-run vcore.reconcile",
        )
    )
    for name, why in sorted(configuration.left_out(pillar).items()):
        checks.append(
            result(f"{name} takes jobs", False, why, "run salt-run vcore.reconcile, and look at vcore.status")
        )
    for name, node in sorted(nodes.items()):
        said = f"{queue.state_words(node)}{': ' + node['reason'] if node['reason'] else ''}"
        # What a person has drained is as that person wants it.
        well = queue.is_well(node) and not (queue.is_drained(node) and queue.by_the_system(node))
        checks.append(
            result(
                f"{name} takes jobs, or a person has drained it",
                well,
                said,
                f"look at docker service ps and the log of {configuration.COMPUTE} on {name}",
            )
        )
    return checks


def _configuration(pillar: Mapping[str, Any], remedy: str) -> Check:
    place = Place(controller.folder(pillar), controller.FILES)
    content = place.read()
    refusal = place.refusal()
    if refusal:
        saw = f"refused: {refusal}"
    elif content != configuration.files(pillar):
        saw = "an older one is in place"
    elif place.applied() != fingerprint(content):
        saw = "it is not known to be in force"
    else:
        saw = "it does"
    return result("SLURM goes by the configuration of the site", saw == "it does", saw, remedy)


def _listens(address: str, port: int, remedy: str) -> Check:
    tried = f"slurmctld listens at {address}, port {port}"
    try:
        with socket.create_connection((address, port), timeout=5):
            return result(tried, True, "it does", remedy)
    except OSError as error:
        return result(tried, False, str(error), remedy)


# --- what people ask ------------------------------------------------------------------------------------------------


def facts(pillar: Mapping[str, Any], paths: Paths | None = None) -> dict[str, Any] | None:
    """What vcore.status tells of SLURM: ``{nodes, jobs, problems}``; None where the core runs none here.

    ``nodes`` are those of :func:`show_nodes`; ``jobs`` counts them by state; ``problems`` are lines for people.
    """
    if not manages(pillar):
        return None
    left_out = [f"SLURM: {name} takes no jobs: {why}" for name, why in sorted(configuration.left_out(pillar).items())]
    try:
        nodes, jobs = show_nodes(pillar), count_jobs(pillar)
    except VcoreError as error:
        return {"nodes": {}, "jobs": {}, "problems": [f"SLURM: {error}", *left_out]}
    found = [
        f"SLURM: {name} is {state_words(node)}" + (f": {node['reason']}" if node["reason"] else "")
        for name, node in sorted(nodes.items())
        if is_drained(node) or not is_well(node)
    ]
    return {"nodes": nodes, "jobs": jobs, "problems": [*found, *left_out]}
