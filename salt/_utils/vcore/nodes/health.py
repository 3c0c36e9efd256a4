"""How the nodes are, and how it goes to keep them so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..base.paths import Paths
from . import decisions, overview


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``nodes`` by name, each with ``ok``, and ``reconciler``: its last round and what it could not do."""
    remembered = decisions.load(paths)
    nodes = _nodes(pillar, so_far["swarm"]["nodes"], remembered)
    return {"nodes": judged(nodes), "reconciler": overview.reconciler(remembered)}


def judged(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return nodes that say whether they are well (``ok``)."""
    return {name: {**node, "ok": node["state"] == "ready" and not node.get("error")} for name, node in nodes.items()}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return what is not well with each node, and with the reconciler."""
    ill = [f"node {name}: {_ill_node(node)}" for name, node in facts.get("nodes", {}).items() if not node["ok"]]
    return ill + list(facts.get("reconciler", {}).get("problems", []))


def _nodes(pillar: Mapping[str, Any], seen: list[Any], remembered: decisions.State) -> dict[str, Any]:
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


def _ill_node(node: Mapping[str, Any]) -> str:
    """What is not well with a node, in a line."""
    if node.get("retiring"):
        return "is being retired, or was, and the site file still names it: go on with salt-run vcore.retire"
    if not node.get("error"):
        return str(node["state"])
    seconds = max(round((node["next"] or 0) - time.time()), 0)
    tries = "1 try" if node["attempts"] == 1 else f"{node['attempts']} tries"
    return f"{node['error']} ({tries}, the next {f'in {seconds} s' if seconds else 'is due'})"
