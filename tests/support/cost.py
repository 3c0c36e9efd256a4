"""What a step costs, told without what else a busy machine does at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(holds: Callable[[], bool], times: int = 5) -> float:
    """The fewest seconds of CPU time, of this process and of several times, that something takes and holds."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        assert holds()
        seconds.append(time.process_time() - began)
    return min(seconds)
