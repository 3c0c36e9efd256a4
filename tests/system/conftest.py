"""Fixtures of the system tests: labs, their hosts, and the timings of what happens on them.

The labs are removed at the end; VCORE_KEEP_LAB=1 leaves them for a look, and goes on with those that a run before left.
If a test failed, the hosts' journals and bootstrap's log are in tests/report/ by then, and their last lines below
pytest's summary.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from timings import Timings
from xdist.scheduler import LoadScopeScheduling

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from lab import guest as lab_guest  # noqa: E402

REPORT = CHECKOUT / "tests" / "report"
LOGS = {
    "journal": "journalctl --no-pager --lines=2000",
    "bootstrap": "cat /var/lib/virtual-core/bootstrap.log",
    "docker": "docker ps --all --no-trunc; docker service ls; docker node ls",
}
SHOWN_LINES = 25
#: Files whose tests do not use the shared lab, by the beginnings of their names.
APART = ("tests/system/test_guest", "tests/system/test_lab")

TIMINGS = pytest.StashKey[Timings]()
TAILS = pytest.StashKey[dict[str, str]]()


class CommandFailed(AssertionError):
    """A command on a host that should have succeeded: the command, its exit code, and the end of its output."""


class Host:
    """One host of a lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name

    @property
    def address(self) -> str:
        """Its address on the lab's network."""
        return next(row["address"] for row in self.lab.status() if row["host"] == self.name)

    def run(
        self, command: str | list[str], *, check: bool = True, timeout: float = 300, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root: a string in bash, a list as it is.

        After `timeout` seconds it is ended on the host (exit code 124). With `check`, an exit code other than 0 raises.
        """
        arguments = ["bash", "-c", command] if isinstance(command, str) else command
        limited = ["timeout", "--kill-after=10", f"{timeout:g}", *arguments]
        done = self.lab.call("exec", self.name, "--", *limited, input=input)
        if check and done.returncode:
            text = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
            raise CommandFailed(f"{self.name}: `{shlex.join(arguments)}` exits with {done.returncode}:\n{text}")
        return done

    def salt_call(self, function: str, *arguments: str, check: bool = True, timeout: float = 600, **named: Any) -> Any:
        """Return what an execution module returns on this host. Named arguments are passed as `name=value` in JSON."""
        pairs = [f"{name}={json.dumps(value)}" for name, value in named.items()]
        command = ["salt-call", "--out=json", "--retcode-passthrough", function, *arguments, *pairs]
        done = self.run(command, check=check, timeout=timeout)
        try:
            return json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            raise CommandFailed(
                f"{self.name}: `{shlex.join(command)}` prints no result:\n{done.stdout}{done.stderr}"
            ) from None


class Lab:
    """One lab, driven by ./lab as people do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ./lab with these arguments; without `input` the command reads an empty one."""
        command = [str(CHECKOUT / "lab"), "--name", self.name, *arguments]
        return subprocess.run(command, input=input or "", capture_output=True, text=True, errors="replace", check=False)

    def up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `./lab up`; its output is in pytest's report of a failure."""
        done = self.call("up", "--yes", *options)
        print(done.stdout, done.stderr)
        if check and done.returncode:
            raise CommandFailed(f"`./lab up {shlex.join(options)}` exits with {done.returncode}; its output is below")
        return done

    def clone(self, source: str, *hosts: str) -> None:
        """Run `./lab clone`."""
        done = self.call("clone", source, *hosts)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr

    def status(self) -> list[dict[str, str]]:
        """Run `./lab status`."""
        return json.loads(self.call("status", "--json").stdout)

    def host(self, name: str) -> Host:
        """Return one of its hosts."""
        return Host(self, name)

    def down(self, *hosts: str) -> None:
        """Run `./lab down` for all hosts or for these."""
        self.call("down", *hosts)

    def logs(self) -> dict[str, str]:
        """Write the hosts' logs to tests/report/; return the ends of the head's."""
        tails = {}
        REPORT.mkdir(parents=True, exist_ok=True)
        for row in self.status():
            for name, command in LOGS.items():
                text = self.host(row["host"]).run(command, check=False, timeout=60).stdout
                if not text.strip():
                    continue
                path = REPORT / f"{self.name}-{row['host']}-{name}.log"
                path.write_text(text)
                if row["host"] == "head":
                    tails[str(path.relative_to(CHECKOUT))] = "\n".join(text.splitlines()[-SHOWN_LINES:])
        return tails


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TIMINGS] = Timings()
    config.stash[TAILS] = {}


class Scheduling(LoadScopeScheduling):
    """Gives tests a process of their own if their files do not use the shared lab."""

    def _split_scope(self, nodeid: str) -> str:
        return "apart" if nodeid.startswith(APART) else "with the core"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Make pytest-xdist use our scheduling; its groups by mark are lost where pytest ignores a changed id."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that change the shared core for good after the others, and those that remove it from its head last."""
    late = ("test_compute", "test_interruptions")
    items.sort(key=lambda item: next((n for n, name in enumerate(late, 1) if name in item.nodeid), 0))
    for item in items:
        if item.nodeid.startswith(APART) and "lab" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} uses the shared lab, which another process has")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the starting process what this one has for the end of the output."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["timings"] = vars(session.config.stash[TIMINGS])
        output["tails"] = session.config.stash[TAILS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Take what a process has sent; one that crashed has sent nothing."""
    told = getattr(node, "workeroutput", {})
    node.config.stash[TIMINGS].add(**told.get("timings", {}))
    node.config.stash[TAILS].update(told.get("tails", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for path, text in config.stash[TAILS].items():
        terminalreporter.section(f"end of {path}")
        terminalreporter.write_line(text)
    if lines := config.stash[TIMINGS].table():
        terminalreporter.section("timings")
        for line in lines:
            terminalreporter.write_line(line)
        config.stash[TIMINGS].write(REPORT / "timings.json")


@pytest.fixture(scope="session")
def timings(request: pytest.FixtureRequest) -> Timings:
    """Records the seconds of a step: ``with timings.step("second apply", limit=8): ...``."""
    return request.config.stash[TIMINGS]


@pytest.fixture(scope="session")
def make_lab(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Lab]]:
    """Make labs by name, for tests that need hosts of their own; an earlier lab of that name is removed first."""
    labs: list[Lab] = []

    def make(name: str) -> Lab:
        lab = Lab(name)
        if not os.environ.get("VCORE_KEEP_LAB"):
            lab.down()
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        if request.session.testsfailed:
            request.config.stash[TAILS].update(lab.logs())
        if not os.environ.get("VCORE_KEEP_LAB"):
            lab.down()


@pytest.fixture(scope="session")
def lab(make_lab: Callable[[str], Lab], timings: Timings) -> Lab:
    """Return the lab that the tests share: bare hosts `head` and `compute-1`."""
    lab = make_lab("test")
    with timings.step("lab: bare hosts"):
        lab.up("--bare", "--compute=1")
    return lab


@pytest.fixture(scope="session")
def head(lab: Lab, timings: Timings) -> Host:
    """Return the head, after bootstrap.sh with the example site."""
    with timings.step("bootstrap: from nothing to healthy", limit=360):
        lab.up()
    return lab.host("head")


@pytest.fixture(scope="session")
def client(lab: Lab) -> Host:
    """Return a bare host beside the head, which has nothing of Virtual Core."""
    return lab.host("compute-1")


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest, timings: Timings) -> Iterator[lab_guest.Guest]:
    """Yield a guest with a kernel of its own, for what this machine's and its containers' kernel lacks."""
    lab_guest.require_programs()
    with timings.step("guest: disk"):
        lab_guest.disk()
    with timings.step("guest: boot"):
        guest = lab_guest.Guest()
        guest.start()
    try:
        yield guest
        if request.session.testsfailed:
            path = REPORT / "guest.log"
            request.config.stash[TAILS][str(path.relative_to(CHECKOUT))] = guest.keep_log(path)
    finally:
        guest.close()
