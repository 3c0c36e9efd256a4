"""The ``storage:`` section of the site file; what follows from it is in :mod:`vcore.storage.mounting`."""

from __future__ import annotations

from typing import Literal

from ..base.messages import tr
from ..kernel.documents import Problem
from ..kernel.models import DataFolder, Model, field
from ..kernel.sections import Section
from ..kernel.site import Configuration
from .places import folder


class StorageSettings(Model):
    """Where the nodes have people's homes and the shared data from."""

    kind: Literal["nfs", "path"] = field(
        "nfs",
        description="nfs: from the file router; path: from a file system that every node has mounted already.",
        example="path",
    )
    path: DataFolder | None = field(
        None, description="Folder of that file system, with home and data below it.", example="/lustre/core"
    )


STORAGE: Section[StorageSettings] = Section(
    "storage", StorageSettings, description="Where the nodes have homes and shared data from."
)

SECTIONS = (STORAGE,)


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of the section."""
    settings, document, where = STORAGE.of(configuration.site), configuration.document, ("storage", "path")
    there = folder(configuration.site.base_directory)
    if settings.kind == "path" and settings.path is None:
        return [document.problem(where, tr("is required where storage.kind is path"))]
    if settings.kind != "path" and settings.path is not None:
        return [document.problem(where, tr("goes with storage.kind: path"))]
    if settings.path and f"{settings.path}/".startswith(f"{there}/"):
        return [
            document.problem(
                where, tr("the nodes mount the storage at {there}; name the folder where its files lie", there=there)
            )
        ]
    return []
