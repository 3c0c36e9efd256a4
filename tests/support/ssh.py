"""An ssh key of a person, for tests that log in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's ssh key."""
    if not shutil.which("ssh-keygen"):
        pytest.fail("ssh-keygen is missing: apt-get install openssh-client")
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", str(path)], check=True)
    return path
