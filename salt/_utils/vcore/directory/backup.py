"""What a dump takes of the directory: its data, as LDIF. The configuration is made by states, and passwords of services
are in the secret store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.paths import Paths
from ..host import containers
from .client import open_administrator
from .entries import suffix

if TYPE_CHECKING:
    from ..backup.parts import Part

SERVICE = "ldap"
#: The data as slapcat(8) writes them, with what slapd keeps of each entry; and what is known of them.
DATA, FACTS = "data.ldif", "facts.json"
PROGRAM = "/usr/lib/virtual-core/put-back"
#: How long slapd has to answer with the new data, in seconds.
START_TIME = 30.0


def records(data: bytes) -> list[bytes]:
    """Return the entries of what slapcat wrote, in one order whatever the database's is."""
    return sorted(record for record in data.split(b"\n\n") if record.strip())


def identifiers(data: bytes) -> set[str]:
    """Return the entryUUID of each entry (RFC 4530)."""
    return {found.decode() for found in re.findall(rb"^entryUUID: (\S+)$", data, re.MULTILINE)}


def faults(data: bytes, facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with data by what is known of them, in words."""
    found = []
    entries = len(re.findall(rb"^dn::? ", data, re.MULTILINE))
    if entries != facts.get("entries"):
        found.append(f"{DATA} has {entries} entries instead of {facts.get('entries')}")
    if len(identifiers(data)) != entries:
        found.append(f"{DATA} has entries without an entryUUID of their own")
    if not data.endswith(b"\n\n"):
        found.append(f"{DATA} ends within an entry")
    return found


def container(pillar: Mapping[str, Any]) -> str:
    """Return the id of the directory's container that runs on this node.

    Raises:
        NotFound: none does.
    """
    volume = Path(pillar["services"][SERVICE]["volumes"]["data"]["source"])
    return containers.running(SERVICE, volume, "the directory does not run on this node; see docker service ps ldap")


class _Data:
    name = "directory"
    title = "People, groups and passwords of the directory"
    needed_before: Sequence[str] = ()

    def is_here(self, pillar: Mapping[str, Any]) -> bool:
        return SERVICE in pillar["services"]

    def dump(self, pillar: Mapping[str, Any], paths: Paths, folder: Path) -> None:
        """Have slapcat read everything in one transaction, in which it sees none of the changes that are made."""
        command = ["slapcat", "-F", "/etc/ldap/slapd.d", "-n", "1"]
        data = containers.read_output(
            container(pillar), command, "the directory cannot be read", user="openldap", workdir="/"
        )
        facts = {"suffix": suffix(pillar), "entries": len(records(data))}
        if not facts["entries"]:
            raise VcoreError(tr("the directory has no entries, so there is nothing to dump; apply the states first"))
        write_atomic(folder / DATA, data, mode=0o600)
        write_atomic(folder / FACTS, json.dumps(facts).encode() + b"\n", mode=0o600)

    def check(self, folder: Path) -> None:
        if found := faults((folder / DATA).read_bytes(), _facts(folder)):
            raise VcoreError("; ".join(found))

    def put_back(self, pillar: Mapping[str, Any], paths: Paths, folder: Path) -> None:
        """Make a new database beside the one in use, compare it with the dump, exchange them, and look through slapd.

        slapd is away only for the exchange, some two seconds.
        """
        data, base = (folder / DATA).read_bytes(), _facts(folder)["suffix"]
        if base != suffix(pillar):
            raise VcoreError(
                tr("the dump has the data of {base}, and this directory is {suffix}", base=base, suffix=suffix(pillar))
            )
        service = container(pillar)

        def step(name: str, failed: str, given: bytes = b"") -> bytes:
            return containers.read_output(service, [PROGRAM, name], failed, data=given)

        unchanged = "the directory is as it was"
        older = f"{unchanged}: its container is of an older image, without {PROGRAM}; apply the states first"
        containers.read_output(service, ["test", "-x", PROGRAM], older)
        step("load", f"{unchanged}, since no database can be made of the dump", data)
        if records(step("show", f"{unchanged}, since the new database cannot be read")) != records(data):
            raise VcoreError(tr("the new database has not what the dump has; {unchanged}", unchanged=unchanged))
        try:
            step("take", "the databases cannot be exchanged")
            prove(pillar, paths, identifiers(data))
        except VcoreError as error:
            now = "the old data are in place again"
            try:
                step("return", "")
            except VcoreError:
                # It is the reason that is reported, not what comes after it.
                now = "see docker service logs ldap, then put the dump back again"
            raise VcoreError(f"{error}; {now}") from None
        step("done", "the old data cannot be deleted")


def _facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / FACTS).read_text()))


def prove(pillar: Mapping[str, Any], paths: Paths, wanted: set[str]) -> None:
    """Bind as the administrator, and look whether the directory has these entries.

    Raises:
        VcoreError: it does not answer, or lacks some.
    """
    with open_administrator(pillar, paths, wait=START_TIME) as directory:
        found = directory.search(suffix(pillar), "(objectClass=*)", ["entryUUID"])
        there = {value for _, entry in found for value in entry.get("entryUUID", [])}
    if missing := len(wanted - there):
        raise VcoreError(tr("the directory lacks {missing} of {wanted} entries", missing=missing, wanted=len(wanted)))


PARTS: Sequence[Part] = (_Data(),)
