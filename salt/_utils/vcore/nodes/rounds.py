"""The reconciler, the half that does it: one round from accepted keys to nodes that take jobs.

Its phases, in their order: nodes are converged (:mod:`vcore.nodes.converging`), what they say is registered
(:mod:`vcore.nodes.registering`), and areas and swarm are told. Whatever a round has begun is noted before it is begun
(:mod:`vcore.nodes.journal`), so a round that was cut off anywhere is made up for by the next one. What is decided is in
:mod:`vcore.nodes.decisions`, what the master does for it in :mod:`vcore.nodes.master`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.locks import exclusive
from ..base.messages import tr
from ..base.paths import Paths
from ..kernel import areas
from ..kernel import pillar as kernel_pillar
from ..swarm import membership
from . import code as nodes_code
from . import decisions, overview, registering
from .converging import Converging, assign
from .jobs import FACTS_WAIT, Answer, Call, Jobs, Say
from .journal import Journal
from .registering import Registering
from .registry import UNKNOWN, Registry


@dataclass(frozen=True)
class Owed:
    """A round, as an area sees it to which the round owes something."""

    pillar: Mapping[str, Any]
    paths: Paths
    #: The services that the swarm has.
    services: Collection[str]
    #: The nodes of which the last convergence went well.
    well: Sequence[str]
    #: Whether every node was looked at.
    full: bool
    #: Gives nodes other than the head a function to run and returns their answers, by node.
    ask: Callable[[Collection[str], Call], Mapping[str, Answer]]
    #: Times a step of the round.
    step: Callable[[str], AbstractContextManager[None]]
    #: Notes what an area could not do, for people; the round goes on.
    note: Callable[[str], None]
    #: Tells whoever watches the round.
    say: Say


@areas.face("rounds")
class Changed(Protocol):
    """What an area does when nodes have joined, changed or left."""

    def changed(self, owed: Owed) -> None:
        """Bring it about; what this cannot do yet is tried again in a later round.

        Raises:
            VcoreError: no node may take up its work before this is done.
        """


@areas.face("rounds")
class Labelled(Protocol):
    """What an area does when the nodes have their labels, by which the swarm gives them containers."""

    def labelled(self, owed: Owed) -> list[str]:
        """Have nodes take up work again; return them."""


@areas.face("rounds")
class CatchesUp(Protocol):
    """What an area looks after in each full round, whatever nodes do."""

    def catch_up(self, owed: Owed) -> None:
        """Make up for what nobody has told the area of."""


def quietly(_: str) -> None:
    """Say nothing."""


@contextmanager
def locked(paths: Paths, *, wait: float = 0.0) -> Iterator[None]:
    """Hold what keeps two rounds, or a round and a retirement's steps, from each other's way.

    Raises:
        Busy: a round has run for ``wait`` seconds.
    """
    place = decisions.folder(paths)
    place.mkdir(parents=True, exist_ok=True)
    with exclusive(place / "lock", wait=wait, busy=tr("the reconciler is at work; try again when its round has ended")):
        yield


def run(
    paths: Paths,
    jobs: Jobs,
    *,
    forced: Collection[str] = (),
    full: bool = True,
    wait: float = 0.0,
    say: Say = quietly,
) -> dict[str, Any]:
    """Run one round, and return what it did; the same is kept for ``vcore.status``.

    ``forced`` nodes are converged whether that is due or not. A ``full`` round looks at every node and at SLURM, others
    only at what is due. ``{began, ended, seconds: {<step>: ...}, converged: [...], failed: {<node>: why}, waiting:
    [...], problems: [...], labelled: [...], resumed: [...]}``; times in seconds since 1970.

    Raises:
        Busy: another round has run for ``wait`` seconds.
        VcoreError: the configuration cannot be used.
    """
    with locked(paths, wait=wait):
        journal = Journal(paths, say)
        with journal.ending() as result:
            _phases(paths, jobs, journal, forced, full)
        return result


def _phases(paths: Paths, jobs: Jobs, journal: Journal, forced: Collection[str], full: bool) -> None:
    registry, pillar, accepted = Registry(paths.nodes), kernel_pillar.head_pillar(paths), jobs.accepted()
    base_directory, head = pillar["base_directory"], pillar["node"]["name"]
    entries = registering.welcome_back(registry, accepted)
    names = decisions.wanted(pillar["nodes"], entries, accepted)
    marked = decisions.marks(paths)
    decisions.unmark(paths, set(marked) - set(names))
    journal.keep(names)

    converging = Converging(paths, jobs, journal, base_directory, marked)
    heard = converging.heard
    with journal.step("collect"):
        due = converging.collect()
    # What a node that has just answered was marked for, its start above all, was before that.
    decisions.unmark(paths, heard.landed)
    news = [name for name in marked if name not in heard.landed]
    due |= set(decisions.due(names, journal.state(), marked=news, forced=forced, now=time.time())) - heard.landed.keys()
    free = [name for name in names if name != head and name not in journal.flights]
    has = {name: entry["code"] for name, entry in entries.items()} | heard.codes
    assigned = assign(free, due, has, code=nodes_code.code(paths.checkout / "salt"), full=full)
    with journal.step("converge"):
        converging.converge(assigned)
    if head in due:
        converging.visit_head(head)

    looked: dict[str, Any] = {}
    if full:
        with journal.step("facts"):
            others = [name for name in names if name not in journal.flights and name not in heard.landed]
            looked = registering.look(
                jobs, [name for name in others if entries.get(name, UNKNOWN)["swarm_id"]], base_directory
            )
    with journal.step("register"):
        registered = Registering(paths, journal, entries, heard, looked).register(registry, pillar)

    overdue = journal.is_overdue()
    if full or registered.changed or heard.landed or overdue:
        configure = full or registered.changed or overdue
        _deliver(paths, jobs, journal, registered.swarm, configure=configure, full=full)
    with journal.step("ask"):
        converging.ask_silent()


def _deliver(
    paths: Paths, jobs: Jobs, journal: Journal, swarm: membership.Swarm | None, *, configure: bool, full: bool
) -> None:
    """Bring the areas and the labels of the swarm to what the registry says.

    Nothing that a node does without a change in the registry is an area's to know.
    """
    try:
        pillar = kernel_pillar.head_pillar(paths)
        swarm = swarm or membership.Swarm()
        # A head that is being made has no swarm yet, or not all services in it: its states bring those, with all nodes
        # that are known by then. Its own label would be planned all the same.
        there = swarm.snapshot()
        owed = Owed(
            pillar=pillar,
            paths=paths,
            services=there.services.keys(),
            well=journal.well(),
            full=full,
            ask=lambda names, call: jobs.gather(names, [call], wait=FACTS_WAIT),
            step=journal.step,
            note=journal.note,
            say=journal.say,
        )
        if configure:
            for area in areas.asked(Changed).values():
                area.changed(owed)
        with journal.step("labels"):
            labels = swarm.label_changes(pillar, None) if there.active else {}
            if labels:
                swarm.label(pillar, labels)
            journal.labelled(labels)
        for working in areas.asked(Labelled).values():
            journal.resumed(working.labelled(owed))
        if full:
            for late in areas.asked(CatchesUp).values():
                late.catch_up(owed)
        journal.delivered()
    except VcoreError as error:
        journal.undelivered(str(error))


class Master(Jobs, overview.Keys, Protocol):
    """What :func:`reconcile` needs of Salt's master: :class:`vcore.nodes.master.Master`."""


def reconcile(paths: Paths, master: Master, *, node: str | None, wait: float, say: Say = quietly) -> dict[str, Any]:
    """Run rounds until nodes have answered, or ``wait`` seconds are over; return what :func:`overview.told` does.

    ``node`` is converged whether that is due or not, and only it is waited for and told of.

    Raises:
        Busy: another round has run for ``wait`` seconds.
        VcoreError: the node takes no part, with the reason; or the configuration cannot be used.
    """
    end = time.monotonic() + wait
    if node is not None:
        overview.check_takes_part(paths, master, node)
    forced = [] if node is None else [node]
    results: list[dict[str, Any]] = []
    while True:
        left, full = max(end - time.monotonic(), 0), not results
        results.append(run(paths, master, forced=forced, full=full, wait=left, say=say))
        waiting = [name for name in results[-1]["waiting"] if node in (None, name)]
        if not waiting or time.monotonic() >= end:
            return overview.told(results, decisions.load(paths).nodes, node)
        forced = []
        time.sleep(decisions.QUIET)


def is_news(result: Mapping[str, Any]) -> bool:
    """Whether a round did something, or could not."""
    return any(result[what] for what in ("converged", "failed", "labelled", "resumed", "problems"))


def summary(result: Mapping[str, Any]) -> str:
    """A round in one line."""
    parts = [f"{len(result['converged'])} converged", f"{len(result['failed'])} failed"]
    parts += [f"{len(result['waiting'])} still at it"] if result["waiting"] else []
    parts += [f"{len(result['labelled'])} labelled"] if result["labelled"] else []
    parts += [f"{len(result['resumed'])} resumed"] if result["resumed"] else []
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in result["seconds"].items() if seconds >= 0.05)
    failed = "".join(f"; {name}: {why}" for name, why in list(result["failed"].items())[:5])
    others = "".join(f"; {problem}" for problem in result["problems"])
    took = result["ended"] - result["began"]
    return f"round of {took:.1f} s{f' ({steps} s)' if steps else ''}: {', '.join(parts)}{failed}{others}"
