"""One password for the directory and Samba, as people use it: real slapd, smbd and salt-call, with both schemes, and
what every kind of interruption leaves behind.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import select
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ldap
import pytest
from salt.exceptions import CommandExecutionError
from support.directory import SUFFIX, build_image, loaders
from support.file_router import SERVICE, FileCore, person_dn
from support.images import build
from vcore.base.files import write_atomic
from vcore.base.secrets import Store
from vcore.file_router import passwords, samba

REPORT = Path(__file__).parents[1] / "report" / "passwords.json"
PYTHON, DRIVER = "/opt/virtual-core/salt/bin/python3", "/usr/local/lib/password_driver.py"
JOURNAL = ".local/state/virtual-core/password-change"
FIRST = "First-of-all-111"
numbers = itertools.count(10001)


class Passwords(FileCore):
    """A core without shares, with a machine on the network that is not the file router."""

    def __init__(self, folder: Path, scheme: str) -> None:
        super().__init__(folder, {"password_scheme": scheme}, shares={}, instruments={})
        self.scheme = scheme
        self.desk, self.somebody = "", ""

    def settle(self) -> dict[str, Any]:
        """Set Samba's policies as a site has them."""
        return {
            "folders": {},
            "password_scheme": self.scheme,
            "policies": samba.policies(self.pillar),
            "home_mode": "0700",
        }

    def bring_up(self) -> None:
        super().bring_up()
        definition = self.pillar["services"][SERVICE]["configs"]
        binds = {
            str(self.folder / "rendered" / name): {"bind": definition[name]["path"], "mode": "ro"}
            for name in definition
        }
        self.desk = self.api.create_container(
            build("people"),
            entrypoint=["sleep", "infinity"],
            host_config=self.api.create_host_config(
                binds=binds,
                network_mode=self.network.name,
                # Cut off from the network, the container has to find out quickly that names cannot be resolved.
                dns_opt=["timeout:1", "attempts:1"],
            ),
        )["Id"]
        self.api.start(self.desk)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(Path(__file__).with_name("password_driver.py"), Path(DRIVER).name)
        for container in (self.desk, self.router):
            self.api.put_archive(container, str(Path(DRIVER).parent), archive.getvalue())
        code, output = self.on_router("/usr/lib/virtual-core/settle")
        assert code == 0, output

    def configure(self, **files: str) -> None:
        super().configure(**files)
        write_atomic(self.volume("configuration") / "instruments", b"", mode=0o600)

    def take_down(self) -> None:
        if self.desk:
            self.api.remove_container(self.desk, force=True)
        super().take_down()

    def add(self, name: str, *, first: bool = False, same: bool = True) -> int:
        """Add a person with the password FIRST; with tdbsam, Samba gets it too (``same``) or knows no such person."""
        number, self.somebody = next(numbers), name
        self.add_person(name, number, password=FIRST, first=first)
        home = self.volume("home") / name
        home.mkdir(mode=0o700)
        os.chown(home, number, 10000)
        if self.scheme == "tdbsam" and same:
            self.set_samba(name, FIRST)
        return number

    def set_samba(self, name: str, password: str) -> None:
        """Set somebody's password in Samba's own store."""
        done = self.docker(self.router, "smbpasswd", "-a", "-s", name, data=f"{password}\n{password}\n")
        assert done.returncode == 0, done.stdout

    def docker(
        self, container: str | None, *command: str, data: str = "", user: int = 0, folder: str = "/", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a container, with input."""
        more = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        identity = f"{user}:{10000 if user else 0}"
        return subprocess.run(
            ["docker", "exec", "-i", "-u", identity, "-w", folder, *more, str(container), *command],
            input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip

    def sync(self, number: int, *lines: str, boot: bool = False, **more: Any) -> tuple[int, str]:
        """Run salt-call vcore.sync_password as a person on the file router; return exit code and output."""
        command = ["salt-call", "vcore.sync_password", *(["--boot"] if boot else [])]
        data = "".join(f"{line}\n" for line in lines)
        done = self.docker(self.router, *command, data=data, user=number, **more)
        assert "Traceback" not in done.stdout
        assert not [line for line in lines if line and line in done.stdout]
        return done.returncode, done.stdout.strip()

    def accepts(self, name: str, password: str) -> tuple[bool, bool]:
        """Return whether the directory and Samba accept a password, without the code under test."""
        try:
            self.bind(person_dn(name), password).unbind_s()
            directory = True
        except ldap.INVALID_CREDENTIALS:
            directory = False
        command = ["smbclient", f"//{SERVICE}/IPC$", "-A", "/dev/stdin", "-c", "exit"]
        done = self.docker(self.desk, *command, data=f"username = {name}\npassword = {password}\n")
        assert done.returncode == 0 or "LOGON_FAILURE" in done.stdout or "MUST_CHANGE" in done.stdout, done.stdout
        return directory, done.returncode == 0

    @contextlib.contextmanager
    def policy(self, **values: str) -> Iterator[None]:
        """Change values of the directory's policy for a while."""
        dn = f"cn=default,ou=policies,{SUFFIX}"
        connection = self.bind()
        found = connection.search_s(dn, ldap.SCOPE_BASE, attrlist=list(values))[0][1]
        try:
            connection.modify_s(dn, [(ldap.MOD_REPLACE, name, value.encode()) for name, value in values.items()])
            yield
        finally:
            connection.modify_s(dn, [(ldap.MOD_REPLACE, name, found.get(name)) for name in values])
            connection.unbind_s()

    def drive(self, container: str | None, number: int, *arguments: str) -> Driver:
        """Start the driver in a container."""
        return Driver(container, number, *arguments)


class Driver:
    """The program in the container; see password_driver.py."""

    def __init__(self, container: str | None, number: int, *arguments: str) -> None:
        user = f"{number}:{10000 if number else 0}"
        self.process = subprocess.Popen(
            ["docker", "exec", "-i", "-u", user, str(container), PYTHON, DRIVER, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def hear(self) -> dict[str, Any]:
        """Return the driver's next report."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], 120)[0]:
                self.process.kill()
                pytest.fail("the driver says nothing")
            data = os.read(self.process.stdout.fileno(), 1)
            if not data:
                pytest.fail(f"the driver ended: {self.process.stderr.read().decode()}")
            line += data
        return json.loads(line)

    def say(self, **message: Any) -> None:
        """Send the driver a line."""
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def core_of(folder: Path, scheme: str) -> Iterator[Passwords]:
    build_image()
    core = Passwords(folder, scheme)
    try:
        core.bring_up()
        yield core
    finally:
        core.take_down()


@pytest.fixture(scope="module")
def ldapsam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passwords]:
    """A core whose Samba keeps its passwords in the directory."""
    yield from core_of(tmp_path_factory.mktemp("ldapsam"), "ldapsam")


@pytest.fixture(scope="module")
def tdbsam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passwords]:
    """A core whose Samba keeps its passwords in a store of its own."""
    yield from core_of(tmp_path_factory.mktemp("tdbsam"), "tdbsam")


@pytest.fixture(params=["ldapsam", "tdbsam"])
def core(request: pytest.FixtureRequest) -> Passwords:
    """Each of them in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    """Print measurements, and write them to tests/report."""
    found: dict[str, Any] = {}
    yield found
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


# --- what people see ------------------------------------------------------------------------------------------------


def test_a_change_holds_at_once_everywhere(core: Passwords) -> None:
    ada = core.add(f"ada-{core.scheme}", first=core.scheme == "ldapsam")
    name = f"ada-{core.scheme}"
    code, said = core.sync(ada, FIRST, "Second-choice-22", "Second-choice-22")
    assert (code, said) == (
        0, "Your password is changed. The new one was tried with the directory and the file server; both accept it."
    )  # fmt: skip
    assert core.accepts(name, "Second-choice-22") == (True, True)
    assert core.accepts(name, FIRST) == (False, False)
    assert core.ssh(name, "id", "-un", password="Second-choice-22") == (0, f"{name}\n")
    assert core.ssh(name, "true", password=FIRST)[0] == 255
    # Any characters, including those that cannot be quoted for Samba's faster client.
    current = "Second-choice-22"
    for new in ("Grüße aus Köln, 100 %", 'A "quoted" \\n password', "; -U root $(id) `id` 'x'"):
        assert core.sync(ada, current, new)[0] == 0
        assert core.accepts(name, new) == (True, True)
        current = new


def test_each_outcome_has_a_sentence_and_an_exit_code(core: Passwords) -> None:
    name = f"bob-{core.scheme}"
    bob = core.add(name)
    good = "A-good-choice-333"
    nothing = "Nothing is changed."

    def expect(code: int, words: str, *lines: str, **more: Any) -> None:
        found = core.sync(bob, *lines, **more)
        assert found[0] == code and words in found[1], (code, words, found)
        assert code == 0 or nothing in found[1] or "--boot is not needed" in found[1], found

    expect(10, "wrong, or the account is locked", "not it", good)
    expect(10, "wrong", "")
    expect(11, "at least 10 characters", FIRST, "short")
    expect(11, "your login name", FIRST, f"{name}-is-me-1")
    expect(12, "the one that you have", FIRST, FIRST)
    expect(18, "differ", FIRST, good, "Another-choice-3")
    expect(0, "changed", FIRST, good)
    expect(12, "you had it before", good, FIRST)
    with core.policy(pwdMinAge="86400"):
        expect(13, "too recently", good, "Too-young-for-it-4")
    with core.policy(pwdMinLength="30"):
        expect(11, "too short", good, "Too-short-there-5")
    with core.policy(pwdAllowUserChange="FALSE"):
        expect(17, "does not let you", good, "Not-allowed-there-6")
    connection = core.bind()
    with core.policy(pwdMaxAge="1"):
        time.sleep(1.2)
        expect(15, "expired", good, "Expired-by-now-7")
    connection.modify_s(person_dn(name), [(ldap.MOD_REPLACE, "pwdAccountLockedTime", b"000001010000Z")])
    expect(14, "locked", good, "Locked-by-now-88")
    expect(10, "wrong, or the account is locked", "not it", "Locked-by-now-88")
    connection.modify_s(person_dn(name), [(ldap.MOD_DELETE, "pwdAccountLockedTime", None)])
    # Somebody is changing the password in another window.
    with Driver(core.router, bob, "terminal", "[]", "wait", "salt-call", "vcore.sync_password") as window:
        assert window.hear()["prompted"]
        expect(19, "Another change", good, "Busy-doing-it-99")
        window.say(end=True)
        assert window.hear()["code"] == 130
    assert core.accepts(name, good) == (True, True)


def test_servers_that_are_down(core: Passwords) -> None:
    name, good = f"carol-{core.scheme}", "A-good-choice-333"
    carol = core.add(name)
    with smbd_gone(core):
        code, said = core.sync(carol, FIRST, good)
        if core.scheme == "tdbsam":
            assert (code, "file server" in said) == (21, True), said
        else:
            assert (code, "could not be tried" in said) == (23, True), said
    current = FIRST if core.scheme == "tdbsam" else good
    assert core.accepts(name, current) == (True, True)
    if core.scheme == "ldapsam":
        return  # the rest takes half a minute, until the name service gives up
    core.api.disconnect_container_from_network(core.container, core.network.id)
    try:
        code, said = core.sync(carol, current, "While-it-is-away-4")
        assert (code, "directory does not answer" in said) == (20, True), said
    finally:
        core.api.connect_container_to_network(core.container, core.network.id, aliases=["ldap"])
    wait_for_names(core)
    assert core.accepts(name, current) == (True, True)


def test_at_a_terminal(core: Passwords, report: dict[str, Any]) -> None:
    name = f"dora-{core.scheme}"
    dora = core.add(name)
    times = []
    for index in range(3):
        old, new = (FIRST if not index else f"Chosen-before-{index - 1}"), f"Chosen-before-{index}"
        answers = [old, "short", new, "mistyped", new, new] if index == 2 else [old, new, new]
        found = drive_terminal(core, dora, answers)
        assert found["code"] == 0, found
        assert "password is changed" in found["text"]
        assert not [word for word in answers if word in found["text"]], "something was echoed"
        times.append(found)
    assert times[2]["text"].count("New password (at least 10 characters): ") == 3
    report[f"seconds, {core.scheme}"] = [
        {key: found[key] for key in ("prompt", "said", "ended", "total")} for found in times
    ]
    # Promised: 1.5 s to the first prompt, 1 s from the last answer, 3 s in total. Others use this machine, too, so the
    # best result counts, and busy moments are waited out.
    promised = {"prompt": 1.5, "said": 1.0, "total": 3.0}
    last, deadline = 2, time.monotonic() + 60

    def best(key: str) -> float:
        return min(found[key] for found in times)

    while any(best(key) >= limit for key, limit in promised.items()) and time.monotonic() < deadline:
        old, new = (f"Chosen-before-{index}" for index in (last, last + 1))
        last += 1
        times.append(drive_terminal(core, dora, [old, new, new]))
        assert times[-1]["code"] == 0, times[-1]
    assert all(best(key) < limit for key, limit in promised.items()), times
    # Leaving early has changed nothing.
    found = drive_terminal(core, dora, [f"Chosen-before-{last}"])
    assert (found["code"], "Left. Nothing is changed." in found["text"]) == (130, True), found
    assert core.accepts(name, f"Chosen-before-{last}") == (True, True)


def drive_terminal(core: Passwords, number: int, answers: list[str]) -> dict[str, Any]:
    command = ("salt-call", "vcore.sync_password")
    with Driver(core.router, number, "terminal", json.dumps(answers), "go", *command) as driver:
        return driver.hear()


def test_the_command_is_its_own_whatever_is_around_it(ldapsam: Passwords) -> None:
    eve = ldapsam.add("eve")
    hostile = ldapsam.volume("home") / "eve" / "hostile"
    (hostile / "salt").mkdir(parents=True)
    (hostile / "Saltfile").write_text("salt-call:\n  config_dir: /nowhere\n  local: False\n")
    for module in ("salt/__init__.py", "ldap.py", "vcore.py", "json.py"):
        (hostile / module).write_text("raise SystemExit('taken over')\n")
    more = {
        "folder": "/home/eve/hostile", "PYTHONPATH": "/home/eve/hostile", "SALT_SALTFILE": "/home/eve/hostile/Saltfile",
        "PYTHONINSPECT": "1", "LDAPTLS_REQCERT": "never", "LDAPNOINIT": "", "HOME": "/nowhere", "TMPDIR": "/nowhere",
        "PATH": "/home/eve/hostile:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C",
    }  # fmt: skip
    assert ldapsam.sync(eve, FIRST, "Unimpressed-by-it-1", **more)[0] == 0
    for arguments, code, words in (
        ([], 2, "Passwords are never arguments"),
        (["--help"], 0, "--boot"),
        (["vcore.sync_password", "--help"], 0, "--boot"),
        (["vcore.sync_password", "Secret-in-argv-1"], 2, "takes no argument"),
        (["vcore.sync_password", "-l", "debug"], 2, "takes no argument"),
        (["vcore.status"], 255, "not available"),
        (["test.echo", "hello"], 0, "hello"),
    ):
        done = ldapsam.docker(ldapsam.router, "salt-call", *arguments, user=eve, folder="/home/eve/hostile")
        assert done.returncode == code and words in done.stdout, (arguments, done)
        assert "Secret" not in done.stdout and "Traceback" not in done.stdout
    code, said = ldapsam.sync(eve, "Unimpressed-by-it-1", boot=True)
    assert (code, "not needed" in said) == (2, True)
    # A read-only home does not matter where nothing has to be kept in it.
    os.chown(ldapsam.volume("home") / "eve", 0, 0)
    assert ldapsam.sync(eve, "Unimpressed-by-it-1", "Unimpressed-by-it-2")[0] == 0
    # Somebody who is not one of the core's people, and a host that is not set up.
    done = ldapsam.docker(ldapsam.router, "salt-call", "vcore.sync_password", data="x\ny\n", user=12345)
    assert done.returncode == 40 and "not known on this host" in done.stdout, done
    assert ldapsam.docker(ldapsam.router, "salt-call", "vcore.sync_password", data="x\ny\n").returncode == 10


def test_no_password_lies_about(core: Passwords, report: dict[str, Any]) -> None:
    name, current = f"faye-{core.scheme}", FIRST
    faye = core.add(name)
    words = [FIRST, *(f"Nobody-reads-this-{index}" for index in range(3)), "Not-the-right-one-1"]
    with Driver(core.router, 0, "watch", json.dumps(words)) as watcher:
        assert watcher.hear()["ready"]
        for new in words[1:4]:
            assert core.sync(faye, current, new)[0] == 0
            current = new
        assert core.sync(faye, words[4], "Whatever-it-is-22")[0] == 10
        if core.scheme == "tdbsam":
            assert core.sync(faye, current, 'With-"quotes"-to-go')[0] == 0
        watcher.say(end=True)
        found = watcher.hear()
    assert found["found"] == [] and found["looks"] > 20, found
    report[f"looks at all arguments and environments, {core.scheme}"] = found["looks"]
    pattern = "|".join(words)
    places = [
        "/home",
        "/tmp",
        "/var/tmp",
        "/var/log",
        "/var/cache",
        "/run",
        "/var/lib/virtual-core",
        "/opt/virtual-core",
    ]
    done = core.docker(core.router, "grep", "-rlaE", pattern, *places)
    assert done.stdout == "", done.stdout
    for container in (core.router, core.container):
        assert not [word for word in words if word.encode() in core.api.logs(container)]
    done = core.docker(
        core.router, "sh", "-c", "ls -A /tmp | grep salt; find / -xdev -name 'core*' -size +1M -newer /proc/1"
    )
    assert done.stdout == "", done.stdout


def test_the_first_synchronisation(tdbsam: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    gwen = tdbsam.add("gwen", same=False, first=True)
    modules = loaders(tdbsam).modules
    code, said = tdbsam.sync(gwen, FIRST, "Common-to-both-1")
    assert (code, "--boot" in said) == (16, True), said
    assert modules["vcore.password_check"]("gwen")["summary"].startswith("not in sync: Samba has no account for gwen")
    path = Path(modules["vcore.samba_user_add"]("gwen"))
    one_time = path.read_text()
    assert (path.stat().st_mode & 0o777, len(one_time)) == (0o600, passwords.ONE_TIME_LENGTH)
    with pytest.raises(CommandExecutionError, match="already; for a new one-time password"):
        modules["vcore.samba_user_add"]("gwen")
    for nobody in ("nobody-there", "../x", "gwen)(uid=*", "root", "a b"):
        with pytest.raises(CommandExecutionError, match=r"nobody|cannot be the name of a person"):
            modules["vcore.samba_user_add"](nobody)
    assert "two passwords differ" in modules["vcore.password_check"]("gwen")["summary"]
    code, said = tdbsam.sync(gwen, FIRST, "not-the-one-time", "Common-to-both-1", boot=True)
    assert (code, "one-time" in said) == (10, True), said
    assert tdbsam.sync(gwen, FIRST, one_time, "Common-to-both-1", boot=True)[0] == 0
    found = modules["vcore.password_check"]("gwen")
    assert (found["in_sync"], found["interrupted"]) == (True, False), found
    assert tdbsam.accepts("gwen", "Common-to-both-1") == (True, True)
    # Forgotten password: both sides get a new one, and are brought together again.
    tdbsam.bind().passwd_s(person_dn("gwen"), None, "Given-by-hand-22")
    one_time = Path(modules["vcore.samba_user_add"]("gwen", reset=True)).read_text()
    assert tdbsam.sync(gwen, "Given-by-hand-22", one_time, "Common-to-both-3", boot=True)[0] == 0
    assert modules["vcore.password_check"]("gwen")["in_sync"]


def test_what_administrators_are_told(ldapsam: Passwords) -> None:
    ldapsam.add("hugo")
    modules = loaders(ldapsam).modules
    found = modules["vcore.password_check"]("hugo")
    assert found["in_sync"] and found["since"], found
    # A plain modification changes only the directory's password.
    ldapsam.bind().modify_s(person_dn("hugo"), [(ldap.MOD_REPLACE, "userPassword", b"Only-in-there-111")])
    if modules["vcore.password_check"]("hugo")["in_sync"]:
        # Within the seconds in which the two times cannot be told apart.
        time.sleep(passwords.SAME_MOMENT + 1)
        ldapsam.bind().modify_s(person_dn("hugo"), [(ldap.MOD_REPLACE, "userPassword", b"Only-in-there-222")])
    found = modules["vcore.password_check"]("hugo")
    assert not found["in_sync"] and "without the password operation" in found["summary"], found
    with pytest.raises(CommandExecutionError, match="nobody"):
        modules["vcore.password_check"]("nobody-there")
    with pytest.raises(CommandExecutionError, match="takes its passwords from the directory"):
        modules["vcore.samba_user_add"]("hugo")


# --- interrupted ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def smbd_gone(core: Passwords) -> Iterator[None]:
    """Yield the file router without smbd."""
    done = core.docker(core.router, "supervisorctl", "stop", "smbd")
    assert "stopped" in done.stdout, done.stdout
    try:
        yield
    finally:
        core.docker(core.router, "supervisorctl", "start", "smbd")
        wait_for_samba(core)


def wait_for_samba(core: Passwords) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done = core.docker(core.desk, "smbclient", f"//{SERVICE}/IPC$", "-U", "nobody%x", "-c", "exit")
        if "LOGON_FAILURE" in done.stdout:
            return
        time.sleep(0.1)
    pytest.fail(f"smbd does not answer: {done.stdout}")


def wait_for_names(core: Passwords) -> None:
    """Wait for names: without a directory, the name service knows nobody, and Samba rejects right passwords."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if core.docker(core.router, "getent", "passwd", core.somebody).returncode == 0:
            return
        time.sleep(0.1)
    pytest.fail("the name service of the file router does not come back")


class Trouble:
    """Something that happens to the servers or the network during a change, and how it ends."""

    def __init__(self, core: Passwords) -> None:
        self.core = core
        self.begun: list[str] = []

    def begin(self, what: str) -> None:
        core = self.core
        self.begun.append(what)
        if what == "the directory refuses":
            self.policy = core.policy(pwdMinAge="86400")
            self.policy.__enter__()
        elif what == "Samba refuses":
            self.pdbedit("minimum password age", "86400")
        elif what == "the directory is killed":
            core.kill()
        elif what == "the directory hangs":
            core.api.pause(core.container)
        elif what == "Samba is killed":
            core.docker(core.router, "sh", "-c", "kill -9 $(pidof smbd)")
        elif what == "Samba hangs":
            core.docker(core.router, "sh", "-c", "kill -STOP $(pidof smbd)")
        elif what == "the network is cut":
            core.api.disconnect_container_from_network(core.desk, core.network.id)

    def end(self) -> None:
        core = self.core
        for what in self.begun:
            if what == "the directory refuses":
                self.policy.__exit__(None, None, None)
            elif what == "Samba refuses":
                self.pdbedit("minimum password age", "0")
            elif what == "the directory is killed":
                core.api.start(core.container)
                core.wait()
                wait_for_names(core)
            elif what == "the directory hangs":
                core.api.unpause(core.container)
                wait_for_names(core)
            elif what == "Samba is killed":
                wait_for_samba(core)
            elif what == "Samba hangs":
                core.docker(core.router, "sh", "-c", "kill -CONT $(pidof smbd)")
            elif what == "the network is cut":
                core.api.connect_container_to_network(core.desk, core.network.id)
        self.begun = []

    def pdbedit(self, policy: str, value: str) -> None:
        done = self.core.docker(self.core.router, "pdbedit", "-P", policy, "-C", value)
        assert done.returncode == 0, done.stdout


def at(step: str, do: str, when: str = "before", nth: int = 1) -> dict[str, Any]:
    return {"step": step, "when": when, "do": do, "nth": nth}


def change(driver: Driver, trouble: Trouble, old: str, new: str, **job: Any) -> dict[str, Any]:
    """A change that is cut short, and its recovery."""
    driver.say(old=old, new=new, **job)
    steps = None
    while "ended" not in (answer := driver.hear()):
        if "do" in answer:
            trouble.begin(answer["do"])
            driver.say(done=True)
        else:
            steps = answer["steps"]
    trouble.end()
    driver.say(healed=True)
    return {**answer, **driver.hear(), "steps": steps}


def steps_of(core: Passwords, name: str, number: int) -> list[tuple[str, str]]:
    """Return the steps of a change that nothing disturbs, each with before and after."""
    with Driver(core.desk, number, "faults", name, core.scheme) as driver:
        found = change(driver, Trouble(core), FIRST, "Undisturbed-22", faults=[], remembered="new", steps=True)
    assert found["ended"] == 0
    return list(dict.fromkeys((when, step) for when, step in found["steps"]))


def interrupt(
    core: Passwords, name: str, number: int, current: str, jobs: list[tuple[str, dict[str, Any]]]
) -> list[Any]:
    """Interrupt one change after the other; whatever happens, both stores have the same password afterwards."""
    results = []
    with Driver(core.desk, number, "faults", name, core.scheme) as driver:
        for index, (title, job) in enumerate(jobs):
            new = f"Interrupted-{index}-of-{title.count('e')}{index * 7919}"
            remembered = ("old", "new")[index % 2]
            found = change(driver, Trouble(core), current, new, remembered=remembered, **job)
            state = {password: tuple(answer) for password, answer in found["state"].items()}
            assert sorted(state.values()) == [(False, False), (True, True)], f"{title}: {found}"
            assert not found["journal"], (title, found)
            current = next(password for password, answer in state.items() if answer == (True, True))
            results.append((title, found["ended"], found["interrupted"], found["recovered"], current == new))
    return results


def tell(report: dict[str, Any], name: str, results: list[Any]) -> None:
    report[name] = {
        "changes": len(results),
        "left with two passwords after recovery": 0,
        "faults": dict(Counter(title for title, *_ in results)),
        "found a journal": sum(interrupted for _, _, interrupted, _, _ in results),
        "exit codes of the change (-9: killed)": dict(Counter(str(ended) for _, ended, *_ in results)),
        "exit codes of the recovery": dict(Counter(str(recovered) for _, _, _, recovered, _ in results)),
        "ended with the new password": sum(new for *_, new in results),
    }


def test_a_hundred_interrupted_changes(tdbsam: Passwords, report: dict[str, Any]) -> None:
    people = {name: tdbsam.add(name) for name in ("ida", "jon", "kim")}
    steps = steps_of(tdbsam, "ida", people["ida"])
    assert len(steps) == 14, steps
    killed = [("the process is killed", {"faults": [at(step, "kill", when)]}) for when, step in steps]
    # Each of the steps five times, with three people at once.
    jobs = killed * 5
    current = {"ida": "Undisturbed-22", "jon": FIRST, "kim": FIRST}
    with ThreadPoolExecutor() as pool:
        parts = pool.map(
            lambda part: interrupt(tdbsam, part[1], people[part[1]], current[part[1]], jobs[part[0] :: 3]),
            enumerate(people),
        )
        results = [result for part in parts for result in part]
    lee = tdbsam.add("lee")
    patience = {"patience": 1.5}
    undone = [at("directory.change", "the directory refuses")]
    rest: list[tuple[str, dict[str, Any]]] = [
        *[("the directory refuses", {"faults": undone})] * 8,
        *[("Samba refuses", {"faults": [at("samba.change", "Samba refuses")]})] * 6,
        *[
            ("the process is killed while it undoes", {"faults": [*undone, at("samba.change", "kill", when, 2)]})
            for when in ("before", "after")
        ]
        * 2,
    ]
    # Each of these takes seconds, because the change waits for an answer that does not come.
    for title, job, places in (
        ("the directory is killed", {}, [("directory.change", "before"), ("directory.change", "after")]),
        ("Samba is killed", {}, [("samba.change", "before"), ("samba.change", "after"), ("directory.change", "after")]),
        (
            "the network is cut",
            {},
            [("directory.rehearse", "before"), ("samba.change", "after"), ("journal.remove", "before")],
        ),
        ("the directory hangs", patience, [("directory.change", "before"), ("directory.change", "after")]),
        ("Samba hangs", patience, [("samba.change", "before"), ("samba.change", "after")]),
    ):
        rest += [(title, {"faults": [at(step, title, when)], **job}) for step, when in places]
    results += interrupt(tdbsam, "lee", lee, FIRST, rest)
    tell(report, "interrupted changes, tdbsam", results)
    assert len(results) == 100
    # The faults did happen, and recovery met all kinds of them.
    assert sum(ended == -9 for _, ended, *_ in results) == 74
    assert sum(interrupted for _, _, interrupted, _, _ in results) >= 50
    refused = [ended for title, ended, *_ in results if title == "the directory refuses"]
    assert refused == [13] * 8
    assert [ended for title, ended, *_ in results if title == "Samba refuses"] == [13] * 6


def test_interrupted_changes_of_one_store(ldapsam: Passwords, report: dict[str, Any]) -> None:
    mia = ldapsam.add("mia")
    steps = steps_of(ldapsam, "mia", mia)
    assert {step for _, step in steps} == {"directory.change", "directory.accepts", "samba.accepts"}
    jobs: list[tuple[str, dict[str, Any]]] = [
        *((("the process is killed", {"faults": [at(step, "kill", when)]})) for when, step in steps * 2),
        *(
            (what, {"faults": [at("directory.change", what, when)], "patience": 1.5})
            for what in ("the directory is killed", "the network is cut", "the directory hangs", "Samba is killed")
            for when in ("before", "after")
        ),
    ]
    results = interrupt(ldapsam, "mia", mia, "Undisturbed-22", jobs)
    tell(report, "interrupted changes, ldapsam", results)
    assert len(results) == 20


def test_a_samba_with_a_history_of_its_own_is_finished_later(tdbsam: Passwords) -> None:
    """Samba refuses to reuse the earlier password, so a change that the directory refuses at the last moment stays
    open.
    """
    nina = tdbsam.add("nina")
    trouble = Trouble(tdbsam)
    trouble.pdbedit("password history", "5")
    try:
        tdbsam.set_samba("nina", FIRST)
        jobs = [("refused", {"faults": [at("directory.change", "the directory refuses")]})] * 2
        results = interrupt(tdbsam, "nina", nina, FIRST, jobs)
    finally:
        trouble.pdbedit("password history", "0")
    assert [(ended, interrupted, new) for _, ended, interrupted, _, new in results] == [(22, True, True)] * 2


def test_recovery_as_its_owner_sees_it(tdbsam: Passwords) -> None:
    oda = tdbsam.add("oda")
    with Driver(tdbsam.desk, oda, "faults", "oda", "tdbsam", "real") as driver:
        driver.say(old=FIRST, new="Half-way-there-1", faults=[at("directory.change", "kill")], remembered="old")
        assert driver.hear()["ended"] == -9
        home = tdbsam.volume("home") / "oda" / JOURNAL
        home.parent.mkdir(parents=True)
        left = tdbsam.docker(tdbsam.desk, "cat", "/tmp/state-oda/password-change").stdout
        driver.process.kill()
    assert tdbsam.accepts("oda", FIRST) == (True, False)
    home.write_text(left)
    for path in (home, *list(home.parents)[:3]):
        os.chown(path, oda, 10000)
    found = loaders(tdbsam).modules["vcore.password_check"]("oda")
    assert (found["in_sync"], found["interrupted"]) == (False, True) and "oda ends the interrupted change" in found[
        "summary"
    ]
    code, said = tdbsam.sync(oda, "Something-else-1", "Whatever-it-is-22")
    assert (code, "was interrupted: type the password from before it" in said) == (10, True), said
    code, said = tdbsam.sync(oda, "Half-way-there-1")
    assert (code, "is finished now" in said) == (31, True), said
    assert tdbsam.accepts("oda", "Half-way-there-1") == (True, True)
    assert not home.exists()
    # The journal needs a place: without one nothing is begun.
    os.chown(home.parent, 0, 0)
    code, said = tdbsam.sync(oda, "Half-way-there-1", "Nowhere-to-write-1")
    assert (code, "Nothing is changed" in said) == (24, True), said


# --- under load -----------------------------------------------------------------------------------------------------


def test_twenty_clients_never_see_two_passwords(ldapsam: Passwords, report: dict[str, Any]) -> None:
    pia = ldapsam.add("pia")
    # A third of the logins uses the earlier password, which must not lock the account.
    with ldapsam.policy(pwdMaxFailure="0"):
        Trouble(ldapsam).pdbedit("bad lockout attempt", "0")
        with Driver(ldapsam.desk, pia, "clients", "pia", FIRST, "5") as driver:
            found = driver.hear()
        Trouble(ldapsam).pdbedit("bad lockout attempt", "10")
    assert found["wrong"] == [], found
    assert min(found["logins"].values()) >= 25, found
    assert ldapsam.accepts("pia", found["current"]) == (True, True)
    report["20 clients during 5 changes, ldapsam"] = found


def test_a_change_by_samba_keeps_both(ldapsam: Passwords) -> None:
    quinn = ldapsam.add("quinn")
    command = ["smbpasswd", "-s", "-r", SERVICE, "-U", "quinn"]
    new = "Changed-by-samba-1"
    done = ldapsam.docker(ldapsam.desk, *command, data=f"{FIRST}\n{new}\n{new}\n", user=quinn)
    assert done.returncode == 0, done.stdout
    assert ldapsam.accepts("quinn", new) == (True, True)
    assert ldapsam.accepts("quinn", FIRST) == (False, False)
    done = ldapsam.docker(ldapsam.desk, *command, data=f"{new}\n{FIRST}\n{FIRST}\n", user=quinn)
    assert done.returncode != 0, "the directory's history holds for Samba, too"
    assert ldapsam.accepts("quinn", new) == (True, True)
    assert Store(ldapsam.paths.secrets).exists("ldap", "samba-password")
