"""How the nodes are, and how the reconciler does: the facts and problems of vcore.status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..base.messages import tr
from ..base.paths import Paths
from . import decisions, overview


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``nodes`` by name, each with ``ok``, and ``reconciler``: its last round and its problems."""
    remembered = decisions.load(paths)
    nodes = _nodes(pillar, so_far["swarm"]["nodes"], remembered)
    return {"nodes": judged(nodes), "reconciler": overview.reconciler(remembered)}


def judged(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the nodes with ``ok`` added: whether each is well."""
    return {name: {**node, "ok": node["state"] == "ready" and not node.get("error")} for name, node in nodes.items()}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return the problems of the nodes and of the reconciler, a line each."""
    ill = [f"node {name}: {_ill_node(node)}" for name, node in facts.get("nodes", {}).items() if not node["ok"]]
    return ill + list(facts.get("reconciler", {}).get("problems", []))


def _nodes(pillar: Mapping[str, Any], seen: list[Any], remembered: decisions.State) -> dict[str, Any]:
    by_id, by_name = {node["id"]: node for node in seen}, {node["name"]: node for node in seen}
    found = {}
    for name, node in pillar["nodes"].items():
        # The head is found by the name in its label, other nodes by the id that the swarm's manager has confirmed.
        member = by_name.get(name) if "head" in node["roles"] else by_id.get(node["swarm_id"])
        found[name] = {
            # A new list, because Salt masks objects of the pillar in what is returned.
            "roles": [str(role) for role in node["roles"]],
            "address": node["address"],
            "state": member["state"] if member else "not joined",
            "availability": member["availability"] if member else None,
            **overview.progress(remembered, name, retiring=bool(node["retiring"])),
        }
    return found


def _ill_node(node: Mapping[str, Any]) -> str:
    """Return the problem of a node in one line."""
    if node.get("retiring"):
        return tr(
            "is being retired, or was retired while the site file still names it: go on with salt-run vcore.retire"
        )
    if not node.get("error"):
        return str(node["state"])
    seconds = max(round((node["next"] or 0) - time.time()), 0)
    tries = "1 try" if node["attempts"] == 1 else f"{node['attempts']} tries"
    return tr(
        "{error} ({tries}, the next {value})",
        error=node["error"],
        tries=tries,
        value=f"in {seconds} s" if seconds else "is due",
    )
