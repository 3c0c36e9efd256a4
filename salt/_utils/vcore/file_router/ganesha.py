"""The configuration of NFS-Ganesha, as text that follows from the site's shares. Everything here is pure.

:mod:`vcore.file_router.configuration` brings it into force.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import quoted, tr
from ..base.names import FILE_ROUTER as SERVICE
from ..storage import places
from .samba import DATA, HOMES

#: The port of NFS 3's mount protocol; NFS 4 needs none.
MOUNT_PORT = 20048
NOBODY = 65534
SQUASH = {"root": "Root_Squash", "all": "All_Squash", "none": "No_Root_Squash"}
#: Export numbers are 16 bits wide, and 0 is the root of the tree of exports.
LARGEST_EXPORT = 65535

_EXPORT = re.compile(r"^  Export_Id = ([0-9]+);\n  Path = .*;\n  Pseudo = /([a-z0-9_.-]+);$", re.MULTILINE)
_VALUE = re.compile(r"[A-Za-z0-9._/-]+")


#: The most addresses of nodes in one line.
NODES_IN_LINE = 20


def pseudo(name: str) -> str:
    """Return the path by which NFS clients mount an export."""
    return f"/{name}"


def exported(pillar: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders that are exported by NFS, by export; a share's export has the share's name. Sorted by name."""
    shares = {name: f"{DATA}/{share['path']}" for name, share in pillar["shares"].items() if share["nfs"]}
    folders = {"home": HOMES, "data": DATA}
    # Exports for the nodes' own storage, if any node mounts it.
    core = {places.export(kind): folders[kind] for kind in places.KINDS if pillar["storage_clients"]}
    return dict(sorted((shares | core).items()))


def numbers_in(configuration: str) -> dict[str, int]:
    """Return the number of each export, by name, from a configuration that :func:`ganesha_conf` made."""
    return {share: int(number) for number, share in _EXPORT.findall(configuration)}


def numbers(names: Iterable[str], previous: Mapping[str, int]) -> dict[str, int]:
    """Return a number for each export, which is part of the file handles that clients hold.

    The number follows from the export's name, by SHA-256. If two names collide, the one that is exported already keeps
    its number (``previous``), and the other gets the next free one, so no change of a share renumbers another.
    """
    wanted = sorted(set(names))
    chosen = {name: previous[name] for name in wanted if 1 <= previous.get(name, 0) <= LARGEST_EXPORT}
    if len(set(chosen.values())) < len(chosen):
        chosen = {}  # not numbers that this function gave
    taken = set(chosen.values())
    for name in wanted:
        if name in chosen:
            continue
        number = int.from_bytes(hashlib.sha256(f"vcore export {name}".encode()).digest()[:8], "big") % LARGEST_EXPORT
        while number + 1 in taken:
            number = (number + 1) % LARGEST_EXPORT
        chosen[name] = number + 1
        taken.add(number + 1)
    return {name: chosen[name] for name in wanted}


def ganesha_conf(pillar: Mapping[str, Any], previous: Mapping[str, int]) -> str:
    """Return ganesha.conf, ganesha-config(8); ``previous`` are the numbers that exports already have, by name."""
    protocols = "3, 4" if pillar["services"][SERVICE]["settings"]["nfs_3"] else "4"
    wanted = exported(pillar)
    blocks = [_COMMON.format(protocols=protocols, mount_port=MOUNT_PORT, nobody=NOBODY)]
    chosen = numbers(wanted, previous)
    for name, path in wanted.items():
        if name in pillar["shares"]:
            clients = _share_clients(pillar["shares"][name]["nfs"], protocols)
            blocks.append(_export(name, path, chosen[name], protocols, clients))
        else:
            blocks.append(_node_export(name, path, chosen[name], pillar["storage_clients"]))
    return "\n".join(blocks)


def with_nodes(configuration: str, pillar: Mapping[str, Any]) -> str:
    """Return a configuration that :func:`ganesha_conf` made with only the nodes' own exports brought up to date.

    Nodes come and go between applies; everything else changes only when an administrator applies it.
    """
    common, *exports = re.split(r"(?m)^(?=EXPORT \{$)", configuration)
    blocks = {name: block.rstrip("\n") + "\n" for block in exports for name in numbers_in(block)}
    core = {name: path for name, path in exported(pillar).items() if name not in pillar["shares"]}
    if not core or len(blocks) < len(exports):
        return configuration
    chosen = numbers({*blocks, *core}, numbers_in(configuration))
    blocks |= {name: _node_export(name, path, chosen[name], pillar["storage_clients"]) for name, path in core.items()}
    return "\n".join([common.rstrip("\n") + "\n", *(blocks[name] for name in sorted(blocks))])


def _node_export(name: str, path: str, number: int, clients: Iterable[str]) -> str:
    """Return an export for the nodes; they use NFS 4 only, for its locks."""
    return _export(name, path, number, "4", _node_clients(clients))


_COMMON = """\
# Written by Salt from the site file; changes made here are lost.
NFS_CORE_PARAM {{
  Protocols = {protocols};
  Bind_addr = 0.0.0.0;
  Mount_Path_Pseudo = true;
  MNT_Port = {mount_port};
  Enable_NLM = false;
  Enable_RQUOTA = false;
  # A container lacks the capability that this wants; it only helps on file systems that are NFS mounts of this host.
  allow_set_io_flusher_fail = true;
}}

NFSV4 {{
  # Owners are sent as numbers: clients need not share a domain of names with the core.
  Only_Numeric_Owners = true;
  # Who holds locks is remembered on the volume. After a start, those clients have this many seconds to take them back,
  # before anybody gets new ones; where nobody held any, it ends at once.
  RecoveryBackend = fs;
  Lease_Lifetime = 15;
  Grace_Period = 20;
}}

NFS_KRB5 {{
  Active_krb5 = false;
}}

LOG {{
  Default_Log_Level = EVENT;
}}

EXPORT_DEFAULTS {{
  Access_Type = None;
  Squash = Root_Squash;
  Anonymous_Uid = {nobody};
  Anonymous_Gid = {nobody};
  SecType = sys;
  Transports = TCP;
  Protocols = {protocols};
}}
"""


def _export(name: str, path: str, number: int, protocols: str, clients: Iterable[str]) -> str:
    lines = [
        "EXPORT {",
        f"  Export_Id = {number};",
        f"  Path = {_value(path)};",
        f"  Pseudo = {_value(pseudo(name))};",
        f"  Protocols = {protocols};",
        "  Access_Type = None;",
        "  FSAL {",
        "    Name = VFS;",
        "  }",
    ]
    return "\n".join([*lines, *clients, "}"]) + "\n"


def _share_clients(wanted: Iterable[Mapping[str, Any]], protocols: str) -> list[str]:
    """Return the blocks of the clients that may mount a share."""
    lines = []
    # The first block that matches a client counts, so the narrowest network comes first.
    entries = ((ipaddress.IPv4Network(clients["hosts"]), clients) for clients in wanted)
    for network, clients in sorted(entries, key=lambda entry: (-entry[0].prefixlen, entry[0])):
        # Ganesha would take 0.0.0.0/0 for the name of a file.
        hosts = _shortest(network) if network.prefixlen else "*"
        lines += _clients(hosts, clients["access"], clients["squash"], protocols, any_port=clients["any_port"])
    return lines


def _node_clients(addresses: Iterable[str]) -> list[str]:
    """Return the blocks of the nodes: exactly their addresses, merged into as few networks as possible."""
    networks = ipaddress.collapse_addresses(ipaddress.IPv4Network(address) for address in addresses)
    hosts = [_shortest(network) for network in networks]
    lines = []
    for start in range(0, len(hosts), NODES_IN_LINE):
        some = ", ".join(hosts[start : start + NODES_IN_LINE])
        lines += _clients(some, "rw", "root", "4", any_port=False)
    return lines


def _shortest(network: ipaddress.IPv4Network) -> str:
    return str(network.network_address if network.prefixlen == 32 else network)


def _clients(hosts: str, access: str, squash: str, protocols: str, *, any_port: bool) -> list[str]:
    return [
        "  CLIENT {",
        f"    Clients = {hosts};",
        f"    Access_Type = {'RW' if access == 'rw' else 'RO'};",
        f"    Squash = {SQUASH[squash]};",
        f"    Protocols = {protocols};",
        f"    PrivilegedPort = {'false' if any_port else 'true'};",
        "  }",
    ]


def _value(text: str) -> str:
    """Return a value from the site unchanged, after checking it again without relying on the models.

    Raises:
        VcoreError: the value could mean something else in ganesha.conf.
    """
    if not _VALUE.fullmatch(text) or ".." in text.split("/"):
        raise VcoreError(tr("{text} is not allowed in ganesha.conf", text=quoted(text)))
    return text
