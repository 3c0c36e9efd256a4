"""Fixtures of the unit tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch):
    """Make unit tests that ask Docker fail on every machine, not only where no daemon runs."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")


@pytest.fixture
def golden():
    """Compare a text with a golden file; ``VCORE_GOLDEN=write`` writes the files anew, to be reviewed as a diff."""

    def compare(path, text):
        if os.environ.get("VCORE_GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; write it with VCORE_GOLDEN=write and read it"
        assert text == path.read_text()

    return compare
