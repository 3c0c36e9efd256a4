"""Bring the SLURM controller's configuration into force, and run commands in its container.

The configuration lies in a folder of the head, which the controller's container mounts at /etc/slurm; nodes fetch it
from the controller. Its files follow from the resolved pillar (:mod:`vcore.slurm.configuration`), and come into force
as :mod:`vcore.swarm.proving` describes. A second slurmctld of the same image proves them beside the one that runs; then
one ``scontrol reconfigure`` makes all daemons read them, which does not disturb jobs.

**The administrator wins.** Every reason that the core gives for draining a node begins with ``vcore: ``. The core
clears its own reasons, and slurmctld's about a node that has less than its line says; never a person's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..host import containers
from ..swarm import proving
from ..swarm.proving import ConfiguredService, Place, text_difference
from . import configuration

SERVICE = configuration.CONTROLLER


#: Where the container has the configuration, and its command.
MOUNT, COMMAND = "/etc/slurm", "/usr/lib/virtual-core/slurm-controller"


#: Every file that a configuration may have.
FILES = ("cgroup.conf", "gres.conf", "nodes.conf", "slurm.conf", configuration.PROLOG, configuration.EPILOG)


# --- the container --------------------------------------------------------------------------------------------------


def folder(pillar: Mapping[str, Any]) -> Path:
    """Return the folder of the configuration on the head."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


def manages(pillar: Mapping[str, Any]) -> bool:
    """Return whether this node runs the controller of the core's own SLURM."""
    return SERVICE in pillar["services"] and SERVICE in pillar["node"]["services"]


def container(pillar: Mapping[str, Any]) -> str:
    """Return the id of the controller's container.

    Raises:
        NotFound: the controller does not run on this node.
    """
    if not manages(pillar):
        raise NotFound(
            tr("SLURM's controller does not run on this node; slurm.mode of the site file says whether any does")
        )
    return containers.running(
        SERVICE, folder(pillar), f"SLURM's controller does not run; see docker service ps {SERVICE}"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str]) -> tuple[int, bytes]:
    """Run a command as root in the controller's container; return its exit code and all output.

    Raises:
        NotFound: the controller does not run here.
    """
    return containers.execute(container(pillar), command)


def run_checked(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    """Run a command in the controller's container and return its output.

    Raises:
        NotFound: the controller does not run here.
        VcoreError: the command failed; the message is ``failed`` with its output.
    """
    return containers.output_or_error(execute(pillar, command), failed)


# --- the configuration ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The wanted and old files of the configuration, and the changes between them."""

    files: dict[str, bytes]
    old: dict[str, bytes]
    changes: dict[str, Any]


def place(pillar: Mapping[str, Any]) -> Place:
    """Return the folder of the configuration and the names of its files."""
    return Place(folder(pillar), FILES)


def plan(pillar: Mapping[str, Any], paths: Paths) -> Plan:
    """Compare the configuration in place with what is wanted.

    Docker is asked only where the files are the same and it is not known whether they are in force.

    Raises:
        VcoreError: the controller is not on the head, or SLURM does not accept a value.
    """
    if not manages(pillar):
        raise VcoreError(
            tr("SLURM's controller has to run on the head; take services.slurm-controller.node out of the site")
        )
    old, files = place(pillar).read(), configuration.files(pillar)
    changes: dict[str, Any] = {
        name: text_difference(name, old.get(name), files.get(name))
        for name in sorted({*old, *files})
        if old.get(name) != files.get(name)
    }
    if not changes and _service(pillar).is_unread(old):
        changes = {"reload": "slurmctld may not have read its configuration"}
    return Plan(files, old, changes)


def apply(pillar: Mapping[str, Any], paths: Paths, planned: Plan, *, replacing: bool = False) -> str:
    """Prove the configuration, put it in place and reconfigure SLURM once; return what was done, in words.

    ``replacing`` says that the same run goes on to bring the service up. Where that replaces the container, the new one
    proves and reads the configuration at its start.

    Raises:
        VcoreError: the configuration was refused, and the old one is in force.
    """
    if _service(pillar).apply(
        planned.files,
        planned.old,
        replaced=lambda: replacing and proving.is_replaced(SERVICE, pillar, paths),
    ):
        return "SLURM has read its new configuration."
    return "The configuration was written; slurmctld proves and reads it when it starts."


def _service(pillar: Mapping[str, Any]) -> ConfiguredService:
    """Describe how the controller is configured."""

    def prove(candidate: str) -> None:
        inside = f"{MOUNT}/{candidate}"
        run_checked(pillar, [COMMAND, "prove", inside], "slurm.conf was refused, and the old one stays in force")

    return ConfiguredService(
        place(pillar),
        container=lambda: container(pillar),
        prove=prove,
        reload=lambda: reconfigure(pillar),
        probe=lambda: run_checked(pillar, [COMMAND, "probe"], "slurmctld does not serve"),
    )


def reconfigure(pillar: Mapping[str, Any]) -> None:
    """Make slurmctld, and with it every node, read the configuration again, once; jobs go on.

    Raises:
        VcoreError: slurmctld refuses the configuration, or does not answer afterwards.
    """
    run_checked(pillar, [COMMAND, "reload"], "slurmctld does not read its configuration")


def configure(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Bring the configuration into force where it differs, with at most one reconfigure and never a restart.

    This is for callers other than ``state.apply``, such as the reconciler; they pass the head's pillar.

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
    """Make sure that the controller's container has the configuration in place in force.

    Raises:
        VcoreError: the container refused the configuration and runs with the previous one.
    """
    _service(pillar).settle(
        lambda content: content != configuration.files(pillar),
        refused="the configuration was refused, and the previous one is in force",
    )
