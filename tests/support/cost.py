"""The cost of a step, independent of everything else that a busy machine does at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(holds: Callable[[], bool], times: int = 5) -> float:
    """Run ``holds``, which has to return True, several times; return the least CPU time of this process in seconds."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        assert holds()
        seconds.append(time.process_time() - began)
    return min(seconds)
