"""Retire nodes: take them out of SLURM when their jobs have ended, out of the swarm, and delete their keys.

Nodes that are ready leave together: one reconfigure, one job and one change of the master's session key for all of
them. Each step checks whether it was done already, so running an interrupted retirement again continues it. The
registry shows what is left to do: a node is ``retiring``, and one without ``hardware`` is out of SLURM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import hostlist

from ..base.errors import NotFound, VcoreError
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..kernel import areas, pillar, site
from ..swarm import membership
from ..swarm.work import Work
from . import decisions
from .hostlist import expand
from .jobs import Call
from .registry import UNKNOWN, Registry
from .rounds import locked

#: The reason that nodes are drained with.
REASON = "vcore: retiring"
#: Seconds between two looks at the jobs of nodes, and between two reports about them.
LOOK, SAY = 2.0, 60.0
#: Seconds to wait for a round of the reconciler to end, for a node to answer a ping, and for it to remove the core from
#: itself.
ROOM, HERE, FAREWELL = 180.0, 30.0, 300.0
#: The most nodes that are listed by name, and the most jobs of each.
LISTED = 10

#: The calls that a node gets before its key is deleted: answer; remove what the role brought; remove secrets and the
#: minion.
PING: Call = ("test.ping", [], {})
ABSENT: Call = ("state.apply", ["roles.compute.absent"], {})
LEAVE: Call = ("vcore_node.leave", [], {})


class Salt(Protocol):
    """What a retirement needs of Salt's master: :class:`vcore.nodes.master.Master`."""

    def key_states(self) -> dict[str, str]: ...
    def delete_keys(self, names: Collection[str]) -> None: ...
    def gather(
        self, names: Collection[str], calls: Sequence[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Mapping[str, Any]]: ...


class Retirement:
    """The retirement of some nodes. A node with a problem stays at the step that it has reached; the others go on."""

    def __init__(self, paths: Paths, salt: Salt, nodes: str, say: Callable[[str], None]) -> None:
        """Make sure that all of the nodes can be retired; ``nodes`` is a hostlist such as ``compute-[1-8]``.

        Raises:
            NotFound: one of the nodes does not exist.
            VcoreError: a node is the head, or a service has its data there.
        """
        self.paths, self.salt, self.say = paths, salt, say
        self.registry = Registry(paths.nodes)
        try:
            self.names = expand(nodes)
        except ValueError as error:
            raise VcoreError(f"{quoted(decisions.words(nodes))} {error}") from None
        self.pillar = pillar.head_pillar(paths)
        self.keys = salt.key_states()
        known = {*self.pillar["nodes"], *self.registry.read(), *self.keys}
        for name in self.names:
            self._check(name, known)
        self.done: dict[str, list[str]] = {name: [] for name in self.names}
        self.remains: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def _check(self, name: str, known: Collection[str]) -> None:
        if name not in known:
            raise NotFound(tr("there is no node {name}; see salt-run vcore.nodes", name=name))
        if name == self.pillar["head"]["name"]:
            raise VcoreError(tr("{name} is the head; bootstrap.sh --uninstall takes the core off it", name=name))
        pinned = [service for service, data in self.pillar["services"].items() if data["node"] == name]
        if pinned:
            raise VcoreError(
                tr(
                    "{name} runs {pinned}, with their data; move them first (vcore.services.{pinned_2}.node "
                    "in {name_2}), and apply the states",
                    name=name,
                    pinned=", ".join(pinned),
                    pinned_2=pinned[0],
                    name_2=self.paths.site.name,
                )
            )

    def run(self, *, dead: bool, timeout: float) -> dict[str, Any]:
        """Take all steps.

        Args:
            dead: whether the nodes are gone for good: their jobs are given up, and they are not asked to do anything.
            timeout: seconds that jobs of the nodes may still take.

        Returns:
            ``{ok, retired: {<name>: {done: [...], remains}}, problems: [...]}``. ``remains`` says what the
            administrator has to do, or is None; ``problems`` say why nodes are not retired. What was done stays done.

        Raises:
            VcoreError: SLURM or the swarm failed to do its part.
        """
        # From here on the reconciler leaves the nodes alone.
        self.registry.update({name: {"retiring": True} for name in self.names})
        for ready in self._ready(dead, timeout):
            with locked(self.paths, wait=ROOM):  # rounds change the areas' configuration, too
                self._leave_work(ready)
            if not dead:
                self._take_off([name for name in ready if self.keys.get(name) == "accepted"])
            gone = [name for name in ready if name not in self.problems]
            self._leave_swarm(gone)
            self._revoke(gone)
            self._forget(gone)
        return self._told()

    def cancel(self) -> dict[str, Any]:
        """Keep nodes that are still in SLURM; those that a person has drained stay drained. Return what ``run`` does.

        Raises:
            VcoreError: a node is not being retired, or is out of SLURM already.
        """
        entries = self.registry.read()
        for name in self.names:
            entry = entries.get(name, UNKNOWN)
            if not entry["retiring"]:
                raise VcoreError(tr("{name} is not being retired", name=name))
            if not entry["hardware"] or self.keys.get(name) != "accepted":
                raise VcoreError(
                    tr("{name} is out already; go on with salt-run vcore.retire {name}, then enrol it", name=name)
                )
        self.registry.update({name: {"retiring": False} for name in self.names})
        decisions.mark(self.paths, self.names)
        for work in self._works():
            work.release(self.pillar, self.names, REASON)
        self._note(self.names, "it stays, and takes jobs again")
        return self._told()

    def _note(self, names: Iterable[str], what: str) -> None:
        for name in names:
            self.done[name].append(what)

    def _told(self) -> dict[str, Any]:
        retired = {name: {"done": self.done[name], "remains": self.remains.get(name)} for name in self.names}
        return {"ok": not self.problems, "retired": retired, "problems": [*self.problems.values()]}

    # --- its jobs ------------------------------------------------------------------------------------------------

    def _ready(self, dead: bool, timeout: float) -> Iterator[list[str]]:
        """Yield lists of nodes that run no jobs any more, as their jobs end."""
        waiting, end, spoken = self._drain(dead), time.monotonic() + timeout, -SAY
        ready = [name for name in self.names if name not in waiting]
        while True:
            jobs = self._running(waiting) if waiting else {}
            ready += [name for name in waiting if name not in jobs]
            waiting = [name for name in waiting if name in jobs]
            if ready:
                yield ready
            if not waiting:
                return
            if time.monotonic() >= end:
                break
            if time.monotonic() - spoken >= SAY:
                self._say_jobs(jobs)
                spoken = time.monotonic()
            ready = []
            time.sleep(min(LOOK, max(end - time.monotonic(), 0.1)))
        for name in waiting:
            self.problems[name] = tr(
                "{name} still runs {jobs}; it takes no new ones. Go on later with salt-run vcore.retire "
                "{name}, end them with scancel, or keep it with cancel=True",
                name=name,
                jobs=_listed(jobs[name]),
            )

    def _works(self) -> Iterable[Work]:
        return areas.asked(Work).values()

    def _running(self, names: Sequence[str]) -> dict[str, list[str]]:
        jobs: dict[str, list[str]] = {}
        for work in self._works():
            for name, running in work.running(self.pillar, names).items():
                jobs.setdefault(name, []).extend(running)
        return jobs

    def _drain(self, dead: bool) -> list[str]:
        """Make the nodes take no new jobs; return those whose jobs have to be waited for."""
        entries = self.registry.read()
        inside = [name for name in self.names if entries.get(name, UNKNOWN)["hardware"]]
        waiting: list[str] = []
        for work in self._works():
            if dead:
                # Their jobs are requeued or fail, as each was submitted; otherwise they would keep their allocations.
                self._note(work.give_up(self.pillar, inside, REASON), f"down in {work.TITLE}")
            elif there := work.known(self.pillar, inside):
                work.drain(self.pillar, there, REASON)
                self._note(there, "drained")
                waiting += [name for name in there if name not in waiting]
        return waiting

    def _say_jobs(self, jobs: Mapping[str, Sequence[str]]) -> None:
        for name in [*jobs][:LISTED]:
            self.say(tr("{name}: waiting for {jobs} to end", name=name, jobs=_listed(jobs[name])))
        if len(jobs) > LISTED:
            self.say(tr("and so do {jobs} more nodes", jobs=len(jobs) - LISTED))

    # --- the steps -----------------------------------------------------------------------------------------------

    def _leave_work(self, names: Sequence[str]) -> None:
        entries = self.registry.read()
        self.registry.update({n: {"hardware": None} for n in names if entries.get(n, UNKNOWN)["hardware"]})
        left = pillar.head_pillar(self.paths)
        for work in self._works():
            # Always, since an earlier run may have stopped right after the registry's change; repeating it is harmless.
            if work.forget(left, self.paths):
                self._note(names, f"out of {work.TITLE}")

    def _take_off(self, names: Sequence[str]) -> None:
        """Make the nodes remove the core from themselves: first what their roles brought, then secrets and minion."""
        if not names:
            return
        self.say(tr("{collect_hostlist}: taking the core off", collect_hostlist=hostlist.collect_hostlist(names)))
        # A ping soon finds nodes that are switched off, so that they do not hold up the others.
        why: dict[str, str | None] = dict.fromkeys(names, _failure(None))
        end, asked = time.monotonic() + FAREWELL, [*self.salt.gather(names, [PING], wait=HERE)]
        while asked and time.monotonic() < end:
            answers = self.salt.gather(asked, [ABSENT], wait=FAREWELL)
            why |= {name: _failure(answers.get(name)) for name in asked}
            # The node is still applying states, perhaps by an earlier order of the reconciler; ask it again.
            asked = [name for name in asked if "is running as PID" in (why[name] or "")]
            time.sleep(LOOK if asked else 0)
        bare = [name for name in names if why[name] is None]
        answers = self.salt.gather(bare, [LEAVE], wait=FAREWELL)
        for name in bare:
            left = answers.get(name, {}).get(LEAVE[0])
            if not isinstance(left, list):
                why[name] = f"it did not delete its secrets: {decisions.words(left)}"
        self._note([name for name in names if why[name] is None], "secrets, trust and swarm taken off the machine")
        self.problems |= {
            name: f"{name}: {failure}. Mend that and run salt-run vcore.retire {name} again; if the machine is "
            f"gone for good: salt-run vcore.retire {name} dead=True"
            for name, failure in why.items()
            if failure is not None
        }

    def _leave_swarm(self, names: Sequence[str]) -> None:
        entries = self.registry.read()
        places = {name: entries[name]["swarm_id"] for name in names if entries.get(name, UNKNOWN)["swarm_id"]}
        if places:
            gone = membership.Swarm().remove_members(places.values())
            self._note([name for name, place in places.items() if place in gone], "out of the swarm")

    def _revoke(self, names: Sequence[str]) -> None:
        keys = self.salt.key_states()
        kept = [name for name in names if keys.get(name) in ("accepted", "pending")]
        if kept:
            self.salt.delete_keys(kept)
            self._note(kept, "key deleted")

    def _forget(self, names: Sequence[str]) -> None:
        decisions.unmark(self.paths, names)
        configuration = site.load(self.paths)
        named = [name for name in names if name in configuration.site.nodes]
        # While the site names them, this keeps the reconciler from converging them.
        self.registry.update({name: {**UNKNOWN, "retiring": True} for name in named})
        for name in named:
            problem = configuration.document.problem(
                ("nodes", name), tr("still names the node: take this out, and apply the states")
            )
            self.remains[name] = str(problem)
        forgotten = [name for name in names if name not in named]
        self.registry.remove(forgotten)
        self._note(forgotten, "forgotten")


def _listed(jobs: Sequence[str]) -> str:
    more = " and more" if len(jobs) > LISTED else ""
    return f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}: {', '.join(jobs[:LISTED])}{more}"


def _failure(answer: Mapping[str, Any] | None) -> str | None:
    return tr("it does not answer") if answer is None else decisions.failed_states(answer.get(ABSENT[0], answer))
