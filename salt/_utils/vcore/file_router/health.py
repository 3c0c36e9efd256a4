"""How the file router is: its facts and problems for vcore.status, and its checks for vcore.doctor."""

from __future__ import annotations

import json
import re
import socket as sockets
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import FILE_ROUTER as SERVICE
from ..base.paths import Paths
from ..services.placement import ServicePart
from . import ganesha, samba
from .container import execute, run_checked


def live_exports(pillar: Mapping[str, Any]) -> list[str]:
    """Return the pseudo paths of the exports that are served now, sorted.

    Raises:
        NotFound: the file router does not run on this node.
        VcoreError: NFS does not answer.
    """
    return sorted(run_checked(pillar, ["file-router", "exports"], "the exports cannot be listed").split())


def sessions(pillar: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the SMB sessions, each with its person, machine, dialect, signing, encryption and shares.

    Raises:
        NotFound: the file router does not run on this node.
        VcoreError: Samba does not answer.
    """
    answer = json.loads(run_checked(pillar, ["/usr/bin/smbstatus", "--json"], "Samba does not list its sessions"))
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


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``file_router``: what :func:`look` returns."""
    return {"file_router": look(pillar)}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return the problems of exports and routes, a line each."""
    return list((facts.get("file_router") or {}).get("problems", []))


def look(pillar: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the file router is: ``{exports, shares, routes, problems}``; None where it is off.

    ``exports`` lists ``{name, path, ok}``, where ``ok`` is whether it is served. ``shares`` lists ``{name, path, smb,
    nfs}``, where ``smb`` and ``nfs`` are whether it is offered that way. ``routes`` is that of
    :func:`vcore.file_router.routes.status`.
    """
    from . import routes  # which looks owners up through this module

    if SERVICE not in pillar["services"]:
        return None
    through = routes.status(pillar)
    found: list[str] = []
    want = [ganesha.pseudo(name) for name in ganesha.exported(pillar)]
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
            {"name": ganesha.pseudo(name), "path": path, "ok": ganesha.pseudo(name) in live}
            for name, path in ganesha.exported(pillar).items()
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


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check the file router from outside, through the network."""
    service = pillar["services"].get(SERVICE)
    if service is None:
        return []
    address = pillar["nodes"][service["node"]]["address"]
    remedy = tr("run salt-call state.apply, then docker service logs {service}", service=SERVICE)
    found = [_check_smb(address, service, remedy), _check_nfs(address, service, remedy)]
    if SERVICE in pillar["node"]["services"]:
        found.append(_check_guest(pillar, address, service["ports"]["smb"]["number"], remedy))
        want = sorted(map(ganesha.pseudo, ganesha.exported(pillar)))
        tried = tr("NFS exports {want}", want=", ".join(want) or "nothing")
        try:
            live = live_exports(pillar)
            found.append(result(tried, live == want, ", ".join(live) or "nothing", remedy))
        except VcoreError as error:
            found.append(result(tried, False, str(error), remedy))
    return found


GUEST = "the list of shares is refused to clients without a name and password"


REFUSALS = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_LOGON_FAILURE")


#: SMB 2 and 3: header and NEGOTIATE request, [MS-SMB2] 2.2.1 and 2.2.3, of a client that can sign and encrypt.
_DIALECTS = {"2.1": 0x0210, "3.0": 0x0300, "3.0.2": 0x0302}


def negotiate(address: str, port: int, dialects: Sequence[str], *, timeout: float = 5.0) -> tuple[str | None, bool]:
    """Negotiate with an SMB server; return the dialect that it chooses, and whether it insists on signing.

    The dialect is None if the server accepts none of ``dialects``. ``timeout`` is in seconds.

    Raises:
        OSError: nothing answers, or the answer is not SMB.
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


def _check_smb(address: str, service: ServicePart, remedy: str) -> Check:
    minimum = service["settings"]["minimum_protocol"]
    old_is_wanted = minimum == "SMB2"
    tried = tr(
        "SMB answers at {address} and insists on signing; {value}",
        address=address,
        value="2.1 and 3" if old_is_wanted else "nothing older than 3",
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
    """Check that anonymous clients get no share list; smbclient runs in the container, but asks the public address."""
    command = ["smbclient", "--no-pass", "--user", "%", "--list", address, "--port", str(port), "--timeout", "5"]
    try:
        code, output = execute(pillar, command)
    except VcoreError as error:
        return result(GUEST, False, str(error), remedy)
    said = output.decode(errors="replace")
    status = re.search(r"NT_STATUS_\w+", said)
    saw = status[0] if status else next(iter(said.strip().splitlines()), "nothing")
    return result(GUEST, bool(code) and status is not None and status[0] in REFUSALS, saw, remedy)


def _check_nfs(address: str, service: ServicePart, remedy: str) -> Check:
    """Check that Ganesha answers the null procedure of NFS 4 (RFC 7530, 15.1; RFC 5531)."""
    port = service["ports"]["nfs"]["number"]
    tried = tr("NFS 4 answers at {address}, port {port}", address=address, port=port)
    call = struct.pack(">10I", 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
    try:
        with sockets.create_connection((address, port), timeout=5) as connection:
            connection.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            answer = connection.makefile("rb").read(28)
    except OSError as error:
        return result(tried, False, str(error), remedy)
    good = len(answer) == 28 and struct.unpack(">I4xII8xI", answer)[1:] == (1, 0, 0)
    return result(tried, good, tr("it does") if good else tr("something else answers"), remedy)
