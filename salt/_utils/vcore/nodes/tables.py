"""Show nodes, rounds and retirements to people, as tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import hostlist

from ..base.messages import tr
from ..terminal import Group, RenderableType, Text, age, good, has, plain, table

PLACE = 20


def status(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return the nodes, with how their last convergence went."""
    nodes = table("NODE", "ROLES", "ADDRESS", "STATE", "CONVERGED")
    for name, node in facts.get("nodes", {}).items():
        state = good(node["state"], node["ok"])
        nodes.add_row(name, ", ".join(node["roles"]), node["address"] or "-", state, _converged(node))
    return [nodes]


def _converged(node: Mapping[str, Any]) -> Text:
    """Return how the reconciler's last convergence of a node went."""
    if node.get("error"):
        return Text("failed", style="bold red")
    if node.get("converging"):
        return Text("at it")
    return Text(f"{age(time.time() - node['succeeded'])} ago" if node.get("succeeded") else "-")


def _nodes(facts: Mapping[str, Any]) -> RenderableType:
    columns = [column for column in _columns(facts) if column not in KNOWN]
    names = [column.upper() for column in columns]
    rows = table("NODE", "ROLES", "KEY", "ADDRESS", "SWARM", *names, "CONVERGED", "WHY", whole=(0,))
    for name, node in facts["nodes"].items():
        states = [plain(node[column] or "-") for column in columns]
        if node["reason"] and states:
            states[-1] = Text.assemble(states[-1], ": ", plain(node["reason"]))
        converged = Text("retiring") if node["retiring"] else _converged(node)
        seconds = max((node["next"] or 0) - time.time(), 0)
        why = (
            tr(
                "{error} (tries: {attempts}, next in {age})",
                error=node["error"],
                attempts=node["attempts"],
                age=age(seconds),
            )
            if node["error"]
            else "-"
        )
        roles, address = ", ".join(node["roles"]) or "-", node["address"] or "-"
        rows.add_row(name, roles, node["key"] or "-", address, node["swarm"] or "-", *states, converged, plain(why))
    return Group(rows, *[Text(f"  - {problem}", style="red") for problem in facts["problems"]])


#: What :func:`vcore.nodes.overview.nodes` says of a node by itself; the rest are columns of other areas.
KNOWN = (
    "roles", "key", "address", "swarm", "reason", "retiring", "converging", "succeeded", "error", "attempts", "next",
)  # fmt: skip


def _columns(facts: Mapping[str, Any]) -> list[str]:
    return list(next(iter(facts["nodes"].values()), {}))


def _reconciled(told: Mapping[str, Any]) -> RenderableType:
    rows = table("NODE", "RESULT", "WHY", whole=(0,))
    for name, node in told["reconciled"].items():
        rows.add_row(name, good(node["result"], node["result"] != "failed"), plain(node["error"] or "-"))
    lines = [f"{what}: {', '.join(told[what])}" for what in ("labelled", "resumed") if told[what]]
    problems = [Text(f"  - {problem}", style="red") for problem in told["problems"]]
    rounds = f"{told['rounds']} rounds, " if told["rounds"] != 1 else ""
    verdict = f"{rounds}{told['seconds']:.1f} s."
    listed = [rows] if told["reconciled"] else [Text("No node was due.")]
    return Group(*listed, *map(Text, lines), *problems, good(verdict, told["ok"]))


def _retired(told: Mapping[str, Any]) -> RenderableType:
    """Return what was done to nodes, in one line for all nodes to which the same was done."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, node in told["retired"].items():
        alike.setdefault(tuple(node["done"]), []).append(name)
    lines = [
        f"{hostlist.collect_hostlist(names)}: {', '.join(done) or 'nothing was done'}." for done, names in alike.items()
    ]
    remains = [Text(node["remains"], style="yellow") for node in told["retired"].values() if node["remains"]]
    problems = [Text.assemble("  - ", plain(problem), style="red") for problem in told["problems"]]
    return Group(*map(Text, lines), *remains, *problems)


SHAPES = ((has("nodes"), _nodes), (has("reconciled"), _reconciled), (has("retired"), _retired))
