"""What a round of the reconciler needs of Salt's master: jobs that nodes are given, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

#: What a node is asked to run: function, arguments, named arguments.
Call = tuple[str, Sequence[Any], Mapping[str, Any]]
#: What each function of a job has returned, by its name.
Answer = Mapping[str, Any]
#: Tells whoever watches what is going on.
Say = Callable[[str], None]

FACTS_FUNCTION = "vcore_node.facts"
#: Seconds that nodes have to give their facts, and that nobody waits longer after somebody's.
FACTS_WAIT, FACTS_GAP = 30.0, 5.0


class Line(Protocol):
    """A connection to nodes that are given jobs: :class:`vcore.nodes.master.Line`."""

    def give(self, jid: str, names: Collection[str], calls: Sequence[Call]) -> None: ...
    def hear(self) -> tuple[str | None, Answer | None]: ...


class Jobs(Protocol):
    """The master: :class:`vcore.nodes.master.Master`."""

    def accepted(self) -> set[str]: ...
    def new_job(self) -> str: ...
    def forget_files(self) -> None: ...
    def listen(self) -> AbstractContextManager[Line]: ...
    def gather(
        self, names: Collection[str], calls: Sequence[Call], *, wait: float, gap: float | None = None
    ) -> dict[str, Answer]: ...
    def returned(self, jid: str) -> dict[str, Answer]: ...
    def busy(self, jid: str, names: Collection[str], *, wait: float, gap: float) -> dict[str, bool]: ...


def ask_facts(
    jobs: Jobs, names: Collection[str], base_directory: str, *, gap: float | None = FACTS_GAP
) -> dict[str, Any]:
    """Ask nodes what they are, and return what those say that answer; nothing of it is believed yet."""
    answers = jobs.gather(names, [(FACTS_FUNCTION, [base_directory], {})], wait=FACTS_WAIT, gap=gap)
    return {name: answer.get(FACTS_FUNCTION) for name, answer in answers.items()}
