"""Routes from other file servers: mounts of this host, what the file router pulls, and how both of them are.

The pulling itself is the container's (images/file-router, routes.py, which decides by :mod:`vcore.pulls`).
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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import file_router, pulls
from .errors import NotFound, VcoreError
from .files import write_atomic
from .names import FILE_ROUTER as SERVICE
from .paths import Paths
from .secrets import Store, node_secret

Changes = dict[str, Any]


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
#: Name of the file in the file router's configuration that says what to pull.
CONFIGURATION = "routes.json"


class Pending(VcoreError):
    """What cannot be known before the file router runs."""


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """A route of kind mount, as this host mounts it."""

    name: str
    protocol: str
    server: str
    source: str
    target: str
    options: tuple[str, ...]
    credentials: bytes | None = field(default=None, repr=False)

    @property
    def filesystem(self) -> str:
        """The type of the file system, as mount(8) takes it."""
        return PROTOCOLS[self.protocol].filesystem

    def record(self) -> dict[str, Any]:
        """What is kept of it, without secrets."""
        return {
            "protocol": self.protocol,
            "server": self.server,
            "source": self.source,
            "target": self.target,
            "options": ",".join(self.options),
        }


def mount(
    name: str,
    route: Mapping[str, Any],
    *,
    base: str,
    folder: Path,
    uid: int = 0,
    gid: int = 0,
    password: str | None = None,
) -> Mount:
    """How a resolved route is mounted.

    Args:
        base: the base directory, without symbolic links.
        folder: where the credentials lie.
        uid, gid: whom the files of an SMB server belong to here.
        password: of the account on an SMB server.

    Raises:
        VcoreError: the password cannot stand in a file of credentials.
    """
    # A read that fails is an error where it happens. A write that fails after it was taken is lost, so writes wait.
    options = ["ro", "soft"] if route["read_only"] else ["rw", "hard"]
    # Nothing of another server's runs here, or has rights here.
    options += ["nosuid", "nodev", "noexec", "_netdev"]
    credentials = None
    if route["protocol"] == "smb":
        if not password or re.search(r"[\x00\r\n]", password):
            raise VcoreError(f"the secret {SERVICE}/route-{name} is empty or has a line break in it")
        # vers=3 is 3.0 and above (mount.cifs(8)); sign is implied by seal.
        options += ["vers=3", "sec=ntlmssp", "seal" if route["encrypt"] else "sign", "iocharset=utf8"]
        options += [f"uid={uid}", f"gid={gid}", "forceuid", "forcegid", "echo_interval=15"]
        options += ["file_mode=0640", "dir_mode=0750"] if route["read_only"] else ["file_mode=0660", "dir_mode=0770"]
        options.append(f"credentials={folder / f'{name}.credentials'}")
        lines = {"username": route["user"], "password": password, "domain": route["domain"]}
        credentials = "".join(f"{key}={value}\n" for key, value in lines.items() if value).encode()
        source = f"//{route['server']}/{route['source']}"
    else:
        # Without vers, nfs(5) starts at 4.2 and goes down to what the server has.
        options += ["proto=tcp", "timeo=100", "retrans=3"] if route["read_only"] else ["proto=tcp"]
        source = f"{route['server']}:{route['source']}"
    target = f"{base.rstrip('/')}/{SERVICE}/data/{route['path']}"
    return Mount(name, route["protocol"], route["server"], source, target, tuple(options), credentials)


def mount_command(wanted: Mount) -> list[str]:
    """The command that mounts it, without a secret in it."""
    return ["mount", "-t", wanted.filesystem, "-o", ",".join(wanted.options), wanted.source, wanted.target]


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


def units(wanted: Mount) -> dict[str, str]:
    """The units by name: the mount, and the automount that makes it when somebody looks, and again after a failure."""
    name = unit_name(wanted.target)

    def value(text: str) -> str:
        return text.replace("%", "%%")  # specifiers of systemd

    title = f"Description=Virtual Core: route {wanted.name} from {wanted.server}"
    return {
        f"{name}.mount": (
            f"[Unit]\n{title}\n\n[Mount]\nWhat={value(wanted.source)}\nWhere={value(wanted.target)}\n"
            f"Type={wanted.filesystem}\nOptions={value(','.join(wanted.options))}\nTimeoutSec={MOUNT_TIME}\n"
        ),
        # Before Docker, so that its containers see it; the server itself is not asked at the boot.
        f"{name}.automount": (
            f"[Unit]\n{title}\nBefore=docker.service\n\n[Automount]\nWhere={value(wanted.target)}\n\n"
            "[Install]\nWantedBy=multi-user.target\n"
        ),
    }


def configuration(pillar: Mapping[str, Any]) -> bytes:
    """What the file router is to pull: routes.json."""
    keys = ("server", "source", "user", "domain", "path", "owner", "every")
    wanted = {
        name: {
            **{key: route[key] for key in keys},
            "group": route["group"] or pillar["accounts"]["group"],
            "settle": pulls.SETTLE,
        }
        for name, route in pillar["routes"].items()
        if route["kind"] == "sync"
    }
    return json.dumps({"routes": wanted}, indent=2, sort_keys=True).encode() + b"\n"


def owner_numbers(
    pillar: Mapping[str, Any], route: Mapping[str, Any], lookup: Callable[[str, str], int]
) -> tuple[int, int]:
    """The numbers of a route's owner and group; ``lookup(database, name)`` asks the directory for others' than root's
    and everybody's."""
    uid = lookup("passwd", route["owner"]) if route["owner"] else 0
    everybody = pillar["accounts"]["group"]
    group = route["group"] or everybody
    return uid, int(pillar["accounts"]["first_id"]) if group == everybody else lookup("group", group)


def directory_lookup(pillar: Mapping[str, Any]) -> Callable[[str, str], int]:
    """Ask for the number of a person or a group as the file router knows it, on whichever node it runs.

    The host itself may know nobody of the directory, or somebody else by the same name.
    """

    def lookup(database: str, name: str) -> int:
        try:
            code, output = file_router.execute(pillar, ["getent", database, name])
        except VcoreError as error:
            raise Pending(f"who {name} is can be asked when the file router runs ({error})") from None
        fields = output.decode(errors="replace").split("\n")[0].split(":")
        if code or len(fields) < 3 or not fields[2].isdigit():
            kind = "group" if database == "group" else "person"
            raise Pending(f"the directory has no {kind} {name}; add one, or change the route")
        return int(fields[2])

    return lookup


# --- this host ------------------------------------------------------------------------------------------------------


def mounts_in(mountinfo: str) -> dict[str, list[str]]:
    """What is mounted where, from /proc/self/mountinfo (proc(5)): file system types by mountpoint, the topmost last."""
    found: dict[str, list[str]] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        target = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        found.setdefault(target, []).append(fields[fields.index("-") + 1])
    return found


class Host:
    """What this host has: units, mounts, packages; and the commands that change them."""

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        self.folder = paths.configuration / "routes"
        self.os_family = os_family
        self.units = root / "etc/systemd/system"
        self.systemd = (root / "run/systemd/system").is_dir()

    def mounts(self) -> dict[str, list[str]]:
        """As :func:`mounts_in` says."""
        return mounts_in(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))

    def is_mounted(self, target: str, protocol: str) -> bool:
        """Whether the server's files are there; an automount that waits is none."""
        return any(kind in PROTOCOLS[protocol].types for kind in self.mounts().get(target, []))

    def records(self) -> dict[str, dict[str, Any]]:
        """The routes that were mounted, by name."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(ValueError):
                found[path.stem] = json.loads(path.read_text())
        return found

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


@dataclass
class Plan:
    """What differs, and what stands in the way of a route, in words."""

    changes: Changes
    mounts: dict[str, Mount]
    problems: dict[str, str]
    #: Whether nothing but a file router that does not run yet stands in the way.
    pending: bool


def plan(
    pillar: Mapping[str, Any],
    paths: Paths,
    host: Host,
    lookup: Callable[[str, str], int] | None = None,
) -> Plan:
    """The mounts that this node is to have, and how what it has differs from that.

    A route that cannot be mounted (no password, an unknown owner) is a problem and no change; the others are not held
    up by it.
    """
    mounts, problems, pending = {}, {}, True
    here = pillar["routes"] if SERVICE in pillar["node"]["services"] else {}
    wanted = {name: route for name, route in here.items() if route["kind"] == "mount"}
    base = str(Path(pillar["base_directory"]).resolve())
    lookup = lookup or directory_lookup(pillar)
    for name, route in wanted.items():
        try:
            if problem := host.kernel_problem(route["protocol"]):
                raise VcoreError(problem)
            more: dict[str, Any] = {}
            if route["protocol"] == "smb":
                more["uid"], more["gid"] = owner_numbers(pillar, route, lookup)
                more["password"] = _password(pillar, paths, name)
            mounts[name] = mount(name, route, base=base, folder=host.folder, **more)
        except VcoreError as error:
            problems[name] = str(error)
            pending = pending and isinstance(error, Pending)
    return Plan(difference(mounts, host, keep=problems), mounts, problems, pending)


def _password(pillar: Mapping[str, Any], paths: Paths, name: str) -> str:
    secret = f"route-{name}"
    try:
        return node_secret(pillar, Store(paths.secrets), SERVICE, secret)
    except NotFound:
        raise VcoreError(
            f"its password has to be supplied: salt-call vcore_secret.set {SERVICE}/{secret} on the head, and apply"
        ) from None


def difference(wanted: Mapping[str, Mount], host: Host, *, keep: Iterable[str] = ()) -> Changes:
    """How this host differs from the mounts that it is to have: ``{package or route: {old, new}}``.

    ``keep`` names routes that stay as they are. Passwords are not in it.
    """
    changes: Changes = {}
    for protocol in sorted({one.protocol for one in wanted.values()}):
        if package := host.missing_package(protocol):
            changes[f"package {package}"] = {"old": None, "new": "installed"}
    there = host.records()
    for name, one in wanted.items():
        old, new = {}, {}
        if there.get(name) != one.record():
            old, new = there.get(name, {}), one.record()
        if one.credentials is not None and _content(host.folder / f"{name}.credentials") != one.credentials:
            old["credentials"], new["credentials"] = "others or none", "installed"
        if host.systemd and any(_content(host.units / unit) != text.encode() for unit, text in units(one).items()):
            old["units"], new["units"] = "others or none", "installed"
        if not host.is_mounted(one.target, one.protocol):
            old["mounted"], new["mounted"] = False, True
        if new:
            changes[name] = {"old": old, "new": new}
    for name in sorted(set(there) - set(wanted) - set(keep)):
        changes[name] = {"old": there[name], "new": None}
    return changes


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


# --- carried out ----------------------------------------------------------------------------------------------------


def apply(planned: Plan, host: Host, install: Callable[[str], None]) -> str:
    """Carry a plan out; what goes wrong with one route does not hold the others up.

    Raises:
        VcoreError: a line for each route that is not mounted, or not taken away.
    """
    for change in planned.changes:
        if change.startswith("package "):
            install(change.removeprefix("package "))
    host.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    host.folder.chmod(0o700)
    failed = dict(planned.problems)
    done = []
    ready = []
    there = host.records()
    for name, change in planned.changes.items():
        if name.startswith("package "):
            continue
        try:
            if change["new"] is None or set(change["new"]) - {"mounted"}:
                if name in there:
                    _unmount(there[name], host)
                if change["new"] is None:
                    _remove(name, there[name], host)
                    done.append(f"{name} was taken away")
                    continue
            _write(planned.mounts[name], host)
            ready.append(planned.mounts[name])
        except (VcoreError, OSError) as error:
            failed[name] = str(error)
    if host.systemd:
        host.run("systemctl", "daemon-reload")
    # Side by side: servers that are down cost the time of one.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for one, problem in zip(ready, pool.map(lambda each: _mount(each, host), ready), strict=True):
            if problem:
                failed[one.name] = problem
            else:
                done.append(f"{one.name} was mounted")
    if failed:
        raise VcoreError("\n".join(problem_lines(failed)))
    return f"{'; '.join(done)}." if done else ""


def problem_lines(problems: Mapping[str, str]) -> list[str]:
    """A line for each route that something stands in the way of."""
    return [f"route {name}: {problem}" for name, problem in problems.items()]


def _write(one: Mount, host: Host) -> None:
    target = Path(one.target)
    if not set(host.mounts().get(one.target, [])) & {"autofs", *PROTOCOLS[one.protocol].types}:
        _guard(target)
    # The record comes first: what it names is found again, and taken away, whatever happens next.
    write_atomic(host.folder / f"{one.name}.json", json.dumps(one.record(), indent=2).encode(), mode=0o600)
    if one.credentials is not None:
        write_atomic(host.folder / f"{one.name}.credentials", one.credentials, mode=0o600)
    if host.systemd:
        for unit, text in units(one).items():
            write_atomic(host.units / unit, text.encode(), mode=0o644)


def _guard(target: Path) -> None:
    """Make the mountpoint a folder into which nothing can be written while the server's files are not over it."""
    for folder in reversed(target.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise VcoreError(f"{target} is no folder; move it away")
    target.mkdir(mode=0o000, exist_ok=True)
    if any(target.iterdir()):
        raise VcoreError(f"{target} has files of its own, which the mount would hide; move them away")
    _set_immutable(target, False)
    target.chmod(0o000)
    os.chown(target, 0, 0)
    _set_immutable(target, True)


#: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL (ioctl_iflags(2)).
_GET_FLAGS = 2 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | ctypes.sizeof(ctypes.c_long) << 16 | ord("f") << 8 | 2
_IMMUTABLE = 0x10


def _set_immutable(folder: Path, wanted: bool) -> None:
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


def _mount(one: Mount, host: Host) -> str | None:
    """Mount it; why it cannot be, in words."""
    if host.is_mounted(one.target, one.protocol):
        return None
    port = PROTOCOLS[one.protocol].port
    if host.systemd:
        name = unit_name(one.target)
        code, output = host.run("systemctl", "enable", "--now", f"{name}.automount")
        if code:
            return f"systemctl refuses its automount: {output.splitlines()[-1] if output else code}"
        code, output = host.run("systemctl", "start", f"{name}.mount")
        if code:
            _, journal = host.run("journalctl", "--unit", f"{name}.mount", "--lines", "8", "--output", "cat")
            output = "\n".join(line for line in journal.splitlines() if "mount" in line and "systemd" not in line)
        remedy = "It is mounted when it answers and somebody looks there"
    else:
        code, output = host.run(*mount_command(one))
        remedy = "Apply again when it answers"
    if code == 0 and host.is_mounted(one.target, one.protocol):
        return None
    if problem := answers(one.server, port):
        return f"{one.server} does not answer on port {port} ({problem}). {remedy}"
    reason = mount_reason(output) or f"exit code {code}"
    return f"{one.source} cannot be mounted: {reason}; see the account, its password and what {one.server} allows"


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


def _unmount(record: Mapping[str, Any], host: Host) -> None:
    target = record["target"]
    busy = VcoreError(f"{target} is in use (fuser -vm {target} says by whom); end that, and apply again")
    if host.systemd:
        name = unit_name(target)
        host.run("systemctl", "stop", f"{name}.mount")
        if host.is_mounted(target, record["protocol"]):
            raise busy
        host.run("systemctl", "disable", "--now", f"{name}.automount")
    while host.is_mounted(target, record["protocol"]):
        code, output = host.run("umount", target)
        if code:
            raise busy if "busy" in output else VcoreError(f"{target} cannot be unmounted: {mount_reason(output)}")


def _remove(name: str, record: Mapping[str, Any], host: Host) -> None:
    """Take away what was written for a route that is unmounted."""
    target = Path(record["target"])
    for unit in (f"{unit_name(str(target))}.mount", f"{unit_name(str(target))}.automount"):
        (host.units / unit).unlink(missing_ok=True)
    if target.is_dir() and not target.is_symlink():
        _set_immutable(target, False)
        with contextlib.suppress(OSError):  # it is not empty: that is somebody's
            target.rmdir()
    for path in (host.folder / f"{name}.credentials", host.folder / f"{name}.json"):
        path.unlink(missing_ok=True)


# --- how they are ---------------------------------------------------------------------------------------------------


def state_folder(pillar: Mapping[str, Any]) -> Path:
    """Where the file router keeps the records of its pulls, on the node that it runs on."""
    return Path(pillar["services"][SERVICE]["volumes"]["state"]["source"]) / "routes"


def status(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How each route is: ``{name: {kind, server, path, ok, state, message, ...}}``.

    Pulls also say ``started``, ``ended`` (seconds since 1970), ``files`` and ``bytes`` (``done``, ``todo``),
    ``current``, ``skipped``, ``waiting`` and ``encrypted``. ``ok`` is None where the file router runs on another node,
    which cannot be looked at from here. It touches no mount: one whose server is gone would hang.
    """
    routes = pillar.get("routes") or {}
    here = SERVICE in pillar["node"]["services"]
    mounted = mounts_in(Path("/proc/self/mountinfo").read_text(errors="surrogateescape")) if here else {}
    base = str(Path(pillar["base_directory"]).resolve())

    def one(name: str) -> dict[str, Any]:
        route = routes[name]
        known = {key: str(route[key]) for key in ("kind", "protocol", "server", "path")}
        if not here:
            return {**known, "ok": None, "state": "unknown", "message": "the file router runs on another node"}
        if route["kind"] == "sync":
            return {**known, **_pull_status(pillar, name, route)}
        return {**known, **_mount_status(route, mounted.get(f"{base}/{SERVICE}/data/{route['path']}", []))}

    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(routes, pool.map(one, routes), strict=True))


def _pull_status(pillar: Mapping[str, Any], name: str, route: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = pulls.read_record((state_folder(pillar) / f"{name}.json").read_text())
    except OSError:
        record = None
    good = pulls.is_good(route, record, time.time())
    found = {"ok": good, "state": record["result"] if record else "never", "message": pulls.sentence(record, good)}
    shown = ("started", "ended", "last_good", "files", "bytes", "current", "waiting", "skipped", "encrypted")
    return {**found, **({key: record[key] for key in shown} if record else {})}


def _mount_status(route: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    protocol = PROTOCOLS[route["protocol"]]
    state = "mounted" if set(kinds) & set(protocol.types) else "mounted when used" if kinds else "not mounted"
    if problem := answers(route["server"], protocol.port):
        message = f"{route['server']} does not answer on port {protocol.port} ({problem})"
        return {"ok": False, "state": state, "message": message}
    good = state != "not mounted"
    return {"ok": good, "state": state, "message": "" if good else "apply the states, which say why it is not mounted"}


def problems(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of :func:`status` is not well, a sentence each."""
    return [f"route {name}: {entry['message']}" for name, entry in facts.items() if entry["ok"] is False]


def ask_for_pull(pillar: Mapping[str, Any], name: str) -> None:
    """Have the file router pull a route now, also one whose login was refused too often.

    Raises:
        VcoreError: there is no such route to pull, or the file router does not run on this node.
    """
    routes = {key for key, route in (pillar.get("routes") or {}).items() if route["kind"] == "sync"}
    if SERVICE not in pillar["node"]["services"]:
        raise VcoreError("the file router does not run on this node; ask on the one that it runs on")
    if name not in routes:
        raise VcoreError(f"there is no route {name} of kind sync; there are: {', '.join(sorted(routes)) or 'none'}")
    folder = state_folder(pillar)
    if not folder.is_dir():
        raise VcoreError("the file router has not started yet; see docker service ps file-router")
    write_atomic(folder / f"{name}.pull", b"", mode=0o600)
