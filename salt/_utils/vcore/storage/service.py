"""Volumes of services that are the shared files of all nodes, or lie among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.names import FILE_ROUTER
from ..kernel.site import Configuration
from . import places
from .settings import STORAGE


def extend(configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Say where shared volumes lie; the states of the storage make these folders, as they know what is mounted."""
    site = configuration.site
    storage = STORAGE.of(site)
    for volume, data in service["volumes"].items():
        if data["shared"]:
            data["source"] = places.folder(site.base_directory, data["shared"])
            data["propagation"] = "rslave"  # it may be mounted later than the container is started
            data["made_elsewhere"] = True
        elif name == FILE_ROUTER and storage.kind == "path" and volume in places.KINDS:
            data["source"] = f"{storage.path}/{volume}"
            data["made_elsewhere"] = True
