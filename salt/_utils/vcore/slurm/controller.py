"""SLURM, the half that does it: brings the controller's configuration into place, and asks and tells slurmctld.

The configuration lies in a folder of the head, which the controller's container mounts at /etc/slurm; nodes get it of
the controller. Its files follow from the resolved pillar (:mod:`vcore.slurm.configuration`). They are proven by a
slurmctld of the controller's own image, beside the one that runs, before they take the place of the old ones; then one
``scontrol reconfigure`` has everybody read them, which no job notices. What is refused leaves the old ones in force.

**The administrator wins.** What the core says of a node in SLURM begins with ``vcore: ``. It takes back what it has
said itself, and what slurmctld said when it found a node to have less than its line; never what a person said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.paths import Paths
from ..host import containers
from ..host.configurations import PREVIOUS, Place, fingerprint, text_difference
from . import configuration

SERVICE = configuration.CONTROLLER


#: Where the container has the configuration, and its command.
MOUNT, COMMAND = "/etc/slurm", "/usr/lib/virtual-core/slurm-controller"


#: Every file that a configuration may have.
FILES = ("cgroup.conf", "gres.conf", "nodes.conf", "slurm.conf", configuration.PROLOG, configuration.EPILOG)


# --- the container --------------------------------------------------------------------------------------------------


def folder(pillar: Mapping[str, Any]) -> Path:
    """Where the configuration lies on the head."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


def manages(pillar: Mapping[str, Any]) -> bool:
    """Whether this node has the controller of a SLURM that the core runs."""
    return SERVICE in pillar["services"] and SERVICE in pillar["node"]["services"]


def container(pillar: Mapping[str, Any]) -> str:
    """The id of the controller's container.

    Raises:
        NotFound: none runs here.
    """
    if not manages(pillar):
        raise NotFound(
            "SLURM's controller does not run on this node; slurm.mode of the site file says whether any does"
        )
    return containers.running(
        SERVICE, folder(pillar), f"SLURM's controller does not run; see docker service ps {SERVICE}"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str]) -> tuple[int, bytes]:
    """Run a command as root in the controller's container; its exit code and all that it wrote.

    Raises:
        NotFound: the controller does not run here.
    """
    return containers.execute(container(pillar), command)


def _run(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    code, output = execute(pillar, command)
    said = output.decode(errors="replace").strip()
    if code:
        raise VcoreError(f"{failed}: {said or f'exit code {code}'}")
    return said


def _runs(pillar: Mapping[str, Any]) -> bool:
    try:
        container(pillar)
    except NotFound:
        return False
    return True


# --- the configuration ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What bringing the configuration into place changes."""

    files: dict[str, bytes]
    old: dict[str, bytes]
    changes: dict[str, Any]


def _place(pillar: Mapping[str, Any]) -> Place:
    return Place(folder(pillar), FILES)


def plan(pillar: Mapping[str, Any], paths: Paths) -> Plan:
    """Compare the configuration in place with what is wanted; Docker is asked only where the files are the same and
    nobody knows whether they are in force.

    Raises:
        VcoreError: the controller is not on the head, or a value is one that SLURM cannot take.
    """
    if not manages(pillar):
        raise VcoreError(
            "SLURM's controller has to run on the head; take services.slurm-controller.node out of the site"
        )
    place, files = _place(pillar), configuration.files(pillar)
    old = place.read()
    changes: dict[str, Any] = {
        name: text_difference(name, old.get(name), files.get(name))
        for name in sorted({*old, *files})
        if old.get(name) != files.get(name)
    }
    if not changes and place.applied() != fingerprint(old) and _runs(pillar) and not _reads_at_its_start(place):
        changes = {"reload": "slurmctld may not have read its configuration"}
    return Plan(files, old, changes)


def _reads_at_its_start(place: Place) -> bool:
    """Whether the configuration was written for a container that was to start (:func:`settle` looks after it)."""
    return (place.folder / WRITTEN).exists()


#: Marks a configuration that a container which was about to start is to read.
WRITTEN = ".written"


def apply(pillar: Mapping[str, Any], paths: Paths, planned: Plan, *, replacing: bool = False) -> str:
    """Have the configuration proven, put it in place, and have it read with one reconfigure; what was done, in words.

    ``replacing`` says that this run goes on to bring the service up: where that is another container than the one that
    runs, that one proves and reads the configuration.

    Raises:
        VcoreError: it was refused, and the old one is in force.
    """
    place = _place(pillar)
    if not _runs(pillar) or (replacing and _is_replaced(pillar, paths)):
        place.keep(planned.old)
        place.forget()
        place.put(planned.files, planned.old)
        (place.folder / WRITTEN).touch()
        return "The configuration was written; slurmctld proves and reads it when it starts."
    prove(pillar, planned.files)
    failure = place.replace(planned.files, planned.old, lambda: reconfigure(pillar), (VcoreError, OSError))
    if failure is not None:
        raise VcoreError(f"{failure}; the old configuration is in place again") from None
    (place.folder / WRITTEN).unlink(missing_ok=True)
    return "SLURM has read its new configuration."


def prove(pillar: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Have a slurmctld of the controller's image start with these files, beside the one that runs.

    Raises:
        VcoreError: it does not take them, or passes over a part; in its words.
    """
    with _place(pillar).candidate(files) as candidate:
        _run(
            pillar, [COMMAND, "prove", f"{MOUNT}/{candidate}"], "slurm.conf was refused, and the old one stays in force"
        )


def reconfigure(pillar: Mapping[str, Any]) -> None:
    """Have slurmctld, and with it every node, read the configuration again, once; jobs go on.

    Raises:
        VcoreError: slurmctld does not take it, or does not answer afterwards.
    """
    _run(pillar, [COMMAND, "reload"], "slurmctld does not read its configuration")


def _is_replaced(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Whether this run goes on to replace the container that runs, by that of another image for instance."""
    from ..swarm.membership import Swarm

    swarm = Swarm()
    if SERVICE not in swarm.snapshot().services:
        return False
    from ..swarm import deployment

    return swarm.plan(deployment.wanted(SERVICE, pillar=pillar, paths=paths)).different


def configure(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Bring the configuration into force where it differs: at most one reconfigure, never a restart.

    For callers beside ``state.apply``, such as the reconciler, with the head's pillar.

    Returns:
        The changes, as the state vcore_slurm.configured lists them; {} where there were none.

    Raises:
        VcoreError: the new configuration was refused, and the old one is in force.
    """
    planned = plan(pillar, paths)
    if planned.changes:
        apply(pillar, paths, planned)
    return planned.changes


def settle(pillar: Mapping[str, Any]) -> None:
    """See to it that what the controller's container read when it started is in force, or say why it is not.

    Raises:
        VcoreError: it refused the configuration and has taken the one before.
    """
    if not _runs(pillar):
        return
    place = _place(pillar)
    content = place.read()
    if content != configuration.files(pillar):
        if refusal := place.refusal():
            raise VcoreError(f"the configuration was refused, and the one before is in force: {refusal}")
        raise VcoreError("the configuration in place is not the wanted one; apply again")
    if place.applied() != fingerprint(content) or (place.folder / PREVIOUS).exists():
        _run(pillar, [COMMAND, "probe"], "slurmctld does not serve")
        place.in_force(content)
    (place.folder / WRITTEN).unlink(missing_ok=True)
