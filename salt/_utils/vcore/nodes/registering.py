"""The phase of a round that finds out who is who: facts of nodes, held against the swarm, become their entries in the
registry.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.paths import Paths
from ..swarm import membership
from . import decisions, hardware
from .converging import Heard
from .jobs import Jobs, ask_facts
from .journal import Journal
from .registry import UNKNOWN, Entry, Registry


def welcome_back(registry: Registry, accepted: Collection[str]) -> dict[str, Entry]:
    """Let nodes take part again that were retired and whose keys somebody has accepted again; return all entries."""
    entries = registry.read()
    back = [n for n, e in entries.items() if e["retiring"] and e["enrolled"] is None and n in accepted]
    if not back:
        return entries
    registry.update({name: {"retiring": False} for name in back})
    return registry.read()


def look(jobs: Jobs, names: Collection[str], base_directory: str) -> dict[str, Any]:
    """Ask nodes that were not converged in this round how they are."""
    said = ask_facts(jobs, names, base_directory)
    return {name: facts for name, facts in said.items() if isinstance(facts, dict)}


def see(pillar: Mapping[str, Any], entries: Mapping[str, Entry]) -> tuple[membership.Swarm | None, decisions.Swarm]:
    """Return the connection to the swarm's manager, if there is one, and who is who as that sees it now.

    Where it does not answer, it knows nobody, and why.
    """
    nodes, swarm = pillar["nodes"], None
    try:
        swarm = membership.Swarm()
        own_id, members = swarm.members()
        # What people run on nodes runs in the containers of these.
        rolled = [name for name, service in pillar["services"].items() if service["rolled"]]
        unconfined = any(swarm.runs_unconfined(name) for name in rolled)
    except VcoreError as error:
        return swarm, decisions.Swarm({}, "", nodes, entries, problem=str(error))
    return swarm, decisions.Swarm(members, own_id, nodes, entries, unconfined=unconfined)


@dataclass(frozen=True)
class Registered:
    """What came of it: whether the registry changed, and the connection to the swarm, if there was one."""

    changed: bool
    swarm: membership.Swarm | None


@dataclass(frozen=True)
class Registering:
    """What was said in one round, and what the registry had of it when the round began."""

    paths: Paths
    journal: Journal
    entries: Mapping[str, Entry]
    heard: Heard
    #: Facts of nodes that were not converged.
    looked: Mapping[str, Any]

    def register(self, registry: Registry, pillar: Mapping[str, Any]) -> Registered:
        """Write what is now known of the nodes into the registry."""
        changes: dict[str, dict[str, Any]] = {}
        swarm = None
        for name, code in self.heard.codes.items():
            if self._known(name)["code"] != code:
                changes[name] = {"code": code}
        if said := {**self.looked, **self.heard.failing, **self.heard.landed}:
            (swarm, seen), now = see(pillar, self.entries), time.time()
            for name, value in sorted(said.items()):
                known, entry = self._known(name), self._identify(name, value, seen, now)
                if different := {key: new for key, new in entry.items() if known[key] != new}:
                    changes[name] = changes.get(name, {}) | different
        if changes:
            registry.update(changes)
            self.journal.owes()
        self.journal.save()
        return Registered(bool(changes), swarm)

    def _known(self, name: str) -> Mapping[str, Any]:
        return self.entries.get(name, UNKNOWN)

    def _identify(self, name: str, said: Any, swarm: decisions.Swarm, now: float) -> dict[str, Any]:
        """What the registry has to hold of a node that answered; its record, too, is brought to date."""
        known, heard = self._known(name), self.heard
        entry: dict[str, Any] = {}
        if isinstance(said, dict) and not said.get("swarm_id") and known["swarm_id"]:
            entry["swarm_id"] = None  # It has left the swarm: to join again, it is given the token again.
        try:
            facts = decisions.facts(said)
            identity = swarm.verify(name, facts)
            # Without hardware it gets neither a line of SLURM's nor a label: its states have failed.
            if name not in heard.failing:
                identity["hardware"] = hardware.validate(facts.hardware, opens=swarm.opens(facts))
        except VcoreError as error:
            if isinstance(error, NotFound):
                # Swarm's own word, since a registry may be lost: it leaves that place, and is given a token.
                entry |= {"swarm_id": None, "forgotten": facts.swarm_id}
            if name not in heard.failing:
                self.journal.failed(name, str(error))
            return entry
        boot = self.journal.record(name).boot
        if name in heard.landed:
            self.journal.converged(name, now, heard.begun.get(name), facts.boot)
        elif name in self.looked and boot is not None and boot != facts.boot:
            decisions.mark(self.paths, [name])  # it has started anew, and nobody has heard of it
        return identity | {"forgotten": None} | ({} if known["enrolled"] else {"enrolled": int(now)})
