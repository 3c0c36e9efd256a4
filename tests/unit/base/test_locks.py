"""Locks have one holder at a time, and a holder that died blocks nobody."""

import os
import signal
import subprocess
import sys
import time

import pytest
from vcore.base import locks
from vcore.base.errors import Busy


def test_the_second_waits_and_then_says_so(tmp_path):
    path = tmp_path / "lock"
    with locks.exclusive(path, wait=0, busy="no"):
        began = time.monotonic()
        with (
            pytest.raises(Busy, match=r"^somebody is at it$"),
            locks.exclusive(path, wait=0.2, busy="somebody is at it"),
        ):
            pass
        assert time.monotonic() - began >= 0.2
    with locks.exclusive(path, wait=0, busy="still held"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_dies_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    program = "import sys, time, pathlib; from vcore.base import locks\n"
    program += (
        "with locks.exclusive(pathlib.Path(sys.argv[1]), wait=0, busy=''): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy), locks.exclusive(path, wait=0, busy="held"):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with locks.exclusive(path, wait=1, busy="held by nobody"):
        pass
