"""Mounts of a host: what is wanted, how the host differs from it, mounting, and unmounting what is no longer wanted.

An area says what it mounts (:class:`Mount`) and what is particular about its part of a host (:class:`Host`).
:func:`difference` compares the two, :func:`carry_out` changes the host. Each mount has a record in the area's folder,
by which it is found again when it is no longer wanted.

Where systemd runs, mounts are systemd units, and what cannot be mounted now is mounted later: on the next access (if
each mount has an automount), or by a timer that tries again (one for all mounts). Elsewhere mount(8) mounts them.

Standard library only, since every node imports it.
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import tr

Changes = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """What a host needs to mount by a protocol; ``packages`` by Salt's grain ``os_family``."""

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

#: Seconds that a server has to answer a mount, and to accept a connection that tests whether it answers.
MOUNT_TIME, ANSWER_TIME = 30, 2

#: For hosts on which each mount has units of its own.
NO_UNITS: Mapping[str, str] = MappingProxyType({})

#: What stands before the name of a package in changes.
_PACKAGE = "package "

# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mount(ABC):
    """A mount that a host is to have; each area has a subclass for what is particular about its mounts."""

    #: The name of its record and of its credentials.
    name: str
    #: How it is mounted, and from whom; both are None if a folder of this host is mounted at another place.
    protocol: str | None
    server: str | None
    source: str
    target: str
    options: tuple[str, ...]
    #: The content of its credentials file, None if it needs none.
    credentials: bytes | None = field(default=None, repr=False)

    @property
    def filesystem(self) -> str:
        """The type of the file system, as mount(8) takes it."""
        return PROTOCOLS[self.protocol].filesystem if self.protocol else "none"

    @property
    def types(self) -> tuple[str, ...]:
        """The types of the file system, as the kernel lists them."""
        return PROTOCOLS[self.protocol].types if self.protocol else ()

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the record to keep of it: at least ``target``, and no secrets."""

    def units(self) -> dict[str, str]:
        """Return its own units by name; none if the units of all mounts are written together."""
        return {}

    def is_covered(self, kinds: Sequence[str]) -> bool:
        """Return whether what is mounted at its mountpoint (these types) may be there, so that guarding it is wrong."""
        return bool({"autofs", *self.types} & set(kinds))

    def is_mounted(self, host: Host) -> bool:
        """Return whether the server's files are mounted; an automount that waits does not count."""
        return bool(set(self.types) & set(host.kinds(self.target)))

    def beforehand(self, record: Mapping[str, Any] | None) -> Changes:
        """Return what has to be changed before it is mounted; ``record`` is the one that was kept of it.

        Raises:
            VcoreError: it must not be mounted.
        """
        return {}

    def obstacle(self, host: Host) -> str | None:
        """Return why it must not be mounted now, or None."""
        return None

    @abstractmethod
    def no_answer(self, reason: str, port: int, host: Host) -> str:
        """Return the message that its server does not answer on a port, and when it will be mounted."""

    def refused(self, reason: str) -> str:
        """Return the message that it was not mounted, and why."""
        return f"{self.source} cannot be mounted: {reason}"


def mount_command(one: Mount) -> list[str]:
    """Return the command that mounts it where systemd does not run; it holds no secret."""
    return ["mount", "-t", one.filesystem, "-o", ",".join(one.options), one.source, one.target]


def credentials_file(folder: Path, name: str) -> Path:
    """Return where the credentials of a mount lie, beside its record."""
    return folder / f"{name}.credentials"


# --- units of systemd -----------------------------------------------------------------------------------------------


def unit_name(path: str) -> str:
    """Return a path as systemd names its units (systemd.unit(5), "String escaping")."""
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
    """Return a value as a unit has to hold it: ``%`` begins one of systemd's specifiers."""
    return text.replace("%", "%%")


def unit_argument(text: str) -> str:
    """Return an argument of a command in a unit, quoted."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def mount_unit(one: Mount, about: str, options: Iterable[str] = ()) -> str:
    """Return the unit of a mount; ``about`` holds the lines of its section Unit, ``options`` are for systemd itself."""
    return (
        f"[Unit]\n{about}\n\n[Mount]\nWhat={unit_value(one.source)}\nWhere={unit_value(one.target)}\n"
        f"Type={one.filesystem}\nOptions={unit_value(','.join((*one.options, *options)))}\nTimeoutSec={MOUNT_TIME}\n"
    )


def automount_unit(one: Mount, about: str) -> str:
    """Return the unit that mounts on access, also after an earlier failure."""
    return f"[Unit]\n{about}\n\n[Automount]\nWhere={unit_value(one.target)}\n\n[Install]\nWantedBy=multi-user.target\n"


def timer_units(timer: str, about: str, commands: Iterable[str], seconds: int) -> dict[str, str]:
    """Return the units, by name, that run commands at once and again ``seconds`` after they have ended."""
    lines = "".join(f"ExecStart={command}\n" for command in commands)
    return {
        f"{timer}.service": f"[Unit]\n{about}\n\n[Service]\nType=oneshot\nLogLevelMax=notice\n{lines}",
        f"{timer}.timer": (
            f"[Unit]\n{about}\n\n[Timer]\nOnActiveSec=1s\nOnUnitInactiveSec={seconds}s\nAccuracySec=1s\n\n"
            "[Install]\nWantedBy=timers.target\n"
        ),
    }


# --- this host ------------------------------------------------------------------------------------------------------


def content(path: Path) -> bytes | None:
    """Return the content of a file, None if there is none."""
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
    """Return what is mounted where, from /proc/self/mountinfo (proc(5)), by mountpoint, the topmost last."""

    def plain(text: str) -> str:
        return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)

    found: dict[str, list[Entry]] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        kind, source = fields[fields.index("-") + 1 :][:2]
        found.setdefault(plain(fields[4]), []).append(Entry(kind, plain(source), plain(fields[3])))
    return found


def mounted() -> dict[str, list[Entry]]:
    """Return what is mounted on this host, as :func:`mounts_in` does; no file system is asked, so none can hang it."""
    return mounts_in(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


class Host:
    """What this host has: units, mounts, packages, a record of each mount below ``folder``; and how commands run.

    Each area has a subclass for what is particular about its mounts, including those that are no longer wanted.
    """

    #: The timer that mounts what is missing; None if each mount has an automount instead.
    timer: str | None = None
    #: Whether there are other mounts below its mounts, which are unmounted with them.
    recursive = False

    def __init__(self, folder: Path, os_family: str, root: Path = Path("/")) -> None:
        self.folder = folder
        self.os_family = os_family
        self.units = root / "etc/systemd/system"
        self.systemd = (root / "run/systemd/system").is_dir()

    def mounts(self) -> dict[str, list[Entry]]:
        """Return what :func:`mounted` does."""
        return mounted()

    def kinds(self, target: str) -> list[str]:
        """Return the types of the file systems that are mounted at ``target``, the topmost last."""
        return [entry.kind for entry in self.mounts().get(target, [])]

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the records of what was mounted, by name; those that cannot be read are left out."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError):
                found[path.stem] = json.loads(path.read_text())
        return found

    def unit_names(self, target: str) -> tuple[str, ...]:
        """Return the names of the units that are removed with a mount; those that others need are written again."""
        name = unit_name(target)
        later = (f"{self.timer}.service", f"{self.timer}.timer") if self.timer else (f"{name}.automount",)
        return (f"{name}.mount", *later)

    def folders(self, target: Path) -> tuple[Path, ...]:
        """Return the folders that are removed with a mount if they are empty, the innermost first."""
        return (target,)

    def remains(self, record: Mapping[str, Any]) -> bool:
        """Return whether a mount that was recorded is still there."""
        return bool(self.kinds(record["target"]))

    def not_unmounted(self, target: str, reason: str | None) -> str:
        """Return the message that a mount stays: it is in use, or for the given reason."""
        why = tr("is in use") if reason is None else tr("cannot be unmounted ({reason})", reason=reason)
        return f"{target} {why}: fuser -vm {target} says by whom; end that, and apply again"

    def make_folder(self) -> None:
        """Make the folder of the records, for root only."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def has_units(self, units: Mapping[str, str]) -> bool:
        """Return whether systemd has exactly these units; True where systemd does not run."""
        return not self.systemd or all(content(self.units / unit) == text.encode() for unit, text in units.items())

    def write_units(self, units: Mapping[str, str]) -> None:
        """Write units where systemd runs; the caller has to run ``systemctl daemon-reload``."""
        if self.systemd:
            for unit, text in units.items():
                write_atomic(self.units / unit, text.encode(), mode=0o644)

    def missing_package(self, protocol: str) -> str | None:
        """Return the package that has to be installed to mount by this protocol, or None.

        Raises:
            VcoreError: no such package is known for this distribution.
        """
        wanted = PROTOCOLS[protocol]
        search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
        if shutil.which(wanted.helper, path=search):
            return None
        if self.os_family not in wanted.packages:
            raise VcoreError(
                tr(
                    "{helper} is missing, and for {os_family} no package with it is known",
                    helper=wanted.helper,
                    os_family=self.os_family,
                )
            )
        return wanted.packages[self.os_family]

    def kernel_problem(self, protocol: str) -> str | None:
        """Return why this kernel cannot mount by this protocol, or None."""
        module, release = PROTOCOLS[protocol].module, os.uname().release
        known = {line.split("\t")[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
        if known & set(PROTOCOLS[protocol].types):
            return None
        for name in ("modules.dep", "modules.builtin"):
            with contextlib.suppress(OSError):
                if re.search(rf"/{module}\.ko", Path("/lib/modules", release, name).read_text()):
                    return None
        return tr(
            "this host's kernel {release} has no {module} client; install the kernel package that "
            "has it (Ubuntu: linux-modules-extra-{release})",
            release=release,
            module=module,
        )

    def run(self, *command: str, time_limit: float = MOUNT_TIME + 15) -> tuple[int, str]:
        """Run a command; return its exit code (124 after ``time_limit`` seconds, 127 if it is missing) and output."""
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
    """Make the mountpoint a folder that nothing can be written into while nothing is mounted over it.

    Raises:
        VcoreError: something else is in its place, or it is not empty.
    """
    for folder in reversed(target.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise VcoreError(tr("{target} is not a folder; move it away", target=target))
    target.mkdir(mode=0o000, exist_ok=True)
    if any(target.iterdir()):
        raise VcoreError(tr("{target} has files of its own, which the mount would hide; move them away", target=target))
    set_immutable(target, False)
    target.chmod(0o000)
    os.chown(target, 0, 0)
    set_immutable(target, True)


#: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL (ioctl_iflags(2)).
_GET_FLAGS = 2 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 2
_IMMUTABLE = 0x10


def set_immutable(folder: Path, wanted: bool) -> None:
    """Set or clear the immutable flag, ``i`` of chattr(1), which stops root, too; do nothing if it is not supported."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))
            new = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
            if new != flags:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", new))
    finally:
        os.close(descriptor)


# --- how it differs -------------------------------------------------------------------------------------------------


def difference(
    wanted: Mapping[str, Mount], host: Host, *, units: Mapping[str, str] = NO_UNITS, keep: Iterable[str] = ()
) -> Changes:
    """Compare a host with the mounts that it is to have: ``{package, mount or units: {old, new}}``.

    Args:
        units: those that all mounts share.
        keep: names of mounts that stay as they are.

    The result says that credentials differ, and does not hold them.

    Raises:
        VcoreError: no package is known for a protocol; or a mount must not be mounted.
    """
    changes: Changes = {}
    for protocol in sorted({one.protocol for one in wanted.values() if one.protocol}):
        if package := host.missing_package(protocol):
            changes[f"{_PACKAGE}{package}"] = {"old": None, "new": "installed"}
    there = host.records()
    for name, one in wanted.items():
        changes |= one.beforehand(there.get(name))
        old, new = {}, {}
        if there.get(name) != one.record():
            old, new = there.get(name, {}), one.record()
        if one.credentials is not None and content(credentials_file(host.folder, name)) != one.credentials:
            old["credentials"], new["credentials"] = "others or none", "installed"
        if not host.has_units(one.units()):
            old["units"], new["units"] = "others or none", "installed"
        if not one.is_mounted(host):
            old["mounted"], new["mounted"] = False, True
        if new:
            changes[name] = {"old": old, "new": new}
    for name in sorted(set(there) - set(wanted) - set(keep)):
        changes[name] = {"old": there[name], "new": None}
    if not host.has_units(units):
        changes["units"] = {"old": "others or none", "new": "installed"}
    return changes


# --- carried out ----------------------------------------------------------------------------------------------------


def install_packages(changes: Changes, install: Callable[[str], None]) -> None:
    """Install the packages that changes name."""
    for change in changes:
        if change.startswith(_PACKAGE):
            install(change.removeprefix(_PACKAGE))


@dataclass
class Outcome:
    """The names of what was mounted and of what was removed; by name, why the others failed."""

    mounted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def carry_out(
    wanted: Mapping[str, Mount], changes: Changes, host: Host, *, units: Mapping[str, str] = NO_UNITS
) -> Outcome:
    """Carry out what :func:`difference` found; a failure of one mount does not stop the others.

    Args:
        units: those that all mounts share.
    """
    outcome = Outcome()
    host.make_folder()
    there = host.records()
    ready = []
    _stop_timer(host)
    for name in [name for name in changes if name in wanted or name in there]:
        new = changes[name]["new"]
        try:
            if name in there and (new is None or set(new) - {"mounted"}):
                _unmount(there[name], host)
            if new is None:
                _remove(name, there[name], host)
                outcome.removed.append(name)
            else:
                _write(wanted[name], host)
                ready.append(wanted[name])
        except (VcoreError, OSError) as error:
            outcome.failed[name] = str(error)
    host.write_units(units)
    if host.systemd:
        host.run("systemctl", "daemon-reload")
    # In parallel: all servers that are down cost the time of one.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for one, problem in zip(ready, pool.map(lambda each: _mount(each, host), ready), strict=True):
            if problem:
                outcome.failed[one.name] = problem
            else:
                outcome.mounted.append(one.name)
    # Even after failures: the timer mounts the rest as soon as it can be mounted.
    if host.systemd and host.timer and wanted:
        host.run("systemctl", "enable", "--now", f"{host.timer}.timer")
    return outcome


def _stop_timer(host: Host) -> None:
    """Stop the timer, so that it does not mount again what is about to be unmounted."""
    if host.systemd and host.timer and (host.units / f"{host.timer}.timer").exists():
        host.run("systemctl", "disable", "--now", f"{host.timer}.timer")
        host.run("systemctl", "stop", f"{host.timer}.service")


def _write(one: Mount, host: Host) -> None:
    """Write what belongs to a mount, and guard its mountpoint."""
    if not one.is_covered(host.kinds(one.target)):
        guard(Path(one.target))
    # The record comes first: whatever happens next, what it names can be found again and removed.
    write_atomic(host.folder / f"{one.name}.json", json.dumps(one.record(), indent=2).encode(), mode=0o600)
    if one.credentials is not None:
        write_atomic(credentials_file(host.folder, one.name), one.credentials, mode=0o600)
    host.write_units(one.units())


def _mount(one: Mount, host: Host) -> str | None:
    """Mount it; return why it could not be mounted, or None."""
    if one.is_mounted(host):
        return None
    if reason := one.obstacle(host):
        return reason
    if host.systemd:
        name = unit_name(one.target)
        if host.timer:
            host.run("systemctl", "reset-failed", f"{name}.mount")
        else:
            code, output = host.run("systemctl", "enable", "--now", f"{name}.automount")
            if code:
                return f"systemctl refuses its automount: {output.splitlines()[-1] if output else code}"
        code, output = host.run("systemctl", "start", f"{name}.mount")
        if code:
            _, journal = host.run("journalctl", "--unit", f"{name}.mount", "--lines", "8", "--output", "cat")
            output = "\n".join(line for line in journal.splitlines() if "mount" in line and "systemd" not in line)
    else:
        code, output = host.run(*mount_command(one))
    if code == 0 and one.is_mounted(host):
        return None
    if one.server and one.protocol:
        port = PROTOCOLS[one.protocol].port
        if reason := answers(one.server, port):
            return one.no_answer(reason, port, host)
    return one.refused(mount_reason(output) or f"exit code {code}")


def _unmount(record: Mapping[str, Any], host: Host) -> None:
    """Unmount what a record names."""
    target = record["target"]
    if host.systemd:
        name = unit_name(target)
        host.run("systemctl", "stop", f"{name}.mount")
        if not host.timer:
            if host.remains(record):
                raise VcoreError(host.not_unmounted(target, None))
            host.run("systemctl", "disable", "--now", f"{name}.automount")
    command = ["umount", *(["--recursive"] if host.recursive else []), target]
    while host.remains(record):
        code, output = host.run(*command)
        if code:
            raise VcoreError(host.not_unmounted(target, None if "busy" in output else mount_reason(output)))


def _remove(name: str, record: Mapping[str, Any], host: Host) -> None:
    """Remove what was written for a mount that is unmounted by now."""
    target = Path(record["target"])
    for unit in host.unit_names(str(target)):
        (host.units / unit).unlink(missing_ok=True)
    if target.is_dir() and not target.is_symlink():
        set_immutable(target, False)
        with contextlib.suppress(OSError):  # not empty: somebody's files
            for folder in host.folders(target):
                folder.rmdir()
    for path in (credentials_file(host.folder, name), host.folder / f"{name}.json"):
        path.unlink(missing_ok=True)


def mount_reason(output: str) -> str:
    """Return the line of a mount command's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|denied|refused|failed|failure|not |no such|timed", line, re.I)
    ]
    return " ".join((telling or lines)[:1])[:300]


def answers(server: str, port: int) -> str | None:
    """Return why a server does not accept connections, None if it does."""
    try:
        socket.create_connection((server, port), timeout=ANSWER_TIME).close()
    except OSError as error:
        return str(error.strerror or error)
    return None
