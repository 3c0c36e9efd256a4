"""Routes from other file servers: mounts of this host, what the file router pulls, and how both of them are.

The pulling itself is the container's (images/file-router, routes.py, which decides by :mod:`vcore.file_router.pulls`).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.names import FILE_ROUTER as SERVICE
from ..base.paths import Paths
from ..base.secrets import Store, node_secret
from ..host import mounts as host_mounts
from ..host.mounts import (
    MOUNT_TIME,
    PROTOCOLS,
    answers,
    content,
    guard,
    mount_reason,
    set_immutable,
    unit_name,
    unit_value,
)
from . import container, pulls

Changes = dict[str, Any]

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
    data: str,
    folder: Path,
    uid: int = 0,
    gid: int = 0,
    password: str | None = None,
) -> Mount:
    """How a resolved route is mounted.

    Args:
        data: the folder of the file router's data on this host, without symbolic links.
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
    target = f"{data}/{route['path']}"
    return Mount(name, route["protocol"], route["server"], source, target, tuple(options), credentials)


def mount_command(wanted: Mount) -> list[str]:
    """The command that mounts it, without a secret in it."""
    return ["mount", "-t", wanted.filesystem, "-o", ",".join(wanted.options), wanted.source, wanted.target]


def units(wanted: Mount) -> dict[str, str]:
    """The units by name: the mount, and the automount that makes it when somebody looks, and again after a failure."""
    name = unit_name(wanted.target)

    title = f"Description=Virtual Core: route {wanted.name} from {wanted.server}"
    return {
        f"{name}.mount": (
            f"[Unit]\n{title}\n\n[Mount]\nWhat={unit_value(wanted.source)}\nWhere={unit_value(wanted.target)}\n"
            f"Type={wanted.filesystem}\nOptions={unit_value(','.join(wanted.options))}\nTimeoutSec={MOUNT_TIME}\n"
        ),
        # Before Docker, so that its containers see it; the server itself is not asked at the boot.
        f"{name}.automount": (
            f"[Unit]\n{title}\nBefore=docker.service\n\n[Automount]\nWhere={unit_value(wanted.target)}\n\n"
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
            code, output = container.execute(pillar, ["getent", database, name])
        except VcoreError as error:
            raise Pending(f"who {name} is can be asked when the file router runs ({error})") from None
        fields = output.decode(errors="replace").split("\n")[0].split(":")
        if code or len(fields) < 3 or not fields[2].isdigit():
            kind = "group" if database == "group" else "person"
            raise Pending(f"the directory has no {kind} {name}; add one, or change the route")
        return int(fields[2])

    return lookup


# --- this host ------------------------------------------------------------------------------------------------------


class Host(host_mounts.Host):
    """What this host has of routes; and the commands that change it."""

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        super().__init__(paths.configuration / "routes", os_family, root)

    def is_mounted(self, target: str, protocol: str) -> bool:
        """Whether the server's files are there; an automount that waits is none."""
        return any(kind in PROTOCOLS[protocol].types for kind in self.kinds(target))


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
    found, problems, pending = {}, {}, True
    here = pillar["routes"] if SERVICE in pillar["node"]["services"] else {}
    wanted = {name: route for name, route in here.items() if route["kind"] == "mount"}
    lookup = lookup or directory_lookup(pillar)
    for name, route in wanted.items():
        try:
            if problem := host.kernel_problem(route["protocol"]):
                raise VcoreError(problem)
            more: dict[str, Any] = {}
            if route["protocol"] == "smb":
                more["uid"], more["gid"] = owner_numbers(pillar, route, lookup)
                more["password"] = _password(pillar, paths, name)
            found[name] = mount(name, route, data=data_folder(pillar), folder=host.folder, **more)
        except VcoreError as error:
            problems[name] = str(error)
            pending = pending and isinstance(error, Pending)
    return Plan(difference(found, host, keep=problems), found, problems, pending)


def data_folder(pillar: Mapping[str, Any]) -> str:
    """Where the file router's data lie on the node that it runs on, without symbolic links."""
    return str(Path(pillar["services"][SERVICE]["volumes"]["data"]["source"]).resolve())


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
        if one.credentials is not None and content(host.folder / f"{name}.credentials") != one.credentials:
            old["credentials"], new["credentials"] = "others or none", "installed"
        if not host.has_units(units(one)):
            old["units"], new["units"] = "others or none", "installed"
        if not host.is_mounted(one.target, one.protocol):
            old["mounted"], new["mounted"] = False, True
        if new:
            changes[name] = {"old": old, "new": new}
    for name in sorted(set(there) - set(wanted) - set(keep)):
        changes[name] = {"old": there[name], "new": None}
    return changes


# --- carried out ----------------------------------------------------------------------------------------------------


def apply(planned: Plan, host: Host, install: Callable[[str], None]) -> str:
    """Carry a plan out; what goes wrong with one route does not hold the others up.

    Raises:
        VcoreError: a line for each route that is not mounted, or not taken away.
    """
    for change in planned.changes:
        if change.startswith("package "):
            install(change.removeprefix("package "))
    host.make_folder()
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
    if not set(host.kinds(one.target)) & {"autofs", *PROTOCOLS[one.protocol].types}:
        guard(target)
    # The record comes first: what it names is found again, and taken away, whatever happens next.
    write_atomic(host.folder / f"{one.name}.json", json.dumps(one.record(), indent=2).encode(), mode=0o600)
    if one.credentials is not None:
        write_atomic(host.folder / f"{one.name}.credentials", one.credentials, mode=0o600)
    host.write_units(units(one))


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
        set_immutable(target, False)
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
    mounted = host_mounts.mounted() if here else {}
    data = data_folder(pillar) if here else ""

    def one(name: str) -> dict[str, Any]:
        route = routes[name]
        known = {key: str(route[key]) for key in ("kind", "protocol", "server", "path")}
        if not here:
            return {**known, "ok": None, "state": "unknown", "message": "the file router runs on another node"}
        if route["kind"] == "sync":
            return {**known, **_pull_status(pillar, name, route)}
        return {**known, **_mount_status(route, [entry.kind for entry in mounted.get(f"{data}/{route['path']}", [])])}

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
