"""The file router as people, machines and instruments use it: smbd and Ganesha in the project's image."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.directory import SUFFIX, build_image, loaders
from support.file_router import SERVICE, FileCore
from vcore.base import configurations
from vcore.base.errors import Refused, VcoreError
from vcore.base.secrets import Store
from vcore.directory import client, entries
from vcore.file_router import configuration, container, health, samba

PEOPLE = {"ada": 10001, "bob": 10002, "carol": 10003}
#: ada may write to runs through her group, carol may read it, bob may neither.
SHARES: dict[str, Any] = {
    "runs": {
        "path": "sequencing/runs",
        "description": "Runs of the sequencers",
        "read": ["carol"],
        "write": ["@sequencing"],
        "group": "sequencing",
        "recycle": True,
        "nfs": [{"hosts": "{network}", "access": "rw", "any_port": True}],
    },
    "software": {"read": ["@people"], "mode": "2775", "nfs": [{"hosts": "{network}", "any_port": True}]},
    "hidden": {"write": ["ada"], "visible": False},
    "private": {"write": ["@sequencing"], "nfs": [{"hosts": "192.0.2.0/24", "access": "rw"}]},
    "dump": {"smb": False, "mode": "2777", "nfs": [{"hosts": "{network}", "access": "rw", "any_port": True}]},
    "anybody": {
        "smb": False,
        "mode": "2777",
        "nfs": [
            {"hosts": "0.0.0.0/0"},
            {"hosts": "{network}", "access": "rw", "squash": "all", "any_port": True},
        ],
    },
    "careful": {"smb": False, "mode": "2777", "nfs": [{"hosts": "{network}", "access": "rw"}]},
    "unused": {},
}
INSTRUMENTS = {"sequencer": {"share": "runs"}}
REFUSED = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_LOGON_FAILURE")


def password(name: str) -> str:
    return f"Initial-of-{name}-1"


class Files(FileCore):
    """A core whose file router is configured by the states, as a site's is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, shares=SHARES, instruments=INSTRUMENTS)

    def configure(self, **_: str) -> None:
        """Configure the router before its first start: people, secrets, and the state of the configuration."""
        self.loaders = loaders(self)
        for name, number in PEOPLE.items():
            self.add_person(name, number, password=password(name))
        self.add_group("sequencing", 10500, "ada")
        for name in self.instruments:
            Store(self.paths.secrets).write(SERVICE, f"instrument-{name}", password(name).encode())
        self.converge("instruments_present")
        self.converge("configured")

    def change(self, **settings: Any) -> None:
        """Resolve the site anew after changing its shares, instruments or these settings."""
        self.file_settings |= settings
        port = self.port
        self.pillar = self._pillar({})
        self.pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port = port
        self.loaders = loaders(self)  # the existing ones would merge the new pillar into the old one

    def state(self, function: str, *, test: bool = False) -> Any:
        return self.loaders.states[f"vcore_file_router.{function}"](name="it", test=test)

    def converge(self, function: str) -> Any:
        """Plan, apply, and apply again: the plan lists what applying does, and the second time nothing is left."""
        plan = self.state(function, test=True)
        assert plan.result is None, plan.comment
        done = self.state(function)
        assert done.result is True, done.comment
        assert done.changes == plan.changes
        for test in (False, True):
            again = self.state(function, test=test)
            assert (again.result, again.changes) == (True, {}), again.comment
        return done

    def smb(self, share: str, who: str, *commands: str, options: tuple[str, ...] = (), secret: str = "") -> str:
        """Return the output of smbclient for some commands."""
        words = ["smbclient", f"//{SERVICE}/{share}", "-U", f"{who}%{secret or password(who)}", *options]
        return self.on_client(*words, "-c", "; ".join(commands))[1]

    def shares_of(self, who: str) -> set[str]:
        """Return the shares that somebody sees."""
        words = ["smbclient", "-g", "-L", SERVICE, "-U", f"{who}%{password(who)}"]
        lines = self.on_client(*words)[1].splitlines()
        return {line.split("|")[1] for line in lines if line.startswith("Disk|")}

    def nfs_write(self, share: str, name: str, uid: int = 10001, gid: int = 10000) -> tuple[int, str]:
        """Write a file of one line by NFS, as any user."""
        self.on_client("sh", "-c", f"echo by NFS > /tmp/{name}")
        return self.on_client("nfs-cp", f"/tmp/{name}", self.nfs(f"{share}/{name}", uid, gid))

    def address(self) -> str:
        """Return the file router's address, from this machine."""
        return self.api.inspect_container(self.router)["NetworkSettings"]["Networks"][self.network.name]["IPAddress"]

    def nfs_3(self, path: str) -> str:
        """Return the address of a path by NFS 3, with its ports, because there is no port mapper to ask."""
        return f"nfs://{SERVICE}/{path}?version=3&nfsport=2049&mountport=20048&uid=10001&gid=10500"

    def owner(self, path: str) -> str:
        """Return owner, group and mode of a path below /data."""
        return self.on_router("stat", "-c", "%u:%g %a", f"/data/{path}")[1].strip()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Yield a core with a directory and a file router that serve."""
    build_image()
    core = Files(tmp_path_factory.mktemp("files"))
    try:
        core.bring_up()
        assert core.state("serving").result is True
        core.on_client("sh", "-c", "echo by SMB > /tmp/line")
        yield core
    finally:
        core.take_down()


# --- shares by SMB, exports by NFS ----------------------------------------------------------------------------------


def test_folders_have_their_group_and_mode(files: Files) -> None:
    assert files.owner("sequencing") == "0:0 755"
    assert files.owner("sequencing/runs") == "0:10500 2770"
    assert files.owner("sequencing/runs/.recycle") == "0:10500 3770"
    assert files.owner("software") == "0:10000 2775"


def test_what_is_put_by_smb_is_read_by_nfs_with_its_owner(files: Files) -> None:
    said = files.smb("runs", "ada", "mkdir day", "put /tmp/line day/smb.txt")
    assert "putting file" in said, said
    assert files.owner("sequencing/runs/day/smb.txt") == "10001:10500 660"
    assert files.owner("sequencing/runs/day") == "10001:10500 2770"
    assert files.on_client("nfs-cat", files.nfs("runs/day/smb.txt", 10001, 10500)) == (0, "by SMB\n")


def test_what_is_written_by_nfs_is_read_by_smb(files: Files) -> None:
    assert files.nfs_write("runs", "nfs.txt", 10001, 10500)[0] == 0
    assert files.owner("sequencing/runs/nfs.txt").startswith("10001:10500")
    said = files.smb("runs", "ada", "get nfs.txt /tmp/back")
    assert files.on_client("cat", "/tmp/back") == (0, "by NFS\n"), said


def test_readers_read_and_outsiders_do_not_get_in(files: Files) -> None:
    files.smb("runs", "ada", "put /tmp/line shown.txt")
    assert "shown.txt" in files.smb("runs", "carol", "ls")
    assert "NT_STATUS_ACCESS_DENIED" in files.smb("runs", "carol", "put /tmp/line x")
    assert "NT_STATUS_ACCESS_DENIED" in files.smb("runs", "carol", "rm shown.txt")
    assert "NT_STATUS_ACCESS_DENIED" in files.smb("runs", "bob", "ls")
    assert "NT_STATUS_ACCESS_DENIED" in files.smb("software", "bob", "put /tmp/line x")
    assert "blocks of size" in files.smb("software", "bob", "ls")


def test_a_list_shows_what_is_visible_to_whom(files: Files) -> None:
    assert files.shares_of("ada") >= {"runs", "software", "private"}
    assert not {"hidden", "dump", "unused"} & files.shares_of("ada")
    assert "runs" not in files.shares_of("bob")
    assert "blocks of size" in files.smb("hidden", "ada", "ls")
    for share in ("unused", "dump"):
        assert "NT_STATUS_BAD_NETWORK_NAME" in files.smb(share, "ada", "ls")
    code, said = files.on_client("smbclient", "-N", "-U", "%", "-L", SERVICE)
    assert code
    assert any(status in said for status in REFUSED), said


def test_nfs_serves_the_clients_of_each_share_as_it_says(files: Files) -> None:
    assert files.on_client("nfs-ls", files.nfs("software"))[0] == 0
    assert files.nfs_write("software", "x", 10001, 10000)[0] != 0, "a client for reading writes"
    assert files.on_client("nfs-ls", files.nfs("private", 10001, 10500))[0] != 0, "a client that is not listed reads"
    listed = files.on_client("nfs-ls", f"nfs://{SERVICE}/?version=4")[1]
    assert "runs" in listed
    assert "private" not in listed


def test_root_becomes_nobody(files: Files) -> None:
    assert files.nfs_write("runs", "root.txt", 0, 0)[0] != 0
    assert files.nfs_write("dump", "root.txt", 0, 0)[0] == 0
    assert files.owner("dump/root.txt").startswith("65534:")
    # The narrower network counts, whatever the order in the site file.
    assert files.nfs_write("anybody", "ada.txt", 10001, 10000)[0] == 0
    assert files.owner("anybody/ada.txt").startswith("65534:")


def test_ports_above_1023_are_refused_unless_they_are_allowed(files: Files) -> None:
    assert files.nfs_write("careful", "low.txt")[0] == 0
    # A relay makes the connection come from an unprivileged port, such as any user's program on a machine has.
    relay = (
        "import socket, threading\n"
        "server = socket.create_server(('127.0.0.1', 2049))\n"
        "def pump(a, b):\n"
        "    try:\n"
        "        while data := a.recv(65536): b.sendall(data)\n"
        "    except OSError: pass\n"
        "    b.close()\n"
        "while True:\n"
        "    a = server.accept()[0]\n"
        f"    b = socket.create_connection(('{SERVICE}', 2049))\n"
        "    for pair in ((a, b), (b, a)): threading.Thread(target=pump, args=pair, daemon=True).start()\n"
    )
    process = subprocess.Popen(["docker", "exec", files.client(), "python3", "-c", relay])
    try:
        time.sleep(1)
        address = "nfs://127.0.0.1/{}?version=4&uid=10001&gid=10000"
        assert files.on_client("nfs-ls", address.format("dump"))[0] == 0
        assert files.on_client("nfs-ls", address.format("careful"))[0] != 0
    finally:
        files.on_client("pkill", "-f", "create_server")
        process.wait(10)


def test_what_is_deleted_goes_to_the_recycle_bin_of_its_person(files: Files) -> None:
    said = files.smb("runs", "ada", "mkdir bin", "put /tmp/line bin/gone.txt", "rm bin/gone.txt")
    assert "NT_STATUS" not in said, said
    assert files.on_router("cat", "/data/sequencing/runs/.recycle/ada/bin/gone.txt") == (0, "by SMB\n")
    assert files.owner("sequencing/runs/.recycle/ada").endswith(" 700") or files.owner(
        "sequencing/runs/.recycle/ada"
    ).endswith(" 2700")
    assert "gone.txt" not in files.smb("runs", "carol", "cd .recycle", "ls", "cd ada/bin", "ls")
    assert "gone.txt" in files.smb("runs", "ada", "cd .recycle/ada/bin", "ls")


def test_a_home_is_made_at_the_first_connection_and_is_private(files: Files) -> None:
    assert "putting file" in files.smb("bob", "bob", "put /tmp/line own.txt")
    assert files.on_router("stat", "-c", "%U %a", "/home/bob", "/home/bob/own.txt")[1].split() == [
        "bob",
        "700",
        "bob",
        "600",
    ]
    for who in ("ada", "carol"):
        assert "NT_STATUS_ACCESS_DENIED" in files.smb("bob", who, "ls")
    # Links that lead out of a home cannot be followed.
    files.on_router("ln", "-s", "/etc", "/home/bob/out")
    assert "NT_STATUS" in files.smb("bob", "bob", "cd out", "ls")


# --- the protocols --------------------------------------------------------------------------------------------------


def test_connections_are_encrypted_and_old_clients_refused(files: Files) -> None:
    with Session(files, "runs", "ada"):
        (found,) = [entry for entry in health.sessions(files.pillar) if entry["person"] == "ada"]
    assert found["dialect"] == "SMB3_11"
    assert found["encryption"].startswith("AES-")
    assert found["shares"] == ["runs"]
    old = ("--option=client min protocol=SMB2_02", "--option=client max protocol=SMB2_10")
    assert "NT_STATUS_NOT_SUPPORTED" in files.smb("runs", "ada", "ls", options=old)
    address = files.address()
    assert health.negotiate(address, 445, ["3.0", "3.0.2"]) == ("3.0.2", True)
    assert health.negotiate(address, 445, ["2.1"]) == (None, False)


class Session:
    """An open session of smbclient, which runs one command after the other."""

    def __init__(self, core: Files, share: str, who: str) -> None:
        # smbclient answers line by line on a terminal only.
        self.terminal, inside = pty.openpty()
        words = ["smbclient", f"//{SERVICE}/{share}", "-U", f"{who}%{password(who)}"]
        command = ["docker", "exec", "--interactive", "--tty", core.client(), *words]
        self.process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside)
        os.close(inside)

    def __enter__(self) -> Session:
        self.answer()
        return self

    def ask(self, command: str) -> str:
        """Return smbclient's answer to a command."""
        os.write(self.terminal, f"{command}\n".encode())
        return self.answer()

    def answer(self) -> str:
        """Return what smbclient prints until it waits for the next command."""
        said, end = "", time.monotonic() + 15
        while not re.search(r"smb: [^\r\n]*> (\x1b\S*)?$", said):
            assert time.monotonic() < end, said
            if select.select([self.terminal], [], [], 0.1)[0]:
                said += os.read(self.terminal, 65536).decode()
        return said

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self.terminal, b"exit\n")
        self.process.wait(10)
        os.close(self.terminal)


# --- changes while people work --------------------------------------------------------------------------------------


def test_a_change_arrives_and_cuts_nobody(files: Files) -> None:
    files.on_client("sh", "-c", "head -c 400000000 /dev/urandom > /tmp/big")
    with Session(files, "runs", "ada") as session:
        assert "blocks of size" in session.ask("ls")
        before = [entry for entry in health.sessions(files.pillar) if entry["person"] == "ada"]
        copy = subprocess.Popen(
            ["docker", "exec", files.client(), "nfs-cp", "/tmp/big", files.nfs("runs/big", 10001, 10500)]
        )
        files.shares = {
            **files.shares,
            "later": {"write": ["ada"], "nfs": [{"hosts": "{network}", "access": "rw", "any_port": True}]},
        }
        del files.shares["anybody"]
        files.change()
        began = time.monotonic()
        done = files.converge("configured")
        print(f"a changed share: {time.monotonic() - began:.2f} s with its plans")
        assert set(done.changes) == {"ganesha.conf", "settle.json", "smb.conf"}
        assert "+[later]" in done.changes["smb.conf"]
        assert "blocks of size" in session.ask("ls")
        assert [entry for entry in health.sessions(files.pillar) if entry["person"] == "ada"] == before
        assert copy.wait(60) == 0
    assert files.on_client("sh", "-c", f"nfs-cat '{files.nfs('runs/big', 10001, 10500)}' | cmp - /tmp/big") == (0, "")
    assert "putting file" in files.smb("later", "ada", "put /tmp/line new.txt")
    assert files.on_client("nfs-cat", files.nfs("later/new.txt", 10001, 10000))[1] == "by SMB\n"
    assert files.on_client("nfs-ls", files.nfs("anybody"))[0] != 0
    assert "/later" in health.live_exports(files.pillar)


def test_what_is_refused_leaves_the_old_in_place(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    place = container.folder(files.pillar)
    before = configuration.read(place)
    live = health.live_exports(files.pillar)
    planned = configuration.plan(files.pillar, files.paths, test=False)
    for name, line in (("smb.conf", b"\n[broken\n"), ("ganesha.conf", b"\nEXPORT { Export_Id = x; }\n")):
        wrong = configuration.Files({**planned.files.content, name: planned.files.content[name] + line})
        with pytest.raises(VcoreError, match=f"refused.*{name}"):
            configuration.apply(files.pillar, files.paths, configuration.Plan(wrong, planned.old, {name: "changed"}))
        assert configuration.read(place) == before
    assert health.live_exports(files.pillar) == live
    assert files.state("configured").changes == {}
    # A group that does not exist: the state says so, and the old shares stay.
    good = files.shares
    files.shares = {**good, "lost": {"write": ["ada"], "group": "nowhere"}}
    files.change()
    failed = files.state("configured")
    assert failed.result is False
    assert "the directory has no group nowhere" in failed.comment
    assert failed.changes == {}
    files.shares = good
    files.change()
    assert files.state("configured").changes == {}
    assert "blocks of size" in files.smb("runs", "ada", "ls")


def test_an_interrupted_reload_is_made_up_for(files: Files) -> None:
    place = container.folder(files.pillar)
    (place / configurations.APPLIED).unlink()
    assert files.state("configured", test=True).changes == {"reload": "what runs has not read its configuration"}
    assert files.converge("configured").changes == {"reload": "what runs has not read its configuration"}


def test_nothing_is_asked_of_docker_while_all_is_in_place(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    began = time.monotonic()
    assert configuration.plan(files.pillar, files.paths, test=False).changes == {}
    print(f"nothing to change: {time.monotonic() - began:.4f} s")


# --- instruments ----------------------------------------------------------------------------------------------------


def test_an_instrument_writes_its_share_and_nothing_else(files: Files) -> None:
    said = files.smb("runs", "sequencer", "put /tmp/line run.txt", "ls")
    assert "putting file" in said, said
    number = samba.instrument_numbers(["sequencer"])["sequencer"]
    assert files.owner("sequencing/runs/run.txt") == f"{number}:10500 660"
    for share in ("software", "hidden", "private", "later", "ada", "sequencer", "homes"):
        assert "blocks of size" not in files.smb(share, "sequencer", "ls"), share
    assert files.shares_of("sequencer") == {"runs"}
    assert files.ssh("sequencer", "true", password=password("sequencer"))[0] == 255
    dn = f"uid=sequencer,ou=instruments,{SUFFIX}"
    with pytest.raises(Refused):
        client.Directory(entries.uri(files.pillar), files.paths.authority / "ca.crt", dn, password("sequencer")).close()
    assert files.on_router("test", "-e", "/home/sequencer")[0] != 0


def test_the_directory_follows_the_site_and_the_store(files: Files) -> None:
    Store(files.paths.secrets).write(SERVICE, "instrument-sequencer", b"another-password-1")
    done = files.converge("instruments_present")
    assert "another-password-1" not in str(done)
    assert samba.nt_hash("another-password-1") not in str(done)
    assert "blocks of size" in files.smb("runs", "sequencer", "ls", secret="another-password-1")
    assert "LOGON_FAILURE" in files.smb("runs", "sequencer", "ls")
    files.instruments = {"scanner": {"share": "runs"}}
    Store(files.paths.secrets).write(SERVICE, "instrument-scanner", password("scanner").encode())
    files.change()
    changes = files.converge("instruments_present").changes
    assert set(changes) == {f"uid={name},ou=instruments,{SUFFIX}" for name in ("scanner", "sequencer")}
    files.converge("configured")
    assert "blocks of size" in files.smb("runs", "scanner", "ls")
    assert "LOGON_FAILURE" in files.smb("runs", "sequencer", "ls", secret="another-password-1")
    files.instruments = {"ada": {"share": "runs"}}
    Store(files.paths.secrets).write(SERVICE, "instrument-ada", b"not-of-this-person")
    files.change()
    failed = files.state("instruments_present")
    assert (failed.result, failed.changes) == (False, {})
    assert "the directory has a person of that name" in failed.comment
    files.instruments = {"scanner": {"share": "runs"}}
    files.change()


# --- what administrators ask ----------------------------------------------------------------------------------------


def test_status_and_doctor(files: Files) -> None:
    facts = health.look(files.pillar)
    assert facts["problems"] == []
    assert {entry["name"] for entry in facts["exports"]} >= {"/runs", "/software", "/later"}
    assert all(entry["ok"] for entry in facts["exports"])
    pillar = {**files.pillar, "nodes": {"head": {"address": files.address()}}}
    checks = health.checks(pillar, files.paths)
    assert len(checks) == 4
    assert all(check["ok"] for check in checks), checks
    # An entry that the site no longer wants.
    files.shares = {name: share for name, share in files.shares.items() if name != "dump"}
    files.change()
    assert any(
        "/dump is exported, and the site does not want it" in problem
        for problem in health.look(files.pillar)["problems"]
    )
    files.converge("configured")


# --- another site: old instruments, NFS 3 and tdbsam ----------------------------------------------------------------


def test_smb_2_and_nfs_3_by_setting_without_a_new_container(files: Files) -> None:
    assert files.on_client("nfs-ls", files.nfs_3("runs"))[0] != 0
    files.change(minimum_protocol="SMB2", nfs_3=True)
    files.converge("configured")
    assert files.on_client("nfs-ls", files.nfs_3("runs"))[0] == 0
    old = ("--option=client min protocol=SMB2_02", "--option=client max protocol=SMB2_10")
    assert "blocks of size" in files.smb("runs", "ada", "ls", options=old)
    assert health.negotiate(files.address(), 445, ["2.1"]) == ("2.1", True)


def test_tdbsam(files: Files) -> None:
    files.change(password_scheme="tdbsam")
    assert set(files.converge("instruments_present").changes) == {f"uid=scanner,ou=instruments,{SUFFIX}"}
    files.remove_router()
    done = files.converge("configured")
    assert done.changes["instruments"] == {"scanner": "new"}
    files.start_router()
    assert files.state("serving").result is True
    assert "blocks of size" in files.smb("runs", "scanner", "ls")
    assert "LOGON_FAILURE" in files.smb("runs", "ada", "ls")
    answer = files.on_router("pdbedit", "-P", "min password length")[1]
    assert "10" in answer.split()[-1]

    Store(files.paths.secrets).write(SERVICE, "instrument-scanner", b"another-password-1")
    done = files.converge("configured")
    assert done.changes == {"instruments": {"scanner": "another password"}}
    assert "blocks of size" in files.smb("runs", "scanner", "ls", secret="another-password-1")
    assert samba.nt_hash("another-password-1") not in str(done)
    assert (container.folder(files.pillar) / "instruments").stat().st_mode & 0o777 == 0o600

    files.instruments = {}
    files.change()
    assert files.converge("configured").changes["instruments"] == {"scanner": "gone"}
    assert "scanner" not in files.on_router("pdbedit", "-L")[1]
