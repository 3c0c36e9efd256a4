"""Lists of host names, as SLURM abbreviates them."""

from __future__ import annotations

import hostlist

from ..base.messages import tr
from ..base.names import NODE_NAME

#: How many nodes one hostlist may name.
HOSTLIST_LIMIT = 100_000


def expand(text: str) -> list[str]:
    """Return the names that a hostlist such as ``compute-[1-8,12]`` stands for, in its order.

    Raises:
        ValueError: the text is not a hostlist, has too many names, or has a name that no node can have.
    """
    try:
        names: list[str] = hostlist.expand_hostlist(text, allow_duplicates=False, sort=False)
    except hostlist.BadHostlist as error:
        raise ValueError(tr("has to be a list of nodes such as compute-[1-8,12]: {error}", error=error)) from None
    if len(names) > HOSTLIST_LIMIT:
        raise ValueError(tr("names more than {hostlist_limit} nodes", hostlist_limit=HOSTLIST_LIMIT))
    for name in names:
        if not NODE_NAME.fullmatch(name):
            raise ValueError(
                tr("has to be a list of nodes such as compute-[1-8,12]; a name has a-z, 0-9, -, a letter first")
            )
    return names
