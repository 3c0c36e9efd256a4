"""Whether the storage is well."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..base.checks import Check, result
from ..host import mounts
from .mounting import problem, wanted
from .resolve import KINDS

# --- how it is ------------------------------------------------------------------------------------------------------


def facts(pillar: Mapping[str, Any], host: mounts.Host | None = None) -> dict[str, Any]:
    """How the storage of this node is: ``{ok, roots: {kind: {path, source, ok, message}}, problems}``.

    It takes :data:`PATIENCE` seconds at most, whatever hangs.
    """
    host = host or mounts.Host(Path(), "")
    roots = wanted(pillar)
    with ThreadPoolExecutor(max_workers=len(KINDS)) as pool:
        found = dict(zip(roots, pool.map(lambda root: problem(root, host), roots.values()), strict=True))
    return {
        "ok": not any(found.values()),
        "roots": {
            name: {"path": root.target, "source": root.source, "ok": not found[name], "message": found[name] or ""}
            for name, root in roots.items()
        },
        "problems": [f"storage {name}: {wrong}" for name, wrong in found.items() if wrong],
    }


def check(pillar: Mapping[str, Any]) -> list[Check]:
    """The check of this node's storage, for vcore.doctor."""
    seen = facts(pillar)
    remedy = "run salt-call state.apply; docs/storage.md says what each sentence means"
    return [
        result(f"{entry['path']} is the core's {name}", entry["ok"], entry["message"] or "it is", remedy)
        for name, entry in seen["roots"].items()
    ]
