"""Where homes and data are on each node: folders, exports, markers, and who mounts them. Standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict


class RootPart(TypedDict):
    """One kind of shared files: where it lies on its keeper, and where every node has it."""

    source: str
    target: str


class StoragePart(TypedDict):
    """``storage`` of the pillar; see :func:`resolved`."""

    kind: Literal["nfs", "path"]
    path: str | None
    identifier: str
    keeper: str
    address: str | None
    roots: dict[str, RootPart]


def clients(stored: StoragePart, nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the addresses of the nodes that mount the storage from the file router by NFS."""
    return sorted(
        str(node["address"])
        for name, node in nodes.items()
        if node["address"] and any(root["kind"] == "nfs" for root in on_node(stored, name).values())
    )


#: What is shared among the nodes; volumes of services name it with ``shared``.
KINDS = ("home", "data")
#: The file that says whose storage it is, in the folder above everybody's; see :func:`marker`.
MARKER = ".virtual-core-storage"


# --- what follows from the site -------------------------------------------------------------------------------------


def folder(base_directory: str, kind: str | None = None) -> str:
    """Return the folder in which every node has what is shared, or one kind of it."""
    return f"{base_directory}/storage/{kind}" if kind else f"{base_directory}/storage"


def mountpoint(base_directory: str, kind: str) -> str:
    """Return that folder as the kernel lists mounts, without links; do not look at the folder itself: it may hang."""
    return folder(str(Path(base_directory).resolve()), kind)


def export(kind: str) -> str:
    """Return the name of the file router's export for the nodes; no share can have it, since theirs have no dot."""
    return f"core.{kind}"


def identifier(domain: str) -> str:
    """Return what tells this core's storage from another's; it follows from the domain, so that every node knows it."""
    return hashlib.sha256(f"vcore storage {domain.lower()}".encode()).hexdigest()[:32]


def resolved(
    settings: Mapping[str, Any],
    *,
    base_directory: str,
    domain: str,
    head: str,
    router: Mapping[str, Any] | None,
    address: str | None,
) -> StoragePart:
    """Return the section as plain data: ``{kind, path, identifier, keeper, address, roots}``.

    ``keeper`` is the node that writes the markers: that of the file router (``router``, the resolved service), whose
    ``address`` is given, or else the head.
    ``roots`` has ``source`` and ``target`` of each kind; it is empty if the core has no storage, which is by NFS while
    the file router is off.
    """
    keeper = router["node"] if router else head
    roots: dict[str, RootPart] = {}
    for kind in KINDS if router or settings["kind"] == "path" else ():
        lies = router["volumes"][kind]["source"] if router else f"{settings['path']}/{kind}"
        roots[kind] = {"source": lies, "target": folder(base_directory, kind)}
    return {
        "kind": settings["kind"],
        "path": settings["path"],
        "identifier": identifier(domain),
        "keeper": keeper,
        "address": address,
        "roots": roots,
    }


def on_node(storage: StoragePart, name: str) -> dict[str, dict[str, Any]]:
    """Return what a node mounts: ``{kind of files: {kind, source, target, server, keeper}}``.

    ``kind`` is how it is mounted: bind or nfs. ``keeper`` says that this node writes the marker.
    """
    keeper = name == storage["keeper"]
    local = keeper or storage["kind"] == "path"
    return {
        kind: {
            "kind": "bind" if local else "nfs",
            "source": root["source"] if local else f"{storage['address']}:/{export(kind)}",
            "target": root["target"],
            "server": None if local else storage["address"],
            "keeper": keeper,
        }
        for kind, root in storage["roots"].items()
    }


def marker(storage: StoragePart, domain: str, kind: str) -> str:
    """Return the text of a kind's marker; its first line is for programs, such as the health check of compute nodes."""
    return (
        f"virtual-core {storage['identifier']} {kind}\n"
        f"This is the storage of {domain}. Nodes look for this file before they take work: leave it here.\n"
    )
