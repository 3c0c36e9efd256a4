"""How SLURM is: its checks for vcore.doctor, and its facts and problems for vcore.status."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..directory import client, entries
from ..people import plans
from . import accounting, configuration, controller, queue, sacctmgr
from .names import ACCOUNTING


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check slurmctld and, where it is on, accounting."""
    services = pillar["services"]
    found = _controller(pillar) if configuration.CONTROLLER in services else []
    return found + (_accounting(pillar, paths) if ACCOUNTING in services else [])


def _controller(pillar: Mapping[str, Any]) -> list[Check]:
    """Check that the controller answers, uses the site's configuration, and has the nodes that it should have."""
    service = pillar["services"][configuration.CONTROLLER]
    address = pillar["nodes"][service["node"]]["address"]
    remedy = tr("run salt-call state.apply, then docker service logs {controller}", controller=configuration.CONTROLLER)
    checks = [_listens(address, configuration.CONTROLLER_PORT, remedy)]
    try:
        nodes = queue.show_nodes(pillar)
    except VcoreError as error:
        return [*checks, result(tr("SLURM shows its nodes"), False, str(error), remedy)]
    checks.append(_configuration(pillar, remedy))
    wanted = configuration.compute_nodes(pillar)
    missing = sorted(set(wanted) ^ set(nodes))
    checks.append(
        result(
            tr("SLURM has the nodes of the core, and no others"),
            not missing,
            ", ".join(missing) or tr("{nodes} nodes", nodes=len(nodes)),
            tr("run salt-run vcore.reconcile"),
        )
    )
    for name, why in sorted(configuration.left_out(pillar).items()):
        checks.append(
            result(
                tr("{name} takes jobs", name=name),
                False,
                why,
                tr("run salt-run vcore.reconcile, and look at vcore.status"),
            )
        )
    for name, node in sorted(nodes.items()):
        said = f"{queue.state_words(node)}{': ' + node['reason'] if node['reason'] else ''}"
        # A node that a person has drained is as that person wants it.
        well = queue.is_well(node) and not (queue.is_drained(node) and queue.by_the_system(node))
        checks.append(
            result(
                tr("{name} takes jobs, or a person has drained it", name=name),
                well,
                said,
                tr(
                    "look at docker service ps and the log of {compute} on {name}",
                    compute=configuration.COMPUTE,
                    name=name,
                ),
            )
        )
    return checks


def _configuration(pillar: Mapping[str, Any], remedy: str) -> Check:
    place = controller.place(pillar)
    content = place.read()
    refusal = place.refusal()
    if refusal:
        saw = tr("refused: {refusal}", refusal=refusal)
    elif content != configuration.files(pillar):
        saw = tr("an older one is in place")
    elif not place.is_in_force(content):
        saw = tr("it is not known to be in force")
    else:
        saw = tr("it does")
    return result(tr("SLURM goes by the configuration of the site"), saw == "it does", saw, remedy)


def _listens(address: str, port: int, remedy: str) -> Check:
    tried = tr("slurmctld listens at {address}, port {port}", address=address, port=port)
    try:
        with socket.create_connection((address, port), timeout=5):
            return result(tried, True, tr("it does"), remedy)
    except OSError as error:
        return result(tried, False, str(error), remedy)


def _accounting(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check that accounting has the accounts and people that it should have."""
    tried = tr("SLURM's accounts and people are those of the site and the directory")
    remedy = tr("run salt-call state.apply; docker service logs {accounting} says more", accounting=ACCOUNTING)
    try:
        with client.open_administrator(pillar, paths) as connection:
            present = plans.look(connection, entries.suffix(pillar))
        planned = sacctmgr.plan(pillar, paths, present, test=False)
        assert isinstance(planned, accounting.Plan)
        saw = tr("different: {changes}", changes=", ".join(planned.changes)) if planned.changes else tr("no difference")
        return [result(tried, not planned.changes, saw, remedy)]
    except VcoreError as error:
        return [result(tried, False, str(error), remedy)]


# --- how it is ------------------------------------------------------------------------------------------------------


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``slurm``: what :func:`look` returns."""
    return {"slurm": look(pillar)}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return SLURM's problems; a node that a person drained is not one."""
    return list((facts.get("slurm") or {}).get("problems", []))


def look(pillar: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how SLURM is: ``{nodes, jobs, problems}``; None where the core runs none.

    ``nodes`` has each node's ``words`` (as sinfo says its state), ``reason``, ``ok``, and whether a person drained it
    (``by_hand``); ``jobs`` counts them by state; ``problems`` are lines for people.
    """
    if not controller.manages(pillar):
        return None
    left_out = [f"SLURM: {name} takes no jobs: {why}" for name, why in sorted(configuration.left_out(pillar).items())]
    try:
        seen, jobs = queue.show_nodes(pillar), queue.count_jobs(pillar)
    except VcoreError as error:
        return {"nodes": {}, "jobs": {}, "problems": [f"SLURM: {error}", *left_out]}
    nodes = {name: _node(node) for name, node in sorted(seen.items())}
    ill = [
        f"SLURM: {name} is {node['words']}" + (f": {node['reason']}" if node["reason"] else "")
        for name, node in nodes.items()
        if not node["ok"]
    ]
    return {"nodes": nodes, "jobs": jobs, "problems": ill + left_out}


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node of :func:`vcore.slurm.queue.show_nodes` as status shows it."""
    drained = queue.is_drained(node)
    by_hand = drained and not queue.by_the_system(node)
    under_way = (node["reason"] or "").startswith(queue.UNDER_WAY)
    return {
        "words": queue.state_words(node),
        "reason": node["reason"],
        "by_hand": by_hand,
        "ok": queue.is_well(node) and (not drained or by_hand or under_way),
    }
