"""The reconciler's decisions: which nodes a round converges, when the next round begins, and which node is which.

Decisions depend on what is there (accepted keys, the registry of nodes, the file of what happened so far), never on an
event: a mark or an event only makes a round come sooner. :mod:`vcore.nodes.rounds` carries them out.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.names import NODE_NAME
from ..base.paths import Paths

#: A round begins after the first number of seconds without a new mark, and at the latest after the second.
QUIET, MOST = 2.0, 15.0
#: Seconds between rounds that nothing asked for.
EVERY = 300.0
#: Seconds until a node that failed is tried again: the first time, and at most. It doubles each time.
FIRST_RETRY, LAST_RETRY = 5.0, 300.0
#: Seconds after which a node that has not answered is asked whether it still runs its job, and how often it may leave
#: that unanswered. Giving up a slow node is worse than waiting for one that is gone: it would be given more to do.
ASK_AFTER, ASK_AGAIN = 20.0, 1
#: Seconds that a node may take for one job; then it counts as failed, whatever it says.
LIMIT = 1800.0
#: A round goes on without the nodes that are still silent this many seconds after the last answer, or after half of the
#: time until that answer, if that is more: nodes that were given a job together answer close together.
GAP = 3.0
#: A round goes on without the nodes that are still silent when none has answered for the first number of seconds, or
#: when it has waited for the second.
PATIENCE, LONGEST = 10.0, 60.0

#: The kinds of jobs: the code, followed by a convergence; the code alone; a convergence.
SYNC, REFRESH, CONVERGE = "sync", "refresh", "converge"
#: The most bytes of facts in a node's answer, and the most characters of its words that are shown.
FACTS_LIMIT, WORDS_LIMIT = 64 * 1024, 300
#: The first Docker in which a service of the swarm can do without AppArmor (API 1.44: Privileges.AppArmor).
KNOWS_APPARMOR = 25
SWARM_ID = re.compile(r"[a-z0-9]{25}")
COMPUTE = "compute"


# ---------------------------------------------------------------------------------------------------------------
# What happened so far
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What happened so far with one node, or with what areas and swarm are owed; times are in seconds since 1970.

    ``attempts`` counts failures since the last success, and ``error`` is the last one. ``tried`` is when the last try
    ended, ``next`` when the next one is due, ``succeeded`` when the last success ended. ``since`` is when that had
    begun, and ``boot`` identifies the boot of the node in which it was.
    """

    attempts: int = 0
    error: str | None = None
    tried: float | None = None
    next: float | None = None
    succeeded: float | None = None
    since: float | None = None
    boot: str | None = None

    def failed(self, error: str, now: float) -> Record:
        """Return the record after another failure."""
        attempts = self.attempts + 1
        return replace(self, attempts=attempts, error=error, tried=now, next=now + back_off(attempts))

    def went_well(self, now: float, since: float | None = None, boot: str | None = None) -> Record:
        """Return the record after a success."""
        return Record(tried=now, succeeded=now, since=since, boot=boot)


@dataclass(frozen=True)
class Flight:
    """A job that a node was given and has not answered yet.

    ``jid`` is Salt's id of the job, ``kind`` one of ``SYNC``, ``REFRESH`` and ``CONVERGE``. ``since`` is when it was
    given, ``asked`` when the node was last asked whether it runs it (seconds since 1970). ``code`` is the hash of the
    code that the node has once it has answered a sync.
    """

    jid: str
    kind: str
    since: float
    code: str | None = None
    asked: float | None = None
    #: How often in a row the node did not answer when it was asked whether it runs the job.
    silent: int = 0
    #: Whether the node has reported a start since, so that its job may be lost; a slow node reports its start late.
    doubtful: bool = False

    @property
    def ask(self) -> float:
        """When to ask the node next. The longer its job takes the rarer it is asked, since answering slows it down."""
        if self.doubtful:
            return self.since
        return self.since + ASK_AFTER if self.asked is None else self.asked + max(ASK_AFTER, self.asked - self.since)


@dataclass(frozen=True)
class State:
    """Everything that the reconciler remembers. Losing it costs one convergence of every node."""

    nodes: Mapping[str, Record] = field(default_factory=dict)
    flights: Mapping[str, Flight] = field(default_factory=dict)
    #: What happened so far with bringing the areas and the swarm up to date with the registry.
    owed: Record = field(default_factory=Record)
    round: Mapping[str, Any] = field(default_factory=dict)


def back_off(attempts: int) -> float:
    """Return the seconds until the next try after this many failures."""
    return float(min(LAST_RETRY, FIRST_RETRY * 2 ** min(max(attempts, 1) - 1, 16)))


def folder(paths: Paths) -> Path:
    """Return the folder of the reconciler's files."""
    return paths.state / "reconcile"


def load(paths: Paths) -> State:
    """Return what is remembered; an empty state where the file is missing or damaged, which a round makes up for."""
    try:
        data = json.loads((folder(paths) / "state.json").read_text())
        return State(
            nodes={name: Record(**entry) for name, entry in data["nodes"].items()},
            flights={name: Flight(**entry) for name, entry in data["flights"].items()},
            owed=Record(**data["owed"]),
            round=data["round"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def save(paths: Paths, state: State) -> None:
    """Write what is to be remembered."""
    folder(paths).mkdir(parents=True, exist_ok=True)
    write_atomic(folder(paths) / "state.json", json.dumps(asdict(state), indent=1, sort_keys=True).encode(), mode=0o600)


# ---------------------------------------------------------------------------------------------------------------
# Marks: nodes that somebody has heard of
# ---------------------------------------------------------------------------------------------------------------


def mark(paths: Paths, names: Iterable[str]) -> list[str]:
    """Mark nodes to be converged soon and return those that were marked; names that no node can have are ignored."""
    marked = []
    for name in names:
        if isinstance(name, str) and NODE_NAME.fullmatch(name):
            place = folder(paths) / "dirty"
            place.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
            marked.append(name)
    return marked


def marks(paths: Paths) -> dict[str, float]:
    """Return the marked nodes, with the time of each mark in seconds since 1970."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in (folder(paths) / "dirty").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if NODE_NAME.fullmatch(path.name):
                    found[path.name] = path.stat().st_mtime
    return found


def unmark(paths: Paths, names: Iterable[str]) -> None:
    """Remove the marks of nodes."""
    for name in names:
        if NODE_NAME.fullmatch(name):
            (folder(paths) / "dirty" / name).unlink(missing_ok=True)


@dataclass
class Bell:
    """Decides when the next round begins: soon after a burst of marks, when something is due, and every few minutes.

    Times are seconds of one monotonic clock.
    """

    quiet: float = QUIET
    most: float = MOST
    every: float = EVERY
    first: float | None = None
    last: float = 0.0
    ran: float | None = None
    looked: float | None = None

    def heard(self, now: float) -> None:
        """Take note that there is news of a node."""
        self.first = now if self.first is None else self.first
        self.last = now

    def looks(self, now: float) -> bool:
        """Return whether it is time to look at every node."""
        return self.looked is None or now - self.looked >= self.every

    def rings(self, now: float, due: float | None = None) -> bool:
        """Return whether a round begins now; ``due`` is when something is to be tried or asked again."""
        if self.first is not None:
            return now - self.last >= self.quiet or now - self.first >= self.most
        if self.looks(now):
            return True
        # Rounds for what is due are no more frequent than those for marks.
        return due is not None and now >= due and (self.ran is None or now >= self.ran + self.quiet)

    def rang(self, now: float, *, full: bool) -> None:
        """Take note that a round has ended; it covered all news from before it began."""
        self.first, self.ran = None, now
        self.looked = now if full else self.looked


# ---------------------------------------------------------------------------------------------------------------
# Which nodes
# ---------------------------------------------------------------------------------------------------------------


def wanted(
    nodes: Mapping[str, Mapping[str, Any]], registry: Mapping[str, Mapping[str, Any]], accepted: Collection[str]
) -> list[str]:
    """Return the compute nodes that the reconciler looks after: their key is accepted, and they are not being retired.

    ``nodes`` are those of the resolved configuration: those of the site, and those whose role a token granted.
    """
    return sorted(
        name
        for name, node in nodes.items()
        if COMPUTE in node["roles"] and name in accepted and not registry.get(name, {}).get("retiring")
    )


def due(
    names: Iterable[str],
    state: State,
    *,
    marked: Collection[str],
    forced: Collection[str],
    now: float,
) -> list[str]:
    """Return the nodes of ``names`` to converge now: those that are marked, forced, new, or to be tried again.

    Nodes that still run a job are left out.
    """

    def is_due(name: str) -> bool:
        if name in state.flights:
            return False
        record = state.nodes.get(name, Record())
        if name in marked or name in forced or record.tried is None:
            return True
        return record.next is not None and record.next <= now

    return [name for name in names if is_due(name)]


def next_due(state: State) -> float | None:
    """Return when something is to be tried or asked again, in seconds since 1970; None when there is nothing."""
    records = [*(record for name, record in state.nodes.items() if name not in state.flights), state.owed]
    times = [record.next for record in records if record.next is not None]
    times += [flight.ask for flight in state.flights.values()]
    return min(times, default=None)


def is_news(state: State, name: str, when: float) -> bool:
    """Return whether a node's start at ``when`` is news: it is not if a job given since then covers it."""
    known = [state.nodes.get(name, Record()).since, state.flights[name].since if name in state.flights else None]
    return all(since is None or since < when for since in known)


def to_ask(state: State, now: float) -> dict[str, list[str]]:
    """Return the nodes to ask whether they still run their jobs, by job; they have been silent for long."""
    found: dict[str, list[str]] = {}
    for name, flight in sorted(state.flights.items()):
        if now >= flight.ask:
            found.setdefault(flight.jid, []).append(name)
    return found


def goes_on(
    now: float, *, started: float, last: float | None, waiting: Collection[str], doubtful: Collection[str]
) -> bool:
    """Return whether a round goes on with the nodes that have answered, and leaves ``waiting`` ones to a later round.

    ``started`` is when the nodes were given their job, ``last`` when one last answered. For ``doubtful`` nodes, which
    failed before, a round hardly waits. Times are seconds of one monotonic clock.
    """
    if not waiting or now - started >= LONGEST:
        return True
    if set(waiting) <= set(doubtful):
        return now - (last or started) >= GAP
    if last is None:
        return now - started >= PATIENCE
    return now - last >= max(GAP, (last - started) / 2)


# ---------------------------------------------------------------------------------------------------------------
# What nodes say
# ---------------------------------------------------------------------------------------------------------------


def words(value: Any) -> str:
    """Return what a node says as one short, printable line, whatever it holds."""
    text = str(value)
    said, trace, _ = text.partition("Traceback")
    if trace:  # only the last line of a traceback is of any use to people
        text = said.strip() or text.rstrip().rpartition("\n")[2]
    text = " ".join(text[: 4 * WORDS_LIMIT].split())
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= WORDS_LIMIT else f"{text[: WORDS_LIMIT - 3]}..."


def failed_states(states: Any) -> str | None:
    """Return why a convergence failed, from what ``state.apply`` returned; None when it succeeded."""
    if isinstance(states, list):
        return words("; ".join(map(str, states)) or "it says nothing")
    if not isinstance(states, dict) or not states:
        return words(states) if states else "it says nothing"
    failed = [entry for entry in states.values() if not isinstance(entry, dict) or entry.get("result") is not True]
    if not failed:
        return None
    first = next((e for e in failed if isinstance(e, dict) and "requisite" not in str(e.get("comment"))), failed[0])
    if not isinstance(first, dict):
        return words(first)
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return words(f"{first.get('__id__', 'a state')}: {first.get('comment')}{more}")


@dataclass(frozen=True)
class Facts:
    """What a node says of itself, with only its types checked; nothing in here is believed yet."""

    swarm_id: str
    hardware: Any
    boot: str | None = None
    storage: Mapping[str, bool] = field(default_factory=dict)


def facts(value: Any) -> Facts:
    """Read what ``vcore_node.facts`` returned, as data that may come from an attacker.

    Raises:
        VcoreError: these are not facts, or the node reports a problem; the message says which.
    """
    if not isinstance(value, dict):
        raise VcoreError(tr("it does not return facts: {value}", value=words(value)))
    try:
        size = len(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        raise VcoreError(tr("its facts are not plain data")) from None
    if size > FACTS_LIMIT:
        raise VcoreError(
            tr("its facts have {size} bytes; at most {facts_limit} are read", size=size, facts_limit=FACTS_LIMIT)
        )
    if value.get("problem"):
        raise VcoreError(words(value["problem"]))
    swarm_id, boot, storage = value.get("swarm_id"), value.get("boot"), value.get("storage") or {}
    if not isinstance(swarm_id, str) or not SWARM_ID.fullmatch(swarm_id):
        raise VcoreError(tr("it is in no swarm yet"))
    if boot is not None and (not isinstance(boot, str) or len(boot) > 100):
        raise VcoreError(tr("boot in its facts is not a short text"))
    if not isinstance(storage, dict) or not all(isinstance(there, bool) for there in storage.values()):
        raise VcoreError(tr("storage in its facts is not a list of folders that are there or not"))
    return Facts(swarm_id, value.get("hardware"), boot, {words(name): there for name, there in storage.items()})


class Swarm:
    """Which node is which in the swarm, as its manager sees it; what nodes say of themselves is checked against this.

    It is built once per round. Looking a node up takes the same time however many there are.
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Any]],
        own_id: str,
        nodes: Mapping[str, Mapping[str, Any]],
        registry: Mapping[str, Mapping[str, Any]],
        *,
        problem: str | None = None,
        unconfined: bool = False,
    ) -> None:
        """Index the nodes by id and by address.

        Args:
            members: the nodes of the swarm by id, as Docker describes them.
            own_id: the manager's id.
            nodes: those of the resolved configuration, by name.
            registry: the entries of the registry, by name.
            problem: why the manager does not answer; None where it does.
            unconfined: whether the swarm's service runs slurmd without AppArmor.
        """
        self.members, self.own_id, self.nodes = members, own_id, nodes
        self.problem, self.unconfined = problem, unconfined
        self.ids: dict[str, str] = {}
        self.addresses: dict[str, dict[str, set[str]]] = {"seen": {}, "said": {}}
        for name in {*nodes, *registry}:
            entry, said = registry.get(name, {}), nodes.get(name, {}).get("address")
            registered, identity = entry.get("address"), entry.get("swarm_id")
            if identity:
                self.ids[identity] = name
            # The registry's address counts only for a node that the swarm does not see: a network may have given the
            # address to another host since.
            member = members.get(identity or "")
            self._has("seen", str(member["Status"].get("Addr")) if member else registered, name)
            self._has("said", said if said != registered else None, name)

    def _has(self, how: str, address: str | None, name: str) -> None:
        if address:
            self.addresses[how].setdefault(address, set()).add(name)

    def verify(self, name: str, said: Facts) -> dict[str, Any]:
        """Return the ``swarm_id`` and ``address`` of a node, if the manager confirms what it says.

        Raises:
            NotFound: the swarm does not know its id, because it was removed from the swarm without its knowledge.
            VcoreError: it cannot be the node that it says it is, or the manager does not answer.
        """
        if self.problem:
            raise VcoreError(self.problem)
        member = self.members.get(said.swarm_id)
        if member is None:
            raise NotFound(
                tr("it says that it is {swarm_id} of the swarm, which has no such node", swarm_id=said.swarm_id)
            )
        is_head = "head" in self.nodes[name]["roles"]
        if is_head and said.swarm_id != self.own_id:
            raise VcoreError(tr("it is not the swarm's manager"))
        if not is_head and said.swarm_id == self.own_id:
            raise VcoreError(tr("it says that it is the head of the swarm"))
        owner = self.ids.get(said.swarm_id, name)
        if owner != name:
            raise VcoreError(
                tr("it says that it is {swarm_id} of the swarm, which is {owner}", swarm_id=said.swarm_id, owner=owner)
            )
        short = str(member["Description"]["Hostname"]).split(".")[0]
        if short != name and short in self.nodes:
            raise VcoreError(
                tr(
                    "it says that it is {swarm_id} of the swarm, whose host name is {short}",
                    swarm_id=said.swarm_id,
                    short=short,
                )
            )
        address = self.nodes[name]["address"] if is_head else self._address(name, str(member["Status"].get("Addr")))
        self.ids[said.swarm_id] = name
        self._has("seen", address, name)
        return {"swarm_id": said.swarm_id, "address": address}

    def opens(self, said: Facts) -> bool:
        """Return whether Docker on a node runs slurmd without an AppArmor profile, as the service asks for."""
        engine = (self.members[said.swarm_id].get("Description") or {}).get("Engine") or {}
        number = str(engine.get("EngineVersion")).partition(".")[0]
        return self.unconfined and number.isdecimal() and int(number) >= KNOWS_APPARMOR

    def _address(self, name: str, address: str) -> str:
        try:
            number = IPv4Address(address)
        except AddressValueError:
            raise VcoreError(
                tr("the swarm sees it at {address}, which is no IPv4 address", address=words(address))
            ) from None
        if number.is_unspecified or number.is_loopback or number.is_multicast:
            raise VcoreError(tr("the swarm sees it at {address}, which is no address of a host", address=address))
        for owners in self.addresses.values():
            if others := owners.get(address, set()) - {name}:
                raise VcoreError(
                    tr(
                        "the swarm sees it at {address}, which is the address of {others}",
                        address=address,
                        others=min(others),
                    )
                )
        return address


# ---------------------------------------------------------------------------------------------------------------
# The code that nodes are given
# ---------------------------------------------------------------------------------------------------------------
