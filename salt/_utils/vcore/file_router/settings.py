"""The ``shares:``, ``routes:`` and ``instruments:`` sections of the site file: their models and checks.

:mod:`vcore.file_router.samba` and :mod:`vcore.file_router.ganesha` render them, :mod:`vcore.file_router.configuration`
and :mod:`vcore.file_router.routes` carry them out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints, model_validator

from ..base.messages import tr
from ..base.names import FILE_ROUTER, within_one_another
from ..kernel.documents import Problem
from ..kernel.models import Model, field
from ..kernel.sections import Section
from ..kernel.site import Configuration
from ..people.settings import ACCOUNT_NAME, ACCOUNTS, PEOPLE, AccountName, Line, name_problem
from ..services.settings import enabled
from ..storage.settings import STORAGE

#: Names of shares. Below them, those that are reserved because smb.conf(5) or clients give them a meaning of their own.
SHARE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


RESERVED_SHARES = frozenset(("global", "homes", "printers", "print", "ipc", "admin", "netlogon", "profiles", "sysvol"))


SERVICE = FILE_ROUTER


def _share_name(value: str) -> str:
    if value in RESERVED_SHARES:
        raise ValueError(tr("{value} is a name that Samba reserves for itself; choose another one", value=value))
    return value


def _folder(value: str) -> str:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError(tr("a folder must not have '.' or '..' in its path"))
    return value


def _principal(value: str) -> str:
    bare = value.removeprefix("@")
    if problem := name_problem(bare):
        raise ValueError(problem)
    return value


def _clients(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value)) if "/" in value else str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(
            tr("has to be an IPv4 address or network, such as 10.0.0.0/24: {error}", error=error)
        ) from None


ShareName = Annotated[str, StringConstraints(pattern=rf"^{SHARE_NAME.pattern}$"), AfterValidator(_share_name)]


#: A folder below the file router's data, such as ``runs`` or ``projects/one``.
Folder = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}){0,7}$"),
    AfterValidator(_folder),
]


#: A person, or a group with @ in front.
Principal = Annotated[str, StringConstraints(pattern=rf"^@?{ACCOUNT_NAME.pattern}$"), AfterValidator(_principal)]


#: Mode of a folder, in quotes; with a leading 2, new files in it inherit its group.
FolderMode = Annotated[str, StringConstraints(pattern=r"^[02][0-7]{3}$")]


ClientAddress = Annotated[str, AfterValidator(_clients)]


class NfsClients(Model):
    """Machines that may mount a share by NFS, and how."""

    hosts: ClientAddress = field(description="IPv4 address or network of the machines.", example="10.0.0.0/24")
    access: Literal["ro", "rw"] = field("ro", description="Whether they may write.", example="rw")
    squash: Literal["root", "all", "none"] = field(
        "root", description="Whose user numbers become nobody's: root's, all, or none.", example="all"
    )
    any_port: bool = field(
        False,
        description="Whether ports above 1023 are accepted, as needed behind address translation; then everybody on "
        "these machines, not only root, can pretend to be somebody else.",
        example=True,
    )


class Share(Model):
    """A folder that people reach by SMB and machines by NFS, keyed by its name."""

    path: Folder | None = field(
        None, description="Folder below the file router's data; by default the share's name.", example="sequencing/runs"
    )
    description: Line | None = field(None, description="What it is for.", example="Runs of the sequencers")
    read: list[Principal] = field(
        default_factory=list, description="Who may read it by SMB: people, and groups with @.", example=["@genomics"]
    )
    write: list[Principal] = field(
        default_factory=list, description="Who may read and write it by SMB.", example=["@sequencing", "ada"]
    )
    group: AccountName | None = field(
        None, description="Group that its files belong to; by default everybody's.", example="sequencing"
    )
    mode: FolderMode = field("2770", description="Mode of the folder; new files follow it.", example="2775")
    smb: bool = field(True, description="Whether it is offered by SMB.", example=False)
    visible: bool = field(True, description="Whether SMB clients see it in the list of shares.", example=False)
    recycle: bool = field(
        False, description="Whether files that are deleted by SMB go to a recycle bin in the share.", example=True
    )
    nfs: list[NfsClients] = field(
        default_factory=list, description="Machines that may mount it by NFS; none by default."
    )


class Route(Model):
    """Files of another file server that appear here, keyed by a name."""

    kind: Literal["mount", "sync"] = field(
        description="mount: the other server's files themselves; sync: copies, pulled on a schedule.", example="sync"
    )
    protocol: Literal["smb", "nfs"] = field("smb", description="Protocol of the other server.", example="nfs")
    server: str = field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$",
        description="Name or address of the other server.",
        example="nas.example.org",
    )
    source: str = field(
        pattern=r"^[^\x00-\x1f\\,:\"]{1,255}$",
        description="What to take from it: share or share/folder with SMB, the exported path with NFS.",
        example="runs/2026",
    )
    path: Folder | None = field(
        None, description="Folder below the file router's data; by default the route's name.", example="sequencing/nas"
    )
    user: str | None = field(
        None,
        pattern=r"^[^\x00-\x1f\\/\[\]:;|=,+*?<>\"@]{1,64}$",
        description="Account on an SMB server; its password is a secret that you supply.",
        example="reader",
    )
    domain: str | None = field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$", description="Domain of that account.", example="INSTITUTE"
    )
    read_only: bool = field(True, description="Whether a mount is for reading only.", example=False)
    encrypt: bool = field(
        True, description="Whether a mount of an SMB server is encrypted; otherwise it is signed.", example=False
    )
    owner: AccountName | None = field(
        None, description="Person who owns the files of an SMB server here; by default root.", example="ada"
    )
    group: AccountName | None = field(
        None, description="Group that they belong to; by default everybody's.", example="sequencing"
    )
    every: int = field(
        15, ge=1, le=10080, unit="minutes", description="Time from the end of a pull to the next.", example=60
    )

    @model_validator(mode="after")
    def _consistent(self) -> Route:
        if self.protocol == "smb" and self.user is None:
            raise ValueError(tr("an SMB server needs a user"))
        if self.protocol == "nfs" and (self.user or self.domain or self.owner or self.group):
            raise ValueError(tr("user, domain, owner and group are for SMB servers only; NFS uses numbers of users"))
        if self.protocol == "nfs" and not self.source.startswith("/"):
            raise ValueError(tr("the source on an NFS server has to be an absolute path"))
        if self.protocol == "smb" and _folder(self.source).strip("/") != self.source:
            raise ValueError(tr("the source on an SMB server has to be a share, or share/folder"))
        if self.kind == "sync" and self.protocol != "smb":
            raise ValueError(tr("only SMB servers can be synchronised; use kind: mount for an NFS server"))
        if self.kind == "sync" and not self.read_only:
            raise ValueError(tr("a synchronised route only reads from the other server; leave read_only out"))
        if not self.encrypt and (self.protocol != "smb" or self.kind == "sync"):
            raise ValueError(
                tr("encrypt is for mounts of SMB servers only; pulls are encrypted if the server can do it")
            )
        return self


class Instrument(Model):
    """A machine that writes its data by SMB, and can do nothing else; keyed by the name of its account."""

    share: ShareName = field(description="The one share that it reads and writes.", example="runs")
    description: Line | None = field(None, description="What it is.", example="Sequencer in room 12")


SHARES: Section[dict[str, Share]] = Section(
    "shares", dict[ShareName, Share], description="What the file router serves, beside the homes."
)
ROUTES: Section[dict[str, Route]] = Section(
    "routes", dict[ShareName, Route], description="Files of other file servers that appear in the file router's data."
)
INSTRUMENTS: Section[dict[str, Instrument]] = Section(
    "instruments",
    dict[AccountName, Instrument],
    description="Machines that write their data to a share, and can do nothing else.",
)

SECTIONS = (SHARES, ROUTES, INSTRUMENTS)


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of shares, routes and instruments together; each is valid by itself."""
    site, document = configuration.site, configuration.document
    shares, routes, instruments = SHARES.of(site), ROUTES.of(site), INSTRUMENTS.of(site)
    people = PEOPLE.of(site)
    found: list[Problem] = []
    if not enabled(configuration).get(SERVICE, False):
        for section, entries in (("shares", shares), ("routes", routes), ("instruments", instruments)):
            if entries:
                found.append(
                    document.problem((section,), tr("needs the service {service}; switch it on", service=SERVICE))
                )
    folders: dict[str, str] = {}
    for name, route in routes.items():
        path = route.path or name
        for other, taken in folders.items():
            if within_one_another(path, other):
                found.append(
                    document.problem(
                        ("routes", name), tr("its folder {path} overlaps that of route {taken}", path=path, taken=taken)
                    )
                )
        folders[path] = name
    places: dict[str, str] = {}
    for name, share in shares.items():
        path = share.path or name
        for other, taken in places.items():
            if within_one_another(path, other):
                # People who may write to the outer share could replace the inner one by a link, and NFS clients of the
                # outer one would reach both.
                message = tr("its folder {path} overlaps that of share {taken}", path=path, taken=taken)
                found.append(document.problem(("shares", name), message))
        places[path] = name
        mounts = [
            other
            for other, route in routes.items()
            if route.kind == "mount" and within_one_another(path, route.path or other)
        ]
        if share.nfs and mounts:
            # NFS-Ganesha has no handles for files of another server, and could not even list the folder above them.
            message = tr(
                "NFS cannot offer the files of the route {mounts} again: mount its server on those "
                "machines, or make the route one of kind: sync",
                mounts=mounts[0],
            )
            found.append(document.problem(("shares", name, "nfs"), message))
        seen: set[str] = set()
        for index, clients in enumerate(share.nfs):
            if clients.hosts in seen:
                found.append(
                    document.problem(
                        ("shares", name, "nfs", index, "hosts"), tr("{hosts} stands twice", hosts=clients.hosts)
                    )
                )
            seen.add(clients.hosts)
    for name, instrument in instruments.items():
        if name in people:
            found.append(document.problem(("instruments", name), tr("{name} is a person already", name=name)))
        if instrument.share not in shares:
            message = tr("no share {share} below vcore.shares", share=instrument.share)
            found.append(document.problem(("instruments", name, "share"), message))
        elif not shares[instrument.share].smb:
            message = tr("the share {share} is not offered by SMB", share=instrument.share)
            found.append(document.problem(("instruments", name, "share"), message))
    return found + _archive_problems(configuration)


def _archive_problems(configuration: Configuration) -> list[Problem]:
    """Return the shares and routes whose folders would expose archived homes, which hold all that their owners had."""
    site = configuration.site
    data = f"{STORAGE.of(site).path or f'{site.base_directory}/{SERVICE}'}/data"
    archive = str(ACCOUNTS.of(site).archive or f"{data}/archive")
    sections: dict[str, Mapping[str, Share | Route]] = {"shares": SHARES.of(site), "routes": ROUTES.of(site)}
    message = tr("homes of removed people are archived in its folder; see accounts.archive")
    return [
        configuration.document.problem((section, name), message)
        for section, entries in sections.items()
        for name, entry in entries.items()
        if within_one_another(f"{data}/{entry.path or name}", archive)
    ]
