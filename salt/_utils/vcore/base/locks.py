"""Locks between the processes of a host."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Busy


@contextmanager
def exclusive(path: Path, *, wait: float, busy: str) -> Iterator[None]:
    """Hold the lock that the file ``path`` stands for; its folder has to exist.

    The kernel releases it when its holder dies, however it dies.

    Raises:
        Busy: another process has held it for ``wait`` seconds; the message is ``busy``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Busy(busy) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
