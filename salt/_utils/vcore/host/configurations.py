"""The folder with a service's configuration, which its container mounts: what is in it, in force, and on trial.

A configuration is written as a candidate first, proven there by a container of the service, and then takes the place
of the old one, file by file. The file ``applied`` says by its fingerprint which one is in force: that is, read by what
runs. While nobody knows whether a new one will be taken, the old one is kept beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..base.files import write_atomic

#: The file that says which configuration is in force (:func:`fingerprint`), and the folder with one to be proven.
APPLIED, CANDIDATE = "applied", ".candidate"
#: The folder with the configuration that was in force before, while nobody knows whether the new one serves; the file
#: with the reason for which a container that started took that one.
PREVIOUS, REFUSED = ".previous", "refused"


def fingerprint(content: Mapping[str, bytes]) -> str:
    """What tells one configuration from another."""
    lines = (f"{name} {hashlib.sha256(content[name]).hexdigest()}\n" for name in sorted(content))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def text_difference(name: str, before: bytes | None, after: bytes | None) -> str:
    """A unified diff of a file that changes; a word for one that comes or goes."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    old, new = (data.decode(errors="replace").splitlines(keepends=True) for data in (before, after))
    return "".join(difflib.unified_diff(old, new, name, name)) or "changed"


@dataclass(frozen=True)
class Place:
    """The folder of a configuration, with the names of the files that are one.

    Of those, ``secret`` ones are for root only, and are not part of a candidate.
    """

    folder: Path
    names: Collection[str]
    secret: Collection[str] = field(default=())

    def read(self) -> dict[str, bytes]:
        """The files that are in place."""
        return {name: (self.folder / name).read_bytes() for name in self.names if (self.folder / name).is_file()}

    def applied(self) -> str | None:
        """The fingerprint of the configuration that is in force, None where nobody knows."""
        try:
            return (self.folder / APPLIED).read_text().strip()
        except FileNotFoundError:
            return None

    def refusal(self) -> str | None:
        """Why a container that started took the configuration before; None where none did."""
        with suppress(FileNotFoundError):
            return (self.folder / REFUSED).read_text().strip()
        return None

    def put(self, new: Mapping[str, bytes], old: Mapping[str, bytes], folder: Path | None = None) -> None:
        """Bring the files of ``new`` into place, where ``old`` ones are."""
        place = folder or self.folder
        for name, data in new.items():
            if old.get(name) != data:
                write_atomic(place / name, data, mode=0o600 if name in self.secret else 0o644)
        for name in old.keys() - new.keys():
            (place / name).unlink(missing_ok=True)

    def forget(self) -> None:
        """From now on nobody knows which configuration is in force."""
        (self.folder / APPLIED).unlink(missing_ok=True)

    def in_force(self, content: Mapping[str, bytes]) -> None:
        """Note that this configuration is in force."""
        write_atomic(self.folder / APPLIED, f"{fingerprint(content)}\n".encode(), mode=0o600)
        shutil.rmtree(self.folder / PREVIOUS, ignore_errors=True)
        (self.folder / REFUSED).unlink(missing_ok=True)

    def keep(self, content: Mapping[str, bytes]) -> None:
        """Keep the configuration in place, if it is in force: what never was is nothing to go back to."""
        if self.applied() != fingerprint(content):
            return
        previous = self.folder / PREVIOUS
        new = self.folder / f"{PREVIOUS}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self.put(content, {}, new)
        shutil.rmtree(previous, ignore_errors=True)
        new.rename(previous)

    @contextmanager
    def candidate(self, content: Mapping[str, bytes]) -> Iterator[str]:
        """The configuration in a folder of its own, of this name, to be proven there."""
        candidate = self.folder / CANDIDATE
        shutil.rmtree(candidate, ignore_errors=True)
        candidate.mkdir(mode=0o700)
        try:
            for name, data in content.items():
                if name not in self.secret:
                    write_atomic(candidate / name, data)
            yield CANDIDATE
        finally:
            shutil.rmtree(candidate, ignore_errors=True)

    def replace(
        self,
        new: Mapping[str, bytes],
        old: Mapping[str, bytes],
        read: Callable[[], object],
        failures: tuple[type[Exception], ...],
    ) -> Exception | None:
        """Bring a proven configuration into place and have it read.

        Returns:
            None; or what went wrong, and then the old one is in place, and read, as well as that goes: it is the
            reason that is reported, not what comes after it.
        """
        self.forget()
        try:
            self.put(new, old)
            read()
        except failures as error:
            with suppress(*failures):
                self.put(old, self.read())
                if old:
                    read()
                    self.in_force(old)
            return error
        self.in_force(new)
        return None
