"""Checks of the login host, from outside and from within, for vcore.doctor."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..host import containers
from ..storage.places import MARKER

SERVICE = "login"
#: The first and the last port that the kernel gives to outgoing connections (ip-sysctl).
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check that ssh answers through the network.

    On the login host's node check also srun's ports, and what its container sees of the storage and of SLURM.
    """
    service = pillar["services"].get(SERVICE)
    if service is None:
        return []
    address, port = pillar["nodes"][service["node"]]["address"], service["ports"]["ssh"]["number"]
    found = [_ssh(address, port)]
    if SERVICE in pillar["node"]["services"]:
        first, last = (int(port) for port in OUTGOING.read_text().split())
        found.append(free_ports(service["ports"]["srun"], first, last))
        volume = Path(service["volumes"]["state"]["source"])
        for tried, command, wrong, remedy in _within(service["volumes"]["home"]["path"]):
            try:
                container = containers.running(
                    SERVICE, volume, f"{SERVICE} does not run; see docker service ps {SERVICE}"
                )
                code, output = containers.execute(container, command)
                words = output.decode(errors="replace").strip().splitlines()
                saw = wrong if code else tr("it does")
                saw += f": {ascii(words[-1])[1:-1][:200]}" if code and words else ""
            except VcoreError as error:
                code, saw = 1, str(error)
            found.append(result(tried, code == 0, saw, remedy))
    return found


def _within(home: str) -> tuple[tuple[str, tuple[str, ...], str, str], ...]:
    """Return the checks in its container: what is tried, the command, what is wrong if it fails, and the remedy.

    ``home`` is where the homes are in there.
    """
    return (
        (
            "the login host has the homes",
            ("timeout", "-s", "KILL", "10", "test", "-e", f"{home}/{MARKER}"),
            f"there is no storage at {home}",
            "see that the storage is mounted on its node: state.apply there, then the check of the storage",
        ),
        (
            "SLURM answers the login host",
            ("timeout", "-s", "KILL", "10", "sinfo", "--noheader", "--format=%D"),
            "sinfo has no answer",
            "see that the service slurm-controller runs, or that its node reaches the site's own controller",
        ),
    )


def free_ports(srun: Mapping[str, Any], first: int, last: int) -> Check:
    """Check that srun's ports lie outside ``first`` to ``last``, any of which an outgoing connection may take."""
    return result(
        tr("no outgoing connection takes one of srun's ports"),
        srun["last"] < first or srun["number"] > last,
        tr(
            "srun has {number} to {last}, outgoing connections {first} to {last_2}",
            number=srun["number"],
            last=srun["last"],
            first=first,
            last_2=last,
        ),
        tr(
            "choose other slurm.srun_ports in the site file, or another net.ipv4.ip_local_port_range "
            "(sysctl) on this node: while one of the ports is taken, the login host does not start"
        ),
    )


def _ssh(address: str, port: int) -> Check:
    """Check that what answers says that it speaks SSH 2 (RFC 4253, 4.2)."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            said = connection.makefile("rb").readline(256)
    except OSError as error:
        ok, saw = False, str(error)
    else:
        ok = said.startswith(b"SSH-2.0-")
        saw = tr("it does") if ok else tr("something else answers: {said}", said=quoted(said.decode(errors="replace")))
    remedy = tr("run salt-call state.apply, then docker service logs {service}", service=SERVICE)
    return result(tr("people's ssh answers at {address}, port {port}", address=address, port=port), ok, saw, remedy)
