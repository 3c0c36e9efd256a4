"""Homes of people on the file router's host: created from a skeleton, and archived when their owners are removed.

Owners control the content of their homes, and may try to make a root process follow a link out of them, so nothing here
follows links. The folder that contains the homes belongs to root, so that nobody else can replace an entry in it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import CommandFailed, VcoreError
from ..base.files import sync_folder
from ..base.messages import tr
from ..base.names import FILE_ROUTER
from ..services.placement import runs_on

#: The default skeleton, which a system need not have.
DEFAULT_SKELETON = "/etc/skel"
#: How often deleting a folder is tried while new files appear in it, and the pause in between, in seconds.
TRIES, PAUSE = 20, 0.1


@dataclass(frozen=True)
class Homes:
    """Where homes are on this host, and how new ones are created.

    ``folder`` contains the homes, each directly below it. ``served`` says that the file router runs here, so that homes
    are created; ``elsewhere`` is the node on which it runs instead. ``group`` is the gid of people's primary group.
    """

    folder: Path
    archive: Path
    skeleton: Path
    mode: int
    group: int
    served: bool
    elsewhere: str | None = None

    @classmethod
    def of(cls, pillar: Mapping[str, Any]) -> Homes:
        """Return the homes of a core, from the resolved pillar of this node."""
        accounts, service = pillar["accounts"], pillar["services"].get(FILE_ROUTER)
        roots = pillar["storage"]["roots"]
        # Without the file router or another storage, nothing serves homes, but earlier ones are still found.
        base = Path(pillar["base_directory"], FILE_ROUTER)
        home, data = (Path(roots[kind]["source"]) if roots else base / kind for kind in ("home", "data"))
        here = service is not None and runs_on(service, pillar["node"])
        return cls(
            folder=home,
            archive=Path(accounts["archive"] or data / "archive"),
            skeleton=Path(accounts["skeleton"]),
            mode=int(accounts["home_mode"], 8),
            group=accounts["first_id"],
            served=here,
            elsewhere=service["node"] if service is not None and not here else None,
        )

    def path(self, name: str) -> Path:
        """Return the path of the home of ``name`` on this host; the name has to be checked before."""
        return self.folder / name

    def owner(self, name: str) -> int | None:
        """Return the uid of the owner of a home; None if there is no home.

        Raises:
            VcoreError: there is something else in its place, such as a link.
        """
        try:
            status = self.path(name).lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise VcoreError(tr("{path} is not a folder; move it away", path=self.path(name)))
        return status.st_uid

    def problem(self, name: str, number: int) -> str | None:
        """Return why the person with the uid ``number`` cannot have the home of this name, or None."""
        try:
            owner = self.owner(name)
        except VcoreError as error:
            return str(error)
        if owner not in (None, number):
            return tr(
                "{path} belongs to the uid {owner}, not to {number}; move it away",
                path=self.path(name),
                owner=owner,
                number=number,
            )
        return None

    def make(self, name: str, number: int) -> None:
        """Create a home if there is none, completely or not at all.

        Raises:
            VcoreError: the skeleton does not exist.
        """
        if self.owner(name) is not None:
            return
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        # A name that nobody can have; it belongs to root until it is complete.
        new = self.folder / f".new-{name}"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        if self.skeleton.is_dir():
            shutil.copytree(self.skeleton, new, symlinks=True, dirs_exist_ok=True)
            new.chmod(0o700)
        elif str(self.skeleton) != DEFAULT_SKELETON:
            new.rmdir()
            raise VcoreError(
                tr(
                    "the skeleton of homes, {skeleton}, does not exist (vcore.accounts.skeleton)",
                    skeleton=self.skeleton,
                )
            )
        for folder, folders, files in os.walk(new):
            for entry in (*folders, *files):
                os.chown(Path(folder, entry), number, self.group, follow_symlinks=False)
        os.chown(new, number, self.group)
        new.chmod(self.mode)
        new.rename(self.path(name))

    def archived(self, name: str, when: float | None = None) -> Path:
        """Return the path of an archive of the home; ``when`` is in seconds since 1970, by default now."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))
        return self.archive / f"{name}-{stamp}.tar.gz"

    def store(self, name: str) -> Path | None:
        """Archive a home and return the archive, which is completely on disk then; None if there is no home.

        Raises:
            CommandFailed: tar could not read or write all of it; the home is unchanged.
            VcoreError: users other than root could replace or delete archives.
        """
        if self.owner(name) is None:
            return None
        self._make_archive()
        target = self.archived(name)
        while target.exists():
            time.sleep(0.2)
            target = self.archived(name)
        part = target.with_name(f".{target.name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                # Sparse: otherwise a file of a petabyte that takes no space here would take it in the archive.
                command = ["tar", "--create", "--gzip", "--numeric-owner", "--sparse", "--xattrs", "--acls"]
                done = subprocess.run(
                    [*command, f"--directory={self.folder}", "--", name],
                    stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.PIPE, check=False,
                )  # fmt: skip
                # 1 means that files changed while they were read, which is acceptable in an archive.
                if done.returncode not in (0, 1):
                    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no word from tar"]
                    raise CommandFailed(
                        tr(
                            "the home {path} cannot be archived: {lines}",
                            path=self.path(name),
                            lines=ascii(lines[-1])[1:-1],
                        )
                    )
                stream.flush()
                os.fsync(stream.fileno())
            part.rename(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(self.archive)
        return target

    def _make_archive(self) -> None:
        if not self.archive.is_dir():
            self.archive.mkdir(mode=0o700, parents=True)
        status = self.archive.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise VcoreError(
                tr(
                    "homes cannot be archived in {archive}, which others than root may write to; name "
                    "another folder (vcore.accounts.archive)",
                    archive=self.archive,
                )
            )

    def delete(self, name: str) -> None:
        """Delete a home with its content; links are deleted, not followed.

        Raises:
            VcoreError: programs keep writing to it.
        """
        # Under this name it is nobody's home. After an interruption, the next call for the name deletes the rest.
        gone = self.folder / f".removed-{name}"
        if gone.exists():
            _delete(gone)
        if self.owner(name) is not None:
            self.path(name).rename(gone)
            _delete(gone)


def _delete(folder: Path) -> None:
    """Delete a folder to which programs of its owner may still write.

    Raises:
        VcoreError: they keep adding files for seconds.
    """
    for _ in range(TRIES):
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            problem = error.strerror
            time.sleep(PAUSE)
    raise VcoreError(
        tr(
            "{folder} cannot be deleted ({problem}); end the programs that still write there, and try again",
            folder=folder,
            problem=problem,
        )
    )
