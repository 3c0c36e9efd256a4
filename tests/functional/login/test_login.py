"""The login host and ssh to nodes as people use them: real slapd, smbd, slurmctld, slurmd, sshd and PAM."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from support.images import build, machine
from support.login import MARKER, NODES, LoginCore, login_core
from support.ssh import key

__all__ = ["key", "login_core"]

PASSWORD = "Password-of-ada-1"


@pytest.fixture(scope="module")
def core(login_core: LoginCore, key: Path) -> LoginCore:
    """Make a core with ada and bob, who have keys, grace with a first password, eve, who is locked, and the stranger
    mallory.
    """
    public = key.with_name("key.pub").read_text().strip()
    for number, name in enumerate(("ada", "bob", "grace", "eve"), 10001):
        login_core.add_person(name, number, password=PASSWORD, keys=[public], first=name == "grace")
    login_core.modify_person("eve", shadowExpire="1")
    login_core.add_person("mallory", 10009, password=PASSWORD, keys=[public], group=10600)
    login_core.add_group("guests_", 10600)
    return login_core


# -- logging in


def test_a_person_logs_in_with_the_password_and_finds_a_home(core: LoginCore) -> None:
    code, output = core.login("ada", "id -un; pwd; stat -c %a .; umask", password=PASSWORD)
    assert (code, output.split()) == (0, ["ada", "/home/ada", "700", "0022"])
    assert (core.volume("home") / "ada").stat().st_uid == 10001
    assert core.login("ada", "true", password="wrong-password")[0] == 255


def test_a_person_logs_in_with_a_key_of_the_directory(core: LoginCore, key: Path) -> None:
    assert core.login("bob", "id -un", key=key) == (0, "bob\n")


@pytest.mark.parametrize("name", ["eve", "mallory", "root", "slurm"])
def test_nobody_else_logs_in(core: LoginCore, key: Path, name: str) -> None:
    assert core.login(name, "true", key=key)[0] == core.login(name, "true", password=PASSWORD)[0] == 255


def test_a_person_has_limits(core: LoginCore, key: Path) -> None:
    code, output = core.login("ada", "ulimit -Hu; ulimit -Hn; ulimit -Ht; ulimit -Hc", key=key)
    assert (code, output.split()) == (0, ["64", "4096", "3600", "0"])
    code, output = core.login("ada", "for i in $(seq 80); do sleep 2 & done 2>&1; wait", key=key)
    assert "Resource temporarily unavailable" in output


def test_who_has_too_much_memory_loses_the_largest_program_and_nothing_else(core: LoginCore, key: Path) -> None:
    hog = "import time; x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); time.sleep(30)"
    began = time.monotonic()
    _, output = core.login(
        "ada", f'python3 -c "{hog}"; echo "then $?"; sleep 4', key=key, options=("-tt", "-o", "LogLevel=INFO")
    )
    assert "then 137" in output and time.monotonic() - began < 20
    assert re.search(r"python3 \(\d+\) was ended: together your programs had more than the 256 MiB", output), output
    assert core.login("ada", f'python3 -c "{hog.replace("300", "100").replace("30)", "5)")}"', key=key)[0] == 0


# -- what is said


def shell(core: LoginCore, key: Path, name: str) -> str:
    """Return what somebody sees who opens a shell and leaves it."""
    return core.login(name, key=key, options=("-tt",), data="exit\n")[1].replace("\r", "")


def test_what_is_said_at_login(core: LoginCore, key: Path) -> None:
    job = submit(core, key, "ada", "sleep 60")
    try:
        core.wait_until(
            "the job is known", lambda: "ada " in core.on_login("cat", "/run/virtual-core/cluster/own")[1], timeout=180
        )
        told = shell(core, key, "ada")
        assert "Maintenance on Monday.\n" in told
        assert "The cluster: 2 nodes: " in told and "of 4 processors are free.\n" in told, told
        assert "1 job running, 0 waiting.\nYours: 1 running, 0 waiting.\n" in told
        assert "Change it now" not in told
        told = shell(core, key, "bob")
        assert "1 job running" in told and "yours" not in told
        assert "cluster" not in core.login("ada", "true", key=key)[1], "copies of files are not disturbed"
        assert core.login("bob", "cat /run/virtual-core/cluster/own", key=key)[0] != 0
    finally:
        core.login("ada", f"scancel {job}", key=key)


def test_a_first_password_lets_its_owner_in_and_says_what_to_do(core: LoginCore) -> None:
    code, output = core.login("grace", "id -un", password=PASSWORD, options=("-tt", "-o", "LogLevel=INFO"))
    assert code == 0 and "Change it now:  salt-call vcore.sync_password" in output, output


def test_a_login_does_not_wait_for_slurm(core: LoginCore, key: Path) -> None:
    core.api.pause(core.slurm["slurm-controller"])
    try:
        began = time.monotonic()
        assert "The cluster: " in shell(core, key, "ada")
        assert time.monotonic() - began < 3
    finally:
        core.api.unpause(core.slurm["slurm-controller"])


def test_a_password_is_changed_for_the_directory_and_the_file_server(core: LoginCore, key: Path) -> None:
    new = "Another-secret-222"
    code, output = core.login(
        "grace", f"printf '%s\\n' {PASSWORD} {new} {new} | salt-call vcore.sync_password", password=PASSWORD
    )
    assert code == 0 and "both accept it" in output, output
    assert core.login("grace", "id -un", password=new) == (0, "grace\n")
    assert core.login("grace", "true", password=PASSWORD)[0] == 255
    assert core.on_client("smbclient", "//file-router/grace", "-U", f"grace%{new}", "-c", "ls")[0] == 0
    assert core.on_client("smbclient", "//file-router/grace", "-U", f"grace%{PASSWORD}", "-c", "ls")[0] != 0


# -- homes


def test_storage_that_is_not_there_is_said(core: LoginCore, key: Path) -> None:
    marker = core.volume("home") / MARKER
    marker.rename(marker.with_name("away"))
    try:
        code, output = core.login("ada", "true", key=key, options=("-o", "LogLevel=INFO"))
        assert code == 255 and "The storage with the homes is not there at the moment" in output
    finally:
        marker.with_name("away").rename(marker)
    assert core.login("ada", "true", key=key)[0] == 0


def test_a_home_that_cannot_be_made_is_said(core: LoginCore, tmp_path: Path) -> None:
    """NFS maps root to nobody; a file system that cannot be written to stands in for that."""
    (tmp_path / MARKER).touch()
    api = machine()
    container = api.create_container(
        build("login"),
        entrypoint=["/usr/lib/virtual-core/login-home"],
        environment={"PAM_USER": "ada"},
        host_config=api.create_host_config(binds={str(tmp_path): {"bind": "/home", "mode": "ro"}}),
    )["Id"]
    try:
        api.start(container)
        assert api.wait(container)["StatusCode"] == 1
        assert api.logs(container).decode().startswith("Your home /home/ada does not exist: ask an administrator")
    finally:
        api.remove_container(container, force=True)


# -- jobs


def submit(core: LoginCore, key: Path, name: str, command: str, node: str = "node-1") -> str:
    """Submit a job and wait until it runs; return its number."""
    code, output = core.login(name, f"sbatch --parsable --output=/dev/null -w {node} --wrap '{command}'", key=key)
    assert code == 0, output
    job = output.strip()
    core.wait_until("the job runs", lambda: core.on_login("squeue", "-h", "-j", job, "-o", "%T")[1] == "RUNNING\n")
    return job


def test_jobs_from_the_login_host_run_as_their_owner_in_the_same_home(core: LoginCore, key: Path) -> None:
    code, output = core.login("ada", "srun -N2 sh -c 'id -un; hostname; pwd' | sort -u", key=key)
    assert (code, output.split()) == (0, ["/home/ada", "ada", *NODES]), output
    code, output = core.login(
        "ada", "sbatch --wait --output=out --wrap 'hostname; id -un' > /dev/null; cat out", key=key
    )
    assert (code, output) == (0, "node-1\nada\n")


def test_salloc_gives_a_shell_that_starts_steps(core: LoginCore, key: Path) -> None:
    code, output = core.login("ada", "salloc -Q -w node-2 sh -c 'srun hostname; ssh node-2 id -un'", key=key)
    assert (code, output) == (0, "node-2\nada\n"), output


# -- ssh to nodes


def test_a_node_lets_in_who_has_a_job_there(core: LoginCore, key: Path) -> None:
    code, output = core.login("ada", "ssh node-1 true", key=key)
    assert code == 255 and "you have no active jobs on this node" in output, output
    home = core.volume("home") / "ada" / ".ssh"
    assert (home.stat().st_mode & 0o777, (home / "virtual-core").stat().st_mode & 0o777) == (0o700, 0o600)
    job = submit(core, key, "ada", "sleep 300")
    try:
        code, output = core.login("ada", "ssh node-1 'hostname; id -un; echo $SLURM_JOB_ID'", key=key)
        assert (code, output.split()) == (0, ["node-1", "ada", job]), output
        assert core.login("ada", "ssh node-2 true", key=key)[0] == 255
        assert core.login("bob", "ssh node-1 true", key=key)[0] == 255
        assert core.login("bob", "ssh ada@node-1 true", key=key)[0] == 255
        assert core.login("ada", "ssh root@node-1 true", key=key)[0] == 255
        assert core.login("ada", "ssh -W ldap:636 node-1", key=key)[0] == 255
        second = submit(core, key, "ada", "sleep 300", "node-2")
        assert core.login("ada", "ssh node-1 ssh node-2 hostname", key=key) == (0, "node-2\n")
        core.login("ada", f"scancel {second}", key=key)
        core.modify_person("ada", shadowExpire="1")
        try:
            code, output = core.on_login("setpriv", "--reuid=10001", "--regid=10000", "--clear-groups", "env",
                                         "HOME=/home/ada", "ssh", "node-1", "true")  # fmt: skip
            assert code == 255, "a lock holds for nodes, too"
        finally:
            core.modify_person("ada", shadowExpire=None)
        assert core.login("ada", "ssh node-1 true", key=key)[0] == 0
    finally:
        core.login("ada", f"scancel {job}", key=key)


def test_what_was_started_beside_a_job_ends_after_it(core: LoginCore, key: Path) -> None:
    job = submit(core, key, "bob", "sleep 300")
    assert core.login("bob", "ssh node-1 'setsid sleep 4321 > /dev/null 2>&1 < /dev/null & exit'", key=key)[0] == 0
    time.sleep(11)
    assert core.on_node("node-1", "pgrep", "-f", "sleep 4321")[0] == 0, "while the job runs, nothing ends"
    core.login("bob", f"scancel {job}", key=key)
    core.wait_until("it is ended", lambda: core.on_node("node-1", "pgrep", "-f", "sleep 4321")[0] == 1, timeout=120)


def test_the_host_key_of_nodes_is_known_and_no_other_is_taken(core: LoginCore, key: Path) -> None:
    known = core.on_login("cat", "/run/virtual-core/node-known-hosts")[1]
    for node in NODES:
        assert core.on_node(node, "cat", "/run/virtual-core/node-known-hosts")[1] == known
    assert core.on_login("sh", "-c", "ls /run/virtual-core/node")[1] == "", "the login host has the public half alone"
    other = "virtual-core-node ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJMXrKMHrb9aqOUA6f8QouogkLCJiNo1c+jF4LjhoaZW"
    core.on_login("sh", "-c", f"echo '{other}' > /run/virtual-core/node-known-hosts")
    try:
        code, output = core.login("ada", "ssh node-1 true", key=key)
        assert code == 255 and "Host key verification failed" in output
    finally:
        core.on_login("sh", "-c", f"echo '{known.strip()}' > /run/virtual-core/node-known-hosts")


def test_other_hosts_are_no_nodes(core: LoginCore, key: Path) -> None:
    code, output = core.login("ada", "ssh -G ldap 2> /dev/null | grep -E '^(port|proxycommand) '", key=key)
    assert (code, output) == (0, "port 22\n")
    code, output = core.login("ada", "ssh -G node-1.example.org 2> /dev/null | grep '^port '", key=key)
    assert (code, output) == (0, "port 22\n")
    assert "port 2223" in core.login("ada", "ssh -G node-1 | grep '^port '", key=key)[1]


# -- secrets


def test_secrets_stay_with_root(core: LoginCore, key: Path) -> None:
    readable = "grep -rlsE '" + core.password("readonly") + "|kkkkkkkk' /etc /run /var/lib /usr/lib/virtual-core; true"
    assert core.login("ada", readable, key=key)[1] == ""
    assert core.on_login("find", "/", "-xdev", "-type", "f", "-perm", "/6000") == (0, "")
    bind = "import socket; socket.create_server(('127.0.0.1', 700))"
    assert "PermissionError" in core.login("ada", f'python3 -c "{bind}"', key=key)[1]
