"""Routes from other file servers: mount them on this host, configure the file router's pulls, and report on both.

The container does the pulling (images/file-router, routes.py, with the decisions of :mod:`vcore.file_router.pulls`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.names import FILE_ROUTER as SERVICE
from ..base.paths import Paths
from ..base.secrets import Store, node_secret
from ..host import mounts
from ..host.mounts import PROTOCOLS, Changes, answers, unit_name
from . import container, pulls

#: The file in the folder of the file router's configuration that says what to pull.
CONFIGURATION = "routes.json"


class Pending(VcoreError):
    """Something cannot be looked up before the file router runs."""


# --- what is wanted -------------------------------------------------------------------------------------------------


class Mount(mounts.Mount):
    """A route of kind mount, as this host mounts it."""

    def record(self) -> dict[str, Any]:
        """Return what the host remembers of the mount, without secrets."""
        return {
            "protocol": self.protocol,
            "server": self.server,
            "source": self.source,
            "target": self.target,
            "options": ",".join(self.options),
        }

    def units(self) -> dict[str, str]:
        """Return the systemd units by name: the mount, and the automount that triggers it when somebody looks there."""
        name, title = unit_name(self.target), f"Description=Virtual Core: route {self.name} from {self.server}"
        return {
            f"{name}.mount": mounts.mount_unit(self, title),
            # Before Docker, so that containers see it; booting does not wait for the server, which is asked later.
            f"{name}.automount": mounts.automount_unit(self, f"{title}\nBefore=docker.service"),
        }

    def no_answer(self, reason: str, port: int, host: mounts.Host) -> str:
        """Return the message that its server does not answer, and when it will be mounted."""
        later = "It will be mounted when the server answers and somebody looks there"
        remedy = later if host.systemd else tr("Apply again when it answers")
        return f"{self.server} does not answer on port {port} ({reason}). {remedy}"

    def refused(self, reason: str) -> str:
        """Return the message that it was not mounted, why, and what to check."""
        return f"{super().refused(reason)}; check the account, its password and what {self.server} allows"


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
    """Return how a resolved route is mounted.

    Args:
        data: the folder of the file router's data on this host, without symbolic links.
        folder: the folder of the credential files.
        uid, gid: the numbers of the owner and group that an SMB server's files get here.
        password: the password of the account on an SMB server.

    Raises:
        VcoreError: the password is empty or has a line break in it, which a credential file cannot hold.
    """
    # A program notices a read that fails. A write that fails after it was accepted is lost, so writes wait forever.
    options = ["ro", "soft"] if route["read_only"] else ["rw", "hard"]
    # Programs and devices on the other server must not work here.
    options += ["nosuid", "nodev", "noexec", "_netdev"]
    credentials = None
    if route["protocol"] == "smb":
        if not password or re.search(r"[\x00\r\n]", password):
            raise VcoreError(
                tr("the secret {service}/route-{name} is empty or has a line break in it", service=SERVICE, name=name)
            )
        # vers=3 means 3.0 and above (mount.cifs(8)); seal implies sign.
        options += ["vers=3", "sec=ntlmssp", "seal" if route["encrypt"] else "sign", "iocharset=utf8"]
        options += [f"uid={uid}", f"gid={gid}", "forceuid", "forcegid", "echo_interval=15"]
        options += ["file_mode=0640", "dir_mode=0750"] if route["read_only"] else ["file_mode=0660", "dir_mode=0770"]
        options.append(f"credentials={mounts.credentials_file(folder, name)}")
        lines = {"username": route["user"], "password": password, "domain": route["domain"]}
        credentials = "".join(f"{key}={value}\n" for key, value in lines.items() if value).encode()
        source = f"//{route['server']}/{route['source']}"
    else:
        # Without vers, nfs(5) tries 4.2 first, then what the server supports.
        options += ["proto=tcp", "timeo=100", "retrans=3"] if route["read_only"] else ["proto=tcp"]
        source = f"{route['server']}:{route['source']}"
    target = f"{data}/{route['path']}"
    return Mount(
        name=name, protocol=route["protocol"], server=route["server"], source=source, target=target,
        options=tuple(options), credentials=credentials,
    )  # fmt: skip


def configuration(pillar: Mapping[str, Any]) -> bytes:
    """Return routes.json, which tells the file router what to pull."""
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
    """Return the numbers of a route's owner and group.

    ``lookup(database, name)`` is asked for all but root and everybody's group, whose numbers are known.
    """
    uid = lookup("passwd", route["owner"]) if route["owner"] else 0
    everybody = pillar["accounts"]["group"]
    group = route["group"] or everybody
    return uid, int(pillar["accounts"]["first_id"]) if group == everybody else lookup("group", group)


def directory_lookup(pillar: Mapping[str, Any]) -> Callable[[str, str], int]:
    """Return a function that asks the file router's container for the number of a person or group.

    The host itself may not know people of the directory, or know somebody else by the same name. The function raises
    :class:`Pending` where the file router does not run here, or the directory does not have the name.
    """

    def lookup(database: str, name: str) -> int:
        try:
            code, output = container.execute(pillar, ["getent", database, name])
        except VcoreError as error:
            raise Pending(
                tr("{name} can be looked up only when the file router runs ({error})", name=name, error=error)
            ) from None
        fields = output.decode(errors="replace").split("\n")[0].split(":")
        if code or len(fields) < 3 or not fields[2].isdigit():
            kind = "group" if database == "group" else "person"
            raise Pending(tr("the directory has no {kind} {name}; add one, or change the route", kind=kind, name=name))
        return int(fields[2])

    return lookup


# --- this host ------------------------------------------------------------------------------------------------------


class Host(mounts.Host):
    """The routes that this host has, and the commands that change them."""

    def __init__(self, paths: Paths, os_family: str, root: Path = Path("/")) -> None:
        super().__init__(paths.configuration / "routes", os_family, root)

    def kernel_problem(self, protocol: str) -> str | None:
        """Return why this kernel cannot mount by a protocol, or None if it can."""
        problem = super().kernel_problem(protocol)
        return tr("{problem}, or make the route a sync", problem=problem) if problem and protocol == "smb" else problem

    def remains(self, record: Mapping[str, Any]) -> bool:
        """Return whether the server's files are still mounted; an automount that waits does not count."""
        return bool(set(PROTOCOLS[record["protocol"]].types) & set(self.kinds(record["target"])))

    def not_unmounted(self, target: str, reason: str | None) -> str:
        """Return the message that a route stays mounted, because it is in use or for another reason."""
        if reason is None:
            return f"{target} is in use; end what fuser -vm {target} lists, and apply again"
        return f"{target} cannot be unmounted: {reason}"


@dataclass
class Plan:
    """What differs, the mounts that are wanted, and why routes cannot be mounted, by route."""

    changes: Changes
    mounts: dict[str, Mount]
    problems: dict[str, str]
    #: Whether the only obstacle is that the file router does not run yet, or the directory lacks a name.
    pending: bool


def plan(
    pillar: Mapping[str, Any],
    paths: Paths,
    host: Host,
    lookup: Callable[[str, str], int] | None = None,
) -> Plan:
    """Return the mounts that this node is to have, and how the existing ones differ from them.

    A route that cannot be mounted (no password, an unknown owner) is a problem, not a change, and does not hold up the
    other routes.
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
    """Return the folder of the file router's data on the node that it runs on, without symbolic links."""
    return str(Path(pillar["services"][SERVICE]["volumes"]["data"]["source"]).resolve())


def _password(pillar: Mapping[str, Any], paths: Paths, name: str) -> str:
    secret = f"route-{name}"
    try:
        return node_secret(pillar, Store(paths.secrets), SERVICE, secret)
    except NotFound:
        raise VcoreError(
            tr(
                "its password has to be supplied: salt-call vcore_secret.set {service}/{secret} on the head, and apply",
                service=SERVICE,
                secret=secret,
            )
        ) from None


def difference(wanted: Mapping[str, Mount], host: Host, *, keep: Iterable[str] = ()) -> Changes:
    """Return how this host differs from the mounts that it is to have: ``{package or route: {old, new}}``.

    ``keep`` names routes that stay as they are. The result contains no passwords.
    """
    return mounts.difference(wanted, host, keep=keep)


# --- carried out ----------------------------------------------------------------------------------------------------


def apply(planned: Plan, host: Host, install: Callable[[str], None]) -> str:
    """Carry a plan out and return what was done, in words; a route that fails does not hold up the others.

    Raises:
        VcoreError: routes could not be mounted or unmounted; the message has a line for each.
    """
    mounts.install_packages(planned.changes, install)
    outcome = mounts.carry_out(planned.mounts, planned.changes, host)
    if failed := planned.problems | outcome.failed:
        raise VcoreError("\n".join(problem_lines(failed)))
    done = [f"{name} was taken away" for name in outcome.removed] + [f"{name} was mounted" for name in outcome.mounted]
    return f"{'; '.join(done)}." if done else ""


def problem_lines(problems: Mapping[str, str]) -> list[str]:
    """Return a line for each route with a problem."""
    return [tr("route {name}: {problem}", name=name, problem=problem) for name, problem in problems.items()]


# --- how they are ---------------------------------------------------------------------------------------------------


def state_folder(pillar: Mapping[str, Any]) -> Path:
    """Return the folder of the records of pulls, on the node that the file router runs on."""
    return Path(pillar["services"][SERVICE]["volumes"]["state"]["source"]) / "routes"


def status(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how each route is: ``{name: {kind, protocol, server, path, ok, state, message, ...}}``.

    Pulls also have ``started``, ``ended``, ``last_good`` (seconds since 1970), ``files`` and ``bytes`` (``done``,
    ``todo``), ``current``, ``skipped``, ``waiting`` and ``encrypted``. ``ok`` is None where the file router runs on
    another node, which cannot be looked at from here. Mounts are not touched, because one whose server is gone would
    hang.
    """
    routes = pillar.get("routes") or {}
    here = SERVICE in pillar["node"]["services"]
    mounted = mounts.mounted() if here else {}
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
        message = tr(
            "{server} does not answer on port {port} ({problem})",
            server=route["server"],
            port=protocol.port,
            problem=problem,
        )
        return {"ok": False, "state": state, "message": message}
    good = state != "not mounted"
    return {"ok": good, "state": state, "message": "" if good else "apply the states, which say why it is not mounted"}


def problems(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the problems in what :func:`status` returned, a line each."""
    return [
        tr("route {name}: {message}", name=name, message=entry["message"])
        for name, entry in facts.items()
        if entry["ok"] is False
    ]


def ask_for_pull(pillar: Mapping[str, Any], name: str) -> None:
    """Make the file router pull a route now, even if its login was refused too often.

    Raises:
        VcoreError: there is no such route of kind sync, or the file router does not run on this node.
    """
    routes = {key for key, route in (pillar.get("routes") or {}).items() if route["kind"] == "sync"}
    if SERVICE not in pillar["node"]["services"]:
        raise VcoreError(tr("the file router does not run on this node; ask on the one that it runs on"))
    if name not in routes:
        raise VcoreError(
            tr(
                "there is no route {name} of kind sync; there are: {routes}",
                name=name,
                routes=", ".join(sorted(routes)) or "none",
            )
        )
    folder = state_folder(pillar)
    if not folder.is_dir():
        raise VcoreError(tr("the file router has not started yet; see docker service ps file-router"))
    write_atomic(folder / f"{name}.pull", b"", mode=0o600)
