"""Homes and data on the nodes: where a node has them from, how they are mounted there, and how they are.

Each node that works with people's files has them in the same two folders (:func:`folder`). A marker in each says whose
they are: it tells the real thing from an empty folder, and from the storage of another core. Only where the files lie
can it be written; everywhere else it is read, never waiting longer than :data:`PATIENCE`, since a file system whose
server is gone answers nobody.

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
from ..base.paths import Paths
from ..host import mounts
from ..host.mounts import Changes, unit_argument, unit_name
from .places import KINDS, MARKER, marker, mountpoint

#: Seconds that a file system has to answer.
PATIENCE = 10


#: The units that mount what was not there at the boot, or went.
RETRY = "virtual-core-storage"


#: Seconds after which they try again.
RETRY_TIME = 15


@dataclass(frozen=True, kw_only=True)
class Root(mounts.Mount):
    """Homes or data, as this host mounts them."""

    #: The marker to be written, where this host keeps it.
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
        """Return what is kept of it."""
        return {"kind": self.kind, "source": self.source, "target": self.target, "options": ",".join(self.options)}

    def is_covered(self, kinds: Sequence[str]) -> bool:
        """Whether anything is mounted there; what is not the storage is an obstacle."""
        return bool(kinds)

    def is_mounted(self, host: mounts.Host) -> bool:
        """Whether the very thing is mounted there, as far as the kernel knows it without asking a server.

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
            raise VcoreError(f"{self.source} does not answer")
        lines = output.splitlines()
        return code == 0 and len(lines) == 2 and lines[0] == lines[1]

    def beforehand(self, record: Mapping[str, Any] | None) -> Changes:
        """Return how the marker differs that this host keeps, where the files lie.

        Raises:
            VcoreError: a folder that had the marker has none, or it has another core's.
        """
        if self.marker is None or (text := read_marker(self.source)) == self.marker:
            return {}
        if text is not None and (wrong := judge(text, place=self.source, identifier=self.identifier, kind=self.name)):
            raise VcoreError(f"{wrong}; move that away, or name another folder")
        if text is None and record and record["source"] == self.source:
            raise VcoreError(
                f"{self.source} had a {MARKER} and has none now: see that its file system is mounted; "
                "if these are the right files, salt-call vcore_storage.mark"
            )
        return {f"marker of {self.name}": {"old": text, "new": self.marker}}

    def obstacle(self, host: mounts.Host) -> str | None:
        """Say what is in its place, or what is wrong with the folder that is to appear there; None where nothing is."""
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
        """Say that the file router does not answer, and when it will be mounted."""
        return f"the file router, {self.server}, does not answer ({reason}); it is mounted when it does"


def _options(kind: str) -> tuple[str, ...]:
    """Return how a kind of root is mounted."""
    if kind == "bind":
        # What is mounted below the source, such as routes, is seen here; taking this mount away leaves that alone.
        return ("rbind", "rslave")
    # Whoever writes waits while the server is away, and loses nothing. A home that was just made is seen at once.
    # How often to try again is not mount.nfs's business: see units().
    return ("rw", "hard", "vers=4.2", "proto=tcp", "lookupcache=positive", "nosuid", "nodev", "retry=0", "_netdev")


def wanted(pillar: Mapping[str, Any]) -> dict[str, Root]:
    """What this node mounts, from its resolved pillar."""
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
    """The unit of a mount. Nothing requires it, so no boot waits for a server; Docker's containers end before it."""
    about = f"Description=Virtual Core: storage {root.name}\nBefore=docker.service"
    return mounts.mount_unit(root, about, options=["nofail"])


def units(roots: Iterable[Root]) -> dict[str, str]:
    """All units by name: the mounts, and a timer that mounts what is not there, since systemd tries only once."""
    roots = list(roots)
    if not roots:
        return {}
    title = "Description=Virtual Core: mounts the storage that is not there"
    timer = mounts.timer_units(RETRY, title, [_attempt(root) for root in roots], RETRY_TIME)
    return {root.unit: mount_unit(root) for root in roots} | timer


def _attempt(root: Root) -> str:
    """The command of a unit that mounts a root. A folder is not bound before its marker is there: what is empty now
    may be the mountpoint of what comes later.
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
    """What this host has of the storage."""

    timer = RETRY
    recursive = True

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        super().__init__(paths.configuration / "storage", os_family, root)

    def folders(self, target: Path) -> tuple[Path, ...]:
        """Return the mountpoint, and the folder of all of them."""
        return (target, target.parent)


def read_marker(place: str) -> str | None:
    """The marker in a folder, None where there is none.

    Raises:
        VcoreError: the file system does not answer.
    """
    command = ["head", "-c", "4096", "--", f"{place}/{MARKER}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()  # and it is not waited for: the kernel may keep it
        raise VcoreError(f"{place} does not answer") from None
    return output.decode(errors="replace") if process.returncode == 0 else None


def judge(text: str | None, *, place: str, identifier: str, kind: str) -> str | None:
    """What is wrong with a marker, in words, or None."""
    if text is None:
        return f"{place} has no {MARKER}: it is empty, or nothing of this core's"
    fields = (text.splitlines() or [""])[0].split()
    if fields == ["virtual-core", identifier, kind]:
        return None
    if fields[:1] == ["virtual-core"] and fields[1:2] == [identifier]:
        return f"{place} is the core's {' '.join(fields[2:])}, not its {kind}"
    return f"{place} is the storage of another core: see {place}/{MARKER}"


def problem(root: Root, host: mounts.Host) -> str | None:
    """Why this host cannot work with a root, in words, or None."""
    if not host.mounts().get(root.target):
        return f"{root.target} is not mounted"
    try:
        text = read_marker(root.target)
    except VcoreError as error:
        return str(error)
    return judge(text, place=root.target, identifier=root.identifier, kind=root.name)


def problem_lines(roots: Mapping[str, Root], host: mounts.Host) -> list[str]:
    """A line for each root that this host cannot work with; all are asked at once, since each may take its time."""
    with ThreadPoolExecutor(max_workers=len(KINDS)) as pool:
        found = zip(roots, pool.map(lambda root: problem(root, host), roots.values()), strict=True)
        return [f"storage {name}: {wrong}" for name, wrong in found if wrong]


# --- plan and apply -------------------------------------------------------------------------------------------------


def difference(roots: Mapping[str, Root], host: Host) -> Changes:
    """How this host differs from what it is to have: ``{package, marker, root or units: {old, new}}``.

    Raises:
        VcoreError: its kernel cannot; or a folder that had the marker has none, or another core's.
    """
    if any(root.kind == "nfs" for root in roots.values()) and (reason := host.kernel_problem("nfs")):
        raise VcoreError(reason)
    return mounts.difference(roots, host, units=units(roots.values()))


def mark(root: Root) -> None:
    """Write the marker, where the files lie; the folder is made where the one above it is there.

    Raises:
        VcoreError: there is no such place; or people could take the marker away.
    """
    place = Path(root.source)
    if not place.parent.is_dir():
        raise VcoreError(f"there is no {place.parent}: see that the file system is mounted that storage.path names")
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o755)
    status = place.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise VcoreError(
            f"{place} is not root's alone (owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}): whoever writes "
            "there could take everything away; make it root's, mode 0755"
        )
    assert root.marker is not None
    write_atomic(place / MARKER, root.marker.encode(), mode=0o444)


def mark_all(pillar: Mapping[str, Any]) -> list[str]:
    """Write the markers that are this node's to write; the folders that have one now.

    Raises:
        VcoreError: none are.
    """
    roots = [root for root in wanted(pillar).values() if root.marker is not None]
    if not roots:
        raise VcoreError("the storage does not lie on this node; ask the one of the file router, or the head")
    for root in roots:
        mark(root)
    return [root.source for root in roots]


def apply(roots: Mapping[str, Root], changes: Changes, host: Host, install: Callable[[str], None]) -> str:
    """Carry the changes out; what was done, in words.

    Raises:
        VcoreError: a line for each root that is not there.
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
