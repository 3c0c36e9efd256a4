"""The file router, the half that does it: brings its configuration into place and asks the one that runs.

The configuration lies in a folder of the node that the file router runs on, which its container mounts. The files
follow from the resolved pillar (:func:`wanted`). They are proven by the image that will serve them. The container that
runs, and goes on to run, does so before they take the place of the old ones, and then reads them without ending
anybody's session. A container that is about to come, since none runs or the service changes, does so when it starts
(images/file-router, ``file-router choose``): what it refuses makes way for the configuration before, and so does what
an older image refuses that swarm goes back to.
"""

from __future__ import annotations

import json
import re
import socket as sockets
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import containers, exports, progress, samba
from .checks import Check, result
from .configurations import PREVIOUS, Place, fingerprint, text_difference
from .errors import NotFound, VcoreError
from .locks import exclusive
from .names import FILE_ROUTER as SERVICE
from .paths import Paths
from .secrets import Store, node_secret

if TYPE_CHECKING:
    from .directory import Directory

# vcore.directory is imported where it is used: a run that finds everything in place does not need it.

#: Where the container has the configuration, and its commands.
MOUNT, COMMANDS = "/etc/virtual-core/file-router", "/usr/lib/virtual-core"
#: The file with hashes that can be logged in with.
SECRET_FILE = "instruments"
#: All files of the configuration. What else lies there, such as the routes, is read by whoever it is for.
FILES = ("domain-sid", "ganesha.conf", "group", SECRET_FILE, "passwd", "settle.json", "smb.conf")
#: Seconds that a container which has just started may take to read its configuration.
START_TIME = 60.0
#: What stands for the hash of a password that a plan cannot know, because it will be made.
UNKNOWN_HASH = "0" * 32


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The files of a configuration, by name, and the instruments whose password a plan does not know yet."""

    content: dict[str, bytes]
    unknown: frozenset[str] = frozenset()


def folder(pillar: Mapping[str, Any]) -> Path:
    """Where the configuration lies on the node."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


def wanted(
    pillar: Mapping[str, Any], numbers: Mapping[str, int], password: Callable[[str], str | None] = lambda _: None
) -> Files:
    """The configuration as the resolved pillar makes it.

    Args:
        numbers: the numbers that exports have already.
        password: the password of an instrument, None where it is not known yet; only the scheme tdbsam asks.
    """
    settings = pillar["services"][SERVICE]["settings"]
    texts = {
        "domain-sid": samba.domain_sid(pillar["directory"]["suffix"]) + "\n",
        "ganesha.conf": exports.ganesha_conf(pillar, numbers),
        "group": samba.group(pillar),
        "passwd": samba.passwd(pillar),
        "settle.json": json.dumps(_settle(pillar, settings), indent=2, sort_keys=True) + "\n",
        "smb.conf": samba.smb_conf(pillar),
    }
    unknown = set()
    if settings["password_scheme"] == "tdbsam":
        hashes = {}
        for name in pillar["instruments"]:
            secret = password(name)
            hashes[name] = UNKNOWN_HASH if secret is None else samba.nt_hash(secret)
            if secret is None:
                unknown.add(name)
        texts[SECRET_FILE] = samba.smbpasswd(hashes)
    return Files({name: text.encode() for name, text in texts.items()}, frozenset(unknown))


def _settle(pillar: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the container makes by itself: folders, policies, homes; see settle in its image."""
    mounts = {str(route["path"]) for route in pillar["routes"].values() if route["kind"] == "mount"}
    return {
        "folders": {
            f"{samba.DATA}/{share['path']}": {
                "group": share["group"] or pillar["accounts"]["group"],
                "mode": share["mode"],
                # Of another server's files this one changes neither owner nor mode.
                "mounted": share["path"] in mounts,
                "recycle": share["recycle"],
            }
            for share in pillar["shares"].values()
            if not any(share["path"].startswith(f"{mount}/") for mount in mounts)
        },
        "home_mode": pillar["accounts"]["home_mode"],
        "password_scheme": settings["password_scheme"],
        "policies": samba.policies(pillar),
    }


def difference(old: Mapping[str, bytes], new: Files) -> dict[str, Any]:
    """What would change: a unified diff for each file, for the secret one a word for each instrument."""
    changes: dict[str, Any] = {}
    for name in sorted({*old, *new.content}):
        before, after = old.get(name), new.content.get(name)
        if before == after:
            continue
        if name == SECRET_FILE:
            if instruments := _instrument_changes(before or b"", after or b"", new.unknown):
                changes[name] = instruments
            elif before is None or after is None:
                changes[name] = "new" if before is None else "gone"
        else:
            changes[name] = text_difference(name, before, after)
    return changes


def _instrument_changes(before: bytes, after: bytes, unknown: frozenset[str]) -> dict[str, str]:
    old, new = ({line.split(":")[0]: line for line in data.decode().splitlines()} for data in (before, after))
    words = dict.fromkeys(old.keys() - new.keys(), "gone") | dict.fromkeys(new.keys() - old.keys(), "new")
    changed = {name for name in old.keys() & new.keys() if name in unknown or old[name] != new[name]}
    return dict(sorted((words | dict.fromkeys(changed, "another password")).items()))


# --- what is there --------------------------------------------------------------------------------------------------


def container(pillar: Mapping[str, Any]) -> str:
    """The id of the file router's container that runs on this node.

    Raises:
        NotFound: none does.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound("the file router does not run on this node")
    return containers.running(
        SERVICE, folder(pillar), "the file router does not run; see docker service ps file-router"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a command as root in the file router's container on this node, with ``data`` as its input.

    Returns:
        Its exit code and all that it wrote, to both outputs.

    Raises:
        NotFound: the file router does not run here.
    """
    return containers.execute(container(pillar), command, data)


def _place(place: Path) -> Place:
    return Place(place, FILES, (SECRET_FILE,))


def read(place: Path) -> dict[str, bytes]:
    """The files of the configuration that is in place."""
    return _place(place).read()


def applied(place: Path) -> str | None:
    """The fingerprint of the configuration that the container has read, None where nobody knows."""
    return _place(place).applied()


# --- plan and apply -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What bringing the configuration into place changes; ``running`` is whether there is a container to prove it."""

    files: Files
    old: dict[str, bytes]
    changes: dict[str, Any]


def plan(pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Plan:
    """Compare the configuration in place with what is wanted. While both are the same and in force, nothing is asked
    of Docker.

    Raises:
        NotFound: the password of an instrument does not exist, and this is no plan.
    """
    place, store = folder(pillar), Store(paths.secrets)

    def password(name: str) -> str | None:
        try:
            return node_secret(pillar, store, SERVICE, f"instrument-{name}")
        except NotFound:
            if not test:
                raise
            return None

    old = read(place)
    files = wanted(pillar, exports.numbers_in(old.get("ganesha.conf", b"").decode(errors="replace")), password)
    changes = difference(old, files)
    if not changes and applied(place) != fingerprint(old) and _runs(pillar) and _settled(pillar, wait=0) is None:
        changes = {"reload": "what runs has not read its configuration"}
    return Plan(files, old, changes)


def apply(pillar: Mapping[str, Any], paths: Paths, planned: Plan) -> str:
    """Have the configuration proven, put it in place and have it read; what was done, in words.

    Raises:
        VcoreError: it was refused, and the old configuration is in place and serves.
    """
    with _alone(pillar):
        if not _runs(pillar) or _is_replaced(pillar, paths):
            return _leave(folder(pillar), planned)
        return _take_on(pillar, paths, planned)


@contextmanager
def _alone(pillar: Mapping[str, Any]) -> Iterator[None]:
    """Keep an apply and the reconciler, which admits nodes, from changing the configuration at once."""
    place = folder(pillar)
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    busy = f"{place} is being changed by another process; try again"
    with exclusive(place / ".lock", wait=START_TIME, busy=busy):
        yield


def admit(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Have the nodes that there are now let in to homes and data, whatever else the site wants meanwhile; whether that
    changed anything. A node that is new is let in by this before it looks for its storage; nobody's session ends.

    Raises:
        VcoreError: it was refused, and the old configuration is in place and serves.
    """
    place = folder(pillar)
    with _alone(pillar):
        old = read(place)
        before = old.get("ganesha.conf", b"").decode(errors="replace")
        after = exports.with_nodes(before, pillar) if before else before
        if after == before:
            return False
        planned = Plan(Files({**old, "ganesha.conf": after.encode()}), old, {})
        if _runs(pillar):
            _take_on(pillar, paths, planned)
        else:
            _leave(place, planned)
        return True


def _leave(place: Path, planned: Plan) -> str:
    """Put the configuration where the next container finds it."""
    _place(place).keep(planned.old)
    _place(place).forget()
    _place(place).put(planned.files.content, planned.old)
    return "The configuration was written; the file router proves and reads it when it starts."


def _take_on(pillar: Mapping[str, Any], paths: Paths, planned: Plan) -> str:
    """Have the container that runs prove the configuration, and read it."""
    place = folder(pillar)
    progress.report(paths, "file-router", "proving its configuration")
    _prove(pillar, place, planned.files.content)
    failure = _place(place).replace(planned.files.content, planned.old, lambda: _reload(pillar), (VcoreError, OSError))
    if failure is not None:
        raise VcoreError(f"{failure}; the old configuration is in place again") from None
    return "The file router has read its new configuration."


def _is_replaced(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Whether this run goes on to replace the container that runs: by that of another image, for instance, which is
    asked in its place. Only the head knows; elsewhere the one that runs is asked.
    """
    if "head" not in pillar["node"]["roles"]:
        return False
    from .swarm_client import Swarm

    swarm = Swarm()
    if SERVICE not in swarm.snapshot().services:
        return False
    from . import deployment

    return swarm.plan(deployment.wanted(SERVICE, pillar=pillar, paths=paths)).different


def _runs(pillar: Mapping[str, Any]) -> bool:
    try:
        container(pillar)
    except NotFound:
        return False
    return True


def _settled(pillar: Mapping[str, Any], wait: float) -> str | None:
    """The fingerprint that is in force, once it is the one in place; None after ``wait`` seconds without."""
    place = folder(pillar)
    end = time.monotonic() + wait
    while (found := applied(place)) != fingerprint(read(place)):
        if time.monotonic() >= end:
            return None
        time.sleep(0.2)
    return found


def _prove(pillar: Mapping[str, Any], place: Path, content: Mapping[str, bytes]) -> None:
    with _place(place).candidate(content) as candidate:
        inside = f"{MOUNT}/{candidate}"
        # Exports of folders that do not exist cannot be proven.
        _run(pillar, ["settle", "--wait", "3", "--folders", inside], "the shares' folders cannot be made")
        _run(pillar, ["file-router", "prove", inside], "the configuration was refused, and the old one stays")


def _reload(pillar: Mapping[str, Any]) -> None:
    _run(pillar, ["settle", "--wait", "3"], "the configuration cannot be carried out")
    # It starts NFS anew where more than exports has changed, which clients keep their locks over, and waits until the
    # exports are those of the configuration.
    _run(pillar, ["file-router", "reload"], "the configuration is not taken on")


def _run(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    program = command[0] if command[0].startswith("/") else f"{COMMANDS}/{command[0]}"
    code, output = execute(pillar, [program, *command[1:]])
    said = output.decode(errors="replace").strip()
    if code:
        raise VcoreError(f"{failed}: {said or f'exit code {code}'}")
    return said


# --- instruments in the directory -------------------------------------------------------------------------------------


def instrument_changes(
    pillar: Mapping[str, Any], paths: Paths, directory: Directory | None, *, test: bool
) -> tuple[dict[str, Any], dict[str, dict[str, list[str]]]]:
    """How the instruments' entries differ from what the site wants; only the scheme ldapsam has any.

    Returns:
        The changes in words, by DN, and what to write: whole entries of new ones, attributes of others, nothing of
        those that go. What is written holds hashes, what is said does not.
    """
    from .directory import diff

    suffix = str(pillar["directory"]["suffix"])
    base = f"ou=instruments,{suffix}"
    ours = pillar["services"][SERVICE]["settings"]["password_scheme"] == "ldapsam"
    numbers = samba.instrument_numbers(pillar["instruments"]) if ours else {}
    store = Store(paths.secrets)
    changes: dict[str, Any] = {}
    writes: dict[str, dict[str, list[str]]] = {}
    for name, number in sorted(numbers.items()):
        dn = f"uid={name},{base}"
        entry = samba.instrument_entry(suffix, name, number)
        secret = f"instrument-{name}"
        known = store.exists(SERVICE, secret)
        if not known and not test:
            store.read(SERVICE, secret)  # says what is missing
        hash_ = samba.nt_hash(store.read(SERVICE, secret).decode()) if known else UNKNOWN_HASH
        there = directory.read(dn, [*entry, "sambaNTPassword"]) if directory else None
        if there is None:
            if directory and directory.read(f"uid={name},ou=people,{suffix}", ["uid"]) is not None:
                raise VcoreError(f"the instrument {name} cannot be: the directory has a person of that name")
            changes[dn] = {"old": None, "new": entry}
            writes[dn] = {**entry, "sambaNTPassword": [hash_]}
            continue
        found = {key: [value.decode(errors="replace") for value in values] for key, values in there.items()}
        stored = found.pop("sambaNTPassword", [])
        # Samba locks an account with an L among its flags, and takes it away when the time is over.
        found["sambaAcctFlags"] = [_unlocked(flags) for flags in found.get("sambaAcctFlags", [])]
        change = diff({dn: found}, {dn: entry}).get(dn, {"old": {}, "new": {}})
        write = dict(change["new"])
        if [value.upper() for value in stored] != [hash_]:
            change = {
                "old": {**change["old"], "sambaNTPassword": "another one" if stored else "none"},
                "new": {**change["new"], "sambaNTPassword": f"the secret {SERVICE}/{secret}"},
            }
            write["sambaNTPassword"] = [hash_]
        if write:
            changes[dn], writes[dn] = change, write
    for dn, _ in directory.search(base, "(objectClass=sambaSamAccount)", ["uid"]) if directory else ():
        if dn.lower() not in {f"uid={name},{base}".lower() for name in numbers}:
            changes[dn], writes[dn] = {"old": "an instrument", "new": None}, {}
    return changes, writes


def _unlocked(flags: str) -> str:
    kept = flags.strip("[]").replace("L", "").replace(" ", "")
    return f"[{kept:<11}]"


def write_instruments(
    directory: Directory, changes: Mapping[str, Any], writes: Mapping[str, dict[str, list[str]]]
) -> None:
    """Carry out what :func:`instrument_changes` says."""
    for dn, attributes in writes.items():
        if changes[dn]["new"] is None:
            directory.delete(dn)
        elif changes[dn]["old"] is None:
            directory.add(dn, attributes)
        else:
            directory.replace(dn, attributes)


# --- what people ask ------------------------------------------------------------------------------------------------


def settle(pillar: Mapping[str, Any], paths: Paths, *, wait: float = START_TIME) -> str | None:
    """Wait until the file router that runs here serves the configuration in place; have it read where it has not.

    Returns:
        None; or why there is nothing to wait for.

    Raises:
        VcoreError: it does not; or when it started it took the configuration before.
    """
    if not _runs(pillar):
        return "The file router does not run here."
    place = folder(pillar)
    if _settled(pillar, wait=wait) is None:
        _reload(pillar)
    content = read(place)
    if plan(pillar, paths, test=False).changes.keys() - {"reload"}:
        if refusal := _place(place).refusal():
            raise VcoreError(f"the configuration was refused, and the one before is served: {refusal}")
        raise VcoreError("the configuration in place is not the wanted one; apply again")
    if applied(place) != fingerprint(content) or (place / PREVIOUS).exists():
        _place(place).in_force(content)
    return None


def live_exports(pillar: Mapping[str, Any]) -> list[str]:
    """The pseudo paths of the exports that are served now.

    Raises:
        NotFound: the file router does not run on this node.
        VcoreError: NFS does not answer.
    """
    return sorted(_run(pillar, ["file-router", "exports"], "the exports cannot be listed").split())


def sessions(pillar: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who is connected by SMB, a mapping each: person, machine, dialect, signing, encryption and shares.

    Raises:
        NotFound: the file router does not run on this node.
        VcoreError: Samba does not answer.
    """
    answer = json.loads(_run(pillar, ["/usr/bin/smbstatus", "--json"], "Samba does not list its sessions"))
    shares: dict[str, list[str]] = {}
    for connection in answer.get("tcons", {}).values():
        shares.setdefault(str(connection["session_id"]), []).append(connection["service"])
    return [
        {
            "person": session["username"],
            "machine": session["remote_machine"],
            "dialect": session["session_dialect"],
            "signing": session["signing"]["cipher"],
            "encryption": session["encryption"]["cipher"],
            "shares": sorted(shares.get(str(session["session_id"]), [])),
        }
        for session in answer.get("sessions", {}).values()
    ]


def facts(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any] | None:
    """What vcore.status tells of the file router: ``{exports, shares, routes, problems}``, None where it is off.

    ``exports`` and ``shares`` list a share each with its ``name``, ``path`` and whether it is as it should be
    (``ok``); an export is live or not, a share by SMB is offered to somebody or not.
    """
    from . import routes  # which looks owners up through this module

    if SERVICE not in pillar["services"]:
        return None
    through = routes.status(pillar)
    found: list[str] = []
    want = [exports.pseudo(name) for name in exports.exported(pillar)]
    live: list[str] = []
    if SERVICE in pillar["node"]["services"]:
        try:
            live = live_exports(pillar)
        except VcoreError as error:
            found.append(f"file router: {error}")
        else:
            found += [f"file router: {path} is not exported" for path in want if path not in live]
            found += [
                f"file router: {path} is exported, and the site does not want it" for path in live if path not in want
            ]
    else:
        live = want  # another node's daemon cannot be asked from here
    offered = samba.offered(pillar)
    return {
        "exports": [
            {"name": exports.pseudo(name), "path": path, "ok": exports.pseudo(name) in live}
            for name, path in exports.exported(pillar).items()
        ],
        "shares": [
            {
                "name": str(name),
                "path": f"{samba.DATA}/{share['path']}",
                "smb": name in offered,
                "nfs": bool(share["nfs"]),
            }
            for name, share in sorted(pillar["shares"].items())
        ],
        "routes": through,
        "problems": found + routes.problems(through),
    }


# --- vcore.doctor ---------------------------------------------------------------------------------------------------


def check(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """End-to-end checks of the file router through the network, for vcore.doctor."""
    service = pillar["services"][SERVICE]
    address = pillar["nodes"][service["node"]]["address"]
    remedy = f"run salt-call state.apply, then docker service logs {SERVICE}"
    checks = [_check_smb(address, service, remedy), _check_nfs(address, service, remedy)]
    if SERVICE in pillar["node"]["services"]:
        checks.append(_check_guest(pillar, address, service["ports"]["smb"]["number"], remedy))
        want = sorted(map(exports.pseudo, exports.exported(pillar)))
        tried = f"NFS exports {', '.join(want) or 'nothing'}"
        try:
            live = live_exports(pillar)
            checks.append(result(tried, live == want, ", ".join(live) or "nothing", remedy))
        except VcoreError as error:
            checks.append(result(tried, False, str(error), remedy))
    return checks


GUEST = "the list of shares is refused to clients without a name and password"
REFUSALS = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_LOGON_FAILURE")

#: SMB 2 and 3: header and NEGOTIATE request, [MS-SMB2] 2.2.1 and 2.2.3, of a client that can sign and encrypt.
_DIALECTS = {"2.1": 0x0210, "3.0": 0x0300, "3.0.2": 0x0302}


def negotiate(address: str, port: int, dialects: Sequence[str], *, timeout: float = 5.0) -> tuple[str | None, bool]:
    """The dialect that an SMB server at ``address`` chooses among ``dialects``, None if it takes none of them, and
    whether it insists on signing.

    Raises:
        OSError: nothing answers, or something else than SMB.
    """
    header = b"\xfeSMB" + struct.pack("<HHIHHIIQIIQ16x", 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    codes = [_DIALECTS[name] for name in dialects]
    body = struct.pack(f"<HHHHI16sQ{len(codes)}H", 36, len(codes), 1, 0, 0x40, b"virtual-core".ljust(16), 0, *codes)
    with sockets.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(struct.pack(">I", len(header + body)) + header + body)
        reader = connection.makefile("rb")
        (length,) = struct.unpack(">I", reader.read(4).ljust(4, b"\0"))
        answer = reader.read(min(length, 65536))
    if len(answer) < 72 or answer[:4] != b"\xfeSMB":
        raise OSError("what answers there does not speak SMB 2")
    (status,) = struct.unpack_from("<I", answer, 8)
    if status:
        return None, False
    _, security, dialect = struct.unpack_from("<HHH", answer, 64)
    return next((name for name, code in _DIALECTS.items() if code == dialect), None), bool(security & 2)


def _check_smb(address: str, service: Mapping[str, Any], remedy: str) -> Check:
    minimum = service["settings"]["minimum_protocol"]
    old_is_wanted = minimum == "SMB2"
    tried = (
        f"SMB answers at {address} and insists on signing; {'2.1 and 3' if old_is_wanted else 'nothing older than 3'}"
    )
    port = service["ports"]["smb"]["number"]
    try:
        new, signs = negotiate(address, port, ["3.0", "3.0.2"])
        old, _ = negotiate(address, port, ["2.1"])
    except OSError as error:
        return result(tried, False, str(error), remedy)
    saw = f"{new or 'no SMB 3'}, {'signing' if signs else 'no signing'}, {'2.1 too' if old else 'no 2.1'}"
    return result(tried, new == "3.0.2" and signs and bool(old) == old_is_wanted, saw, remedy)


def _check_guest(pillar: Mapping[str, Any], address: str, port: int, remedy: str) -> Check:
    """Nobody in particular is told nothing; smbclient asks, from the container but by the way of everybody."""
    command = ["smbclient", "--no-pass", "--user", "%", "--list", address, "--port", str(port), "--timeout", "5"]
    try:
        code, output = execute(pillar, command)
    except VcoreError as error:
        return result(GUEST, False, str(error), remedy)
    said = output.decode(errors="replace")
    status = re.search(r"NT_STATUS_\w+", said)
    saw = status[0] if status else next(iter(said.strip().splitlines()), "nothing")
    return result(GUEST, bool(code) and status is not None and status[0] in REFUSALS, saw, remedy)


def _check_nfs(address: str, service: Mapping[str, Any], remedy: str) -> Check:
    """Ganesha answers the null procedure of NFS 4 (RFC 7530, 15.1; RFC 5531)."""
    port = service["ports"]["nfs"]["number"]
    tried = f"NFS 4 answers at {address}, port {port}"
    call = struct.pack(">10I", 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
    try:
        with sockets.create_connection((address, port), timeout=5) as connection:
            connection.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            answer = connection.makefile("rb").read(28)
    except OSError as error:
        return result(tried, False, str(error), remedy)
    good = len(answer) == 28 and struct.unpack(">I4xII8xI", answer)[1:] == (1, 0, 0)
    return result(tried, good, "it does" if good else "something else answers", remedy)
