"""The health of the storage."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..base.checks import Check, result
from ..base.messages import tr
from ..base.paths import Paths
from ..host import mounts
from .mounting import problem, wanted
from .places import KINDS

# --- how it is ------------------------------------------------------------------------------------------------------


def look(pillar: Mapping[str, Any], host: mounts.Host | None = None) -> dict[str, Any]:
    """Return the state of this node's storage: ``{ok, roots: {kind: {path, source, ok, message}}, problems}``.

    It takes at most :data:`vcore.storage.mounting.PATIENCE` seconds, whatever hangs.
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


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``storage``, as :func:`look` does."""
    return {"storage": look(pillar)}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return what is not well with homes and data on the head."""
    return list(facts.get("storage", {}).get("problems", []))


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Look at the storage of the head."""
    seen = look(pillar)
    remedy = tr("run salt-call state.apply; docs/storage.md says what each sentence means")
    return [
        result(
            tr("{path} is the core's {name}", path=entry["path"], name=name),
            entry["ok"],
            entry["message"] or tr("it is"),
            remedy,
        )
        for name, entry in seen["roots"].items()
    ]
