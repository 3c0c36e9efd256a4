"""Mounts of a host: what its kernel and packages can, what is mounted where, and mountpoints that take no files.

What routes from other file servers (:mod:`vcore.file_router.routes`) and the core's own storage
(:mod:`vcore.storage.mounting`) have in common. Standard library only, since every node imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..base.errors import VcoreError
from ..base.files import write_atomic


@dataclass(frozen=True)
class Protocol:
    """What a host needs for mounting by a protocol; packages by Salt's grain ``os_family``."""

    filesystem: str
    types: tuple[str, ...]
    module: str
    helper: str
    port: int
    packages: Mapping[str, str]


PROTOCOLS = {
    "smb": Protocol(
        "cifs", ("cifs", "smb3"), "cifs", "mount.cifs", 445, {"Debian": "cifs-utils", "RedHat": "cifs-utils"}
    ),
    "nfs": Protocol("nfs", ("nfs", "nfs4"), "nfs", "mount.nfs", 2049, {"Debian": "nfs-common", "RedHat": "nfs-utils"}),
}

#: Seconds that a server has for answering a mount, and a question whether it is there.
MOUNT_TIME, ANSWER_TIME = 30, 2


def unit_name(path: str) -> str:
    """A path as systemd names its units (systemd.unit(5), "String escaping")."""
    escaped = []
    for index, octet in enumerate(path.strip("/").encode()):
        character = chr(octet)
        if character == "/":
            escaped.append("-")
        elif re.fullmatch(r"[A-Za-z0-9:_]", character) or (character == "." and index):
            escaped.append(character)
        else:
            escaped.append(f"\\x{octet:02x}")
    return "".join(escaped) or "-"


def unit_value(text: str) -> str:
    """A value in a unit, in which systemd has specifiers."""
    return text.replace("%", "%%")


def content(path: Path) -> bytes | None:
    """What a file holds, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class Entry(NamedTuple):
    """What is mounted at a place: the type of the file system, its source, and which folder of it."""

    kind: str
    source: str
    root: str


def mounts_in(mountinfo: str) -> dict[str, list[Entry]]:
    """What is mounted where, from /proc/self/mountinfo (proc(5)), by mountpoint, the topmost last."""

    def plain(text: str) -> str:
        return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)

    found: dict[str, list[Entry]] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        kind, source = fields[fields.index("-") + 1 :][:2]
        found.setdefault(plain(fields[4]), []).append(Entry(kind, plain(source), plain(fields[3])))
    return found


def mounted() -> dict[str, list[Entry]]:
    """What is mounted where on this host, as :func:`mounts_in` says. No file system is asked, so none can hang."""
    return mounts_in(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


class Host:
    """What this host has: units, mounts, packages, a record of each mount below ``folder``; and how commands run."""

    def __init__(self, folder: Path, os_family: str, root: Path = Path("/")) -> None:
        self.folder = folder
        self.os_family = os_family
        self.units = root / "etc/systemd/system"
        self.systemd = (root / "run/systemd/system").is_dir()

    def mounts(self) -> dict[str, list[Entry]]:
        """As :func:`mounted` says."""
        return mounted()

    def kinds(self, target: str) -> list[str]:
        """The types of what is mounted at a place, the topmost last."""
        return [entry.kind for entry in self.mounts().get(target, [])]

    def records(self) -> dict[str, dict[str, Any]]:
        """What was mounted, by name."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError):
                found[path.stem] = json.loads(path.read_text())
        return found

    def make_folder(self) -> None:
        """Make the folder of the records, root's alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def has_units(self, units: Mapping[str, str]) -> bool:
        """Whether systemd has these units, as far as it runs here."""
        return not self.systemd or all(content(self.units / unit) == text.encode() for unit, text in units.items())

    def write_units(self, units: Mapping[str, str]) -> None:
        """Write units, where systemd runs; it has to be told (``systemctl daemon-reload``)."""
        if self.systemd:
            for unit, text in units.items():
                write_atomic(self.units / unit, text.encode(), mode=0o644)

    def missing_package(self, protocol: str) -> str | None:
        """The package that mounting by this protocol lacks here."""
        wanted = PROTOCOLS[protocol]
        search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
        if shutil.which(wanted.helper, path=search):
            return None
        if self.os_family not in wanted.packages:
            raise VcoreError(f"{wanted.helper} is missing, and for {self.os_family} no package with it is known")
        return wanted.packages[self.os_family]

    def kernel_problem(self, protocol: str) -> str | None:
        """Why this kernel cannot mount by this protocol, or None."""
        module, release = PROTOCOLS[protocol].module, os.uname().release
        known = {line.split("\t")[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
        if known & set(PROTOCOLS[protocol].types):
            return None
        for name in ("modules.dep", "modules.builtin"):
            with contextlib.suppress(OSError):
                if re.search(rf"/{module}\.ko", Path("/lib/modules", release, name).read_text()):
                    return None
        return (
            f"this host's kernel {release} has no {module} client; install the kernel package that has it (Ubuntu: "
            f"linux-modules-extra-{release})" + (", or make the route a sync" if protocol == "smb" else "")
        )

    def run(self, *command: str, time_limit: float = MOUNT_TIME + 15) -> tuple[int, str]:
        """Run a command: its exit code and output."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                timeout=time_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, "no answer in time"
        except FileNotFoundError:
            return 127, f"{command[0]} is missing"
        return done.returncode, done.stdout.decode(errors="replace").strip()


def guard(target: Path) -> None:
    """Make the mountpoint a folder into which nothing can be written while the server's files are not over it."""
    for folder in reversed(target.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise VcoreError(f"{target} is no folder; move it away")
    target.mkdir(mode=0o000, exist_ok=True)
    if any(target.iterdir()):
        raise VcoreError(f"{target} has files of its own, which the mount would hide; move them away")
    set_immutable(target, False)
    target.chmod(0o000)
    os.chown(target, 0, 0)
    set_immutable(target, True)


#: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL (ioctl_iflags(2)).
_GET_FLAGS = 2 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 2
_IMMUTABLE = 0x10


def set_immutable(folder: Path, wanted: bool) -> None:
    """Set or clear what chattr(1) calls i: root is kept from writing, too. Not every file system, or host, has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))
            new = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
            if new != flags:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", new))
    finally:
        os.close(descriptor)


def mount_reason(output: str) -> str:
    """The line of a mount command's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|denied|refused|failed|failure|not |no such|timed", line, re.I)
    ]
    return " ".join((telling or lines)[:1])[:300]


def answers(server: str, port: int) -> str | None:
    """Why a server does not take connections, or None where it does."""
    try:
        socket.create_connection((server, port), timeout=ANSWER_TIME).close()
    except OSError as error:
        return str(error.strerror or error)
    return None
