"""Accounting, carried out: sacctmgr in the container of slurm-accounting, asked and told by the head.

What is to be there and which commands bring it about is :mod:`vcore.slurm.accounting`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import locks
from ..base.errors import CommandFailed, NotFound
from ..base.paths import Paths
from ..directory import client, entries
from ..host import containers
from . import accounting

if TYPE_CHECKING:
    from ..people.plans import Present

SERVICE = accounting.SERVICE
#: Asks several things at once, in the container: a program of Python's would not be started faster than all of them.
ASK = "/usr/lib/virtual-core/ask"
#: Seconds to wait for another change of accounting on this head.
LOCK_TIME = 120.0


def volume(pillar: Mapping[str, Any]) -> Path:
    """Where the rows lie on the node."""
    return Path(pillar["services"][SERVICE]["volumes"]["data"]["source"])


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, str]:
    """Run a command as root in the container of slurm-accounting; its exit code and output.

    Raises:
        NotFound: it does not run on this node.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound(f"{SERVICE} does not run on this node")
    there = containers.running(SERVICE, volume(pillar), f"{SERVICE} does not run; see docker service ps {SERVICE}")
    code, output = containers.execute(there, command, data)
    return code, output.decode(errors="replace")


def look(pillar: Mapping[str, Any]) -> accounting.Shown:
    """What slurmdbd has.

    Raises:
        NotFound: slurm-accounting does not run on this node.
        CommandFailed: it does not answer.
    """
    questions = accounting.questions(accounting.cluster(pillar))
    code, output = execute(pillar, [ASK], json.dumps(questions).encode())
    if code:
        raise CommandFailed(f"slurmdbd does not answer: {_last(output)}")
    return accounting.shown(json.loads(output))


def _last(output: str) -> str:
    return "; ".join(line.strip() for line in output.strip().splitlines()[-3:]) or "without a word"


def people(pillar: Mapping[str, Any], present: Present) -> accounting.People:
    """The directory's people, with those of the site file as this run leaves them there."""
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
    """What differs; or why nothing can be said of it, where this is a plan. ``part`` as of :func:`accounting.plan`.

    Raises:
        NotFound, CommandFailed: as :func:`look` does, when this is no plan.
    """
    wanted = accounting.wanted(pillar, people(pillar, present))
    try:
        there = look(pillar)
    except (NotFound, CommandFailed) as error:
        if not test:
            raise
        if (volume(pillar) / "data").is_dir():
            return f"Its data exist, but {error}: its accounts are compared when it runs."
        # As a new slurmdbd is, and as a controller leaves it that has told it of GPUs.
        there = accounting.Shown(
            resources=accounting.GPU,
            qos={accounting.NORMAL: {"Priority": 0}},
            organizations={accounting.ROOT: accounting.ROOT},
        )
    return accounting.plan(wanted, there, part)


def apply(pillar: Mapping[str, Any], planned: accounting.Plan) -> None:
    """Carry a plan out, command by command.

    Raises:
        CommandFailed: sacctmgr refused one; those before it are done, and the next run makes up for the others.
    """
    for command in planned.commands:
        code, output = execute(pillar, command)
        if code:
            raise CommandFailed(f"{' '.join(command)[:200]}: {_last(output)}")


def synchronise(pillar: Mapping[str, Any], paths: Paths, present: Present | None = None) -> dict[str, Any]:
    """Bring slurmdbd up to date with the directory, whoever changed that; returns what was changed. ``present`` is what
    the directory has, where the caller knows.

    For whoever changes people between two runs of the states, and for the rounds of the reconciler. Nothing happens
    where the site has no accounting.

    Raises:
        VcoreError: directory or slurmdbd do not answer, or something was refused.
    """
    if SERVICE not in pillar["services"]:
        return {}
    from ..people import plans

    with exclusive(paths):
        if present is None:
            with client.open_administrator(pillar, paths) as connection:
                present = plans.look(connection, entries.suffix(pillar))
        wanted, there = accounting.wanted(pillar, people(pillar, present)), look(pillar)
        # A controller that has never run has told of no GPUs: what can be done is not kept waiting.
        planned = accounting.plan(
            wanted, there, accounting.ALL if there.resources >= accounting.GPU else accounting.FIRST
        )
        apply(pillar, planned)
    return planned.changes


def exclusive(paths: Paths) -> Any:
    """Have changes of accounting to oneself on this head."""
    paths.state.mkdir(parents=True, exist_ok=True)
    busy = "SLURM's accounts are being changed by another command; try again later"
    return locks.exclusive(paths.state / "accounting.lock", wait=LOCK_TIME, busy=busy)
