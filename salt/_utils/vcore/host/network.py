"""A host's routes and address, and what the core writes on every host: names and data folders.

Standard library only, since it is imported on nodes, which have none of the core's other libraries.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import tr

# ---------------------------------------------------------------------------------------------------------------
# The network
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A network that the host reaches, and the interface through which it does."""

    network: IPv4Network
    interface: str


#: The interface of swarm's own bridge; the core creates it, so its route does not clash.
BRIDGE_INTERFACE = "docker_gwbridge"


def read_routes(path: Path = Path("/proc/net/route")) -> list[Route]:
    """Return the host's IPv4 routes but the default one, from the kernel's table (proc(5)) of little-endian numbers."""
    routes = []
    for row in path.read_text().splitlines()[1:]:
        interface, destination, _gateway, _flags, _, _, _, mask, *_ = row.split()
        length = _number(mask).bit_count()
        if length:
            routes.append(Route(IPv4Network((_number(destination), length)), interface))
    return routes


def _number(swapped: str) -> int:
    return int.from_bytes(bytes.fromhex(swapped), "little")


def own_address(destination: str = "192.0.2.1") -> str | None:
    """Return the IPv4 address from which this host reaches another one, by default any on the internet.

    It is None if there is no route. Connecting a UDP socket sends nothing; the kernel only chooses the source address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((destination, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


# ---------------------------------------------------------------------------------------------------------------
# Names in /etc/hosts
# ---------------------------------------------------------------------------------------------------------------

HOSTS = Path("/etc/hosts")
BEGIN, END = "# Virtual Core: begin, written by Salt", "# Virtual Core: end"


def hosts_with(text: str, names: Mapping[str, Iterable[str]]) -> str:
    """Return the text of a hosts(5) file with the core's block replaced, or removed if there are no names.

    ``names`` maps an address to the names that it has.

    Raises:
        VcoreError: the end of the block is missing, so that it is unknown what belongs to it.
    """
    lines = text.splitlines()
    if BEGIN in lines and END not in lines[lines.index(BEGIN) :]:
        raise VcoreError(
            tr(
                "{hosts}: '{begin}' has no line '{end}' below it; put that back where the block ends",
                hosts=HOSTS,
                begin=BEGIN,
                end=END,
            )
        )
    kept, inside = [], False
    for line in lines:
        inside = inside or line == BEGIN
        if not inside:
            kept.append(line)
        inside = inside and line != END
    entries = [f"{address}\t{' '.join(own)}" for address, own in names.items()]
    block = [BEGIN, *entries, END] if entries else []
    return "".join(f"{line}\n" for line in (*kept, *block))


def hosts_difference(names: Mapping[str, Iterable[str]], path: Path = HOSTS) -> list[str]:
    """Return the lines that would be removed from (``- ``) and added to (``+ ``) the hosts file."""
    old = path.read_text() if path.exists() else ""
    new = hosts_with(old, names)
    before, after = old.splitlines(), new.splitlines()
    return [
        *(f"- {line}" for line in before if line not in after),
        *(f"+ {line}" for line in after if line not in before),
    ]


def write_hosts(names: Mapping[str, Iterable[str]], path: Path = HOSTS) -> None:
    """Replace the core's block in the hosts file."""
    old = path.read_text() if path.exists() else ""
    write_atomic(path, hosts_with(old, names).encode(), mode=0o644)


# ---------------------------------------------------------------------------------------------------------------
# Data folders
# ---------------------------------------------------------------------------------------------------------------


def directory_difference(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a folder's owner, group (numbers) and mode (octal string) differ: ``{what: {old, new}}``."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return {"directory": {"old": None, "new": f"{wanted['owner']}:{wanted['group']} {wanted['mode']}"}}
    found = {"owner": status.st_uid, "group": status.st_gid, "mode": f"{stat.S_IMODE(status.st_mode):04o}"}
    return {key: {"old": found[key], "new": wanted[key]} for key in found if found[key] != wanted[key]}


def make_directory(path: Path, wanted: Mapping[str, Any]) -> None:
    """Create the folder if it is missing, and set its owner, group and mode; its content stays as it is."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.chown(path, wanted["owner"], wanted["group"])
    path.chmod(int(wanted["mode"], 8))
