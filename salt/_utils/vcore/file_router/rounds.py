"""What a round does for the file router when nodes have joined, changed or left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import FILE_ROUTER

if TYPE_CHECKING:
    from ..nodes.rounds import Owed

#: The function that lets nodes in, for a file router that does not run on the head.
ADMIT_FUNCTION = "vcore_file_router.admit_nodes"


def changed(owed: Owed) -> None:
    """Let nodes mount homes and data, once the swarm's manager has confirmed their addresses."""
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
                raise VcoreError(tr("{node}, which has the file router, does not answer", node=router["node"]))
    except VcoreError as error:
        owed.note(tr("new nodes cannot mount homes and data yet: {error}", error=error))
