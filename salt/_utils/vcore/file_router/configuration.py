"""Bring the file router's configuration into force.

The configuration lies in a folder of the node that the file router runs on, which its container mounts. The files
follow from the resolved pillar (:func:`wanted`). The image that will serve them proves them, and they come into force
as :mod:`vcore.swarm.proving` describes. The running container reads them without ending anybody's session. A container
that starts and refuses the configuration takes the previous one (images/file-router, ``file-router choose``); so does
an older image that swarm rolls back to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import progress
from ..base.errors import NotFound
from ..base.locks import exclusive
from ..base.messages import tr
from ..base.names import FILE_ROUTER as SERVICE
from ..base.paths import Paths
from ..base.secrets import Store, node_secret
from ..directory import samba_ids
from ..swarm import proving
from ..swarm.proving import ConfiguredService, Place, text_difference
from . import container, ganesha, samba
from .names import FILES, SECRET_FILE

#: Seconds to wait for a container that has just started to read its configuration.
START_TIME = 60.0


#: Stands in plans for the hash of a password that is made only when the plan is applied.
UNKNOWN_HASH = "0" * 32


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The contents of a configuration's files, by name, and the instruments whose passwords are not made yet."""

    content: dict[str, bytes]
    unknown: frozenset[str] = frozenset()


def wanted(
    pillar: Mapping[str, Any], numbers: Mapping[str, int], password: Callable[[str], str | None] = lambda _: None
) -> Files:
    """Return the configuration that follows from the resolved pillar.

    Args:
        numbers: the numbers that exports already have, by export.
        password: returns an instrument's password, None where it is not known yet; called with the scheme tdbsam only.
    """
    settings = pillar["services"][SERVICE]["settings"]
    texts = {
        "domain-sid": samba_ids.domain_sid(pillar["directory"]["suffix"]) + "\n",
        "ganesha.conf": ganesha.ganesha_conf(pillar, numbers),
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
    """Return settle.json: the folders, policies and modes that ``settle`` in the container sets up."""
    mounts = {str(route["path"]) for route in pillar["routes"].values() if route["kind"] == "mount"}
    return {
        "folders": {
            f"{samba.DATA}/{share['path']}": {
                "group": share["group"] or pillar["accounts"]["group"],
                "mode": share["mode"],
                # The file router does not change owner or mode of another server's files.
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
    """Return what would change, by file: a unified diff, or for the file with hashes a word for each instrument."""
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


def _place(folder: Path) -> Place:
    return Place(folder, FILES, (SECRET_FILE,))


def read(folder: Path) -> dict[str, bytes]:
    """Return the files of the configuration that is in place."""
    return _place(folder).read()


# --- plan and apply -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The wanted and old files of the configuration, and the changes between them."""

    files: Files
    old: dict[str, bytes]
    changes: dict[str, Any]


def plan(pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Plan:
    """Compare the configuration in place with what is wanted.

    Docker is asked only where both are the same and it is not known whether they are in force.

    Raises:
        NotFound: the password of an instrument does not exist, without ``test``.
    """
    old = read(container.folder(pillar))
    files = _wanted_beside(old, pillar, paths, test=test)
    changes = difference(old, files)
    if not changes and _service(pillar, paths).is_unread(old):
        changes = {"reload": "what runs has not read its configuration"}
    return Plan(files, old, changes)


def _wanted_beside(old: Mapping[str, bytes], pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Files:
    """Return the wanted files, with passwords from the secret store and the numbers that exports have in ``old``."""
    store = Store(paths.secrets)

    def password(name: str) -> str | None:
        try:
            return node_secret(pillar, store, SERVICE, f"instrument-{name}")
        except NotFound:
            if not test:
                raise
            return None

    return wanted(pillar, ganesha.numbers_in(old.get("ganesha.conf", b"").decode(errors="replace")), password)


def apply(pillar: Mapping[str, Any], paths: Paths, planned: Plan) -> str:
    """Prove the configuration, put it in place and make the file router read it; return what was done, in words.

    Raises:
        VcoreError: the configuration was refused, and the old one is in place and served.
    """
    with _alone(pillar):
        if _service(pillar, paths).apply(
            planned.files.content,
            planned.old,
            replaced=lambda: proving.is_replaced(SERVICE, pillar, paths),
        ):
            return "The file router has read its new configuration."
        return "The configuration was written; the file router proves and reads it when it starts."


@contextmanager
def _alone(pillar: Mapping[str, Any]) -> Iterator[None]:
    """Keep an apply, and the reconciler when it admits nodes, from changing the configuration at the same time.

    Raises:
        vcore.base.locks.Busy: another process has been changing it for ``START_TIME`` seconds.
    """
    place = container.folder(pillar)
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    busy = f"{place} is being changed by another process; try again"
    with exclusive(place / ".lock", wait=START_TIME, busy=busy):
        yield


def admit(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Let the current nodes mount homes and data; return whether that changed anything.

    This gives a new node access before it mounts its storage. Other changes of the site are left to the next apply, and
    nobody's session ends.

    Raises:
        VcoreError: the configuration was refused, and the old one is in place and served.
    """
    with _alone(pillar):
        old = read(container.folder(pillar))
        before = old.get("ganesha.conf", b"").decode(errors="replace")
        after = ganesha.with_nodes(before, pillar) if before else before
        if after == before:
            return False
        _service(pillar, paths).apply({**old, "ganesha.conf": after.encode()}, old)
        return True


def _service(pillar: Mapping[str, Any], paths: Paths) -> ConfiguredService:
    """Describe how the file router is configured. Its container itself records what it has read."""

    def prove(candidate: str) -> None:
        progress.report(paths, "file-router", tr("proving its configuration"))
        inside = f"{container.MOUNT}/{candidate}"
        # The shares' folders are made first, because an export of a missing folder cannot be proven.
        container.run_checked(
            pillar, ["settle", "--wait", "3", "--folders", inside], "the shares' folders cannot be made"
        )
        container.run_checked(
            pillar, ["file-router", "prove", inside], "the configuration was refused, and the old one stays"
        )

    def reload() -> None:
        container.run_checked(pillar, ["settle", "--wait", "3"], "the configuration cannot be carried out")
        # Restarts NFS where more than exports has changed (clients keep their locks), and waits until the exports are
        # those of the configuration.
        container.run_checked(pillar, ["file-router", "reload"], "the configuration does not come into force")

    return ConfiguredService(
        _place(container.folder(pillar)), container=lambda: container.container(pillar), prove=prove, reload=reload
    )


# --- what people ask ------------------------------------------------------------------------------------------------


def settle(pillar: Mapping[str, Any], paths: Paths, *, wait: float = START_TIME) -> str | None:
    """Wait until the file router on this node serves the configuration in place; make it read that if necessary.

    Returns:
        None, or why there is nothing to wait for.

    Raises:
        VcoreError: the file router does not serve the configuration, or refused it at its start and serves the previous
            one.
    """

    def differs(content: Mapping[str, bytes]) -> bool:
        return bool(difference(content, _wanted_beside(content, pillar, paths, test=False)))

    there = _service(pillar, paths).settle(
        differs, refused="the configuration was refused, and the previous one is served", wait=wait
    )
    return None if there else "The file router does not run here."
