"""Nodes and jobs as slurmctld sees them; draining and resuming nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hostlist

from ..base.errors import NotFound, VcoreError
from ..base.names import NODE_NAME
from .controller import run_checked

#: How every reason begins that the core gives.
OURS = "vcore: "


#: What slurmctld itself says of a node that it drains for not being what its line says.
MISMATCH = re.compile(
    r"(?:Low (?:RealMemory|TmpDisk|CPUs|socket\*core\*thread count)|gres/\S+ count (?:reported lower than configured|"
    r"too low))"
)


#: Nodes that one command names at a time: a command line has an end.
BATCH = 500


# --- nodes ----------------------------------------------------------------------------------------------------------


def show_nodes(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How slurmctld sees the nodes, by name.

    Each has ``state`` (its first word in lower case: idle, mixed, allocated, down, unknown ...), ``flags`` (drain,
    not_responding, completing ...), ``reason`` and ``by`` (None where nobody gave one), ``memory_mib``, ``cpus``,
    ``cpus_used``, ``gres``, ``address``, ``boot`` and ``slurmd_start`` (seconds since 1970).

    Raises:
        NotFound: the controller does not run here.
        VcoreError: it does not answer.
    """
    said = run_checked(pillar, ["scontrol", "--json", "show", "nodes"], "slurmctld does not show its nodes")
    try:
        found = json.loads(said[said.index("{") :])["nodes"]
        return {
            node["name"]: {
                "state": states[0] if states else "unknown",
                "flags": states[1:],
                "reason": node.get("reason") or None,
                "by": node.get("reason_set_by_user") or None,
                "memory_mib": node.get("real_memory"),
                "cpus": node.get("cpus"),
                "cpus_used": node.get("alloc_cpus"),
                "gres": node.get("gres") or "",
                "address": node.get("address"),
                "boot": _number(node.get("boot_time")),
                "slurmd_start": _number(node.get("slurmd_start_time")),
            }
            for node in found
            for states in [[str(state).lower() for state in node.get("state") or []]]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise VcoreError(f"slurmctld's list of nodes cannot be read: {error!r}") from None


def _number(value: Any) -> int | None:
    if isinstance(value, Mapping):
        return int(value["number"]) if value.get("set") else None
    return value if isinstance(value, int) else None


def is_drained(node: Mapping[str, Any]) -> bool:
    """Whether a node of :func:`show_nodes` takes no new jobs because somebody said so."""
    return "drain" in node["flags"] or node["state"] in ("drain", "drained", "draining")


def is_well(node: Mapping[str, Any]) -> bool:
    """Whether it answers and runs jobs, or would if it were not drained."""
    return node["state"] in ("idle", "mixed", "allocated") and not {"not_responding", "fail", "invalid_reg"} & set(
        node["flags"]
    )


def by_the_system(node: Mapping[str, Any]) -> bool:
    """Whether the reason is one that the core or slurmctld gave, not a person."""
    reason = node["reason"] or ""
    return reason.startswith(OURS) or (bool(MISMATCH.match(reason)) and node["by"] in ("slurm", "root", None))


def drain(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> list[str]:
    """Have nodes take no new jobs; what runs goes on. ``vcore: `` goes before the reason.

    A node that somebody drained already keeps that person's reason.

    Returns:
        The nodes that it changed something of.

    Raises:
        VcoreError: a name that SLURM does not know, or a reason of more than one line.
    """
    text = reason if reason.startswith(OURS) else f"{OURS}{reason}"
    if not re.fullmatch(r"[^\x00-\x1f\x7f\"'\\]{1,200}", text):
        raise VcoreError("a reason is one line of at most 200 characters, without quotes")
    nodes = show_nodes(pillar)
    todo = [
        name
        for name in _known(nodes, names)
        if not is_drained(nodes[name]) or (by_the_system(nodes[name]) and nodes[name]["reason"] != text)
    ]
    _update(pillar, todo, "state=drain", f"reason={text}")
    return todo


def resume(
    pillar: Mapping[str, Any],
    names: str | Iterable[str] | None = None,
    *,
    because: str = OURS,
    abandoned: Sequence[str] = (),
) -> list[str]:
    """Have nodes take jobs again that the system drained: their reason begins with ``because``, or slurmctld gave it.

    A node with a reason of anybody else's is left as it is: the administrator wins. So is one that is not well yet.
    Without names it goes through all of them. ``abandoned`` are beginnings of reasons which somebody else would take
    back (:data:`KEPT`), and does not any more.

    Returns:
        The nodes that take jobs again.
    """
    if not because.startswith(OURS):
        raise VcoreError(f"only what begins with {OURS!r} is taken back")
    nodes = show_nodes(pillar)
    todo = []
    for name in nodes if names is None else _known(nodes, names):
        node = nodes[name]
        ours = (node["reason"] or "").startswith(because)
        found = because == OURS and by_the_system(node)
        # What a program on the node itself found (its health check) it takes back itself.
        kept = _looked_after(node) and not (node["reason"] or "").startswith(tuple(abandoned))
        if is_drained(node) and is_well(node) and (ours or found) and not kept:
            todo.append(name)
    _update(pillar, todo, "state=resume")
    return todo


#: Reasons of the core's that somebody else takes back: the node's health check, a roll or a retirement that goes on.
KEPT = ("vcore: storage ", "vcore: retiring", "vcore: update")
#: Those of them that say that somebody is at it, and that nothing is wrong.
UNDER_WAY = ("vcore: retiring", "vcore: update")


def _looked_after(node: Mapping[str, Any]) -> bool:
    return str(node["reason"]).startswith(KEPT)


def down(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> None:
    """Give up what runs on nodes that died for good; SLURM requeues their jobs, or fails them, as they asked for."""
    text = reason if reason.startswith(OURS) else f"{OURS}{reason}"
    _update(pillar, _known(show_nodes(pillar), names), "state=down", f"reason={text}")


def release(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> None:
    """Have nodes take jobs again that the caller drained with exactly this reason; any other reason stays."""
    nodes = show_nodes(pillar)
    text = reason if reason.startswith(OURS) else f"{OURS}{reason}"
    drained = [name for name, node in nodes.items() if is_drained(node) and node["reason"] == text]
    _update(pillar, [name for name in _several(names) if name in drained], "state=resume")


def _several(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _known(nodes: Mapping[str, Any], names: str | Iterable[str]) -> list[str]:
    asked = _several(names)
    for name in asked:
        if not NODE_NAME.fullmatch(name) or name not in nodes:
            raise NotFound(f"SLURM has no node {ascii(name)[:80]}")
    return asked


def _update(pillar: Mapping[str, Any], names: Sequence[str], *values: str) -> None:
    for start in range(0, len(names), BATCH):
        batch = ",".join(names[start : start + BATCH])
        command = ["scontrol", "update", f"nodename={batch}", *values]
        run_checked(pillar, command, f"slurmctld does not change {batch[:200]}")


def jobs_on(pillar: Mapping[str, Any], names: str | Iterable[str]) -> dict[str, list[str]]:
    """The ids of the jobs that have something on nodes, those that end included, by node; one without jobs is missing.

    One question, however many nodes there are.

    Raises:
        VcoreError: slurmctld does not answer, or has no such node.
    """
    wanted = set(_several(names))
    for name in wanted:
        if not NODE_NAME.fullmatch(name):
            raise NotFound(f"SLURM has no node {ascii(name)[:80]}")
    nodelist = f"--nodelist={hostlist.collect_hostlist(wanted)}"
    command = ["squeue", "--noheader", "--format=%i %N", nodelist, "--states=running,suspended,completing"]
    found: dict[str, list[str]] = {}
    for line in run_checked(pillar, command, "slurmctld does not list the jobs").splitlines():
        job, _, nodes = line.strip().partition(" ")
        for name in wanted.intersection(hostlist.expand_hostlist(nodes)):
            found.setdefault(name, []).append(job)
    return found


def state_words(node: Mapping[str, Any]) -> str:
    """A node's state as sinfo has it: ``idle``, ``idle+drain``."""
    return "+".join([node["state"], *node["flags"]])


def count_jobs(pillar: Mapping[str, Any]) -> dict[str, int]:
    """How many jobs are in which state (pending, running ...)."""
    said = run_checked(pillar, ["squeue", "--noheader", "--array", "--format=%T"], "slurmctld does not list the jobs")
    states = said.lower().split()
    return {state: states.count(state) for state in sorted(set(states))}
