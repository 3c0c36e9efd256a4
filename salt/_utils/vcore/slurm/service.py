"""The keys and files of a site's own SLURM that services of the core get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..kernel.site import Configuration
from . import names
from .existing import BESIDE, flattened
from .names import SlurmPart
from .settings import SLURM


def extend(configuration: Configuration, name: str, service: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Add the ports of srun to a service and, where the site has its own SLURM, that cluster's key and files."""
    if "srun" in service["ports"]:
        # These are the ports on which srun waits for the nodes; slurm.conf names the same ones.
        ports = SLURM.of(configuration.site).srun_ports
        service["ports"]["srun"] |= {"number": ports.first, "last": ports.last}
    if parts["slurm"]["existing"] is not None:
        keys, files = given(parts["slurm"], service["secrets"])
        for secret, path in keys.items():
            service["secrets"][secret]["file"] = path
        service["configs"] |= files


def content(entry: Mapping[str, Any]) -> bytes | None:
    """Return the content of a config that is a file of the site's SLURM; None for a config that is rendered.

    Raises:
        VcoreError: the file cannot be read.
    """
    return flattened(Path(entry["file"])).encode() if "file" in entry else None


# --- what services of the core are given ------------------------------------------------------------------------------


def given(slurm: SlurmPart, secrets: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return what a service that uses the cluster's key gets with an existing SLURM.

    The first result has the files on the head of its secrets by name, the second further configs, each with ``file``,
    its file on the head. Where the controller serves its configuration there are no configs: services fetch it there.
    """
    keys = {
        name: str(slurm["key"])
        for name, secret in secrets.items()
        if secret["service"] == names.CONTROLLER and name == "key"
    }
    theirs = slurm["existing"]
    if not keys or theirs is None or theirs["configless"]:
        return keys, {}
    main = Path(str(slurm["configuration"]))
    files = {"slurm.conf": main, **{name: main.parent / name for name in BESIDE if (main.parent / name).is_file()}}
    rights = {"owner": 0, "group": 0, "mode": "0444"}
    return keys, {name: {"file": str(path), "path": f"/etc/slurm/{name}", **rights} for name, path in files.items()}
