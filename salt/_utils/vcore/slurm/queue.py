"""Nodes and jobs as slurmctld sees them; draining and resuming nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hostlist

from ..base.errors import NotFound, VcoreError
from ..base.messages import tr
from ..base.names import NODE_NAME
from .controller import run_checked

#: Every reason that the core gives begins with this.
OURS = "vcore: "


#: The reasons that slurmctld itself gives when it drains a node that has less than its line says.
MISMATCH = re.compile(
    r"(?:Low (?:RealMemory|TmpDisk|CPUs|socket\*core\*thread count)|gres/\S+ count (?:reported lower than configured|"
    r"too low))"
)


#: The most nodes that one command names, because the length of a command line is limited.
BATCH = 500


# --- nodes ----------------------------------------------------------------------------------------------------------


def show_nodes(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the nodes as slurmctld sees them, by name.

    Each has ``state`` (its first word in lower case: idle, mixed, allocated, down, unknown ...), ``flags`` (drain,
    not_responding, completing ...), ``reason`` and ``by``, who gave it (both None where there is none),
    ``memory_mib``, ``cpus``, ``cpus_used``, ``gres``, ``address``, ``boot`` and ``slurmd_start`` (seconds since 1970).

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
    except (ValueError, KeyError, TypeError):
        raise VcoreError(
            tr("slurmctld's list of nodes cannot be read: see what scontrol --json show nodes prints in its container")
        ) from None


def _number(value: Any) -> int | None:
    if isinstance(value, Mapping):
        return int(value["number"]) if value.get("set") else None
    return value if isinstance(value, int) else None


def is_drained(node: Mapping[str, Any]) -> bool:
    """Return whether a node of :func:`show_nodes` is drained: told to take no new jobs."""
    return "drain" in node["flags"] or node["state"] in ("drain", "drained", "draining")


def is_well(node: Mapping[str, Any]) -> bool:
    """Return whether a node answers and runs jobs, or would if it were not drained."""
    return node["state"] in ("idle", "mixed", "allocated") and not {"not_responding", "fail", "invalid_reg"} & set(
        node["flags"]
    )


def by_the_system(node: Mapping[str, Any]) -> bool:
    """Return whether the core or slurmctld, rather than a person, gave a node's reason."""
    reason = node["reason"] or ""
    return reason.startswith(OURS) or (bool(MISMATCH.match(reason)) and node["by"] in ("slurm", "root", None))


def drain(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> list[str]:
    """Make nodes take no new jobs, while running ones go on; ``vcore: `` is put before the reason.

    A node that a person has already drained keeps that person's reason.

    Returns:
        The nodes that were changed.

    Raises:
        NotFound: SLURM does not have one of the nodes.
        VcoreError: the reason has more than one line, is too long or has quotes in it.
    """
    text = reason if reason.startswith(OURS) else f"{OURS}{reason}"
    if not re.fullmatch(r"[^\x00-\x1f\x7f\"'\\]{1,200}", text):
        raise VcoreError(tr("a reason is one line of at most 200 characters, without quotes"))
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
    """Resume nodes that the system drained: those whose reason begins with ``because`` or, by default, came from
    slurmctld.

    Nodes with a person's reason are left alone, because the administrator wins, and so are nodes that are not well yet.
    Without ``names`` all nodes are considered. Reasons that begin as in :data:`KEPT` are left to the process that gave
    them, except those that begin as in ``abandoned``, whose process has ended.

    Returns:
        The nodes that take jobs again.

    Raises:
        NotFound: SLURM does not have one of the nodes.
        VcoreError: ``because`` is not a reason of the core's.
    """
    if not because.startswith(OURS):
        raise VcoreError(tr('only what begins with "{ours}" is taken back', ours=OURS))
    nodes = show_nodes(pillar)
    todo = []
    for name in nodes if names is None else _known(nodes, names):
        node = nodes[name]
        ours = (node["reason"] or "").startswith(because)
        found = because == OURS and by_the_system(node)
        # The process that drained a node, such as its health check, resumes it itself.
        kept = _looked_after(node) and not (node["reason"] or "").startswith(tuple(abandoned))
        if is_drained(node) and is_well(node) and (ours or found) and not kept:
            todo.append(name)
    _update(pillar, todo, "state=resume")
    return todo


#: Reasons of the core's that another process clears: the node's health check, or a roll or retirement under way.
KEPT = ("vcore: storage ", "vcore: retiring", "vcore: update")
#: Those of them that mean that work is under way and nothing is wrong.
UNDER_WAY = ("vcore: retiring", "vcore: update")


def _looked_after(node: Mapping[str, Any]) -> bool:
    return str(node["reason"]).startswith(KEPT)


def down(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> None:
    """Set nodes down that are gone for good; SLURM requeues their jobs or fails them, as each was submitted."""
    text = reason if reason.startswith(OURS) else f"{OURS}{reason}"
    _update(pillar, _known(show_nodes(pillar), names), "state=down", f"reason={text}")


def release(pillar: Mapping[str, Any], names: str | Iterable[str], reason: str) -> None:
    """Resume nodes that were drained with exactly this reason; nodes with other reasons stay drained."""
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
            raise NotFound(tr("SLURM has no node {name}", name=ascii(name)[:80]))
    return asked


def _update(pillar: Mapping[str, Any], names: Sequence[str], *values: str) -> None:
    for start in range(0, len(names), BATCH):
        batch = ",".join(names[start : start + BATCH])
        command = ["scontrol", "update", f"nodename={batch}", *values]
        run_checked(pillar, command, f"slurmctld does not change {batch[:200]}")


def jobs_on(pillar: Mapping[str, Any], names: str | Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of the jobs on nodes, by node, those that are completing included; nodes without jobs are missing.

    slurmctld is asked only once, however many nodes there are.

    Raises:
        NotFound: a name cannot be a node's.
        VcoreError: slurmctld does not answer, or does not have one of the nodes.
    """
    wanted = set(_several(names))
    for name in wanted:
        if not NODE_NAME.fullmatch(name):
            raise NotFound(tr("SLURM has no node {name}", name=ascii(name)[:80]))
    nodelist = f"--nodelist={hostlist.collect_hostlist(wanted)}"
    command = ["squeue", "--noheader", "--format=%i %N", nodelist, "--states=running,suspended,completing"]
    found: dict[str, list[str]] = {}
    for line in run_checked(pillar, command, "slurmctld does not list the jobs").splitlines():
        job, _, nodes = line.strip().partition(" ")
        for name in wanted.intersection(hostlist.expand_hostlist(nodes)):
            found.setdefault(name, []).append(job)
    return found


def state_words(node: Mapping[str, Any]) -> str:
    """Return a node's state as sinfo writes it: ``idle``, ``idle+drain``."""
    return "+".join([node["state"], *node["flags"]])


def count_jobs(pillar: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of jobs in each state (pending, running ...)."""
    said = run_checked(pillar, ["squeue", "--noheader", "--array", "--format=%T"], "slurmctld does not list the jobs")
    states = said.lower().split()
    return {state: states.count(state) for state in sorted(set(states))}
