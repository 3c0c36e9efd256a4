"""The result of this node's last convergence: a summary that a Salt returner writes and ``vcore.status`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..base.files import write_atomic
from ..base.paths import Paths

FILE = "convergence.json"


def functions(job: Mapping[str, Any]) -> list[tuple[str | None, list[Any], Any]]:
    """Return the function, arguments and return value of each function that a job ran, be it one or several."""
    name, arguments, returned = job.get("fun"), job.get("fun_args") or [], job["return"]
    if not isinstance(name, list):
        return [(name, arguments, returned)]
    return [(one, given, returned.get(one)) for one, given in zip(name, arguments, strict=False)]


def is_whole(function: str | None, arguments: Iterable[Any]) -> bool:
    """Return whether a job was a full convergence: ``state.apply`` or ``state.highstate`` of everything, not a plan."""
    words = [word for word in map(str, arguments) if not word.startswith("queue=")]
    # Salt appends keyword arguments as one mapping that contains __kwarg__, or as key=value.
    named = [a for a in arguments if isinstance(a, dict)]
    if any(entry.get("test") for entry in named) or any(word.lower() == "test=true" for word in words):
        return False
    positional = [a for a in arguments if not isinstance(a, dict) and "=" not in str(a)]
    mods = any(entry.get("mods") for entry in named) or any(word.startswith("mods=") for word in words)
    return function in ("state.apply", "state.highstate") and not positional and not mods


def summary(states: Any, *, now: float) -> dict[str, Any]:
    """Return the counts of a convergence that ended at ``now`` (seconds since 1970); durations are in seconds.

    ``states`` is what state.apply returned: a mapping of states, or a list of messages if nothing could run.
    """
    if not isinstance(states, dict):
        problems = [str(line) for line in states] if isinstance(states, list) else [str(states)]
        return {"ended": round(now, 3), "ok": False, "states": 0, "changed": 0, "seconds": 0.0, "failed": problems}
    failed = [state.get("__id__", state.get("name", "?")) for state in states.values() if state.get("result") is False]
    return {
        "ended": round(now, 3),
        "ok": not failed,
        "states": len(states),
        "changed": sum(1 for state in states.values() if state.get("changes")),
        "seconds": round(sum(float(state.get("duration") or 0) for state in states.values()) / 1000, 3),
        "failed": failed,
    }


def record(paths: Paths, entry: dict[str, Any]) -> None:
    """Write the record of the last convergence."""
    paths.state.mkdir(parents=True, exist_ok=True)
    write_atomic(paths.state / FILE, json.dumps(entry, indent=2).encode())


def last(paths: Paths) -> dict[str, Any] | None:
    """Return the record of the last convergence, or None if there was none yet."""
    try:
        return dict(json.loads((paths.state / FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return None
