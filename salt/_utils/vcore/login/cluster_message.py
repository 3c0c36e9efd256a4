"""What the cluster is doing, as a person reads it at login: made from the output of sinfo and squeue.

A program of the login host asks both once for everybody; each login reads what it wrote. Standard library only: this
runs in the image login.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

#: What the commands are to print: node, state and processors (allocated/idle/other/all); owner and state of a job.
NODES = ("sinfo", "--noheader", "--all", "--Node", "--format=%N|%T|%C")
JOBS = ("squeue", "--noheader", "--all", "--format=%u|%T")
#: What states of a node, as sinfo names them (without the signs behind), mean to a person.
WORDS = {
    "idle": "idle",
    "mixed": "in part at work",
    "allocated": "at work",
    "completing": "at work",
    "draining": "drained",
    "drained": "drained",
    "reserved": "reserved",
    "maint": "in maintenance",
}
#: The order in which they are listed; a node in any other state is down.
ORDER = ("idle", "in part at work", "at work", "reserved", "in maintenance", "drained", "down")
RUNNING, WAITING = ("RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING"), ("PENDING", "REQUEUED")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def cluster(text: str) -> str:
    """Return a sentence about the nodes, from the output of sinfo; a node in several partitions counts once."""
    nodes: dict[str, tuple[str, int, int]] = {}
    for line in text.splitlines():
        name, state, processors = line.strip().split("|")
        _, idle, _, total = map(int, processors.split("/"))
        # A star marks a node that does not answer.
        word = "down" if "*" in state else WORDS.get(state.rstrip("~#!%$@+^-").lower(), "down")
        nodes[name] = (word, idle if word in ("idle", "in part at work") else 0, total)
    if not nodes:
        return "The cluster has no nodes yet."
    counts = Counter(word for word, _, _ in nodes.values())
    states = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    free, total = sum(free for _, free, _ in nodes.values()), sum(total for _, _, total in nodes.values())
    return f"The cluster: {_number(len(nodes), 'node')}: {states}. {free} of {_number(total, 'processor')} are free."


def jobs(text: str) -> dict[str, tuple[int, int]]:
    """Return how many jobs of each person run and wait, from the output of squeue; a waiting array counts once."""
    found: dict[str, list[int]] = {}
    for line in text.splitlines():
        name, state = line.strip().split("|")
        if NAME.fullmatch(name) and state in RUNNING + WAITING:
            found.setdefault(name, [0, 0])[int(state in WAITING)] += 1
    return {name: (running, waiting) for name, (running, waiting) in sorted(found.items())}


def everybody(nodes: str, people: Mapping[str, tuple[int, int]]) -> str:
    """Return the lines for everybody."""
    running, waiting = (sum(person[index] for person in people.values()) for index in (0, 1))
    return f"{cluster(nodes)}\n{_jobs(running, waiting).capitalize()}.\n"


def own(people: Mapping[str, tuple[int, int]]) -> str:
    """Return the lines for single people: one for each who has jobs, with the login name before it."""
    return "".join(
        f"{name} Yours: {running} running, {waiting} waiting.\n" for name, (running, waiting) in people.items()
    )


def unknown(since: str) -> str:
    """Return the line that is shown while SLURM does not answer."""
    return f"SLURM's controller has not answered since {since}: nobody knows what the cluster is doing.\n"


def _jobs(running: int, waiting: int) -> str:
    return f"{_number(running, 'job')} running, {waiting} waiting"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
