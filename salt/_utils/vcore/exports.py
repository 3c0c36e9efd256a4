"""NFS: the configuration of Ganesha as the site's shares make it; pure functions.

:mod:`vcore.file_router` brings it into place.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import VcoreError
from .names import FILE_ROUTER as SERVICE
from .samba import DATA

#: The port of NFS 3's mount protocol; version 4 has none.
MOUNT_PORT = 20048
NOBODY = 65534
SQUASH = {"root": "Root_Squash", "all": "All_Squash", "none": "No_Root_Squash"}
#: Export numbers are 16 bits wide, and 0 is the root of the tree of exports.
LARGEST_EXPORT = 65535

_EXPORT = re.compile(r"^  Export_Id = ([0-9]+);\n  Path = .*;\n  Pseudo = /([a-z0-9_-]+);$", re.MULTILINE)
_VALUE = re.compile(r"[A-Za-z0-9._/-]+")


def pseudo(share: str) -> str:
    """The path by which NFS clients mount a share."""
    return f"/{share}"


def exported(pillar: Mapping[str, Any]) -> list[str]:
    """The shares that are exported by NFS, sorted."""
    return sorted(name for name, share in pillar["shares"].items() if share["nfs"])


def numbers_in(configuration: str) -> dict[str, int]:
    """The number of each export in a configuration that :func:`ganesha_conf` wrote, by share."""
    return {share: int(number) for number, share in _EXPORT.findall(configuration)}


def numbers(names: Iterable[str], previous: Mapping[str, int]) -> dict[str, int]:
    """The number of each export, which is part of the handles that clients hold.

    It follows from the share's name, by SHA-256. Where two meet, the one that is exported already keeps its own
    (``previous``), and the other takes the next that is free: so no change of a share ever moves another.
    """
    wanted = sorted(set(names))
    chosen = {name: previous[name] for name in wanted if 1 <= previous.get(name, 0) <= LARGEST_EXPORT}
    if len(set(chosen.values())) < len(chosen):
        chosen = {}  # nothing that was written here
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
    """The configuration of Ganesha, ganesha-config(8); ``previous`` are the numbers that exports have already."""
    protocols = "3, 4" if pillar["services"][SERVICE]["settings"]["nfs_3"] else "4"
    shares = exported(pillar)
    blocks = [_COMMON.format(protocols=protocols, mount_port=MOUNT_PORT, nobody=NOBODY)]
    chosen = numbers(shares, previous)
    blocks += [_export(name, pillar["shares"][name], chosen[name], protocols) for name in shares]
    return "\n".join(blocks)


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


def _export(name: str, share: Mapping[str, Any], number: int, protocols: str) -> str:
    lines = [
        "EXPORT {",
        f"  Export_Id = {number};",
        f"  Path = {_value(DATA + '/' + share['path'])};",
        f"  Pseudo = {_value(pseudo(name))};",
        f"  Protocols = {protocols};",
        "  Access_Type = None;",
        "  FSAL {",
        "    Name = VFS;",
        "  }",
    ]
    # The first block that fits a client counts, so the narrowest network comes first.
    entries = ((ipaddress.IPv4Network(clients["hosts"]), clients) for clients in share["nfs"])
    for network, clients in sorted(entries, key=lambda entry: (-entry[0].prefixlen, entry[0])):
        # Ganesha takes 0.0.0.0/0 for the name of a file.
        hosts = "*" if not network.prefixlen else str(network.network_address if network.prefixlen == 32 else network)
        lines += [
            "  CLIENT {",
            f"    Clients = {hosts};",
            f"    Access_Type = {'RW' if clients['access'] == 'rw' else 'RO'};",
            f"    Squash = {SQUASH[clients['squash']]};",
            f"    Protocols = {protocols};",
            f"    PrivilegedPort = {'false' if clients['any_port'] else 'true'};",
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _value(text: str) -> str:
    """A value that comes from the site: the models have checked it, and nothing here relies on that."""
    if not _VALUE.fullmatch(text) or ".." in text.split("/"):
        raise VcoreError(f"{text!r} cannot stand in ganesha.conf")
    return text
