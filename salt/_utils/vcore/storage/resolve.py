"""The storage of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.names import FILE_ROUTER
from ..kernel.site import Configuration
from . import places
from .settings import STORAGE

KEYS = ("storage", "storage_clients")


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``storage``, and ``storage_clients``: the addresses of the nodes that mount it by NFS."""
    site, nodes = configuration.site, parts["nodes"]
    router = parts["services"].get(FILE_ROUTER)
    stored = places.resolved(
        STORAGE.of(site).model_dump(mode="json"),
        base_directory=site.base_directory,
        domain=site.site.domain,
        router=router,
        head=configuration.head,
        address=nodes[router["node"]]["address"] if router else None,
    )
    return {"storage": stored, "storage_clients": places.clients(stored, nodes)}
