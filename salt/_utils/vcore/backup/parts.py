"""Dumps of the core, made of the parts that areas have, and putting them back.

A dump is a folder with a folder for each part, and ``manifest.json``, which says whose dump it is and what every file
of it was when it was written. The folder gets its name when all of it is on the disk. Before anything of a dump is put
back, all of what is wanted of it is compared with the manifest.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.files import sync_folder, write_atomic
from ..base.locks import exclusive
from ..base.messages import tr
from ..base.paths import Paths
from ..base.progress import report
from ..kernel import areas

MANIFEST = "manifest.json"
#: What this core writes and reads; a manifest of another number is laid out in another way.
FORMAT = 1
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Part(Protocol):
    """Something that a dump takes as one piece, consistent in itself."""

    @property
    def name(self) -> str:
        """What commands and manifests call it; it stays the same for good."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def needed_before(self) -> Sequence[str]:
        """Names of the parts that are put back before this one, where they are put back together."""

    def is_here(self, pillar: Mapping[str, Any]) -> bool:
        """Whether this core has it: the site may have its service off."""

    def dump(self, pillar: Mapping[str, Any], paths: Paths, folder: Path) -> None:
        """Write it into an empty folder that only root can read, while its service runs."""

    def check(self, folder: Path) -> None:
        """Look whether what :meth:`dump` wrote is whole, without its service.

        Raises:
            VcoreError: what is wrong with it.
        """

    def put_back(self, pillar: Mapping[str, Any], paths: Paths, folder: Path) -> None:
        """Put it in place of what is there, and prove that the service has it.

        It stops what has to be stopped, for as short as can be. What goes wrong leaves, or brings back, what was there.
        Doing it again is safe, also where it was cut off.

        Raises:
            VcoreError: what went wrong, and what is in place now.
        """


@areas.face("backup")
class Backed(Protocol):
    """What of an area a dump takes."""

    PARTS: Sequence[Part]


# --- parts ----------------------------------------------------------------------------------------------------------


def known() -> dict[str, Part]:
    """Return the parts of all areas, by name.

    Raises:
        VcoreError: two have the same name, or one has none that can be a folder's.
    """
    found: dict[str, Part] = {}
    for area in areas.asked(Backed).values():
        for part in area.PARTS:
            if not NAME.fullmatch(part.name) or part.name in found:
                raise VcoreError(tr("the part {name} needs a name of its own, of a-z, 0-9 and -", name=part.name))
            found[part.name] = part
    return found


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Return parts in the order in which they are put back.

    Raises:
        VcoreError: they wait for each other.
    """
    by_name = {part.name: part for part in parts}
    needed = {name: [other for other in part.needed_before if other in by_name] for name, part in by_name.items()}
    try:
        return [by_name[name] for name in TopologicalSorter(needed).static_order()]
    except CycleError as error:
        raise VcoreError(tr("parts are needed before each other: {args}", args=" -> ".join(error.args[1]))) from None


def chosen(names: Sequence[str] | None, available: Iterable[str], where: str) -> list[str]:
    """Return the wanted names, or all that there are; ``where`` says what has them.

    Raises:
        VcoreError: there is none of such a name, or none at all.
    """
    there = list(available)
    if missing := [name for name in names or () if name not in there]:
        raise VcoreError(
            tr(
                "{where} has no part {missing}; there are: {there}",
                where=where,
                missing=", ".join(missing),
                there=", ".join(there) or "none",
            )
        )
    if not there:
        raise VcoreError(tr("{where} has nothing that could be dumped", where=where))
    return list(dict.fromkeys(names)) if names else there


# --- manifests ------------------------------------------------------------------------------------------------------


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of each file below a folder.

    Raises:
        VcoreError: there is something else than folders and files.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise VcoreError(tr("{path} is neither a file nor a folder, and cannot be part of a dump", path=path))
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = {"sha256": digest, "size": path.stat().st_size}
    return found


def differences(described: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return how files differ from what a manifest says of them, in words."""
    said = []
    for name in sorted({*described, *there}):
        if name not in there:
            said.append(f"{name} is missing")
        elif name not in described:
            said.append(f"{name} was not part of it")
        elif described[name]["size"] != there[name]["size"]:
            said.append(f"{name} has {there[name]['size']} bytes instead of {described[name]['size']}")
        elif described[name]["sha256"] != there[name]["sha256"]:
            said.append(f"{name} has another content than was written")
    return said


def _unusable(folder: Path, reason: str) -> VcoreError:
    return VcoreError(
        tr(
            "the dump {folder} cannot be used: {reason}. Nothing was changed; use another dump.",
            folder=folder,
            reason=reason,
        )
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a dump.

    Raises:
        VcoreError: there is none, or none that this core can read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise _unusable(folder, f"it is of format {manifest['format']}, and this core reads {FORMAT}")
        texts = [manifest["core"]["domain"], manifest["core"]["name"], manifest["version"], manifest["time"]]
        for name, part in manifest["parts"].items():
            texts += [part["title"], *(entry["sha256"] for entry in part["files"].values())]
            sizes = [entry["size"] for entry in part["files"].values()]
            places = [PurePosixPath(file) for file in part["files"]]
            if not NAME.fullmatch(name) or any(place.is_absolute() or ".." in place.parts for place in places):
                raise ValueError(name)
            if not all(isinstance(size, int) for size in sizes):
                raise ValueError(sizes)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(texts)
    except (FileNotFoundError, NotADirectoryError):
        raise _unusable(folder, f"it has no {MANIFEST}, which is written last") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _unusable(folder, f"its {MANIFEST} is damaged") from None
    return dict(manifest)


def verified(folder: Path, names: Sequence[str] | None, parts: Mapping[str, Part]) -> tuple[dict[str, Any], list[str]]:
    """Compare parts of a dump, or all of it, with its manifest, and have each part look at its own.

    Returns:
        The manifest, and the names of the parts that were looked at.

    Raises:
        VcoreError: it is not whole, or this core does not know what is in it.
    """
    manifest = read_manifest(folder)
    wanted = chosen(names, manifest["parts"], f"the dump {folder}")
    if strange := [name for name in wanted if name not in parts]:
        raise _unusable(folder, f"this core knows no part {', '.join(strange)}")
    for name in wanted:
        inner = folder / name
        if wrong := differences(manifest["parts"][name]["files"], describe(inner) if inner.is_dir() else {}):
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise _unusable(folder, f"{name}/{wrong[0]}{more}")
        try:
            parts[name].check(inner)
        except (VcoreError, OSError) as error:
            raise _unusable(folder, f"{name}: {error}") from None
    return manifest, wanted


# --- dump, check, put back ------------------------------------------------------------------------------------------


def version(paths: Paths) -> str:
    """Return the version of this core."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(paths.checkout / "setup.cfg")
    return settings.get("metadata", "version", fallback="unknown")


def _alone(paths: Paths) -> AbstractContextManager[None]:
    paths.state.mkdir(parents=True, exist_ok=True)
    busy = "another dump is written or put back just now; wait until it has ended"
    return exclusive(paths.state / "backup.lock", wait=0, busy=busy)


def _told(folder: Path, manifest: Mapping[str, Any], names: Iterable[str], state: str) -> dict[str, Any]:
    """Return what commands say of a dump: where and whose it is, and each part with its ``state``."""
    parts = []
    for name in names:
        files = manifest["parts"][name]["files"].values()
        size = sum(file["size"] for file in files)
        parts.append({"name": name, "title": manifest["parts"][name]["title"], "bytes": size, "state": state})
    told = {key: manifest[key] for key in ("version", "time")}
    return {"dump": str(folder), "domain": manifest["core"]["domain"], **told, "parts": parts}


def dump(pillar: Mapping[str, Any], paths: Paths, folder: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Write a dump of these parts, or of all that the core has, as ``folder``, which does not exist yet.

    Raises:
        VcoreError: a part cannot be dumped, and there is no dump; or there is something of that name already.
    """
    parts = {name: part for name, part in known().items() if part.is_here(pillar)}
    wanted = chosen(names, parts, "this core")
    if not folder.is_absolute() or not folder.parent.is_dir():
        raise VcoreError(tr("the dump {folder} needs an absolute path, in a folder that exists", folder=folder))
    with _alone(paths):
        if folder.exists() or folder.is_symlink():
            raise VcoreError(tr("{folder} exists already; name a new folder for the dump", folder=folder))
        new = folder.parent / f".{folder.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        try:
            manifest = _write(pillar, paths, new, [parts[name] for name in wanted])
            new.rename(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    return _told(folder, manifest, wanted, "dumped")


def _write(pillar: Mapping[str, Any], paths: Paths, folder: Path, parts: Iterable[Part]) -> dict[str, Any]:
    """Write parts and their manifest, and have all of it on the disk."""
    written = {}
    for part in parts:
        inner = folder / part.name
        inner.mkdir(mode=0o700)
        report(paths, f"dump of {part.name}", tr("is written"))
        part.dump(pillar, paths, inner)
        part.check(inner)
        for path in inner.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
            _sync(path)
        _sync(inner)
        written[part.name] = {"title": part.title, "files": describe(inner)}
    manifest = {
        "format": FORMAT,
        "core": {key: pillar["site"][key] for key in ("name", "domain")},
        "version": version(paths),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parts": written,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n", mode=0o600)
    return manifest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(folder: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Look whether a dump is whole, without any service; it may be another core's.

    Raises:
        VcoreError: it is not.
    """
    manifest, wanted = verified(folder, names, known())
    return _told(folder, manifest, wanted, "whole")


def put_back(
    pillar: Mapping[str, Any], paths: Paths, folder: Path, names: Sequence[str] | None = None, *, test: bool = False
) -> dict[str, Any]:
    """Put these parts of a dump back, or all of it, each behind those that it needs; ``test`` only looks.

    Raises:
        VcoreError: the dump is not whole, or of another domain, and nothing was changed; or a part cannot be put back,
            and the message says which ones were.
    """
    parts = known()
    manifest, wanted = verified(folder, names, parts)
    domain = pillar["site"]["domain"]
    if manifest["core"]["domain"] != domain:
        raise _unusable(folder, f"it is of {manifest['core']['domain']}, and this core is {domain}")
    if missing := [name for name in wanted if not parts[name].is_here(pillar)]:
        raise VcoreError(
            tr(
                "this site has no {missing}: switch it on in the site file and apply, or name other "
                "parts. Nothing was changed.",
                missing=", ".join(missing),
            )
        )
    ordered = in_order(parts[name] for name in wanted)
    names = [part.name for part in ordered]
    if test:
        return _told(folder, manifest, names, "would be put back")
    with _alone(paths):
        for number, part in enumerate(ordered):
            report(paths, f"dump of {part.name}", tr("is put back"))
            try:
                part.put_back(pillar, paths, folder / part.name)
            except (VcoreError, OSError) as error:
                done, left = (", ".join(some) or "nothing" for some in (names[:number], names[number + 1 :]))
                raise VcoreError(
                    tr(
                        "{name}: {error}. Put back before it: {done}; not tried: {left}",
                        name=part.name,
                        error=error,
                        done=done,
                        left=left,
                    )
                ) from None
    return _told(folder, manifest, names, "put back")
