"""Services that are updated node by node, in generations, so that swarm ends no container that is still needed.

When the specification of a service changes, swarm replaces all of its tasks one after another, whatever runs in them.
Therefore each specification of such a service is a swarm service of its own, a *generation*, and a label of each node
says which generation runs there. ``state.apply`` offers a new generation, and gives it only to nodes that have none.
Other nodes change over when :func:`roll` changes their label, once no job runs there any more.

The area whose work runs on the nodes drains, watches and resumes them by its face ``work``. A node that does not come
back gets its old generation again, and ends the roll.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..base import progress
from ..base.errors import VcoreError
from ..base.locks import exclusive
from ..base.messages import tr
from ..base.paths import Paths
from ..host.docker_client import docker_errors
from ..kernel import areas
from . import deployment, specification
from .deployment import Wanted
from .membership import Swarm
from .work import Work

#: The reason with which nodes are drained.
REASON = "update of the compute image"


#: Seconds between two checks while waiting.
STEP = 2.0


#: Seconds that a node may take to run its new generation: pulling an image of a gigabyte, and starting slurmd.
START = 900.0


#: Seconds that a roll waits for the lock, which is also held while the remains of the last roll are cleaned up.
ROOM = 10.0


class Queue(Protocol):
    """What a roll needs from the system that gives the nodes their work."""

    def drain(self, node: str) -> bool:
        """Keep the node from taking new jobs; return False if a person drained it already or SLURM has no such node."""

    def jobs(self, node: str) -> list[str]:
        """Return the jobs that still run on the node."""

    def started(self, node: str) -> int | None:
        """Return when slurmd last started on the node, by the node's clock (seconds since 1970)."""

    def is_back(self, node: str, before: int | None) -> bool:
        """Return whether slurmd works on the node, and has started at another time than ``before``."""

    def release(self, node: str) -> None:
        """Let the node take jobs again, if :meth:`drain` stopped it."""


@dataclass(frozen=True)
class _Queue:
    """The work of the area that a rolled service belongs to."""

    work: Work
    pillar: Mapping[str, Any]

    def drain(self, node: str) -> bool:
        return bool(self.work.drain(self.pillar, [node], REASON))

    def jobs(self, node: str) -> list[str]:
        return self.work.running(self.pillar, [node]).get(node, [])

    def started(self, node: str) -> int | None:
        return self.work.started(self.pillar, node)

    def is_back(self, node: str, before: int | None) -> bool:
        return self.work.is_back(self.pillar, node, before)

    def release(self, node: str) -> None:
        self.work.release(self.pillar, [node], REASON)


def queue_of(name: str, pillar: Mapping[str, Any]) -> Queue:
    """Return the queue that a roll of a service drains and waits for.

    Raises:
        VcoreError: no area gives work to the containers of this service.
    """
    for work in areas.asked(Work).values():
        if name == work.SERVICE:
            return _Queue(work, pillar)
    raise VcoreError(tr("{name} cannot be rolled: nothing says how its nodes are drained", name=name))


@dataclass(frozen=True)
class Plan:
    """What :func:`apply` has to do, and what is left for :func:`roll`."""

    wanted: Wanted
    generation: str | None
    changes: dict[str, Any]
    #: Nodes that run an older generation.
    behind: tuple[str, ...]


def plan(client: Swarm, want: Wanted) -> Plan:
    """Compare the offered generations with what is wanted: ``service``, and what is new in its specification.

    Nodes that run an older generation are not a change; they are ``behind``.
    """
    snapshot = client.snapshot()
    name = want.spec["Name"]
    generations = specification.generations(snapshot.services.values()).get(name, {})
    contents = {
        config["Spec"]["Name"]: base64.b64decode(config["Spec"].get("Data") or "") for config in snapshot.configs
    }
    differences = {
        key: specification.diff(
            specification.of_no_generation(specification.live_spec(service)), want.spec, contents, want.configs
        )
        for key, service in generations.items()
    }
    current = next((key for key, difference in differences.items() if not difference), None)
    nodes = _nodes(client, name, want.spec)
    changes: dict[str, Any] = {}
    if current is None:
        newest = next(iter(generations), None)
        changes["service"] = {"old": "an older one" if newest else None, "new": "offered"}
        changes |= specification.diff(None, want.spec, {}, want.configs) if newest is None else differences[newest]
    without = sorted(node for node, key in nodes.items() if key not in generations)
    if without:
        changes["nodes"] = {"old": None, "new": ", ".join(without)}
    behind = (
        ()
        if current is None and not generations
        else tuple(sorted(node for node, key in nodes.items() if key in generations and key != current))
    )
    return Plan(want, current, changes, behind)


def apply(client: Swarm, planned: Plan, *, authorization: str | None) -> str:
    """Offer a new generation, give it to nodes that have none, and return a comment on what was done.

    It does not wait for the nodes; SLURM shows their state.
    """
    name, current = planned.wanted.spec["Name"], planned.generation
    with docker_errors():
        if current is None:
            current = specification.new_generation(planned.wanted.spec, time.time())
            spec = specification.generation_spec(planned.wanted.spec, current)
            client._send("/services/create", client._bound(replace(planned.wanted, spec=spec)), authorization)
            client.changed()
        generations = specification.generations(client.snapshot().services.values())[name]
        for node, key in _nodes(client, name, planned.wanted.spec).items():
            if key not in generations:
                _label(client, name, node, current)
    tidy(client, name, current)
    return pending(name, planned.behind) or f"The service {name} is offered to its nodes."


def pending(name: str, behind: Sequence[str]) -> str:
    """Return a sentence on what is left to do by hand, or an empty string."""
    if not behind:
        return ""
    shown = ", ".join(behind[:5]) + (f" and {len(behind) - 5} more" if len(behind) > 5 else "")
    return tr(
        "An update of {name} waits for {shown}: salt-run vcore.roll_compute brings it there, job by job.",
        name=name,
        shown=shown,
    )


def tidy(client: Swarm, name: str, current: str | None) -> None:
    """Remove generations that no node has any more, and the configs and secrets that only they used."""
    generations = specification.generations(client.snapshot().services.values()).get(name, {})
    used = {node_labels(node).get(f"{specification.GENERATION_LABEL}.{name}") for node in client.snapshot().nodes}
    with docker_errors():
        for key, service in generations.items():
            if key != current and key not in used:
                client.api.remove_service(service["ID"])
                client.changed()
    client.prune(name)


def node_labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a node of the swarm."""
    return node["Spec"].get("Labels") or {}


def _nodes(client: Swarm, name: str, spec: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the nodes on which the service should run, by minion id, each with its generation."""
    role = spec["TaskTemplate"]["Placement"]["Constraints"][0].removeprefix("node.labels.").split("==")[0]
    return {
        labels.get(specification.NODE_LABEL, node["Description"]["Hostname"]): labels.get(
            f"{specification.GENERATION_LABEL}.{name}"
        )
        for node in client.snapshot().nodes
        for labels in [node_labels(node)]
        if labels.get(role) == "true"
    }


def _label(client: Swarm, name: str, node: str, generation: str) -> None:
    client.changed()  # an update needs the node's latest version
    found = next(
        entry
        for entry in client.snapshot().nodes
        if node_labels(entry).get(specification.NODE_LABEL, entry["Description"]["Hostname"]) == node
    )
    client._set_labels(found, {f"{specification.GENERATION_LABEL}.{name}": generation})


# --- the roll -------------------------------------------------------------------------------------------------------


def alone(name: str, paths: Paths, *, wait: float = 0.0) -> AbstractContextManager[None]:
    """While this is held, no roll of the service is under way; raises :class:`vcore.base.errors.Busy` where one is."""
    return exclusive(
        paths.state / f"roll-{name}.lock", wait=wait, busy=tr("another roll of {name} is under way", name=name)
    )


def roll(
    name: str,
    *,
    pillar: Mapping[str, Any],
    paths: Paths,
    nodes: Sequence[str] | None = None,
    patience: float = 7 * 86400,
    start: float = START,
    queue: Queue | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Bring the newest generation to the nodes, one after another: drain, wait, change over, verify, resume.

    Args:
        nodes: the nodes to update, by default all that are behind.
        patience: seconds to wait for a node's jobs.
        start: seconds that a node may take to come back.
        queue: what drains and resumes nodes, by default that of :func:`queue_of`.
        say: is called with each progress message.

    Returns:
        The nodes that were updated.

    Raises:
        VcoreError: the wanted generation is not offered yet; a node's jobs do not end in time; or a node does not come
            back, and was given its previous generation again. The nodes after it are unchanged.
        Busy: another roll is under way.
    """
    work = queue or queue_of(name, pillar)

    def tell(message: str) -> None:
        progress.report(paths, f"roll {name}", message)
        say(message)

    with alone(name, paths, wait=ROOM):
        client = Swarm()
        planned = plan(client, deployment.wanted(name, pillar=pillar, paths=paths))
        if planned.generation is None:
            raise VcoreError(
                tr("what the site wants of {name} is not offered yet; apply the states on the head first", name=name)
            )
        there = _nodes(client, name, planned.wanted.spec)
        if unknown := sorted(set(nodes or ()) - set(there)):
            raise VcoreError(tr("{name} does not run on {unknown}", name=name, unknown=", ".join(unknown)))
        for node in sorted(there):
            # An interrupted roll may have left updated nodes drained.
            if there[node] == planned.generation and work.is_back(node, None):
                work.release(node)
        todo = [node for node in planned.behind if nodes is None or node in nodes]
        for number, node in enumerate(todo, start=1):
            tell(tr("{node}, {number} of {todo}", node=node, number=number, todo=len(todo)))
            before = there[node]
            assert before is not None
            _change_over(client, work, name, node, (before, planned.generation), patience, start, tell)
        tidy(client, name, planned.generation)
    return todo


def _change_over(
    client: Swarm,
    work: Queue,
    name: str,
    node: str,
    generations: tuple[str, str],
    patience: float,
    start: float,
    tell: Callable[[str], None],
) -> None:
    before, after = generations
    work.drain(node)
    try:
        _wait_for_jobs(work, node, patience, tell)
    except BaseException:
        work.release(node)
        raise
    old = work.started(node)
    began = time.time()
    _label(client, name, node, after)
    if why := _runs(client, work, name, node, after, (began, old), start):
        tell(tr("{node} does not come back: {why}", node=node, why=why))
        old, began = work.started(node), time.time()
        _label(client, name, node, before)
        again = _runs(client, work, name, node, before, (began, old), start)
        if not again:
            work.release(node)
        outcome = (
            tr("it does not come back with the one before either, and stays drained")
            if again
            else (tr("it runs the one before again"))
        )
        raise VcoreError(
            tr(
                "{node} does not come back with the new {name}: {why}; {outcome}. The roll stops here.",
                node=node,
                name=name,
                why=why,
                outcome=outcome,
            )
        )
    work.release(node)
    tell(tr("{node} is updated", node=node))


def _wait_for_jobs(work: Queue, node: str, patience: float, tell: Callable[[str], None]) -> None:
    end, said = time.monotonic() + patience, ""
    while jobs := work.jobs(node):
        message = tr("{node} waits for its jobs: {jobs}", node=node, jobs=", ".join(jobs[:10]))
        if message != said:
            tell(message)
        said = message
        if time.monotonic() > end:
            raise VcoreError(
                tr(
                    "{node} still has jobs after {patience:g} seconds ({jobs}); it takes new ones again",
                    node=node,
                    patience=patience,
                    jobs=", ".join(jobs[:10]),
                )
            )
        time.sleep(STEP)


def _runs(
    client: Swarm,
    work: Queue,
    name: str,
    node: str,
    generation: str,
    before: tuple[float, int | None],
    patience: float,
) -> str | None:
    """Wait until the node runs this generation and SLURM has it back; return None then, or the reason why it does not.

    Waits at most ``patience`` seconds. ``before`` is when the node's label was changed (seconds since 1970), and when
    slurmd had last started before that.
    """
    began, old = before
    end, failures = time.monotonic() + patience, 0
    why = tr("swarm makes no task")
    seen: set[str] = set()
    while time.monotonic() < end:
        client.changed()
        snapshot = client.snapshot()
        service = specification.generations(snapshot.services.values()).get(name, {}).get(generation)
        member = next(
            entry["ID"] for entry in snapshot.nodes if node_labels(entry).get(specification.NODE_LABEL) == node
        )
        tasks = [
            task
            for task in (snapshot.tasks_of(service) if service else [])
            if task.get("NodeID") == member and task["CreatedAt"] >= _moment(began)
        ]
        ended = {task["ID"] for task in tasks if task["Status"]["State"] in specification.ENDED} - seen
        seen |= ended
        failures += len(ended)
        running = [task for task in tasks if task["Status"]["State"] == task["DesiredState"] == "running"]
        if running:
            if work.is_back(node, old):
                return None
            why = tr("its container runs, and SLURM does not have it back")
        elif tasks:
            newest = max(tasks, key=lambda task: str(task["CreatedAt"]))
            why = newest["Status"].get("Err") or newest["Status"]["State"]
        if failures >= specification.ATTEMPTS:
            return why
        time.sleep(min(STEP, 0.5))
    return f"{why}, after {patience:g} seconds"


def _moment(seconds: float) -> str:
    """Return a time as Docker writes it, in whole seconds, two seconds early to be on the safe side."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds - 2))
