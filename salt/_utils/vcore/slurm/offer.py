"""Offer the core's compute nodes to a site's own SLURM, as files that its administrator can include."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.files import write_atomic
from ..base.paths import Paths

#: The folder of the offered files, below the head's state folder; the site's slurm.conf and gres.conf include them.
OFFER = "slurm"


NODES, GRES = "nodes.conf.virtual-core", "gres.conf.virtual-core"


# --- what is offered ------------------------------------------------------------------------------------------------


def offer(pillar: Mapping[str, Any], paths: Paths) -> dict[Path, str]:
    """Return the files that a site's own SLURM can include, by path, as our compute nodes are now."""
    from . import configuration

    folder = paths.state / OFFER
    return {folder / NODES: configuration.nodes_conf(pillar), folder / GRES: configuration.gres_conf(pillar)}


def differences(pillar: Mapping[str, Any], paths: Paths) -> dict[str, str]:
    """Return what would change in the offered files, by path, as unified diffs; nothing in other modes."""
    import difflib

    if pillar["slurm"]["mode"] != "existing":
        return {}
    changes = {}
    for path, text in offer(pillar, paths).items():
        old = path.read_text() if path.is_file() else ""
        if old != text:
            lines = difflib.unified_diff(old.splitlines(True), text.splitlines(True), path.name, path.name)
            changes[str(path)] = "".join(lines)
    return changes


def write_offer(pillar: Mapping[str, Any], paths: Paths) -> dict[str, str]:
    """Bring the offered files up to date and return what changed; the site's own slurmctld is not told."""
    changes = differences(pillar, paths)
    if not changes:
        return changes
    for path, text in offer(pillar, paths).items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(path, text.encode(), mode=0o644)
    return changes
