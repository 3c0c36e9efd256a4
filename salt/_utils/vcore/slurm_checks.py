"""SLURM, asked from outside and within, for vcore.doctor."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from . import slurm, slurm_client
from .checks import Check, result
from .configurations import Place, fingerprint
from .errors import VcoreError
from .paths import Paths


def check(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Whether the controller answers, goes by its configuration, and has the nodes that it should have."""
    service = pillar["services"][slurm.CONTROLLER]
    address = pillar["nodes"][service["node"]]["address"]
    remedy = f"run salt-call state.apply, then docker service logs {slurm.CONTROLLER}"
    checks = [_listens(address, slurm.CONTROLLER_PORT, remedy)]
    try:
        nodes = slurm_client.show_nodes(pillar)
    except VcoreError as error:
        return [*checks, result("SLURM shows its nodes", False, str(error), remedy)]
    checks.append(_configuration(pillar, remedy))
    wanted = slurm.compute_nodes(pillar)
    missing = sorted(set(wanted) ^ set(nodes))
    checks.append(
        result(
            "SLURM has the nodes of the core, and no others",
            not missing,
            ", ".join(missing) or f"{len(nodes)} nodes",
            "run salt-run vcore.reconcile",
        )
    )
    for name, why in sorted(slurm.left_out(pillar).items()):
        checks.append(
            result(f"{name} takes jobs", False, why, "run salt-run vcore.reconcile, and look at vcore.status")
        )
    for name, node in sorted(nodes.items()):
        said = f"{slurm_client.state_words(node)}{': ' + node['reason'] if node['reason'] else ''}"
        # What a person has drained is as that person wants it.
        well = slurm_client.is_well(node) and not (slurm_client.is_drained(node) and slurm_client.by_the_system(node))
        checks.append(
            result(
                f"{name} takes jobs, or a person has drained it",
                well,
                said,
                f"look at docker service ps and the log of {slurm.COMPUTE} on {name}",
            )
        )
    return checks


def _configuration(pillar: Mapping[str, Any], remedy: str) -> Check:
    place = Place(slurm_client.folder(pillar), slurm_client.FILES)
    content = place.read()
    refusal = place.refusal()
    if refusal:
        saw = f"refused: {refusal}"
    elif content != slurm.files(pillar):
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
