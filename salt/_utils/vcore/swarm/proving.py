"""A configuration folder that a service's own container proves before it comes into force.

The folder is on the node on which the service runs, and its container mounts it. There are two ways into force:

- **The container keeps running.** The new configuration is written as a candidate, and the container proves it there.
  Then it replaces the old one, file by file, and the container reads it. If the container refuses the candidate, the
  old configuration stays in force; if something fails after the replacement, it is put back.
- **A new container is about to start**, because none runs or this run replaces it. The files are written, the
  configuration that was in force is kept in ``.previous``, and no container is asked: the new one proves the files when
  it starts, and uses ``.previous`` if it refuses them (``choose`` in its image). Afterwards
  :meth:`ConfiguredService.settle` checks the result.

The file ``applied`` says by its fingerprint which configuration is in force: that is, read by what runs. An apply that
was cut off leaves none, or another, and the next one makes up for it. What lies in the folder is called as
:mod:`vcore.base.configurations` says, which the images have, too.

The file router and SLURM's controller are configured this way.
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
from ..base.messages import tr
from ..base.paths import Paths

# vcore.swarm.membership and deployment are imported where they are used: a run without changes does not need Docker.


def text_difference(name: str, before: bytes | None, after: bytes | None) -> str:
    """Return a unified diff of a file that changes; ``new`` or ``gone`` for one that is added or removed."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    old, new = (data.decode(errors="replace").splitlines(keepends=True) for data in (before, after))
    return "".join(difflib.unified_diff(old, new, name, name)) or "changed"


# --- the folder -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The folder of a configuration, and the names of the files that make up the configuration.

    Those named in ``secret`` are readable by root only, and are not part of a candidate.
    """

    folder: Path
    names: Collection[str]
    secret: Collection[str] = field(default=())

    def read(self) -> dict[str, bytes]:
        """Return the files that are in place."""
        return {name: (self.folder / name).read_bytes() for name in self.names if (self.folder / name).is_file()}

    def applied(self) -> str | None:
        """Return the fingerprint of the configuration in force, or None if that is not known."""
        try:
            return (self.folder / APPLIED).read_text().strip()
        except FileNotFoundError:
            return None

    def is_in_force(self, content: Mapping[str, bytes]) -> bool:
        """Return whether this configuration is known to be in force."""
        return self.applied() == fingerprint(content)

    def refusal(self) -> str | None:
        """Return why a starting container went back to the previous configuration; None if none did."""
        with suppress(FileNotFoundError):
            return (self.folder / REFUSED).read_text().strip()
        return None

    def put(self, new: Mapping[str, bytes], old: Mapping[str, bytes], folder: Path | None = None) -> None:
        """Replace the files of ``old`` with those of ``new``, in the configuration's folder or in ``folder``."""
        place = folder or self.folder
        for name, data in new.items():
            if old.get(name) != data:
                write_atomic(place / name, data, mode=0o600 if name in self.secret else 0o644)
        for name in old.keys() - new.keys():
            (place / name).unlink(missing_ok=True)

    def forget(self) -> None:
        """Record that it is not known from now on which configuration is in force."""
        (self.folder / APPLIED).unlink(missing_ok=True)

    def in_force(self, content: Mapping[str, bytes]) -> None:
        """Record that this configuration is in force."""
        write_atomic(self.folder / APPLIED, f"{fingerprint(content)}\n".encode(), mode=0o600)
        shutil.rmtree(self.folder / PREVIOUS, ignore_errors=True)
        (self.folder / REFUSED).unlink(missing_ok=True)

    def keep(self, content: Mapping[str, bytes]) -> None:
        """Keep a copy of the configuration in place if it is in force, as one to go back to."""
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
        """Write the configuration, without secrets, into a folder of its own for proving; yield its name."""
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
    """A service that is configured by a folder, and the calls to its container on this node.

    The callables raise VcoreError with a message for people if the container refuses or fails.

    Args:
        container: finds the container; raises NotFound if none runs here.
        prove: makes the container prove the candidate in the folder of this name.
        reload: makes the container read the configuration in place, and waits until it has.
        probe: checks that a container which has started uses the configuration in place. None for a container that
            says so itself, by writing ``applied``.
    """

    place: Place
    container: Callable[[], object]
    prove: Callable[[str], object]
    reload: Callable[[], object]
    probe: Callable[[], object] | None = None

    def runs(self) -> bool:
        """Return whether the container runs on this node."""
        try:
            self.container()
        except NotFound:
            return False
        return True

    def is_unread(self, content: Mapping[str, bytes]) -> bool:
        """Return whether the running container may not have read this configuration, which is in place.

        Docker is not asked while the configuration is known to be in force.
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
        """Replace the configuration ``old`` with ``new``.

        ``replaced`` is asked if a container runs: it says whether this run will replace it (:func:`is_replaced`).

        Returns:
            Whether the running container has proven and read it; if not, the next one will when it starts.

        Raises:
            VcoreError: it was refused; the old one is in place and in force.
        """
        if not self.runs() or replaced():
            self._leave(new, old)
            return False
        with self.place.candidate(new) as candidate:
            self.prove(candidate)
        self._replace(new, old)
        return True

    def settle(self, differs: Callable[[Mapping[str, bytes]], bool], *, refused: str, wait: float = 0) -> bool:
        """Ensure that the configuration in place is the wanted one and in force, after the container has started.

        Args:
            differs: returns whether a configuration differs from the wanted one.
            refused: message for a container that went back to the previous configuration; its reason is appended.
            wait: seconds that a container which has just started may take to read its configuration.

        Returns:
            Whether there is a container.

        Raises:
            VcoreError: the container does not use the configuration in place, or that is not the wanted one.
        """
        if not self.runs():
            return False
        if self.probe is None and not self._comes_into_force(wait):
            self.reload()
        content = self.place.read()
        if differs(content):
            if refusal := self.place.refusal():
                raise VcoreError(f"{refused}: {refusal}")
            raise VcoreError(tr("the configuration in place is not the wanted one; apply again"))
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
        """Wait until the configuration in place is in force; return False if it is not after ``wait`` seconds."""
        end = time.monotonic() + wait
        while not self.place.is_in_force(self.place.read()):
            if time.monotonic() >= end:
                return False
            time.sleep(0.2)
        return True

    def _leave(self, new: Mapping[str, bytes], old: Mapping[str, bytes]) -> None:
        """Leave the configuration for the next container to prove and read."""
        self.place.keep(old)
        self.place.forget()
        self.place.put(new, old)
        if self.probe is not None:
            self._written.touch()

    def _replace(self, new: Mapping[str, bytes], old: Mapping[str, bytes]) -> None:
        """Put a proven configuration into place, and make the container read it.

        If that fails, put the old one back and make the container read it as far as possible; the first error is the
        one that is raised.
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
            raise VcoreError(tr("{error}; the old configuration is in place again", error=error)) from None
        self.place.in_force(new)
        self._written.unlink(missing_ok=True)


def is_replaced(service: str, pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Return whether this run will replace the running container, because of a new image for instance.

    Only the head knows; on other nodes the answer is no, and the running container is asked.
    """
    if "head" not in pillar["node"]["roles"]:
        return False
    from .membership import Swarm

    swarm = Swarm()
    if service not in swarm.snapshot().services:
        return False
    from . import deployment

    return swarm.plan(deployment.wanted(service, pillar=pillar, paths=paths)).different
