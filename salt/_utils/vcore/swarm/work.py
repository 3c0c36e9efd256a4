"""The work that areas give nodes, such as people's jobs, which has to end before a node changes or leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..base.paths import Paths
from ..kernel import areas


@areas.face("work")
class Work(Protocol):
    """How an area controls its work on nodes. If its service is off, there is no work, and these do nothing."""

    #: The service in whose containers the work runs, and the name for people of the system that hands it out.
    SERVICE: str
    TITLE: str

    def drain(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
        """Keep nodes from taking new work; return those that this stopped and no person had stopped before."""

    def known(self, pillar: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        """Return those of the nodes that can be given work at all."""

    def running(self, pillar: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
        """Return the work that still runs, by node, without nodes on which nothing runs."""

    def started(self, pillar: Mapping[str, Any], name: str) -> int | None:
        """Return when a node last became ready for work, by its own clock (seconds since 1970)."""

    def is_back(self, pillar: Mapping[str, Any], name: str, before: int | None) -> bool:
        """Return whether a node works, and became ready at another time than ``before``."""

    def release(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> None:
        """Let nodes that :meth:`drain` stopped with this reason take work again."""

    def give_up(self, pillar: Mapping[str, Any], names: Sequence[str], reason: str) -> list[str]:
        """Give up the work on nodes that are dead for good; return the nodes that were known."""

    def forget(self, pillar: Mapping[str, Any], paths: Paths) -> bool:
        """Forget nodes that the registry no longer has; return whether that changed anything."""
