"""SLURM, the half that does it: brings the controller's configuration into place, and asks and tells slurmctld.

The configuration lies in a folder of the head, which the controller's container mounts at /etc/slurm; nodes get it of
the controller. Its files follow from the resolved pillar (:mod:`vcore.slurm`). They are proven by a slurmctld of the
controller's own image, beside the one that runs, before they take the place of the old ones; then one
``scontrol reconfigure`` has everybody read them, which no job notices. What is refused leaves the old ones in force.

**The administrator wins.** What the core says of a node in SLURM begins with ``vcore: ``. It takes back what it has
said itself, and what slurmctld said when it found a node to have less than its line; never what a person said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostlist

from . import containers, slurm
from .configurations import PREVIOUS, Place, fingerprint, text_difference
from .errors import NotFound, VcoreError
from .names import NODE_NAME
from .paths import Paths

SERVICE = slurm.CONTROLLER
#: Where the container has the configuration, and its command.
MOUNT, COMMAND = "/etc/slurm", "/usr/lib/virtual-core/slurm-controller"
#: Every file that a configuration may have.
FILES = ("cgroup.conf", "gres.conf", "nodes.conf", "slurm.conf", slurm.PROLOG, slurm.EPILOG)
#: How every reason begins that the core gives.
OURS = "vcore: "
#: What slurmctld itself says of a node that it drains for not being what its line says.
MISMATCH = re.compile(
    r"(?:Low (?:RealMemory|TmpDisk|CPUs|socket\*core\*thread count)|gres/\S+ count (?:reported lower than configured|"
    r"too low))"
)
#: Nodes that one command names at a time: a command line has an end.
BATCH = 500


# --- the container --------------------------------------------------------------------------------------------------


def folder(pillar: Mapping[str, Any]) -> Path:
    """Where the configuration lies on the head."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


def manages(pillar: Mapping[str, Any]) -> bool:
    """Whether this node has the controller of a SLURM that the core runs."""
    return SERVICE in pillar["services"] and SERVICE in pillar["node"]["services"]


def container(pillar: Mapping[str, Any]) -> str:
    """The id of the controller's container.

    Raises:
        NotFound: none runs here.
    """
    if not manages(pillar):
        raise NotFound(
            "SLURM's controller does not run on this node; slurm.mode of the site file says whether any does"
        )
    return containers.running(
        SERVICE, folder(pillar), f"SLURM's controller does not run; see docker service ps {SERVICE}"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str]) -> tuple[int, bytes]:
    """Run a command as root in the controller's container; its exit code and all that it wrote.

    Raises:
        NotFound: the controller does not run here.
    """
    return containers.execute(container(pillar), command)


def _run(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    code, output = execute(pillar, command)
    said = output.decode(errors="replace").strip()
    if code:
        raise VcoreError(f"{failed}: {said or f'exit code {code}'}")
    return said


def _runs(pillar: Mapping[str, Any]) -> bool:
    try:
        container(pillar)
    except NotFound:
        return False
    return True


# --- the configuration ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What bringing the configuration into place changes."""

    files: dict[str, bytes]
    old: dict[str, bytes]
    changes: dict[str, Any]


def _place(pillar: Mapping[str, Any]) -> Place:
    return Place(folder(pillar), FILES)


def plan(pillar: Mapping[str, Any], paths: Paths) -> Plan:
    """Compare the configuration in place with what is wanted; Docker is asked only where the files are the same and
    nobody knows whether they are in force.

    Raises:
        VcoreError: the controller is not on the head, or a value is one that SLURM cannot take.
    """
    if not manages(pillar):
        raise VcoreError(
            "SLURM's controller has to run on the head; take services.slurm-controller.node out of the site"
        )
    place, files = _place(pillar), slurm.files(pillar)
    old = place.read()
    changes: dict[str, Any] = {
        name: text_difference(name, old.get(name), files.get(name))
        for name in sorted({*old, *files})
        if old.get(name) != files.get(name)
    }
    if not changes and place.applied() != fingerprint(old) and _runs(pillar) and not _reads_at_its_start(place):
        changes = {"reload": "slurmctld may not have read its configuration"}
    return Plan(files, old, changes)


def _reads_at_its_start(place: Place) -> bool:
    """Whether the configuration was written for a container that was to start (:func:`settle` looks after it)."""
    return (place.folder / WRITTEN).exists()


#: Marks a configuration that a container which was about to start is to read.
WRITTEN = ".written"


def apply(pillar: Mapping[str, Any], paths: Paths, planned: Plan, *, replacing: bool = False) -> str:
    """Have the configuration proven, put it in place, and have it read with one reconfigure; what was done, in words.

    ``replacing`` says that this run goes on to bring the service up: where that is another container than the one that
    runs, that one proves and reads the configuration.

    Raises:
        VcoreError: it was refused, and the old one is in force.
    """
    place = _place(pillar)
    if not _runs(pillar) or (replacing and _is_replaced(pillar, paths)):
        place.keep(planned.old)
        place.forget()
        place.put(planned.files, planned.old)
        (place.folder / WRITTEN).touch()
        return "The configuration was written; slurmctld proves and reads it when it starts."
    prove(pillar, planned.files)
    failure = place.replace(planned.files, planned.old, lambda: reconfigure(pillar), (VcoreError, OSError))
    if failure is not None:
        raise VcoreError(f"{failure}; the old configuration is in place again") from None
    (place.folder / WRITTEN).unlink(missing_ok=True)
    return "SLURM has read its new configuration."


def prove(pillar: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Have a slurmctld of the controller's image start with these files, beside the one that runs.

    Raises:
        VcoreError: it does not take them, or passes over a part; in its words.
    """
    with _place(pillar).candidate(files) as candidate:
        _run(
            pillar, [COMMAND, "prove", f"{MOUNT}/{candidate}"], "slurm.conf was refused, and the old one stays in force"
        )


def reconfigure(pillar: Mapping[str, Any]) -> None:
    """Have slurmctld, and with it every node, read the configuration again, once; jobs go on.

    Raises:
        VcoreError: slurmctld does not take it, or does not answer afterwards.
    """
    _run(pillar, [COMMAND, "reload"], "slurmctld does not read its configuration")


def _is_replaced(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Whether this run goes on to replace the container that runs, by that of another image for instance."""
    from .swarm_client import Swarm

    swarm = Swarm()
    if SERVICE not in swarm.snapshot().services:
        return False
    from . import deployment

    return swarm.plan(deployment.wanted(SERVICE, pillar=pillar, paths=paths)).different


def configure(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Bring the configuration into force where it differs: at most one reconfigure, never a restart.

    For callers beside ``state.apply``, such as the reconciler, with the head's pillar.

    Returns:
        The changes, as the state vcore_slurm.configured lists them; {} where there were none.

    Raises:
        VcoreError: the new configuration was refused, and the old one is in force.
    """
    planned = plan(pillar, paths)
    if planned.changes:
        apply(pillar, paths, planned)
    return planned.changes


def settle(pillar: Mapping[str, Any]) -> None:
    """See to it that what the controller's container read when it started is in force, or say why it is not.

    Raises:
        VcoreError: it refused the configuration and has taken the one before.
    """
    if not _runs(pillar):
        return
    place = _place(pillar)
    content = place.read()
    if content != slurm.files(pillar):
        if refusal := place.refusal():
            raise VcoreError(f"the configuration was refused, and the one before is in force: {refusal}")
        raise VcoreError("the configuration in place is not the wanted one; apply again")
    if place.applied() != fingerprint(content) or (place.folder / PREVIOUS).exists():
        _run(pillar, [COMMAND, "probe"], "slurmctld does not serve")
        place.in_force(content)
    (place.folder / WRITTEN).unlink(missing_ok=True)


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
    said = _run(pillar, ["scontrol", "--json", "show", "nodes"], "slurmctld does not show its nodes")
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
        _run(pillar, command, f"slurmctld does not change {batch[:200]}")


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
    for line in _run(pillar, command, "slurmctld does not list the jobs").splitlines():
        job, _, nodes = line.strip().partition(" ")
        for name in wanted.intersection(hostlist.expand_hostlist(nodes)):
            found.setdefault(name, []).append(job)
    return found


# --- what people ask ------------------------------------------------------------------------------------------------


def facts(pillar: Mapping[str, Any], paths: Paths | None = None) -> dict[str, Any] | None:
    """What vcore.status tells of SLURM: ``{nodes, jobs, problems}``; None where the core runs none here.

    ``nodes`` are those of :func:`show_nodes`; ``jobs`` counts them by state; ``problems`` are lines for people.
    """
    if not manages(pillar):
        return None
    left_out = [f"SLURM: {name} takes no jobs: {why}" for name, why in sorted(slurm.left_out(pillar).items())]
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


def state_words(node: Mapping[str, Any]) -> str:
    """A node's state as sinfo has it: ``idle``, ``idle+drain``."""
    return "+".join([node["state"], *node["flags"]])


def count_jobs(pillar: Mapping[str, Any]) -> dict[str, int]:
    """How many jobs are in which state (pending, running ...)."""
    said = _run(pillar, ["squeue", "--noheader", "--array", "--format=%T"], "slurmctld does not list the jobs")
    states = said.lower().split()
    return {state: states.count(state) for state in sorted(set(states))}
