"""Memory of people on a login host: who has more than a person may, and which programs of theirs end.

The kernel keeps no such limit where a container may not make control groups: it knows memory of a process, not of a
person. Needs the standard library only: it runs in the image login.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Numbers of people, as vcore.people has them.
FIRST, LAST = 9000, 2_000_000_000


class Process(NamedTuple):
    """A process: its number, its owner's, its name, and the memory that is its alone, in bytes."""

    number: int
    owner: int
    name: str
    memory: int


def excess(processes: Iterable[Process], limit: int) -> list[Process]:
    """The processes to end so that nobody has more than ``limit`` bytes: of each who has, the largest, as few as do."""
    people: dict[int, list[Process]] = {}
    for process in processes:
        if FIRST <= process.owner <= LAST:
            people.setdefault(process.owner, []).append(process)
    chosen = []
    for own in people.values():
        total = sum(process.memory for process in own)
        for process in sorted(own, key=lambda process: process.memory, reverse=True):
            if total <= limit:
                break
            chosen.append(process)
            total -= process.memory
    return chosen


def sentence(process: Process, limit: int) -> str:
    """What its owner is told."""
    name = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in process.name)
    mebibyte = 1 << 20
    return (
        f"{name} ({process.number}) was ended: together your programs had more than the {limit // mebibyte} MiB that a "
        f"person has on the login host. Run it as a job, with --mem: srun --pty --mem=... {name}"
    )
