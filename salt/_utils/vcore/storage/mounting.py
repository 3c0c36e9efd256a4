"""Homes and data on the nodes: where a node has them from, how they are mounted, and what is wrong with them.

Each node that works with people's files has them in the same two folders (:func:`vcore.storage.places.folder`). A
marker in each says whose they are: it tells the core's files from an empty folder, and from another core's storage. It
is written only where the files lie, and read everywhere else, which never takes longer than :data:`PATIENCE`, since a
file system whose server is gone may never answer.

Standard library only, since every node imports it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.paths import Paths
from ..host import mounts
from ..host.mounts import Changes, unit_argument, unit_name
from .places import KINDS, MARKER, marker, mountpoint

#: Seconds that a file system has to answer.
PATIENCE = 10


#: The name of the units that mount what was missing at boot, or got lost later.
RETRY = "virtual-core-storage"


#: Seconds after which these try again.
RETRY_TIME = 15


@dataclass(frozen=True, kw_only=True)
class Root(mounts.Mount):
    """Homes or data, as this host mounts them."""

    #: The text of the marker, if this host has to write it; else None.
    marker: str | None
    identifier: str

    @property
    def kind(self) -> str:
        """How it is mounted: bind or nfs."""
        return self.protocol or "bind"

    @property
    def unit(self) -> str:
        """The name of its mount unit."""
        return f"{unit_name(self.target)}.mount"

    def record(self) -> dict[str, Any]:
        """Return the record to keep of it."""
        return {"kind": self.kind, "source": self.source, "target": self.target, "options": ",".join(self.options)}

    def is_covered(self, kinds: Sequence[str]) -> bool:
        """Return whether anything is mounted there; anything but the storage is an :meth:`obstacle`."""
        return bool(kinds)

    def is_mounted(self, host: mounts.Host) -> bool:
        """Return whether this very root is mounted there, as far as the kernel knows without asking a server.

        Raises:
            VcoreError: the folder that is to appear there does not answer.
        """
        there = host.mounts().get(self.target, [])
        if not there:
            return False
        if self.kind == "nfs":
            return there[-1].kind in self.types and there[-1].source == self.source
        code, output = host.run("stat", "-L", "-c", "%d:%i", "--", self.source, self.target, time_limit=PATIENCE)
        if code == 124:
            raise VcoreError(tr("{source} does not answer", source=self.source))
        lines = output.splitlines()
        return code == 0 and len(lines) == 2 and lines[0] == lines[1]

    def beforehand(self, record: Mapping[str, Any] | None) -> Changes:
        """Return how the marker differs, if this host has to write it.

        Raises:
            VcoreError: a folder that had the marker has none now, or has another core's.
        """
        if self.marker is None or (text := read_marker(self.source)) == self.marker:
            return {}
        if text is not None and (wrong := judge(text, place=self.source, identifier=self.identifier, kind=self.name)):
            raise VcoreError(tr("{wrong}; move that away, or name another folder", wrong=wrong))
        if text is None and record and record["source"] == self.source:
            raise VcoreError(
                tr(
                    "{source} had a {marker} and has none now: see that its file system is mounted; if these "
                    "are the right files, run salt-call vcore_storage.mark",
                    source=self.source,
                    marker=MARKER,
                )
            )
        return {f"marker of {self.name}": {"old": text, "new": self.marker}}

    def obstacle(self, host: mounts.Host) -> str | None:
        """Return what is mounted in its place, or what is wrong with the folder that is to appear there; or None."""
        if there := host.kinds(self.target):
            return f"something else ({there[-1]}) is mounted at {self.target}; unmount it, and apply again"
        if self.kind == "bind":
            try:
                wrong = judge(read_marker(self.source), place=self.source, identifier=self.identifier, kind=self.name)
            except VcoreError as error:
                wrong = str(error)
            if wrong:
                return f"{wrong}; see that its file system is mounted here"
        return None

    def no_answer(self, reason: str, port: int, host: mounts.Host) -> str:
        """Return the message that the file router does not answer, and when it will be mounted."""
        return f"the file router, {self.server}, does not answer ({reason}); it is mounted when it does"


def _options(kind: str) -> tuple[str, ...]:
    """Return the options with which a kind of mount is mounted."""
    if kind == "bind":
        # What is mounted below the source, such as routes, is seen here; unmounting this leaves those mounts alone.
        return ("rbind", "rslave")
    # hard: whoever writes waits while the server is away, and loses nothing. lookupcache: a home that was just made is
    # seen at once. retry: mount.nfs tries once, and a timer tries again, see units().
    return ("rw", "hard", "vers=4.2", "proto=tcp", "lookupcache=positive", "nosuid", "nodev", "retry=0", "_netdev")


def wanted(pillar: Mapping[str, Any]) -> dict[str, Root]:
    """Return what this node mounts, by kind, from its resolved pillar."""
    storage, domain = pillar["storage"], pillar["site"]["domain"]
    found = {}
    for name, entry in pillar["node"]["storage"].items():
        target = mountpoint(pillar["base_directory"], name)
        text = marker(storage, domain, name) if entry["keeper"] else None
        found[name] = Root(
            name=name,
            protocol=None if entry["kind"] == "bind" else entry["kind"],
            server=entry["server"],
            source=entry["source"],
            target=target,
            options=_options(entry["kind"]),
            marker=text,
            identifier=str(storage["identifier"]),
        )
    return found


def mount_unit(root: Root) -> str:
    """Return the unit of a mount.

    Nothing requires it, so no boot waits for a server; Docker's containers end before it does.
    """
    about = f"Description=Virtual Core: storage {root.name}\nBefore=docker.service"
    return mounts.mount_unit(root, about, options=["nofail"])


def units(roots: Iterable[Root]) -> dict[str, str]:
    """Return all units by name: the mounts, and a timer that mounts what is missing, since systemd tries only once."""
    roots = list(roots)
    if not roots:
        return {}
    title = "Description=Virtual Core: mounts the storage that is not there"
    timer = mounts.timer_units(RETRY, title, [_attempt(root) for root in roots], RETRY_TIME)
    return {root.unit: mount_unit(root) for root in roots} | timer


def _attempt(root: Root) -> str:
    """Return the command of a unit that mounts a root.

    A folder is not bound before its marker is there: if it is empty, its own file system may not be mounted yet.
    """
    # Units have escapes of their own.
    start = f"systemctl start {unit_argument(root.unit)}"
    if root.kind == "nfs":
        return f"-{start}"
    path = unit_argument(f"{root.source}/{MARKER}")
    script = f'timeout -s KILL {PATIENCE} test -e "$$0" && exec systemctl start "$$1"'
    return f"-/bin/sh -c '{script}' {path} {unit_argument(root.unit)}"


# --- this host ------------------------------------------------------------------------------------------------------


class Host(mounts.Host):
    """A host, as far as the storage is concerned."""

    timer = RETRY
    recursive = True

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        super().__init__(paths.configuration / "storage", os_family, root)

    def folders(self, target: Path) -> tuple[Path, ...]:
        """Return the mountpoint, and the folder of all mountpoints."""
        return (target, target.parent)


def read_marker(place: str) -> str | None:
    """Return the marker in a folder, None if there is none.

    Raises:
        VcoreError: the file system does not answer.
    """
    command = ["head", "-c", "4096", "--", f"{place}/{MARKER}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()  # without waiting for its end, which the kernel may delay
        raise VcoreError(tr("{place} does not answer", place=place)) from None
    return output.decode(errors="replace") if process.returncode == 0 else None


def judge(text: str | None, *, place: str, identifier: str, kind: str) -> str | None:
    """Return what is wrong with a marker, in words, or None."""
    if text is None:
        return f"{place} has no {MARKER}: it is empty, or does not belong to this core"
    fields = (text.splitlines() or [""])[0].split()
    if fields == ["virtual-core", identifier, kind]:
        return None
    if fields[:1] == ["virtual-core"] and fields[1:2] == [identifier]:
        return f"{place} is the core's {' '.join(fields[2:])}, not its {kind}"
    return f"{place} is the storage of another core: see {place}/{MARKER}"


def problem(root: Root, host: mounts.Host) -> str | None:
    """Return why this host cannot work with a root, in words, or None."""
    if not host.mounts().get(root.target):
        return tr("{target} is not mounted", target=root.target)
    try:
        text = read_marker(root.target)
    except VcoreError as error:
        return str(error)
    return judge(text, place=root.target, identifier=root.identifier, kind=root.name)


def problem_lines(roots: Mapping[str, Root], host: mounts.Host) -> list[str]:
    """Return a line for each root that this host cannot work with; ask all at once, since each may take long."""
    with ThreadPoolExecutor(max_workers=len(KINDS)) as pool:
        found = zip(roots, pool.map(lambda root: problem(root, host), roots.values()), strict=True)
        return [tr("storage {name}: {wrong}", name=name, wrong=wrong) for name, wrong in found if wrong]


# --- plan and apply -------------------------------------------------------------------------------------------------


def difference(roots: Mapping[str, Root], host: Host) -> Changes:
    """Return how this host differs from what it is to have: ``{package, marker, root or units: {old, new}}``.

    Raises:
        VcoreError: its kernel cannot mount by NFS; or a folder that had the marker has none now, or another core's.
    """
    if any(root.kind == "nfs" for root in roots.values()) and (reason := host.kernel_problem("nfs")):
        raise VcoreError(reason)
    return mounts.difference(roots, host, units=units(roots.values()))


def mark(root: Root) -> None:
    """Write the marker of a root where its files lie; make the folder if the one above it exists.

    Raises:
        VcoreError: the folder above does not exist; or others than root could remove the marker.
    """
    place = Path(root.source)
    if not place.parent.is_dir():
        raise VcoreError(
            tr(
                "{parent} does not exist: see that the file system that storage.path names is mounted",
                parent=place.parent,
            )
        )
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o755)
    status = place.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise VcoreError(
            tr(
                "{place} is not root's alone (owner {st_uid}, mode {st_mode:04o}): whoever writes there "
                "could remove everything; make root its owner, with mode 0755",
                place=place,
                st_uid=status.st_uid,
                st_mode=status.st_mode & 4095,
            )
        )
    assert root.marker is not None
    write_atomic(place / MARKER, root.marker.encode(), mode=0o444)


def mark_all(pillar: Mapping[str, Any]) -> list[str]:
    """Write the markers that this node has to write; return the folders that have one now.

    Raises:
        VcoreError: the storage does not lie on this node.
    """
    roots = [root for root in wanted(pillar).values() if root.marker is not None]
    if not roots:
        raise VcoreError(
            tr("the storage does not lie on this node; run this on the file router's node, or on the head")
        )
    for root in roots:
        mark(root)
    return [root.source for root in roots]


def apply(roots: Mapping[str, Root], changes: Changes, host: Host, install: Callable[[str], None]) -> str:
    """Carry the changes out; return what was done, in words.

    Raises:
        VcoreError: a root is not there; the message has a line for each.
    """
    mounts.install_packages(changes, install)
    for name in roots:
        if f"marker of {name}" in changes:
            mark(roots[name])
    failed = mounts.carry_out(roots, changes, host, units=units(roots.values())).failed
    for name, root in roots.items():
        if name not in failed and (wrong := problem(root, host)):
            failed[name] = wrong
    if failed:
        raise VcoreError("\n".join(f"storage {name}: {reason}" for name, reason in failed.items()))
    return f"The storage is there: {', '.join(root.target for root in roots.values())}." if roots else ""
