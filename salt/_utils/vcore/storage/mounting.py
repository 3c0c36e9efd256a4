"""Homes and data on the nodes: where a node has them from, how they are mounted there, and how they are.

Each node that works with people's files has them in the same two folders (:func:`folder`). A marker in each says whose
they are: it tells the real thing from an empty folder, and from the storage of another core. Only where the files lie
can it be written; everywhere else it is read, never waiting longer than :data:`PATIENCE`, since a file system whose
server is gone answers nobody.

Standard library only, since every node imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.paths import Paths
from ..host import mounts
from ..host.mounts import MOUNT_TIME, PROTOCOLS, answers, guard, mount_reason, set_immutable, unit_name, unit_value
from .places import KINDS, MARKER, marker, mountpoint

Changes = dict[str, Any]


#: Seconds that a file system has to answer.
PATIENCE = 10


#: The units that mount what was not there at the boot, or went.
RETRY = "virtual-core-storage"


#: Seconds after which they try again.
RETRY_TIME = 15


@dataclass(frozen=True)
class Root:
    """Homes or data, as this host mounts them."""

    name: str
    kind: str
    source: str
    target: str
    server: str | None
    #: The marker to be written, where this host keeps it.
    marker: str | None
    identifier: str

    @property
    def filesystem(self) -> str:
        """The type of the file system, as mount(8) takes it."""
        return "nfs" if self.kind == "nfs" else "none"

    @property
    def options(self) -> tuple[str, ...]:
        """How it is mounted."""
        if self.kind == "bind":
            # What is mounted below the source, such as routes, is seen here; taking this mount away leaves that alone.
            return ("rbind", "rslave")
        # Whoever writes waits while the server is away, and loses nothing. A home that was just made is seen at once.
        # How often to try again is not mount.nfs's business: see units().
        return ("rw", "hard", "vers=4.2", "proto=tcp", "lookupcache=positive", "nosuid", "nodev", "retry=0", "_netdev")

    @property
    def unit(self) -> str:
        """The name of its mount unit."""
        return f"{unit_name(self.target)}.mount"

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        return {"kind": self.kind, "source": self.source, "target": self.target, "options": ",".join(self.options)}


def wanted(pillar: Mapping[str, Any]) -> dict[str, Root]:
    """What this node mounts, from its resolved pillar."""
    storage, domain = pillar["storage"], pillar["site"]["domain"]
    found = {}
    for name, entry in pillar["node"]["storage"].items():
        target = mountpoint(pillar["base_directory"], name)
        text = marker(storage, domain, name) if entry["keeper"] else None
        found[name] = Root(
            name, entry["kind"], entry["source"], target, entry["server"], text, str(storage["identifier"])
        )
    return found


def mount_command(root: Root) -> list[str]:
    """The command that mounts it where no systemd runs."""
    return ["mount", "-t", root.filesystem, "-o", ",".join(root.options), root.source, root.target]


def mount_unit(root: Root) -> str:
    """The unit of a mount. Nothing requires it, so no boot waits for a server; Docker's containers end before it."""
    return (
        f"[Unit]\nDescription=Virtual Core: storage {root.name}\nBefore=docker.service\n\n"
        f"[Mount]\nWhat={unit_value(root.source)}\nWhere={unit_value(root.target)}\n"
        f"Type={root.filesystem}\nOptions={','.join((*root.options, 'nofail'))}\nTimeoutSec={MOUNT_TIME}\n"
    )


def units(roots: Iterable[Root]) -> dict[str, str]:
    """All units by name: the mounts, and a timer that mounts what is not there, since systemd tries only once."""
    roots = list(roots)
    if not roots:
        return {}
    lines = "".join(f"ExecStart={_attempt(root)}\n" for root in roots)
    title = "Description=Virtual Core: mounts the storage that is not there"
    return {root.unit: mount_unit(root) for root in roots} | {
        f"{RETRY}.service": f"[Unit]\n{title}\n\n[Service]\nType=oneshot\nLogLevelMax=notice\n{lines}",
        f"{RETRY}.timer": (
            f"[Unit]\n{title}\n\n[Timer]\nOnActiveSec=1s\nOnUnitInactiveSec={RETRY_TIME}s\nAccuracySec=1s\n\n"
            "[Install]\nWantedBy=timers.target\n"
        ),
    }


def _attempt(root: Root) -> str:
    """The command of a unit that mounts a root. A folder is not bound before its marker is there: what is empty now
    may be the mountpoint of what comes later.
    """
    # Units have escapes of their own.
    start = f"systemctl start {_quoted(root.unit)}"
    if root.kind == "nfs":
        return f"-{start}"
    path = _quoted(f"{root.source}/{MARKER}")
    script = f'timeout -s KILL {PATIENCE} test -e "$$0" && exec systemctl start "$$1"'
    return f"-/bin/sh -c '{script}' {path} {_quoted(root.unit)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


# --- this host ------------------------------------------------------------------------------------------------------


class Host(mounts.Host):
    """What this host has of the storage."""

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        super().__init__(paths.configuration / "storage", os_family, root)

    def is_mounted(self, root: Root) -> bool:
        """Whether the very thing is mounted there, as far as the kernel knows it without asking a server.

        Raises:
            VcoreError: the folder that is to appear there does not answer.
        """
        there = self.mounts().get(root.target, [])
        if not there:
            return False
        if root.kind == "nfs":
            return there[-1].kind in PROTOCOLS["nfs"].types and there[-1].source == root.source
        code, output = self.run("stat", "-L", "-c", "%d:%i", "--", root.source, root.target, time_limit=PATIENCE)
        if code == 124:
            raise VcoreError(f"{root.source} does not answer")
        lines = output.splitlines()
        return code == 0 and len(lines) == 2 and lines[0] == lines[1]


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
    changes: Changes = {}
    there = host.records()
    if any(root.kind == "nfs" for root in roots.values()):
        if reason := host.kernel_problem("nfs"):
            raise VcoreError(reason)
        if package := host.missing_package("nfs"):
            changes[f"package {package}"] = {"old": None, "new": "installed"}
    for name, root in roots.items():
        if root.marker is not None and (change := _marker_change(root, there.get(name))):
            changes[f"marker of {name}"] = change
        record = root.record()
        old, new = ({}, {}) if there.get(name) == record else (there.get(name, {}), dict(record))
        if not host.is_mounted(root):
            old, new = {**old, "mounted": False}, {**new, "mounted": True}
        if new:
            changes[name] = {"old": old, "new": new}
    for name in sorted(set(there) - set(roots)):
        changes[name] = {"old": there[name], "new": None}
    if not host.has_units(units(roots.values())):
        changes["units"] = {"old": "others or none", "new": "installed"}
    return changes


def _marker_change(root: Root, record: Mapping[str, Any] | None) -> Changes | None:
    """How the marker differs that this host keeps, where the files lie."""
    text = read_marker(root.source)
    if text == root.marker:
        return None
    if text is not None and (wrong := judge(text, place=root.source, identifier=root.identifier, kind=root.name)):
        raise VcoreError(f"{wrong}; move that away, or name another folder")
    if text is None and record and record["source"] == root.source:
        raise VcoreError(
            f"{root.source} had a {MARKER} and has none now: see that its file system is mounted; "
            "if these are the right files, salt-call vcore_storage.mark"
        )
    return {"old": text, "new": root.marker}


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
    for change in changes:
        if change.startswith("package "):
            install(change.removeprefix("package "))
    for name in roots:
        if f"marker of {name}" in changes:
            mark(roots[name])
    host.make_folder()
    records = host.records()
    failed: dict[str, str] = {}
    _stop_trying(host)
    for name in [*roots, *(set(records) - set(roots))]:
        planned = changes.get(name)
        try:
            if planned and name in records and (planned["new"] is None or set(planned["new"]) - {"mounted"}):
                _unmount(records[name], host)
            if planned and planned["new"] is None:
                _remove(name, records[name], host)
            elif planned:
                _write(roots[name], host)
        except (VcoreError, OSError) as error:
            failed[name] = str(error)
    host.write_units(units(roots.values()))
    if host.systemd:
        host.run("systemctl", "daemon-reload")
    ready = [root for name, root in roots.items() if name in changes and name not in failed]
    with ThreadPoolExecutor(max_workers=len(KINDS)) as pool:
        said = zip(ready, pool.map(lambda each: _mount(each, host), ready), strict=True)
        failed |= {root.name: reason for root, reason in said if reason}
    # Also where it failed: it is mounted as soon as it can be.
    if host.systemd and roots:
        host.run("systemctl", "enable", "--now", f"{RETRY}.timer")
    for name, root in roots.items():
        if name not in failed and (wrong := problem(root, host)):
            failed[name] = wrong
    if failed:
        raise VcoreError("\n".join(f"storage {name}: {reason}" for name, reason in failed.items()))
    return f"The storage is there: {', '.join(root.target for root in roots.values())}." if roots else ""


def _stop_trying(host: Host) -> None:
    if host.systemd and (host.units / f"{RETRY}.timer").exists():
        host.run("systemctl", "disable", "--now", f"{RETRY}.timer")
        host.run("systemctl", "stop", f"{RETRY}.service")


def _write(root: Root, host: Host) -> None:
    if not host.kinds(root.target):
        guard(Path(root.target))
    # The record comes first: what it names is found again, and taken away, whatever happens next.
    write_atomic(host.folder / f"{root.name}.json", json.dumps(root.record(), indent=2).encode(), mode=0o600)


def _mount(root: Root, host: Host) -> str | None:
    """Mount it; why it cannot be, in words."""
    if host.is_mounted(root):
        return None
    if there := host.kinds(root.target):
        return f"something else ({there[-1]}) is mounted at {root.target}; unmount it, and apply again"
    if root.kind == "bind":
        try:
            wrong = judge(read_marker(root.source), place=root.source, identifier=root.identifier, kind=root.name)
        except VcoreError as error:
            wrong = str(error)
        if wrong:
            return f"{wrong}; see that its file system is mounted here"
    if host.systemd:
        host.run("systemctl", "reset-failed", root.unit)
        code, output = host.run("systemctl", "start", root.unit)
        if code:
            _, journal = host.run("journalctl", "--unit", root.unit, "--lines", "8", "--output", "cat")
            output = "\n".join(line for line in journal.splitlines() if "mount" in line and "systemd" not in line)
    else:
        code, output = host.run(*mount_command(root))
    if code == 0 and host.is_mounted(root):
        return None
    if root.server and (reason := answers(root.server, PROTOCOLS["nfs"].port)):
        return f"the file router, {root.server}, does not answer ({reason}); it is mounted when it does"
    return f"{root.source} cannot be mounted: {mount_reason(output) or f'exit code {code}'}"


def _unmount(record: Mapping[str, Any], host: Host) -> None:
    target = record["target"]
    if host.systemd:
        host.run("systemctl", "stop", f"{unit_name(target)}.mount")
    while host.kinds(target):
        code, output = host.run("umount", "--recursive", target)
        if code:
            why = "is in use" if "busy" in output else f"cannot be unmounted ({mount_reason(output)})"
            raise VcoreError(f"{target} {why}: fuser -vm {target} says by whom; end that, and apply again")


def _remove(name: str, record: Mapping[str, Any], host: Host) -> None:
    """Take away what was written for a root that is unmounted."""
    target = Path(record["target"])
    for unit in (f"{unit_name(str(target))}.mount", f"{RETRY}.service", f"{RETRY}.timer"):
        (host.units / unit).unlink(missing_ok=True)
    if target.is_dir() and not target.is_symlink():
        set_immutable(target, False)
        with contextlib.suppress(OSError):  # it is not empty: that is somebody's
            target.rmdir()
            target.parent.rmdir()
    (host.folder / f"{name}.json").unlink(missing_ok=True)
