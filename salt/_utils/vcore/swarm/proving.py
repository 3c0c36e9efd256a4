"""A configuration folder that a service's own container proves before it comes into force.

The folder lies on the node that the service runs on, and its container mounts it. There are two ways into force:

- **The container runs, and goes on to run.** The new configuration is written as a candidate, and the container proves
  it there. Then it takes the place of the old one, file by file, and the container reads it. What is refused leaves the
  old one in force; what goes wrong after the replacement puts it back.
- **Another container is about to come**, since none runs or this run replaces it. The files are written, what was in
  force is kept in ``.previous``, and nobody is asked: the new container proves them at its start, and takes
  ``.previous`` where it refuses them (``choose`` in its image). :meth:`ConfiguredService.settle` looks afterwards.

The file ``applied`` says by its fingerprint which configuration is in force: that is, read by what runs. An apply that
was cut off leaves none, or another, and the next one makes up for it. What lies in the folder is called as
:mod:`vcore.base.configurations` says, which the images have, too.

The file router and SLURM's controller are configured so.
"""

from __future__ import annotations

import difflib
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.configurations import APPLIED, CANDIDATE, PREVIOUS, REFUSED, WRITTEN, fingerprint
from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.paths import Paths

# vcore.swarm.membership and deployment are imported where they are used: a run that finds everything in place does not
# need Docker.


def text_difference(name: str, before: bytes | None, after: bytes | None) -> str:
    """Return a unified diff of a file that changes, a word for one that comes or goes."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    old, new = (data.decode(errors="replace").splitlines(keepends=True) for data in (before, after))
    return "".join(difflib.unified_diff(old, new, name, name)) or "changed"


# --- the folder -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The folder of a configuration, with the names of the files that are one.

    Of those, ``secret`` ones are for root only, and are not part of a candidate.
    """

    folder: Path
    names: Collection[str]
    secret: Collection[str] = field(default=())

    def read(self) -> dict[str, bytes]:
        """Return the files that are in place."""
        return {name: (self.folder / name).read_bytes() for name in self.names if (self.folder / name).is_file()}

    def applied(self) -> str | None:
        """Return the fingerprint of the configuration that is in force, None where nobody knows."""
        try:
            return (self.folder / APPLIED).read_text().strip()
        except FileNotFoundError:
            return None

    def is_in_force(self, content: Mapping[str, bytes]) -> bool:
        """Tell whether this configuration is known to be in force."""
        return self.applied() == fingerprint(content)

    def refusal(self) -> str | None:
        """Return why a container that started took the configuration before; None where none did."""
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
        """Note that from now on nobody knows which configuration is in force."""
        (self.folder / APPLIED).unlink(missing_ok=True)

    def in_force(self, content: Mapping[str, bytes]) -> None:
        """Note that this configuration is in force."""
        write_atomic(self.folder / APPLIED, f"{fingerprint(content)}\n".encode(), mode=0o600)
        shutil.rmtree(self.folder / PREVIOUS, ignore_errors=True)
        (self.folder / REFUSED).unlink(missing_ok=True)

    def keep(self, content: Mapping[str, bytes]) -> None:
        """Keep the configuration in place, if it is in force: what never was is nothing to go back to."""
        if not self.is_in_force(content):
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
        """Write the configuration into a folder of its own, of this name, to be proven there."""
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


# --- the protocol ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfiguredService:
    """A service that is configured by a folder, and how its container on this node is asked.

    What asks it raises VcoreError, in words for people, where the answer is no.

    Args:
        container: finds the container; it raises NotFound where none runs here.
        prove: has the container prove the candidate in the folder of this name.
        reload: has the container read the configuration in place, and waits until it has.
        probe: looks whether a container that has started serves what is in place. None where a container says that
            itself, by writing ``applied``.
    """

    place: Place
    container: Callable[[], object]
    prove: Callable[[str], object]
    reload: Callable[[], object]
    probe: Callable[[], object] | None = None

    def runs(self) -> bool:
        """Tell whether there is a container to be asked."""
        try:
            self.container()
        except NotFound:
            return False
        return True

    def is_unread(self, content: Mapping[str, bytes]) -> bool:
        """Tell whether what runs may not have read this configuration, which is in place.

        While it is known to be in force, nothing is asked of Docker.
        """
        return (
            not self.place.is_in_force(content)
            and self.runs()
            and not self._written.exists()
            and not self._comes_into_force(wait=0)
        )

    def apply(
        self, new: Mapping[str, bytes], old: Mapping[str, bytes], *, replaced: Callable[[], bool] = lambda: False
    ) -> bool:
        """Bring the configuration ``new`` to where ``old`` is in place.

        ``replaced`` is asked where a container runs: whether this run goes on to replace it (:func:`is_replaced`).

        Returns:
            Whether the container that runs has proven and read it; else the next one does, when it starts.

        Raises:
            VcoreError: it was refused, and the old one is in place and in force.
        """
        if not self.runs() or replaced():
            self._leave(new, old)
            return False
        with self.place.candidate(new) as candidate:
            self.prove(candidate)
        self._replace(new, old)
        return True

    def settle(self, differs: Callable[[Mapping[str, bytes]], bool], *, refused: str, wait: float = 0) -> bool:
        """See to it that what the container read when it started is in force, or say why it is not.

        Args:
            differs: whether a configuration is another one than the wanted one.
            refused: what is said where the container has taken the one before, in front of its reason.
            wait: seconds that a container which has just started has for reading its configuration.

        Returns:
            Whether there is a container.

        Raises:
            VcoreError: it does not serve the configuration in place, or that is not the wanted one.
        """
        if not self.runs():
            return False
        if self.probe is None and not self._comes_into_force(wait):
            self.reload()
        content = self.place.read()
        if differs(content):
            if refusal := self.place.refusal():
                raise VcoreError(f"{refused}: {refusal}")
            raise VcoreError("the configuration in place is not the wanted one; apply again")
        if not self.place.is_in_force(content) or (self.place.folder / PREVIOUS).exists():
            if self.probe is not None:
                self.probe()
            self.place.in_force(content)
        self._written.unlink(missing_ok=True)
        return True

    @property
    def _written(self) -> Path:
        return self.place.folder / WRITTEN

    def _comes_into_force(self, wait: float) -> bool:
        """Wait until the configuration in place is in force; False after ``wait`` seconds without."""
        end = time.monotonic() + wait
        while not self.place.is_in_force(self.place.read()):
            if time.monotonic() >= end:
                return False
            time.sleep(0.2)
        return True

    def _leave(self, new: Mapping[str, bytes], old: Mapping[str, bytes]) -> None:
        """Put the configuration where the next container finds it."""
        self.place.keep(old)
        self.place.forget()
        self.place.put(new, old)
        if self.probe is not None:
            self._written.touch()

    def _replace(self, new: Mapping[str, bytes], old: Mapping[str, bytes]) -> None:
        """Bring a proven configuration into place and have it read.

        What goes wrong puts the old one back, and has it read, as well as that goes: it is the reason that is reported,
        not what comes after it.
        """
        self.place.forget()
        try:
            self.place.put(new, old)
            self.reload()
        except (VcoreError, OSError) as error:
            with suppress(VcoreError, OSError):
                self.place.put(old, self.place.read())
                if old:
                    self.reload()
                    self.place.in_force(old)
            raise VcoreError(f"{error}; the old configuration is in place again") from None
        self.place.in_force(new)
        self._written.unlink(missing_ok=True)


def is_replaced(service: str, pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Tell whether this run goes on to replace the container that runs: by that of another image, for instance.

    Only the head knows; elsewhere the one that runs is asked.
    """
    if "head" not in pillar["node"]["roles"]:
        return False
    from .membership import Swarm

    swarm = Swarm()
    if service not in swarm.snapshot().services:
        return False
    from . import deployment

    return swarm.plan(deployment.wanted(service, pillar=pillar, paths=paths)).different
