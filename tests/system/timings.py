"""How long the main steps of a core take; the system tests record it in tests/report/timings.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Timings:
    """A list of named steps with their seconds, and with a limit where one is promised."""

    def __init__(self) -> None:
        self.steps: list[dict[str, str | float | None]] = []
        self.measures: dict[str, str] = {}

    def record(self, step: str, seconds: float, limit: float | None = None) -> None:
        """Note a step of so many seconds; AssertionError if that is over the limit (seconds)."""
        self.steps.append({"step": step, "seconds": round(seconds, 2), "limit": limit})
        assert limit is None or seconds <= limit, f"{step} took {seconds:.1f} s, and at most {limit:g} s are promised"

    @contextmanager
    def step(self, step: str, limit: float | None = None) -> Iterator[None]:
        """Time the block; a step that fails is not recorded."""
        started = time.monotonic()
        yield
        self.record(step, time.monotonic() - started, limit)

    def report(self, what: str, value: str) -> None:
        """Note a result that is not a time, such as a throughput, in words."""
        self.measures[what] = value

    def add(self, steps: Iterable[dict[str, Any]] = (), measures: Mapping[str, str] | None = None) -> None:
        """Add what another process recorded, as returned by vars()."""
        self.steps += steps
        self.measures |= measures or {}

    def write(self, path: Path) -> None:
        """Write the report, with the machine on which it was measured."""
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {"processors": os.cpu_count(), "kernel": os.uname().release, "steps": self.steps}
        report["measures"] = self.measures
        path.write_text(json.dumps(report, indent=2) + "\n")

    def table(self) -> list[str]:
        """Return the steps as lines for people."""
        width = max((len(str(name)) for name in [*(step["step"] for step in self.steps), *self.measures]), default=0)
        limits = ["" if step["limit"] is None else f"  (at most {step['limit']:g} s)" for step in self.steps]
        return [
            f"{step['step']!s:<{width}} {step['seconds']:8.2f} s{limit}"
            for step, limit in zip(self.steps, limits, strict=True)
        ] + [f"{what:<{width}} {value}" for what, value in self.measures.items()]
