"""The images people and file-router in a real container, beside a real directory, with real clients."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.directory import SUFFIX
from support.file_router import FileCore, files
from support.ssh import key
from vcore.base.secrets import Store
from vcore.directory import samba_ids
from vcore.file_router import samba
from vcore.people.settings import SHELLS

__all__ = ["files", "key"]

PASSWORD = "Password-of-ada-1"
ROUTER = "/usr/lib/virtual-core/file-router"


@pytest.fixture(scope="module")
def core(files: FileCore, key: Path) -> FileCore:
    """Make a core with ada, who has a key, grace with a first password, eve, who is locked, and mallory, not of the
    people.
    """
    public = key.with_name("key.pub").read_text().strip()
    files.add_person("ada", 10001, password=PASSWORD, keys=[public])
    files.add_person("grace", 10002, password=PASSWORD, keys=[public], first=True)
    files.add_person("eve", 10003, password=PASSWORD, keys=[public])
    files.modify_person("eve", shadowExpire="1")
    files.add_person("mallory", 10004, password=PASSWORD, keys=[public], group=10600)
    files.add_group("sequencing", 10500, "ada")
    files.add_group("guests_", 10600)
    return files


@pytest.fixture
def configuration(core: FileCore) -> Iterator[FileCore]:
    """Yield the core; its configuration is put back and read again afterwards."""
    shares = core.pillar["shares"]
    yield core
    core.pillar["shares"] = shares
    core.configure()
    assert core.on_router(ROUTER, "reload") == (0, "")


def share(core: FileCore, **changes: Any) -> dict[str, Any]:
    """Return a resolved share such as runs, with changes."""
    return {**core.pillar["shares"]["runs"], **changes}


def log(core: FileCore) -> str:
    return core.router_logs()


# -- names


def test_people_groups_and_instruments_resolve(core: FileCore) -> None:
    assert core.on_router("id", "ada")[1] == "uid=10001(ada) gid=10000(people) groups=10000(people),10500(sequencing)\n"
    number = samba.instrument_numbers(["sequencer"])["sequencer"]
    assert core.on_router("id", "-u", "sequencer") == (0, f"{number}\n")
    code, entry = core.on_router("getent", "passwd", "sequencer", user="nobody")
    assert code == 0 and entry.endswith(":/nonexistent:/usr/sbin/nologin\n"), (
        "people's programs see whose files are whose"
    )


# -- logging in


def test_a_person_logs_in_with_the_password_and_finds_a_home(core: FileCore) -> None:
    code, output = core.ssh("ada", "id -un; pwd; stat -c %a .; umask; ulimit -c; ulimit -Hu", password=PASSWORD)
    assert (code, output.split()) == (0, ["ada", "/home/ada", "700", "0022", "0", "256"])
    assert core.ssh("ada", "true", password="wrong-password")[0] == 255


def test_a_person_logs_in_with_a_key_of_the_directory(core: FileCore, key: Path, tmp_path: Path) -> None:
    assert core.ssh("ada", "id -un", key=key) == (0, "ada\n")
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert core.ssh("ada", "id -un", key=other)[0] == 255


def test_of_what_people_write_into_their_entry_only_whole_keys_reach_sshd(core: FileCore, key: Path) -> None:
    public = " ".join(key.with_name("key.pub").read_text().split()[:2])
    hostile = [f'command="id" {public}', f"{public}\nssh-ed25519 AAAA", "-----BEGIN", f"environment=x {public}"]
    core.add_person("ivan", 10006, password=PASSWORD, keys=[*hostile, f"{public} ivan@home"])
    command = ("/usr/lib/virtual-core/directory-keys", "ivan")
    assert core.on_router(*command, user="directory-keys") == (0, f"{public}\n")
    for name in ("*", "ada)(uid=*", "../ada", "Ada"):
        assert core.on_router(command[0], name, user="directory-keys") == (0, "")
    code, output = core.on_router(*command, user="nobody")
    assert code == 1 and "Permission denied" in output


@pytest.mark.parametrize("name", ["eve", "mallory", "root", "sequencer", "nslcd", "nobody-at-all"])
def test_nobody_else_logs_in(core: FileCore, key: Path, name: str) -> None:
    """eve is locked, mallory is not in the people's group, and the others are not people."""
    assert core.ssh(name, "true", password=PASSWORD)[0] == 255
    assert core.ssh(name, "true", key=key)[0] == 255


def test_a_lock_holds_and_is_lifted_at_once(core: FileCore, key: Path) -> None:
    core.modify_person("ada", shadowExpire="1")
    try:
        assert core.ssh("ada", "true", key=key)[0] == core.ssh("ada", "true", password=PASSWORD)[0] == 255
    finally:
        core.modify_person("ada", shadowExpire=None)
    assert core.ssh("ada", "true", key=key)[0] == core.ssh("ada", "true", password=PASSWORD)[0] == 0


def test_a_first_password_lets_its_owner_in_and_says_what_to_do(core: FileCore) -> None:
    for name, told in (("grace", True), ("ada", False)):
        code, output = core.ssh(name, "id -un", password=PASSWORD, options=("-tt", "-o", "LogLevel=INFO"))
        assert code == 0 and f"{name}\n" in output, output
        assert ("Change it now:  salt-call vcore.sync_password" in output) == told, output


def test_passwd_is_refused_with_the_way_to_do_it(core: FileCore) -> None:
    code, output = core.ssh("ada", "passwd", password=PASSWORD)
    assert code != 0 and "salt-call vcore.sync_password" in output


def test_nothing_is_forwarded(core: FileCore, key: Path) -> None:
    code, output = core.ssh("ada", key=key, options=("-W", "ldap:636"))
    assert code != 0 and "forwarding failed" in output, output


def test_salt_runs_for_people(core: FileCore) -> None:
    code, output = core.on_router("/opt/virtual-core/salt/bin/salt-call", "--version")
    versions = Path(__file__).parents[3].joinpath("versions.yaml").read_text()
    assert code == 0 and re.search(r'^  salt: "(.*)"$', versions, re.MULTILINE)[1] in output
    code, output = core.on_router("/opt/virtual-core/salt/bin/python", "-c", "import ldap, salt; print(ldap.__file__)")
    assert (code, output.strip()) == (0, "/usr/lib/python3/dist-packages/ldap/__init__.py")


# -- secrets


def test_secrets_stay_with_root(core: FileCore) -> None:
    passwords = [core.password(f"{name}") for name in ("readonly", "samba")]
    readable = "grep -rlsE '" + "|".join(passwords) + "' /etc /run /var/lib /usr/lib/virtual-core /proc/[0-9]*/environ"
    # Files that people can read; the searching processes' own arguments contain the pattern.
    assert core.ssh("ada", readable, password=PASSWORD)[1] == ""
    everything = json.dumps(core.api.inspect_container(core.router)) + log(core) + core.on_router("ps", "axeww")[1]
    everything += json.dumps(core.api.history(core.api.inspect_container(core.router)["Image"]))
    for secret in [*passwords, PASSWORD]:
        assert secret not in everything
    assert core.on_router("stat", "-c", "%a %U", "/etc/nslcd.conf")[1] == "600 root\n"


def test_a_port_that_nfs_believes_is_roots(core: FileCore) -> None:
    bind = "import socket; socket.create_server(('127.0.0.1', 700))"
    assert "PermissionError" in core.on_router("python3", "-c", bind, user="nobody")[1]
    assert core.on_router("python3", "-c", bind) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shells_of_people_are_there(core: FileCore, shell: str) -> None:
    assert core.on_router(shell, "-c", "echo it runs", user="nobody") == (0, "it runs\n")


def test_no_program_can_leave_a_core_dump(core: FileCore) -> None:
    script = "for p in smbd nslcd ganesha.nfsd sshd supervisord; do grep core /proc/$(pgrep -of $p)/limits; done"
    limits = core.on_router("sh", "-c", script)[1].splitlines()
    assert len(limits) == 5 and all(line.split()[4:6] == ["0", "0"] for line in limits)


def test_no_program_runs_with_rights_of_another_account(core: FileCore) -> None:
    assert core.on_router("find", "/", "-xdev", "-type", "f", "-perm", "/6000") == (0, "")


# -- exports


def test_the_exports_are_listed_and_serve_their_clients(core: FileCore) -> None:
    assert core.on_router(ROUTER, "exports") == (0, "/private\n/runs\n/software\n")
    assert core.on_client("nfs-cp", "/etc/hostname", core.nfs("runs/by-nfs"))[0] == 0
    assert core.on_router("stat", "-c", "%u:%g", "/data/runs/by-nfs")[1] == "10001:10000\n"
    assert core.on_client("nfs-cp", "/etc/hostname", core.nfs("software/by-nfs"))[0] != 0
    assert core.on_client("nfs-ls", core.nfs("private"))[0] != 0
    code, output = core.on_client("smbclient", "//file-router/runs", "-U", f"ada%{PASSWORD}", "-c", "ls")
    assert code == 0 and "by-nfs" in output


def prove(core: FileCore, **files: str) -> tuple[int, str]:
    """Prove a candidate beside the configuration, with some of its files changed."""
    folder = core.volume("configuration")
    candidate = folder / ".candidate"
    shutil.rmtree(candidate, ignore_errors=True)
    candidate.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, candidate)
    for name, content in files.items():
        (candidate / name.replace("_", ".")).write_text(content)
    answer = core.on_router(ROUTER, "prove", "/etc/virtual-core/file-router/.candidate")
    shutil.rmtree(candidate)
    return answer


def test_what_can_be_served_is_proven_beside_what_is_served(core: FileCore) -> None:
    before = core.on_router("sh", "-c", "find /var/lib/virtual-core/ganesha | sort; pgrep -o ganesha")
    began = time.monotonic()
    assert prove(core) == (0, "")
    assert time.monotonic() - began < 5
    assert core.on_router("sh", "-c", "find /var/lib/virtual-core/ganesha | sort; pgrep -o ganesha") == before
    assert core.on_router("/sbin/probe.sh") == (0, "")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("smb_conf", ("workgroup =", "workgruop ="), "workgruop"),
        ("smb_conf", ("server min protocol = SMB3", "server min protocol = SMB4"), "server min protocol"),
        ("ganesha_conf", ("Path = /data/runs", "Path = /data/nowhere"), "nowhere"),
        ("ganesha_conf", ("Squash = Root_Squash", "Squash = Rot_Squash"), "Rot_Squash"),
        ("ganesha_conf", ("Pseudo = /runs", "Psuedo = /runs"), "Psuedo"),
        ("ganesha_conf", ("Pseudo = /runs", "Pseudo = /software"), "Duplicate"),
        ("ganesha_conf", ("NFSV4 {", "NFSV4 {{"), "yntax"),
        ("passwd", ("sequencer:x:", "sequencer:"), "passwd: line 1"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    core: FileCore, name: str, change: tuple[str, str], reason: str
) -> None:
    text = core.volume("configuration").joinpath(name.replace("_", ".")).read_text()
    assert change[0] in text
    code, output = prove(core, **{name: text.replace(*change)})
    assert code == 1 and reason in output and name.replace("_", ".") in output, output
    assert len(output.splitlines()) == 1 and len(output) < 600


def test_exports_are_added_changed_and_removed_while_files_are_read(configuration: FileCore) -> None:
    core = configuration
    data = core.volume("data")
    size = 48 << 20
    block = hashlib.sha256(b"data").digest() * 32768
    with (data / "runs" / "large").open("wb") as stream:
        for _ in range(size // len(block)):
            stream.write(block)
    wanted = hashlib.sha256(block * (size // len(block))).hexdigest()
    # In each protocol, a client that stops in the middle until it may go on.
    slow = (
        "import os, sys, time, hashlib; d = hashlib.sha256(sys.stdin.buffer.read(8 << 20))\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
        "while b := sys.stdin.buffer.read(1 << 20): d.update(b)\n"
        "print(d.hexdigest())"
    )
    commands = {
        "nfs": f"nfs-cat '{core.nfs('runs/large')}' | python3 -c '{slow}' /tmp/go-on",
        "smb": f"smbclient //file-router/runs -U ada%{PASSWORD} -E -c 'get large -' 2>/dev/null"
        f" | python3 -c '{slow}' /tmp/go-on",
    }
    results: dict[str, tuple[int, str]] = {}
    core.client()
    threads = [
        threading.Thread(target=lambda n=name, c=command: results.update({n: core.on_client("sh", "-c", c)}))
        for name, command in commands.items()
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    before = core.on_router("sh", "-c", "pgrep -x smbd; pgrep -x ganesha.nfsd")[1]

    shares = core.pillar["shares"]
    core.pillar["shares"] = {**shares, "added": share(core, path="added")}
    (data / "added").mkdir(mode=0o777)
    (data / "added").chmod(0o777)
    core.configure()
    began = time.monotonic()
    assert core.on_router(ROUTER, "reload") == (0, "")
    took = {"added": time.monotonic() - began}
    assert core.on_router(ROUTER, "exports")[1] == "/added\n/private\n/runs\n/software\n"
    assert core.on_client("nfs-cp", "/etc/hostname", core.nfs("added/file"))[0] == 0
    listing = core.on_client("smbclient", "-L", "//file-router", "-U", f"ada%{PASSWORD}")[1]
    assert "added" in listing

    read_only = [{**clients, "access": "ro"} for clients in shares["runs"]["nfs"]]
    core.pillar["shares"] = {**core.pillar["shares"], "added": share(core, path="added", nfs=read_only)}
    core.configure()
    assert core.on_router(ROUTER, "reload") == (0, "")
    assert until(lambda: core.on_client("nfs-cp", "/etc/hostname", core.nfs("added/second"))[0] != 0)

    core.pillar["shares"] = shares
    core.configure()
    began = time.monotonic()
    assert core.on_router(ROUTER, "reload") == (0, "")
    took["removed"] = time.monotonic() - began
    assert core.on_router(ROUTER, "exports")[1] == "/private\n/runs\n/software\n"
    assert core.on_client("nfs-ls", core.nfs("added"))[0] != 0
    assert all(thread.is_alive() for thread in threads), "the transfers ended before the configuration changed"
    after = core.on_router("sh", "-c", "pgrep -x smbd; pgrep -x ganesha.nfsd")[1]
    assert set(before.split()) <= set(after.split())
    assert core.on_client("touch", "/tmp/go-on") == (0, "")
    for thread in threads:
        thread.join(60)
    assert results == {"nfs": (0, f"{wanted}\n"), "smb": (0, f"{wanted}\n")}
    print(f"reload: {took}")


def test_a_change_of_more_than_exports_starts_ganesha_anew(configuration: FileCore) -> None:
    """NFS 3 is switched on, which needs rpcbind; Samba's sessions do not notice."""
    core = configuration
    settings = core.pillar["services"]["file-router"]["settings"]
    before = core.on_router("pgrep", "-ox", "smbd")
    assert core.on_client("nfs-ls", core.nfs("runs").replace("version=4", "version=3"))[0] != 0
    settings["nfs_3"] = True
    try:
        core.configure()
        assert core.on_router(ROUTER, "reload") == (0, "")
        for version in ("3", "4"):
            code, output = core.on_client("nfs-ls", core.nfs("runs").replace("version=4", f"version={version}"))
            assert code == 0 and "by-nfs" in output, output
        assert prove(core) == (0, "")
        assert core.on_client("nfs-ls", core.nfs("runs").replace("version=4", "version=3"))[0] == 0
        assert core.on_router("/sbin/server_health.sh") == (0, "")
    finally:
        settings["nfs_3"] = False
    core.configure()
    assert core.on_router(ROUTER, "reload") == (0, "")
    assert core.on_client("nfs-ls", core.nfs("runs").replace("version=4", "version=3"))[0] != 0
    assert core.on_router("pgrep", "-ox", "smbd") == before


def until(holds: Any, timeout: float = 60) -> bool:
    end = time.monotonic() + timeout
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.2)
    return bool(held)


# -- health, and the container's life; each of the last tests starts its own container


def test_the_probe_is_quick_and_leaves_no_line(core: FileCore) -> None:
    before = log(core)
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        assert core.on_router("/sbin/server_health.sh") == (0, "")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1, "300 ms on a machine that does nothing else"
    more = log(core)[len(before) :].splitlines()
    # Ganesha may log the end of its grace period meanwhile.
    assert [line for line in more if "nfs_try_lift_grace" not in line] == []
    print(f"probe: {min(seconds):.3f} s")


@pytest.mark.parametrize(("program", "reason"), [("smbd", "Samba"), ("ganesha", "Ganesha"), ("nslcd", "nslcd")])
def test_the_probe_fails_when_a_program_hangs(core: FileCore, program: str, reason: str) -> None:
    pid = core.on_router("supervisorctl", "-c", "/etc/supervisor/supervisord.conf", "pid", program)[1].strip()
    core.on_router("kill", "-STOP", pid)
    try:
        code, output = core.on_router("/sbin/server_health.sh")
        assert code == 1 and reason in output
    finally:
        core.on_router("kill", "-CONT", pid)
    assert until(lambda: core.on_router("/sbin/server_health.sh")[0] == 0)


def test_the_probe_fails_when_an_export_is_missing(core: FileCore) -> None:
    text = core.volume("configuration").joinpath("ganesha.conf").read_text()
    further = 'EXPORT { Export_Id = 9; Path = "/data/more"; Pseudo = /more; FSAL { Name = VFS; } } # } comment\n'
    core.configure(ganesha_conf=text + further)
    code, output = core.on_router("/sbin/probe.sh")
    core.configure()
    assert (code, output) == (1, "not exported: /more\n")
    assert core.on_router("/sbin/probe.sh") == (0, "")


def test_without_the_directory_it_goes_on(core: FileCore) -> None:
    """A new container would serve nobody better, and people who read files must not lose their sessions."""
    assert core.container
    core.api.pause(core.container)
    try:
        began = time.monotonic()
        assert core.on_router("/sbin/server_health.sh") == (0, "")
        assert time.monotonic() - began < 5
        assert core.on_router("id", "-un", "root") == (0, "root\n")
        assert "by-nfs" in core.on_client("nfs-ls", core.nfs("runs"))[1]
    finally:
        core.api.unpause(core.container)
    assert until(lambda: core.ssh("ada", "true", password=PASSWORD)[0] == 0, 30)


def test_a_new_container_is_the_same_server(core: FileCore) -> None:
    def identity() -> list[str]:
        scan = subprocess.run(
            ["ssh-keyscan", "-p", str(core.router_port), "127.0.0.1"], capture_output=True, text=True, check=False
        ).stdout
        return [scan.split()[-1], core.on_router("net", "getlocalsid")[1]]

    before = identity()
    assert before[1].endswith(f": {samba_ids.domain_sid(SUFFIX)}\n")
    began = time.monotonic()
    core.api.stop(core.router, timeout=20)
    stopped = time.monotonic() - began
    assert core.api.inspect_container(core.router)["State"]["ExitCode"] == 0
    assert stopped < 10
    began = time.monotonic()
    core.start_router()
    print(f"stop: {stopped:.1f} s; start until healthy: {time.monotonic() - began:.1f} s")
    assert identity() == before
    assert core.ssh("ada", "id -un", password=PASSWORD) == (0, "ada\n")
    # New clients can open files only after earlier clients had the time to take their locks back.
    assert "by-nfs" in core.on_client("nfs-ls", core.nfs("runs"))[1]


def test_a_container_that_is_started_again_serves(core: FileCore) -> None:
    """It was killed while it ran, and all its files are still there."""
    core.api.kill(core.router, "SIGKILL")
    core.api.start(core.router)
    core.wait_for_router()
    assert core.on_router(ROUTER, "exports")[1] == "/private\n/runs\n/software\n"


def test_without_its_configuration_it_ends_with_a_sentence(core: FileCore) -> None:
    path = core.volume("configuration") / "ganesha.conf"
    kept = path.rename(path.with_name(".kept"))
    try:
        core.start_router(wait=False)
        assert core.api.wait(core.router, timeout=30)["StatusCode"] == 1
        assert "the configuration is refused: there is no ganesha.conf; apply the states" in log(core)
    finally:
        kept.rename(path)


def test_what_it_refuses_at_its_start_makes_way_for_the_configuration_before(core: FileCore) -> None:
    """This happens to a new image that cannot serve it, and to the old one when swarm goes back to it."""
    place = core.volume("configuration")
    before = {name: (place / name).read_text() for name in core.wanted()}
    (place / "smb.conf").write_text(before["smb.conf"].replace("workgroup =", "workgruop ="))
    core.start_router(wait=False)
    assert core.api.wait(core.router, timeout=30)["StatusCode"] == 1
    assert re.search(r"file-router: the configuration is refused: smb.conf: .*workgruop", log(core))
    (place / ".previous").mkdir(mode=0o700)
    try:
        for name, text in before.items():
            (place / ".previous" / name).write_text(text)
        core.start_router()
        assert re.search(r"is refused: smb.conf: .*workgruop.*\n.*the one before it is served", log(core))
        assert "workgruop" in (place / "refused").read_text()
        assert {name: (place / name).read_text() for name in before} == before
        assert until(lambda: (place / "applied").exists(), 10)
    finally:
        shutil.rmtree(place / ".previous")


def test_the_passwords_of_the_directory_are_needed(core: FileCore) -> None:
    store = Store(core.paths.secrets)
    password = store.read("ldap", "readonly-password")
    path = store.path("ldap", "readonly-password")
    kept = path.rename(path.with_name("kept"))
    try:
        core.start_router(wait=False)
        assert core.api.wait(core.router, timeout=30)["StatusCode"] == 1
        assert "the secret readonly-password cannot be read" in log(core)
        assert password.decode() not in log(core)
    finally:
        kept.rename(path)
