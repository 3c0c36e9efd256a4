"""Names of services, and time limits, that several modules of SLURM use."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Existing(TypedDict):
    """What the core knows of a SLURM that the site has: :func:`vcore.slurm.existing.facts`."""

    cluster: str
    #: HOST:PORT each.
    controllers: list[str]
    #: Whether clients get the configuration of the controller.
    configless: bool
    #: The host of slurmdbd; None where there is none.
    accounting: str | None


class SlurmPart(TypedDict):
    """``slurm`` of the pillar: the section of the site file, with ``controller`` and ``existing``."""

    mode: Literal["none", "managed", "existing"]
    #: HOST:PORT of slurmctld, with commas between several; None where there is none.
    controller: str | None
    existing: Existing | None
    #: Files of it on the head; None in another mode.
    configuration: str | None
    key: str | None
    cluster: str
    nodes: dict[str, dict[str, Any]]
    default_memory_per_cpu: int
    memory_reserve: int
    cgroups: Literal["auto", "on", "off"]
    prolog: str | None
    epilog: str | None
    partitions: dict[str, dict[str, Any]]
    accounts: dict[str, dict[str, Any]]
    default_account: str | None
    qos: dict[str, dict[str, Any]]
    limits: dict[str, Any]
    srun_ports: dict[str, int]


#: The services of the catalogue that are SLURM's own.
CONTROLLER, COMPUTE, ACCOUNTING = "slurm-controller", "slurm-compute", "slurm-accounting"


def seconds(limit: str) -> float:
    """Convert a time limit, in any format of SLURM's, to seconds; infinity for UNLIMITED."""
    if limit == "UNLIMITED":
        return float("inf")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, rest_seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, rest_seconds = parts
    else:  # minutes[:seconds]
        hours, minutes, rest_seconds = 0, *[*parts, 0][:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + rest_seconds
