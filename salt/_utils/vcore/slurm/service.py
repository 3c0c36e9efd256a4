"""The keys and files of a site's own SLURM, as its services get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import names
from .existing import BESIDE, flattened


def content(path: Path) -> bytes:
    """A file of the site's SLURM as the core's services get it.

    Raises:
        VcoreError: it cannot be read.
    """
    return flattened(path).encode()


# --- what services of the core are given ------------------------------------------------------------------------------


def given(slurm: Mapping[str, Any], secrets: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """What a service that has the cluster's key gets in this mode instead: files of secrets by name, and further
    configs, each with ``file``, the file on the head that it is.

    Where the controller hands its configuration out, services ask it for it. Else they get the files.
    """
    keys = {
        name: str(slurm["key"])
        for name, secret in secrets.items()
        if secret["service"] == names.CONTROLLER and name == "key"
    }
    if not keys or slurm["existing"]["configless"]:
        return keys, {}
    main = Path(slurm["configuration"])
    files = {"slurm.conf": main, **{name: main.parent / name for name in BESIDE if (main.parent / name).is_file()}}
    rights = {"owner": 0, "group": 0, "mode": "0444"}
    return keys, {name: {"file": str(path), "path": f"/etc/slurm/{name}", **rights} for name, path in files.items()}
