"""Names and times that all of SLURM's parts share."""

from __future__ import annotations

#: The services of the catalogue that are SLURM's own.
CONTROLLER, COMPUTE, ACCOUNTING = "slurm-controller", "slurm-compute", "slurm-accounting"


def seconds(limit: str) -> float:
    """The seconds of a time limit; infinite for UNLIMITED."""
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
