"""Memory of people on a login host: who has more than a person may have, and which of their programs to end.

The kernel cannot enforce such a limit where a container may not make control groups: it limits the memory of a process,
not of a person. Standard library only: this runs in the image login.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: User ids of people, the same as in vcore.people.
FIRST, LAST = 9000, 2_000_000_000


class Process(NamedTuple):
    """A process: its id, its owner's user id, its name, and its resident memory, shared parts excepted, in bytes."""

    number: int
    owner: int
    name: str
    memory: int


def excess(processes: Iterable[Process], limit: int) -> list[Process]:
    """Return the processes to end so that nobody has more than ``limit`` bytes: as few as possible, largest first."""
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
    """Return what the owner of a process that was ended is told."""
    name = "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in process.name)
    mebibyte = 1 << 20
    return (
        f"{name} ({process.number}) was ended: together your programs had more than the {limit // mebibyte} MiB that a "
        f"person has on the login host. Run it as a job, with --mem: srun --pty --mem=... {name}"
    )
