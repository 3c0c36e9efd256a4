"""Homes and data on the nodes: the ``storage:`` section of the site file, and where a node has them."""

from __future__ import annotations

from typing import Literal

from .documents import Document, Problem
from .models import AbsolutePath, Model, field

#: What is shared among the nodes; volumes of services name it with ``shared``.
KINDS = ("home", "data")


class StorageSettings(Model):
    """Where the nodes have people's homes and the shared data from."""

    kind: Literal["nfs", "path"] = field(
        "nfs",
        description="nfs: from the file router; path: from a file system that every node has mounted already.",
        example="path",
    )
    path: AbsolutePath | None = field(
        None, description="Folder of that file system, with home and data below it.", example="/lustre/core"
    )


def problems(storage: StorageSettings, document: Document) -> list[Problem]:
    """What is wrong with the section in itself."""
    if storage.kind == "path" and storage.path is None:
        return [document.problem(("storage", "path"), "is required where storage.kind is path")]
    if storage.kind != "path" and storage.path is not None:
        return [document.problem(("storage", "path"), "goes with storage.kind: path")]
    return []


def folder(base_directory: str, shared: str) -> str:
    """Where every node has something that is shared."""
    return f"{base_directory}/storage/{shared}"
