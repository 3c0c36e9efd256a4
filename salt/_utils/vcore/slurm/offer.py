"""What an administrator of a site's own SLURM is offered: lines for its configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.files import write_atomic
from ..base.paths import Paths

#: What is offered below the head's state folder, to be included by the site's slurm.conf and gres.conf.
OFFER = "slurm"


NODES, GRES = "nodes.conf.virtual-core", "gres.conf.virtual-core"


# --- what is offered ------------------------------------------------------------------------------------------------


def offer(pillar: Mapping[str, Any], paths: Paths) -> dict[Path, str]:
    """The files that a site's own SLURM can include, as our compute nodes are now."""
    from . import configuration

    folder = paths.state / OFFER
    return {folder / NODES: configuration.nodes_conf(pillar), folder / GRES: configuration.gres_conf(pillar)}


def differences(pillar: Mapping[str, Any], paths: Paths) -> dict[str, str]:
    """What would change in the files on offer, by path: unified diffs, nothing in another mode."""
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
    """Bring the files on offer up to date; returns what changed. Nobody's slurmctld is told: it is not ours."""
    changes = differences(pillar, paths)
    if not changes:
        return changes
    for path, text in offer(pillar, paths).items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(path, text.encode(), mode=0o644)
    return changes
