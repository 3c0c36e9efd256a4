"""Describe the nodes and the rounds, for ``salt-run vcore.nodes``, ``vcore.reconcile`` and ``vcore.status``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.messages import quoted, tr
from ..base.names import NODE_NAME
from ..base.paths import Paths
from ..kernel import areas, pillar
from ..swarm import membership
from . import decisions
from .registry import UNKNOWN, Registry


@areas.face("rounds")
class Columns(Protocol):
    """A column that an area adds to the list of nodes."""

    #: The name of the column.
    COLUMN: str

    def columns(self, pillar: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], str | None]:
        """Return ``words`` and ``reason`` of each node by name, and why there are none if the area cannot find out."""


class Keys(Protocol):
    """What Salt's master knows of keys: :class:`vcore.nodes.master.Master`."""

    def key_states(self) -> dict[str, str]: ...


def check_takes_part(paths: Paths, keys: Keys, name: str) -> None:
    """Make sure that the reconciler looks after a node.

    Raises:
        VcoreError: it does not; the message says why, and what to do.
    """
    if not NODE_NAME.fullmatch(name):
        raise VcoreError(
            tr("{words} is no name for a node (a-z, 0-9, -, a letter first)", words=quoted(decisions.words(name)))
        )
    state = keys.key_states().get(name)
    node = pillar.resolved(paths)["nodes"].get(name)
    if state is None:
        raise VcoreError(
            tr("no minion {name} has shown up yet; enrol it: salt-run vcore.enrol_token node={name}", name=name)
        )
    if state != "accepted":
        raise VcoreError(
            tr(
                "the key of {name} is {state}; see salt-key --finger {name}, and salt-key --accept {name}",
                name=name,
                state=state,
            )
        )
    if node is None:
        raise VcoreError(
            tr("{name} has no role: name it below vcore.nodes of the site file, or enrol it by a token", name=name)
        )
    if decisions.COMPUTE not in node["roles"]:
        raise VcoreError(
            tr(
                "{name} has the roles {roles}; only compute nodes are reconciled",
                name=name,
                roles=", ".join(node["roles"]),
            )
        )
    if Registry(paths.nodes).read().get(name, UNKNOWN)["retiring"]:
        raise VcoreError(tr("{name} is being retired; go on with salt-run vcore.retire {name}", name=name))


def told(
    results: Iterable[Mapping[str, Any]], records: Mapping[str, decisions.Record], only: str | None = None
) -> dict[str, Any]:
    """Sum up the results of successive rounds.

    Args:
        results: at least one, each as :func:`vcore.nodes.rounds.run` returns it.
        records: how it went with nodes whose answers another process's round took.
        only: the node that was asked for; None for all.

    Returns:
        ``{ok, reconciled: {<name>: {result, error}}, labelled, resumed, problems, rounds, seconds}``.
    """
    results = list(results)
    nodes: dict[str, dict[str, Any]] = {}
    for result in results:
        nodes |= {name: {"result": "converged", "error": None} for name in result["converged"]}
        nodes |= {name: {"result": "failed", "error": why} for name, why in result["failed"].items()}
        nodes |= {name: {"result": "still at it", "error": None} for name in result["waiting"]}
    for name, node in nodes.items():
        record = records.get(name, decisions.Record())
        if node["result"] == "still at it" and name not in results[-1]["waiting"] and record.tried is not None:
            node |= {"result": "failed" if record.attempts else "converged", "error": record.error}
    nodes = {name: node for name, node in sorted(nodes.items()) if only in (None, name)}
    problems = list(results[-1]["problems"])
    return {
        "ok": not problems and all(node["result"] == "converged" for node in nodes.values()),
        "reconciled": nodes,
        "labelled": sorted({name for result in results for name in result["labelled"]}),
        "resumed": sorted({name for result in results for name in result["resumed"]}),
        "problems": problems,
        "rounds": len(results),
        "seconds": round(sum(result["ended"] - result["began"] for result in results), 3),
    }


def progress(state: decisions.State, name: str, *, retiring: bool) -> dict[str, Any]:
    """Return how far the convergence of a node is: ``{retiring, converging, succeeded, error, attempts, next}``.

    ``succeeded`` and ``next`` are in seconds since 1970.
    """
    record = state.nodes.get(name, decisions.Record())
    return {
        "retiring": retiring,
        "converging": name in state.flights,
        "succeeded": record.succeeded,
        "error": record.error,
        "attempts": record.attempts,
        "next": record.next,
    }


def reconciler(state: decisions.State) -> dict[str, Any]:
    """Return how the last round went, for ``vcore.status``: ``{round, problems}``.

    A single failure to bring areas and swarm up to date is not a problem: a daemon may be starting, and the next try is
    seconds away.
    """
    owed = state.owed.error if state.owed.attempts > 1 else None
    found = [f"reconciler: {text}" for text in (state.round.get("error"), owed) if text]
    return {"round": dict(state.round), "problems": found}


def nodes(paths: Paths, keys: Keys) -> dict[str, Any]:
    """Return every node of the site and the registry, and every other minion that has a key.

    Returns:
        ``{nodes: {<name>: {roles, key, address, swarm, slurm, reason, retiring, converging, succeeded, error, attempts,
        next}}, problems: [...]}``. ``slurm`` is there for each area with such a column. What cannot be found out is
        None, and ``problems`` says why.
    """
    resolved, registry, state = pillar.resolved(paths), Registry(paths.nodes).read(), decisions.load(paths)
    key_states, problems = keys.key_states(), []
    try:
        seen = {node["id"]: node for node in membership.overview()["nodes"]}
        own = {node["name"]: node for node in seen.values()}
    except VcoreError as error:
        seen, own = {}, {}
        problems.append(str(error))
    columns: dict[str, dict[str, dict[str, Any]]] = {}
    for area in areas.asked(Columns).values():
        rows, problem = area.columns(pillar.head_pillar(paths))
        columns[area.COLUMN] = rows
        problems += [problem] if problem else []
    found = {}
    for name in sorted({*resolved["nodes"], *registry, *(n for n in key_states if NODE_NAME.fullmatch(n))}):
        node = resolved["nodes"].get(name, {"roles": [], "address": None, "swarm_id": None})
        member = seen.get(node["swarm_id"] or "") or (own.get(name) if "head" in node["roles"] else None)
        found[name] = {
            "roles": list(node["roles"]),
            "key": key_states.get(name),
            "address": node["address"],
            "swarm": member["state"] if member else None,
            **{column: rows.get(name, {}).get("words") for column, rows in columns.items()},
            "reason": next((row["reason"] for rows in columns.values() if (row := rows.get(name))), None),
            **progress(state, name, retiring=bool(registry.get(name, UNKNOWN)["retiring"])),
        }
    problems += [state.owed.error] if state.owed.error else []
    return {"nodes": found, "problems": problems}
