"""Measurements of all areas, and what of them is bad.

An area says in its ``monitoring.py`` what there is to measure and, as data, from which value on it is bad. So the same
limits judge a value here and, written as a trigger, in whatever watches the values over time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from ..base.errors import VcoreError
from ..base.paths import Paths
from ..kernel import areas

#: From good to bad. ``unknown`` is a value that could not be measured: whether the service is there at all is a
#: measurement of its own, and of those that follow from it only this one is severe.
LEVELS = ("ok", "unknown", "warning", "severe")
Level = Literal["ok", "unknown", "warning", "severe"]
#: Words with dots between them, the first of them the area's name.
KEY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
#: How a limit is compared. A value is bad beyond a limit, not at it.
COMPARED = ("above", "below")


class Limit(TypedDict, total=False):
    """Where values begin that are bad: one of these."""

    above: float
    below: float


class Measurement(TypedDict):
    """One value, and what is to be known to judge it.

    ``key`` stays the same for good, for what was recorded under it; ``error`` says why ``value`` is None. A ``counter``
    counts from the start of its service: its change over time tells something, and it has no limits.
    """

    key: str
    service: str
    title: str
    value: float | str | None
    unit: str
    error: NotRequired[str]
    counter: NotRequired[bool]
    warning: NotRequired[Limit]
    severe: NotRequired[Limit]
    #: What is wrong beyond a limit, and what to do; what has a limit has it.
    problem: NotRequired[str]


@areas.face("monitoring")
class Measured(Protocol):
    """What is measured in an area."""

    def measurements(self, pillar: Mapping[str, Any], paths: Paths) -> list[Measurement]:
        """Measure it, as far as the area's services are on.

        The keys do not depend on how the services are: what cannot be measured is there without a value. It raises
        nothing of the core's own.
        """


def is_beyond(value: float, limit: Limit | None) -> bool:
    """Tell whether a value is bad by this limit."""
    if limit is None:
        return False
    return ("above" in limit and value > limit["above"]) or ("below" in limit and value < limit["below"])


def level(measurement: Measurement) -> Level:
    """Return how a measurement is; text is never bad."""
    value = measurement["value"]
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return "ok"
    if is_beyond(value, measurement.get("severe")):
        return "severe"
    return "warning" if is_beyond(value, measurement.get("warning")) else "ok"


def mistakes(area: str, measurements: Iterable[Measurement]) -> list[str]:
    """Return what is wrong with how an area describes what it measures, a sentence each."""
    found, seen = [], set()
    for one in measurements:
        key, limits = one["key"], [one[name] for name in ("warning", "severe") if name in one]
        if not KEY.fullmatch(key) or not key.startswith(f"{area}."):
            found.append(f"{key}: a key is words of a-z, 0-9 and _ with dots between them, the first is {area}")
        if key in seen:
            found.append(f"{key}: there are two measurements of this key")
        seen.add(key)
        if any(len(limit) != 1 or not limit.keys() <= set(COMPARED) for limit in limits):
            found.append(f"{key}: a limit is one of {' and '.join(COMPARED)}")
        if bool(limits) != bool(one.get("problem")):
            found.append(f"{key}: limits, and a sentence that says what is wrong beyond them, come together")
        if limits and (one.get("counter") or isinstance(one["value"], str)):
            found.append(f"{key}: counters and texts have no limits")
        if (one["value"] is None) != bool(one.get("error")):
            found.append(f"{key}: it has either a value, or an error that says why there is none")
    return found


def judged(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return the measurements with their levels, and that of the worst: ``{ok, level, measurements}``.

    ``ok`` is true where nothing is beyond a limit, and everything could be measured.
    """
    entries = [{**one, "level": level(one), "ok": level(one) == "ok"} for one in measurements]
    worst = max((entry["level"] for entry in entries), key=LEVELS.index, default="ok")
    return {"ok": worst == "ok", "level": worst, "measurements": entries}


def collect(pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
    """Measure everything, and judge it as :func:`judged` does.

    Raises:
        VcoreError: an area describes something wrongly, which is a mistake of the core's.
    """
    found: list[Measurement] = []
    for name, area in areas.asked(Measured).items():
        measured = area.measurements(pillar, paths)
        if wrong := mistakes(name, measured):
            raise VcoreError("; ".join(wrong))
        found += measured
    return judged(found)
