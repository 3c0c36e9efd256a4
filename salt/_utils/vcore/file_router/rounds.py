"""What the file router is owed when nodes have joined, changed or left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import VcoreError
from ..base.names import FILE_ROUTER

if TYPE_CHECKING:
    from ..nodes.rounds import Owed

#: What lets nodes in where the file router runs on another node than the head.
ADMIT_FUNCTION = "vcore_file_router.admit_nodes"


def changed(owed: Owed) -> None:
    """Let nodes in to homes and data, once the swarm's manager has said where they are."""
    pillar = owed.pillar
    router = pillar["services"].get(FILE_ROUTER)
    if router is None or not pillar["storage_clients"]:
        return
    try:
        with owed.step("storage"):
            if router["node"] == pillar["node"]["name"]:
                from . import configuration

                configuration.admit(pillar, owed.paths)
            elif not owed.ask([router["node"]], (ADMIT_FUNCTION, [], {})):
                raise VcoreError(f"{router['node']}, which has the file router, does not answer")
    except VcoreError as error:
        owed.note(f"new nodes are not let in to homes and data: {error}")
