"""The registry of enrolled nodes: what the head granted them, and what it has verified of what they say.

It is one file on the head, readable by root only. The site file names nodes, too, and wins where both do
(:mod:`vcore.nodes.resolve`). A role is in the registry only because a token of the head granted it, never because a
minion said so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.locks import exclusive
from ..base.messages import quoted, tr
from ..base.names import NODE_NAME

Entry = dict[str, Any]

#: Seconds to wait for another process that changes the file.
PATIENCE = 30
#: The keys of an entry, with the values of a node of which nothing is known yet.
#:
#: roles: granted by a token; empty where the site file gives them. enrolled: when its key was accepted, in seconds
#: since 1970. by: token, site (the site file names it) or hand (salt-key). address: IPv4, as swarm's manager sees it.
#: swarm_id: Docker's id of the node, verified on the manager. forgotten: the id of a swarm membership that the node
#: still has and the manager no longer knows, which the node has to leave. hardware: see vcore.nodes.hardware. code:
#: hash of the code that it was given. retiring: whether it is being taken out of the core.
UNKNOWN: Mapping[str, Any] = {
    "roles": [],
    "enrolled": None,
    "by": "site",
    "address": None,
    "swarm_id": None,
    "forgotten": None,
    "hardware": None,
    "code": None,
    "retiring": False,
}


@dataclass(frozen=True)
class Registry:
    """The file of enrolled nodes."""

    path: Path

    def read(self) -> dict[str, Entry]:
        """Return every entry by the node's name, each with all keys of :data:`UNKNOWN`.

        Raises:
            VcoreError: the file is damaged.
        """
        try:
            entries = json.loads(self.path.read_text())
            return {name: {**UNKNOWN, **entry} for name, entry in entries.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            remedy = tr("restore it from a backup, or move it away and enrol the nodes again")
            raise VcoreError(f"{self.path}: damaged ({error}); {remedy}") from None

    def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge ``changes`` into the entries of the nodes that they name, in one write; new names get new entries.

        Raises:
            VcoreError: no node can have such a name, or no entry such a key.
            vcore.base.locks.Busy: another process has been changing the file for ``PATIENCE`` seconds.
        """
        for name, entry in changes.items():
            if not NODE_NAME.fullmatch(name):
                raise VcoreError(tr("{name} is no name for a node (a-z, 0-9, -, a letter first)", name=quoted(name)))
            if unknown := entry.keys() - UNKNOWN.keys():
                raise VcoreError(tr("an entry of a node has no {unknown}", unknown=", ".join(sorted(unknown))))
        self._change(lambda entries: {**entries, **{n: {**entries.get(n, UNKNOWN), **e} for n, e in changes.items()}})

    def remove(self, names: Iterable[str]) -> None:
        """Delete the entries of these nodes.

        Raises:
            vcore.base.locks.Busy: another process has been changing the file for ``PATIENCE`` seconds.
        """
        gone = set(names)
        self._change(lambda entries: {name: entry for name, entry in entries.items() if name not in gone})

    def _change(self, new: Any) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        busy = f"{self.path} is being changed by another process; try again"
        with exclusive(self.path.with_name(f".{self.path.name}.lock"), wait=PATIENCE, busy=busy):
            before = self.read()
            after = new(before)
            if after != before:
                write_atomic(self.path, json.dumps(after, indent=1, sort_keys=True).encode(), mode=0o600)
