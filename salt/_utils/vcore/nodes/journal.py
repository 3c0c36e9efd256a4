"""What a round does, noted as it does it: in the file that outlasts the round, in its result, and for who watches.

All phases of a round tell the journal, and it alone changes what is remembered.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..base.errors import VcoreError
from ..base.paths import Paths
from . import decisions
from .decisions import Flight, Record, State
from .jobs import Say


class Journal:
    """The journal of one round, which begins with it."""

    def __init__(self, paths: Paths, say: Say) -> None:
        self.say = say
        self._paths = paths
        before = decisions.load(paths)
        self._records, self._flights, self._owed = dict(before.nodes), dict(before.flights), before.owed
        self._last = before.round
        self._result: dict[str, Any] = {
            "began": round(time.time(), 3),
            "seconds": {},
            "converged": [],
            "failed": {},
            "waiting": [],
            "problems": [],
            "labelled": [],
            "resumed": [],
        }

    @contextmanager
    def ending(self) -> Iterator[dict[str, Any]]:
        """Give the result of the round, and write down how it ended, whatever ends it."""
        try:
            yield self._result
        except Exception as error:
            self._result["error"] = str(error) if isinstance(error, VcoreError) else f"an error of the core: {error!r}"
            raise
        finally:
            self._result["waiting"] = sorted(self._flights)
            self._result["ended"] = round(time.time(), 3)
            self._last = self._result
            self.save()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step of the round."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._result["seconds"][name] = round(time.monotonic() - began, 3)

    def save(self) -> None:
        """Have the next round know what was noted so far; until it has ended, the last round is the one before."""
        decisions.save(self._paths, self.state())

    # --- what is remembered --------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return all that is remembered, as it is now."""
        return State(dict(self._records), dict(self._flights), self._owed, self._last)

    @property
    def flights(self) -> Mapping[str, Flight]:
        """The jobs that nodes were given and have not answered yet."""
        return MappingProxyType(self._flights)

    def record(self, name: str) -> Record:
        """Return how it went with a node."""
        return self._records.get(name, Record())

    def well(self) -> list[str]:
        """Return the nodes of which the last convergence went well."""
        return [name for name, record in self._records.items() if record.succeeded and not record.attempts]

    def keep(self, names: Collection[str]) -> None:
        """Forget all nodes but these."""
        self._records = {name: record for name, record in self._records.items() if name in names}
        self._flights = {name: flight for name, flight in self._flights.items() if name in names}

    # --- nodes ---------------------------------------------------------------------------------------------------

    def gives(self, flights: Mapping[str, Flight]) -> None:
        """Note, and save, that nodes are given jobs; this comes before it is done."""
        self._flights |= flights
        self.save()

    def changes(self, name: str, flight: Flight) -> None:
        """Note what is new about the job of a node."""
        self._flights[name] = flight

    def ends(self, name: str) -> Flight:
        """Note that a node is not at its job any more, and return that."""
        return self._flights.pop(name)

    def failed(self, name: str, why: str) -> None:
        """Note that it did not go well with a node."""
        self._records[name] = self.record(name).failed(why, time.time())
        self._result["failed"][name] = why
        self.say(f"{name}: {why}")

    def converged(self, name: str, now: float, since: float | None, boot: str | None) -> None:
        """Note that a node has converged."""
        self._records[name] = self.record(name).went_well(now, since, boot)
        self._result["converged"].append(name)

    # --- areas and swarm -----------------------------------------------------------------------------------------

    def owes(self) -> None:
        """Note that areas and swarm are owed what has changed, also when the round ends before it tells them."""
        self._owed = replace(self._owed, next=time.time())

    def is_overdue(self) -> bool:
        """Whether areas and swarm are owed something since an earlier round, or this one."""
        return self._owed.next is not None and self._owed.next <= time.time()

    def labelled(self, names: Iterable[str]) -> None:
        """Note which nodes were given labels."""
        self._result["labelled"] = sorted(names)

    def resumed(self, names: Iterable[str]) -> None:
        """Note which nodes take up work again."""
        self._result["resumed"] += names

    def delivered(self) -> None:
        """Note that nothing is owed any more."""
        self._owed = self._owed.went_well(time.time())

    def undelivered(self, why: str) -> None:
        """Note why something is still owed; it is tried again."""
        self._owed = self._owed.failed(why, time.time())
        self.note(why)

    def note(self, problem: str) -> None:
        """Note what could not be done, for people."""
        self._result["problems"].append(problem)
        self.say(problem)
