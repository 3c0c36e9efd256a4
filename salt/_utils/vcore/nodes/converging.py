"""The phase of a round that converges nodes: jobs that they are given, and what they answer.

A node that is behind gets the code first, then its states, and is then asked what it is now. Whoever has not answered
when the round goes on is *in flight*, and a later round collects the answer.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from . import decisions
from .decisions import CONVERGE, REFRESH, SYNC, Flight
from .jobs import Answer, Call, Jobs, Line, ask_facts
from .journal import Journal

#: Seconds that nodes have to say whether they are still at a job.
ASK_WAIT, ASK_GAP = 10.0, 3.0

# Not queued: a node that is at its states already says so, and is tried again; Salt answers to a queued one at once.
# One function a job: while one of several runs, Salt's own state.apply on that node ends in an error.
CODE: Call = ("saltutil.sync_all", [], {})
STATES: Call = ("state.apply", [], {})


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


@dataclass(frozen=True)
class Assignment:
    """Who is given what in a round: the code and then states, the code alone, states alone."""

    #: The code that nodes are to have.
    code: str
    sync: Sequence[str]
    refresh: Sequence[str]
    converge: Sequence[str]


def assign(
    free: Sequence[str], due: Collection[str], has: Mapping[str, str | None], *, code: str, full: bool
) -> Assignment:
    """Return what nodes are given that are at no job: states those that are ``due``, and the code those that lack it.

    ``has`` is the code of each; a ``full`` round gives it to nodes that are not due, too.
    """
    behind = [name for name in free if has.get(name) != code]
    return Assignment(
        code,
        sync=[name for name in behind if name in due],
        refresh=[name for name in behind if name not in due and full],
        converge=[name for name in free if name in due and name not in behind],
    )


@dataclass
class Heard:
    """What nodes have answered in a round, to its jobs and to those of earlier rounds."""

    #: Facts of nodes that were converged.
    landed: dict[str, Any] = field(default_factory=dict)
    #: Facts of nodes whose states failed: some of what they lack they get once it is known where they are.
    failing: dict[str, Any] = field(default_factory=dict)
    #: When those were given their states, in seconds since 1970.
    begun: dict[str, float] = field(default_factory=dict)
    #: The code that nodes have taken; None where it may have been lost.
    codes: dict[str, str | None] = field(default_factory=dict)


class Converging:
    """The jobs of one round; what came of them is in ``heard``."""

    def __init__(
        self, paths: Paths, jobs: Jobs, journal: Journal, base_directory: str, marked: Mapping[str, float]
    ) -> None:
        """``marked`` are the nodes that were marked when the round began, with the time of each mark."""
        self.paths, self.jobs, self.journal = paths, jobs, journal
        self.base_directory, self.marked = base_directory, marked
        self.heard = Heard()
        #: Why their states failed, or None, of nodes that are still to be asked for their facts.
        self._applied: dict[str, str | None] = {}
        #: Nodes whose code has come, and that are still to be given their states.
        self._synced: list[str] = []

    def collect(self) -> set[str]:
        """Take what has come of the jobs of earlier rounds; return the nodes whose code has come, which are due."""
        flights = self.journal.flights
        for jid in sorted({flight.jid for flight in flights.values()}):
            waiting = {name for name, flight in flights.items() if flight.jid == jid}
            for name, answer in self.jobs.returned(jid).items():
                if name in waiting:
                    self._land(name, answer)
        for name, when in self.marked.items():
            # It started after it was given its job.
            if name in flights and when > flights[name].since:
                self._doubt(name)
        self._inspect()
        return set(self._take_synced())

    def converge(self, assigned: Assignment) -> None:
        """Give the nodes that are due the code that they lack, and then their states."""
        with self.jobs.listen() as line:
            groups: list[Group] = []
            if assigned.sync or assigned.refresh:
                self.jobs.forget_files()
                kinds = dict.fromkeys(assigned.refresh, REFRESH) | dict.fromkeys(assigned.sync, SYNC)
                groups.append(self._give(line, kinds, CODE, assigned.code))
            if assigned.converge:
                groups.append(self._give(line, dict.fromkeys(assigned.converge, CONVERGE), STATES, assigned.code))
            while groups:
                self._hear(line, groups)
                for group in [group for group in groups if group.is_over()]:
                    groups.remove(group)
                    if group.waiting:
                        self.journal.say(tr("going on without {several} for now", several=several(group.waiting)))
                    if group.kind != CONVERGE and (synced := self._take_synced()):
                        groups.append(self._give(line, dict.fromkeys(synced, CONVERGE), STATES, assigned.code))
            self._inspect()

    def visit_head(self, head: str) -> None:
        """Ask the head what it is. It converges by itself: its states are the administrator's to apply."""
        decisions.unmark(self.paths, [head])
        said = ask_facts(self.jobs, [head], self.base_directory, gap=None)
        if head in said:
            self.heard.landed[head] = said[head]
        else:
            self.journal.failed(head, "it does not answer")

    def ask_silent(self) -> None:
        """Ask nodes that have been silent for long whether they are still at their jobs, and give up those that are
        not. Behind all else: who does not answer is waited for.
        """
        journal = self.journal
        for jid, names in decisions.to_ask(journal.state(), time.time()).items():
            patience = 1 + max(journal.flights[name].silent for name in names)
            busy = self.jobs.busy(jid, names, wait=ASK_WAIT * patience, gap=ASK_GAP)
            answered, now = self.jobs.returned(jid), time.time()
            for name in names:
                if name in answered:
                    continue  # just now: the next round is for it
                flight = journal.flights[name]
                silent = 0 if name in busy else flight.silent + 1
                if silent <= decisions.ASK_AGAIN and busy.get(name, True) and now - flight.since < decisions.LIMIT:
                    journal.changes(name, replace(flight, asked=now, silent=silent, doubtful=False))
                    continue
                journal.ends(name)
                if name in busy and flight.doubtful:
                    decisions.mark(self.paths, [name])  # the next round is for it
                elif name not in busy:
                    journal.failed(name, "it does not answer")
                elif busy[name]:
                    journal.failed(name, f"it is at the same job for {decisions.LIMIT / 60:.0f} minutes")
                else:
                    journal.failed(name, "it was interrupted")

    def _give(self, line: Line, kinds: Mapping[str, str], call: Call, code: str) -> Group:
        """Give nodes a job, after a note that they have it."""
        verb = "converging" if CONVERGE in kinds.values() else "giving the code to"
        self.journal.say(f"{verb} {several(kinds)}")
        jid, now = self.jobs.new_job(), time.time()
        self.journal.gives({name: Flight(jid, kind, now, code) for name, kind in kinds.items()})
        # What is marked from now on is news; what was marked is in the file.
        decisions.unmark(self.paths, kinds)
        # Those that failed before, and of which nobody has heard since.
        doubtful = {name for name in kinds if self.journal.record(name).attempts and name not in self.marked}
        group = Group(next(iter(kinds.values())), set(kinds), doubtful, time.monotonic())
        try:
            line.give(jid, list(kinds), [call])
        except VcoreError as error:
            group.waiting.clear()
            for name in kinds:
                self.journal.ends(name)
                self.journal.failed(name, str(error))
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

    def _doubt(self, name: str) -> None:
        """A node was heard to start: at the end of the round it is asked whether it has the job that it was given."""
        self.journal.changes(name, replace(self.journal.flights[name], doubtful=True))
        decisions.unmark(self.paths, [name])

    def _land(self, name: str, answer: Answer) -> None:
        """Take the answer of one node to its job."""
        flight = self.journal.ends(name)
        code, states = answer.get(CODE[0]), answer.get(STATES[0], answer.get(""))
        if flight.kind == CONVERGE:
            self._applied[name] = why = decisions.failed_states(states)
            self.heard.begun[name] = flight.since
            if why:
                self.journal.failed(name, why)
        elif isinstance(code, dict):
            self.heard.codes[name] = flight.code
            if flight.kind == SYNC:
                self._synced.append(name)
        else:
            said = answer.get(CODE[0], answer)
            self.journal.failed(name, f"it did not take the code: {decisions.words(said)}")

    def _take_synced(self) -> list[str]:
        synced, self._synced = self._synced, []
        return synced

    def _inspect(self) -> None:
        """Ask the nodes whose states were applied what they are now."""
        applied, self._applied = self._applied, {}
        said = ask_facts(self.jobs, applied, self.base_directory)
        for name, why in applied.items():
            if name in said and not isinstance(said[name], dict):
                self.heard.codes[name] = None  # it may have lost its code
            if why:
                self.heard.failing[name] = said.get(name)
            elif name in said:
                self.heard.landed[name] = said[name]
            else:
                self.journal.failed(name, "its states are applied, and it does not say what it is")


def several(names: Iterable[str]) -> str:
    """Return the names of nodes as they are told of: at most five."""
    names = sorted(names)
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"
