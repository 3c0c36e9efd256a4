"""The work that areas give nodes, such as people's jobs: what a node has to be rid of before it changes or leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..base.paths import Paths
from ..kernel import areas


@areas.face("work")
class Work(Protocol):
    """What an area does about its work on nodes. Where its service is off, there is none, and nothing is done."""

    #: The service whose containers it runs in, and what people call whoever hands it out.
    SERVICE: str
    TITLE: str

    def drain(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
        """Have nodes take no new work; return those that this stopped, and no person had stopped before."""

    def known(self, pillar: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        """Return the nodes that can have work at all."""

    def running(self, pillar: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
        """Return what still runs on nodes, by node; one on which nothing runs is missing."""

    def started(self, pillar: Mapping[str, Any], name: str) -> int | None:
        """Return when a node last came up to take work, by its own clock (seconds since 1970)."""

    def is_back(self, pillar: Mapping[str, Any], name: str, before: int | None) -> bool:
        """Whether a node is well, and came up at another time than ``before``."""

    def release(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> None:
        """Have nodes take work again that :meth:`drain` stopped with this reason."""

    def give_up(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
        """Give up what runs on nodes that died for good; return those that had a place."""

    def forget(self, pillar: Mapping[str, Any], paths: Paths) -> bool:
        """Forget nodes that the registry no longer has; whether that changed anything."""
