"""The reconciler, the half that does it: one round from accepted keys to nodes that take jobs.

Whatever a round has begun is noted before it is begun, so a round that was cut off anywhere is made up for by the next
one. What is decided is in :mod:`vcore.nodes.decisions`, what the master does for it in :mod:`vcore.nodes.master`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..base.errors import NotFound, VcoreError
from ..base.locks import exclusive
from ..base.paths import Paths
from ..kernel import areas
from ..kernel import pillar as kernel_pillar
from ..swarm import membership
from . import code as nodes_code
from . import decisions, hardware
from .decisions import CONVERGE, REFRESH, SYNC, Flight, Record
from .registry import UNKNOWN, Registry

#: Seconds that nodes have to say whether they are still at a job, and to give their facts.
ASK_WAIT, ASK_GAP, FACTS_WAIT, FACTS_GAP = 10.0, 3.0, 30.0, 5.0

SYNC_FUNCTION, STATES_FUNCTION, FACTS_FUNCTION = "saltutil.sync_all", "state.apply", "vcore_node.facts"

Call = tuple[str, Sequence[Any], Mapping[str, Any]]
Answer = Mapping[str, Any]
Say = Callable[[str], None]


class Line(Protocol):
    """A connection to nodes that are given jobs: :class:`vcore.nodes.master.Line`."""

    def give(self, jid: str, names: Collection[str], calls: Sequence[Call]) -> None: ...
    def hear(self) -> tuple[str | None, Answer | None]: ...


@dataclass
class Group:
    """Nodes that were given a job together in this round, and what is still expected of them."""

    kind: str
    waiting: set[str]
    doubtful: set[str]
    started: float
    last: float | None = None

    def is_over(self) -> bool:
        """Whether the round goes on without those that have not answered."""
        return decisions.goes_on(
            time.monotonic(), started=self.started, last=self.last, waiting=self.waiting, doubtful=self.doubtful
        )


class Jobs(Protocol):
    """What a round needs of Salt's master: :class:`vcore.nodes.master.Master`."""

    def accepted(self) -> set[str]: ...
    def new_job(self) -> str: ...
    def forget_files(self) -> None: ...
    def listen(self) -> AbstractContextManager[Line]: ...
    def gather(
        self, names: Collection[str], calls: Sequence[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Answer]: ...
    def returned(self, jid: str) -> dict[str, Answer]: ...
    def busy(self, jid: str, names: Collection[str], *, wait: float, gap: float) -> dict[str, bool]: ...


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
    with exclusive(place / "lock", wait=wait, busy="the reconciler is at work; try again when its round has ended"):
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
        return _Round(paths, jobs, say).run(forced, full)


class _Round:
    def __init__(self, paths: Paths, jobs: Jobs, say: Say) -> None:
        self.paths, self.jobs, self.say = paths, jobs, say
        self.registry = Registry(paths.nodes)
        self.state = decisions.load(paths)
        self.records: dict[str, Record] = dict(self.state.nodes)
        self.flights: dict[str, Flight] = dict(self.state.flights)
        self.owed = self.state.owed
        self.swarm: membership.Swarm | None = None
        #: Facts of nodes that were converged, and of others that were looked at.
        self.landed: dict[str, Any] = {}
        self.looked: dict[str, Any] = {}
        #: Facts of nodes whose states failed: some of what they lack they get once it is known where they are.
        self.failing: dict[str, Any] = {}
        self.begun: dict[str, float] = {}
        #: Why their states failed, or None, of nodes that are still to be asked for their facts.
        self.applied: dict[str, str | None] = {}
        self.synced: list[str] = []
        self.due: set[str] = set()
        self.codes: dict[str, str | None] = {}
        self.result: dict[str, Any] = {
            "began": round(time.time(), 3),
            "seconds": {},
            "converged": [],
            "failed": {},
            "waiting": [],
            "problems": [],
            "labelled": [],
            "resumed": [],
        }

    def run(self, forced: Collection[str], full: bool) -> dict[str, Any]:
        try:
            self._run(forced, full)
        except Exception as error:
            self.result["error"] = str(error) if isinstance(error, VcoreError) else f"an error of the core: {error!r}"
            raise
        finally:
            self.result["waiting"] = sorted(self.flights)
            self.result["ended"] = round(time.time(), 3)
            self._save(self.result)
        return self.result

    def _run(self, forced: Collection[str], full: bool) -> None:
        self.pillar = kernel_pillar.head_pillar(self.paths)
        self.head = self.pillar["node"]["name"]
        self.entries = self.registry.read()
        self._welcome_back()
        names = decisions.wanted(self.pillar["nodes"], self.entries, self.jobs.accepted())
        self.marked = marked = decisions.marks(self.paths)
        decisions.unmark(self.paths, set(marked) - set(names))
        self.records = {name: record for name, record in self.records.items() if name in names}
        self.flights = {name: flight for name, flight in self.flights.items() if name in names}
        with self._step("collect"):
            self._collect(marked)
        state = replace(self.state, nodes=self.records, flights=self.flights)
        # What a node that has just answered was marked for, its start above all, was before that.
        decisions.unmark(self.paths, self.landed)
        news = [name for name in marked if name not in self.landed]
        self.due |= set(decisions.due(names, state, marked=news, forced=forced, now=time.time())) - self.landed.keys()
        self._converge(names, full)
        if full:
            with self._step("facts"):
                self._look([name for name in names if name not in self.flights and name not in self.landed])
        with self._step("register"):
            changed = self._register()
        retry = self.owed.next is not None and self.owed.next <= time.time()
        if full or changed or self.landed or retry:
            self._deliver(configure=full or changed or retry, full=full)
        with self._step("ask"):
            self._ask()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.result["seconds"][name] = round(time.monotonic() - began, 3)

    def _save(self, result: Mapping[str, Any] | None = None) -> None:
        state = decisions.State(self.records, self.flights, self.owed, result or self.state.round)
        decisions.save(self.paths, state)

    def _failed(self, name: str, why: str) -> None:
        self.records[name] = self.records.get(name, Record()).failed(why, time.time())
        self.result["failed"][name] = why
        self.say(f"{name}: {why}")

    def _welcome_back(self) -> None:
        """A node that was retired and whose key somebody has accepted again takes part again."""
        accepted = self.jobs.accepted()
        back = [n for n, e in self.entries.items() if e["retiring"] and e["enrolled"] is None and n in accepted]
        if back:
            self.registry.update({name: {"retiring": False} for name in back})
            self.entries = self.registry.read()

    # --- converging ----------------------------------------------------------------------------------------------

    def _collect(self, marked: Mapping[str, float]) -> None:
        """Take what has come of the jobs of earlier rounds."""
        for jid in sorted({flight.jid for flight in self.flights.values()}):
            self._take(jid)
        for name, when in marked.items():
            # It started after it was given its job.
            if name in self.flights and when > self.flights[name].since:
                self._doubt(name)
        self._inspect()

    def _doubt(self, name: str) -> None:
        """A node was heard to start: at the end of the round it is asked whether it has the job that it was given."""
        self.flights[name] = replace(self.flights[name], doubtful=True)
        decisions.unmark(self.paths, [name])

    def _ask(self) -> None:
        """Ask nodes that have been silent for long whether they are still at their jobs, and give up those that are
        not. Behind all else: who does not answer is waited for.
        """
        state = replace(self.state, flights=self.flights)
        for jid, names in decisions.to_ask(state, time.time()).items():
            patience = 1 + max(self.flights[name].silent for name in names)
            busy = self.jobs.busy(jid, names, wait=ASK_WAIT * patience, gap=ASK_GAP)
            answered, now = self.jobs.returned(jid), time.time()
            for name in names:
                if name in answered:
                    continue  # just now: the next round is for it
                flight = self.flights[name]
                silent = 0 if name in busy else flight.silent + 1
                if silent <= decisions.ASK_AGAIN and busy.get(name, True) and now - flight.since < decisions.LIMIT:
                    self.flights[name] = replace(flight, asked=now, silent=silent, doubtful=False)
                    continue
                del self.flights[name]
                if name in busy and flight.doubtful:
                    decisions.mark(self.paths, [name])  # the next round is for it
                elif name not in busy:
                    self._failed(name, "it does not answer")
                elif busy[name]:
                    self._failed(name, f"it is at the same job for {decisions.LIMIT / 60:.0f} minutes")
                else:
                    self._failed(name, "it was interrupted")

    def _take(self, jid: str) -> None:
        waiting = {name for name, flight in self.flights.items() if flight.jid == jid}
        for name, answer in self.jobs.returned(jid).items():
            if name in waiting:
                self._land(name, answer)

    def _converge(self, names: Collection[str], full: bool) -> None:
        """Give the nodes that are due the code that they lack, and then their states."""
        self.code = wanted = nodes_code.code(self.paths.checkout / "salt")
        codes = {name: entry["code"] for name, entry in self.entries.items()}
        others = [name for name in names if name != self.head and name not in self.flights]
        behind = [name for name in others if self.codes.get(name, codes.get(name)) != wanted]
        first = [name for name in behind if name in self.due]
        rest = [name for name in behind if name not in self.due and full]
        facts: Call = (FACTS_FUNCTION, [self.pillar["base_directory"]], {})
        # Not queued: a node that is at its states already says so, and is tried again; Salt answers to a queued one at
        # once. One function a job: while one of several runs, Salt's own state.apply on that node ends in an error.
        states: Call = (STATES_FUNCTION, [], {})
        ready = [name for name in others if name in self.due and name not in behind]
        self.synced = []  # those whose code came after an earlier round are ready
        with self._step("converge"), self.jobs.listen() as line:
            groups: list[Group] = []
            if first or rest:
                self.jobs.forget_files()
                kinds = dict.fromkeys(rest, REFRESH) | dict.fromkeys(first, SYNC)
                groups.append(self._give(line, kinds, [(SYNC_FUNCTION, [], {})]))
            if ready:
                groups.append(self._give(line, dict.fromkeys(ready, CONVERGE), [states]))
            while groups:
                self._hear(line, groups)
                for group in [group for group in groups if group.is_over()]:
                    groups.remove(group)
                    if group.waiting:
                        self.say(f"going on without {_several(group.waiting)} for now")
                    if group.kind != CONVERGE and self.synced:
                        groups.append(self._give(line, dict.fromkeys(self.synced, CONVERGE), [states]))
                        self.synced = []
            self._inspect()
        if self.head in self.due:
            # The head converges by itself: its states are the administrator's to apply.
            decisions.unmark(self.paths, [self.head])
            answer = self.jobs.gather([self.head], [facts], wait=FACTS_WAIT).get(self.head)
            if answer is None:
                self._failed(self.head, "it does not answer")
            else:
                self.landed[self.head] = answer.get(FACTS_FUNCTION)

    def _give(self, line: Line, kinds: Mapping[str, str], calls: Sequence[Call]) -> Group:
        """Give nodes a job, after a note that they have it."""
        verb = "converging" if CONVERGE in kinds.values() else "giving the code to"
        self.say(f"{verb} {_several(kinds)}")
        jid, now = self.jobs.new_job(), time.time()
        self.flights |= {name: Flight(jid, kind, now, self.code) for name, kind in kinds.items()}
        self._save()
        # What is marked from now on is news; what was marked is in the file.
        decisions.unmark(self.paths, kinds)
        # Those that failed before, and of which nobody has heard since.
        doubtful = {name for name in kinds if self.records.get(name, Record()).attempts and name not in self.marked}
        group = Group(next(iter(kinds.values())), set(kinds), doubtful, time.monotonic())
        try:
            line.give(jid, list(kinds), calls)
        except VcoreError as error:
            group.waiting.clear()
            for name in kinds:
                del self.flights[name]
                self._failed(name, str(error))
        return group

    def _hear(self, line: Line, groups: Sequence[Group]) -> None:
        """Take the next answer, if there is one."""
        name, answer = line.hear()
        for group in groups:
            if name is None or name not in group.waiting:
                continue
            group.waiting.discard(name)
            if answer is None:
                self._doubt(name)  # perhaps it was not there when the job went out
            else:
                group.last = time.monotonic()
                self._land(name, answer)

    def _land(self, name: str, answer: Answer) -> None:
        """Take the answer of one node to its job."""
        flight = self.flights.pop(name)
        if flight.kind == CONVERGE:
            self.applied[name] = why = decisions.failed_states(answer.get(STATES_FUNCTION, answer.get("")))
            self.begun[name] = flight.since
            if why:
                self._failed(name, why)
        elif isinstance(answer.get(SYNC_FUNCTION), dict):
            self.codes[name] = flight.code
            if flight.kind == SYNC:
                self.due.add(name)
                self.synced.append(name)
        else:
            self._failed(name, f"it did not take the code: {decisions.words(answer.get(SYNC_FUNCTION, answer))}")

    def _inspect(self) -> None:
        """Ask the nodes whose states were applied what they are now."""
        applied, self.applied = self.applied, {}
        facts: Call = (FACTS_FUNCTION, [self.pillar["base_directory"]], {})
        answers = self.jobs.gather(applied, [facts], wait=FACTS_WAIT, gap=FACTS_GAP)
        for name, why in applied.items():
            found = answers.get(name, {}).get(FACTS_FUNCTION)
            if name in answers and not isinstance(found, dict):
                self.codes[name] = None  # it may have lost its code
            if why:
                self.failing[name] = found
            elif name in answers:
                self.landed[name] = found
            else:
                self._failed(name, "its states are applied, and it does not say what it is")

    def _look(self, names: Collection[str]) -> None:
        """Ask nodes that were not converged in this round how they are."""
        facts: Call = (FACTS_FUNCTION, [self.pillar["base_directory"]], {})
        registered = [name for name in names if self.entries.get(name, UNKNOWN)["swarm_id"]]
        answers = self.jobs.gather(registered, [facts], wait=FACTS_WAIT, gap=FACTS_GAP)
        for name, answer in answers.items():
            if isinstance(answer.get(FACTS_FUNCTION), dict):
                self.looked[name] = answer[FACTS_FUNCTION]

    # --- who is who ----------------------------------------------------------------------------------------------

    def _register(self) -> bool:
        """Write what is now known of the nodes into the registry; whether that changed it."""
        changes: dict[str, dict[str, Any]] = {}
        for name, code in self.codes.items():
            if self.entries.get(name, UNKNOWN)["code"] != code:
                changes[name] = {"code": code}
        if said := {**self.looked, **self.failing, **self.landed}:
            swarm, now = self._swarm(), time.time()
            for name, value in sorted(said.items()):
                known = self.entries.get(name, UNKNOWN)
                entry = self._identify(name, value, swarm, now)
                if different := {key: new for key, new in entry.items() if known[key] != new}:
                    changes[name] = changes.get(name, {}) | different
        if changes:
            self.registry.update(changes)
            # The areas and the swarm are owed these, also when this round ends here.
            self.owed = replace(self.owed, next=time.time())
        self._save()
        return bool(changes)

    def _identify(self, name: str, said: Any, swarm: decisions.Swarm, now: float) -> dict[str, Any]:
        """What the registry has to hold of a node that answered; its record, too, is brought to date."""
        known = self.entries.get(name, UNKNOWN)
        entry: dict[str, Any] = {}
        if isinstance(said, dict) and not said.get("swarm_id") and known["swarm_id"]:
            entry["swarm_id"] = None  # It has left the swarm: to join again, it is given the token again.
        try:
            facts = decisions.facts(said)
            identity = swarm.verify(name, facts)
            # Without hardware it gets neither a line of SLURM's nor a label: its states have failed.
            if name not in self.failing:
                identity["hardware"] = hardware.validate(facts.hardware, opens=swarm.opens(facts))
        except VcoreError as error:
            if isinstance(error, NotFound):
                # Swarm's own word, since a registry may be lost: it leaves that place, and is given a token.
                entry |= {"swarm_id": None, "forgotten": facts.swarm_id}
            if name not in self.failing:
                self._failed(name, str(error))
            return entry
        record = self.records.get(name, Record())
        if name in self.landed:
            self.records[name] = record.went_well(now, self.begun.get(name), facts.boot)
            self.result["converged"].append(name)
        elif name in self.looked and record.boot is not None and record.boot != facts.boot:
            decisions.mark(self.paths, [name])  # it has started anew, and nobody has heard of it
        return identity | {"forgotten": None} | ({} if known["enrolled"] else {"enrolled": int(now)})

    def _swarm(self) -> decisions.Swarm:
        """The swarm as its manager sees it now; one that knows nobody, and why, where it does not answer."""
        nodes, entries = self.pillar["nodes"], self.entries
        try:
            self.swarm = membership.Swarm()
            own_id, members = self.swarm.members()
            # What people run on nodes runs in the containers of these.
            rolled = [name for name, service in self.pillar["services"].items() if service["rolled"]]
            unconfined = any(self.swarm.runs_unconfined(name) for name in rolled)
        except VcoreError as error:
            return decisions.Swarm({}, "", nodes, entries, problem=str(error))
        return decisions.Swarm(members, own_id, nodes, entries, unconfined=unconfined)

    # --- areas and swarm -----------------------------------------------------------------------------------------

    def _deliver(self, *, configure: bool, full: bool) -> None:
        """Bring the areas and the labels of the swarm to what the registry says.

        Nothing that a node does without a change in the registry is an area's to know.
        """
        try:
            pillar = kernel_pillar.head_pillar(self.paths)
            swarm = self.swarm or membership.Swarm()
            # A head that is being made has no swarm yet, or not all services in it: its states bring those, with all
            # nodes that are known by then. Its own label would be planned all the same.
            there = swarm.snapshot()
            owed = Owed(
                pillar=pillar,
                paths=self.paths,
                services=there.services.keys(),
                well=[n for n, record in self.records.items() if record.succeeded and not record.attempts],
                full=full,
                ask=lambda names, call: self.jobs.gather(names, [call], wait=FACTS_WAIT),
                step=self._step,
                note=self._note,
                say=self.say,
            )
            if configure:
                for area in areas.asked(Changed).values():
                    area.changed(owed)
            with self._step("labels"):
                labels = swarm.label_changes(pillar, None) if there.active else {}
                if labels:
                    swarm.label(pillar, labels)
                self.result["labelled"] = sorted(labels)
            for working in areas.asked(Labelled).values():
                self.result["resumed"] += working.labelled(owed)
            if full:
                for late in areas.asked(CatchesUp).values():
                    late.catch_up(owed)
            self.owed = self.owed.went_well(time.time())
        except VcoreError as error:
            self.owed = self.owed.failed(str(error), time.time())
            self._note(str(error))

    def _note(self, problem: str) -> None:
        self.result["problems"].append(problem)
        self.say(problem)


def _several(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"


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
