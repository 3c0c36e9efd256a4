"""Fixtures and hooks of all test folders."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
#: What takes longest begins first, or the other processes would wait for it at the end.
LONGEST = (
    "integration/test_reconciler", "functional/swarm/", "functional/images/", "functional/passwords/",
    "integration/test_joining", "integration/",
)  # fmt: skip

# How long an example takes on a busy machine proves nothing.
hypothesis.settings.register_profile("vcore", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("vcore")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The source tree under test."""
    return CHECKOUT


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """Run pytest-salt-factories' daemons in a folder of their own: by default, concurrent runs collide in /tmp.

    It is short, since the daemons' sockets lie below it and a socket's path has at most 107 characters.
    """
    folder = Path(tempfile.mkdtemp(prefix="vcore-"))
    yield {"root_dir": folder, "code_dir": CHECKOUT, "inject_sitecustomize": False}
    shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""

    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(LONGEST) if f"tests/{name}" in item.nodeid), len(LONGEST))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell tests/run how many tests passed and failed. Skipped ones have failed: what they need is to be installed."""
    if counts := os.environ.get("VCORE_TEST_COUNTS"):
        number = {name: len(reports) for name, reports in terminalreporter.stats.items()}
        failed = sum(number.get(name, 0) for name in ("failed", "error", "skipped", "xfailed", "xpassed"))
        Path(counts).write_text(f"{number.get('passed', 0)} {failed}\n")


def pytest_unconfigure() -> None:
    """At exit Salt writes log lines to a stream that pytest has closed: do not report that."""
    logging.raiseExceptions = False
