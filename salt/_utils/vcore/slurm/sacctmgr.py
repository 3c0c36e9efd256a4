"""Run sacctmgr in the container of slurm-accounting, to read accounting and to carry out changes.

:mod:`vcore.slurm.accounting` decides what is wanted and which commands bring it about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import locks
from ..base.errors import CommandFailed, NotFound
from ..base.messages import tr
from ..base.paths import Paths
from ..directory import client, entries
from ..host import containers
from . import accounting

if TYPE_CHECKING:
    from ..people.plans import Present

SERVICE = accounting.SERVICE
#: The program in the container that runs all questions at the same time, with a single exec.
ASK = "/usr/lib/virtual-core/ask"
#: Seconds to wait for another change of accounting on this head.
LOCK_TIME = 120.0


def volume(pillar: Mapping[str, Any]) -> Path:
    """Return the folder of the database on the node."""
    return Path(pillar["services"][SERVICE]["volumes"]["data"]["source"])


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, str]:
    """Run a command as root in the container of slurm-accounting; return its exit code and output.

    Raises:
        NotFound: slurm-accounting does not run on this node.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound(tr("{service} does not run on this node", service=SERVICE))
    there = containers.running(SERVICE, volume(pillar), f"{SERVICE} does not run; see docker service ps {SERVICE}")
    code, output = containers.execute(there, command, data)
    return code, output.decode(errors="replace")


def look(pillar: Mapping[str, Any]) -> accounting.Shown:
    """Return what slurmdbd has.

    Raises:
        NotFound: slurm-accounting does not run on this node.
        CommandFailed: slurmdbd does not answer.
        VcoreError: an answer cannot be read.
    """
    questions = accounting.questions(accounting.cluster(pillar))
    code, output = execute(pillar, [ASK], json.dumps(questions).encode())
    if code:
        raise CommandFailed(tr("slurmdbd does not answer: {last}", last=_last(output)))
    return accounting.shown(json.loads(output))


def _last(output: str) -> str:
    return "; ".join(line.strip() for line in output.strip().splitlines()[-3:]) or "no output"


def people(pillar: Mapping[str, Any], present: Present) -> accounting.People:
    """Return the directory's people, with those of the site file as this run will leave them there."""
    site = pillar["people"]
    names = present.people.keys() | {name for name, person in site.items() if not person.get("removed")}
    names -= {name for name, person in site.items() if person.get("removed")}
    locked = {name for name, entry in present.people.items() if entry.locked}
    for name, person in site.items():
        if person.get("locked") is not None:
            locked = locked | {name} if person["locked"] else locked - {name}
    groups = {name: set(present.members(name)[0]) for name in present.groups}
    for name, person in site.items():
        if person.get("groups") is not None:
            for group, members in groups.items():
                if group not in person["groups"]:
                    members.discard(name)
            for group in person["groups"]:
                groups.setdefault(group, set()).add(name)
    return accounting.People(
        frozenset(names), frozenset(locked & names), {name: frozenset(members) for name, members in groups.items()}
    )


def plan(
    pillar: Mapping[str, Any], paths: Paths, present: Present, *, test: bool, part: str = accounting.ALL
) -> accounting.Plan | str:
    """Return what differs; with ``test``, why that cannot be told where slurmdbd does not answer.

    ``part`` is that of :func:`accounting.plan`.

    Raises:
        NotFound, CommandFailed: as :func:`look` does, without ``test``.
    """
    wanted = accounting.wanted(pillar, people(pillar, present))
    try:
        there = look(pillar)
    except (NotFound, CommandFailed) as error:
        if not test:
            raise
        if (volume(pillar) / "data").is_dir():
            return f"Its data exist, but {error}: its accounts are compared when it runs."
        # What a new slurmdbd has once a controller has registered GPUs.
        there = accounting.Shown(
            resources=accounting.GPU,
            qos={accounting.NORMAL: {"Priority": 0}},
            organizations={accounting.ROOT: accounting.ROOT},
        )
    return accounting.plan(wanted, there, part)


def apply(pillar: Mapping[str, Any], planned: accounting.Plan) -> None:
    """Carry a plan out, command by command.

    Raises:
        CommandFailed: sacctmgr refused a command; those before it are done, and the next run does the rest.
    """
    for command in planned.commands:
        code, output = execute(pillar, command)
        if code:
            raise CommandFailed(f"{' '.join(command)[:200]}: {_last(output)}")


def synchronise(pillar: Mapping[str, Any], paths: Paths, present: Present | None = None) -> dict[str, Any]:
    """Bring slurmdbd up to date with the directory and return the changes.

    Commands that change people between two runs of the states call it, and so do the reconciler's rounds. ``present``
    is what the directory has, where the caller knows. Nothing happens where the site has no accounting.

    Raises:
        VcoreError: the directory or slurmdbd does not answer, or a change was refused.
    """
    if SERVICE not in pillar["services"]:
        return {}
    from ..people import plans

    with exclusive(paths):
        if present is None:
            with client.open_administrator(pillar, paths) as connection:
                present = plans.look(connection, entries.suffix(pillar))
        wanted, there = accounting.wanted(pillar, people(pillar, present)), look(pillar)
        # A controller that has never run has not registered GPUs; everything but GPU limits need not wait for that.
        planned = accounting.plan(
            wanted, there, accounting.ALL if there.resources >= accounting.GPU else accounting.FIRST
        )
        apply(pillar, planned)
    return planned.changes


def exclusive(paths: Paths) -> Any:
    """Return a lock that keeps other commands on this head from changing accounting."""
    paths.state.mkdir(parents=True, exist_ok=True)
    busy = "SLURM's accounts are being changed by another command; try again later"
    return locks.exclusive(paths.state / "accounting.lock", wait=LOCK_TIME, busy=busy)
