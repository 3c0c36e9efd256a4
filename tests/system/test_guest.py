"""NFS exports and routes of kind mount, mounted by a real kernel: in a guest, because this machine's may have no
clients.

The file router serves from a container of this machine. To the first tests it is the core's file router, to those of
routes it is somebody else's file server.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.guest import Guest
from support import sites
from timings import Timings

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "p@ss,word=1 %h#"  # with characters that have a meaning in mount options, units and credential files
OWNER = "ada"
# By address translation, mounts from the guest come from this machine.
SHARES: dict[str, Any] = {
    "runs": {"write": ["@people"], "nfs": [{"hosts": "{network}", "access": "rw", "any_port": True}]},
    "software": {"read": ["@people"], "mode": "2775", "nfs": [{"hosts": "{network}", "any_port": True}]},
    "private": {"nfs": [{"hosts": "192.0.2.0/24", "access": "rw"}]},
}
ROUTES: dict[str, Any] = {
    "by-smb": {"kind": "mount", "source": "runs", "user": OWNER, "owner": OWNER, "read_only": False},
    "by-nfs": {"kind": "mount", "protocol": "nfs", "source": "/runs", "read_only": False},
    "tools": {"kind": "mount", "protocol": "nfs", "source": "/software", "path": "from/other-server"},
}


@dataclass
class Served:
    """A file router that serves SHARES, as the guest sees it."""

    address: str
    #: Numbers of OWNER and of everybody's group.
    uid: int
    gid: int
    #: Runs a command where the files are served; returns its output.
    execute: Callable[..., str]
    stop: Callable[[], None]
    start: Callable[[], None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, timings: Timings) -> Iterator[Served]:
    """Yield the file router's and the directory's images, each in a container of this machine."""
    from support.directory import build_image
    from support.file_router import FileCore

    build_image()
    core = FileCore(tmp_path_factory.mktemp("served"), shares=SHARES, instruments={})

    def address() -> str:
        networks = core.api.inspect_container(core.router)["NetworkSettings"]["Networks"]
        return str(networks[core.network.name]["IPAddress"])

    def execute(*command: str) -> str:
        code, output = core.on_router(*command)
        assert code == 0, output
        return output

    def start() -> None:
        core.api.start(core.router)
        core.wait_for_router()
        assert address() == found.address

    try:
        with timings.step("guest: a file router for it"):
            core.bring_up()
        core.add_person(OWNER, 10001, password=PASSWORD)
        gid = core.pillar["accounts"]["first_id"]
        found = Served(address(), 10001, gid, execute, lambda: core.api.stop(core.router, timeout=10), start)
        yield found
    finally:
        core.take_down()


class Person:
    """What OWNER does in the guest."""

    def __init__(self, guest: Guest, served: Served) -> None:
        self.guest = guest
        self.identity = ["setpriv", f"--reuid={served.uid}", f"--regid={served.gid}", "--clear-groups"]

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> tuple[int, str]:
        """Run a command in bash; return exit code and both outputs."""
        done = self.guest.run([*self.identity, "bash", "--norc", "-c", command], check=check, timeout=timeout)
        return done.returncode, done.stdout + done.stderr

    def lock(self, path: str) -> str:
        """Ask for a lock and release it at once; return "got" or "refused"."""
        return self.run(f"python3 /opt/tests/guest_lock.py {path} < /dev/null", check=False)[1].strip()

    def holds(self, path: str) -> Any:
        """Hold a lock in a process of the guest for the time of a block."""
        return self.guest.background([*self.identity, "python3", "/opt/tests/guest_lock.py", path])


@pytest.fixture(scope="module")
def ada(guest: Guest, served: Served) -> Person:
    """Return OWNER, at work in the guest."""
    guest.copy(CHECKOUT / "tests" / "system" / "guest_lock.py", "/opt/tests")
    return Person(guest, served)


@pytest.fixture(scope="module")
def runs(guest: Guest, served: Served) -> str:
    """Mount the share `runs` with the kernel's client; yield the folder."""
    guest.run(f"mkdir -p /mnt/runs && mount -t nfs4 -o vers=4.2 {served.address}:/runs /mnt/runs")
    assert "vers=4.2" in guest.run("grep ' /mnt/runs ' /proc/mounts").stdout
    return "/mnt/runs"


# --- exports


def test_what_one_side_writes_the_other_reads(ada: Person, runs: str, served: Served) -> None:
    ada.run(f"echo from the guest > {runs}/one")
    assert served.execute("stat", "-c", "%u:%g", "/data/runs/one").strip() == f"{served.uid}:{served.gid}"
    assert served.execute("cat", "/data/runs/one") == "from the guest\n"
    served.execute("sh", "-c", f"echo from the server > /data/runs/two && chown {served.uid} /data/runs/two")
    assert ada.run(f"cat {runs}/two; stat -c %u {runs}/two")[1] == f"from the server\n{served.uid}\n"


def test_a_large_file_arrives_whole(guest: Guest, ada: Person, runs: str, served: Served, timings: Timings) -> None:
    ada.run("head -c 8388608 /dev/urandom > /tmp/large")
    with timings.step("guest: 8 MiB written by NFS"):
        ada.run(f"cp /tmp/large {runs}/large && sync {runs}/large")
    local = ada.run("sha256sum < /tmp/large")[1]
    assert served.execute("sh", "-c", "sha256sum < /data/runs/large") == local
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    assert ada.run(f"rm /tmp/large; sha256sum < {runs}/large")[1] == local


def test_root_of_a_client_is_nobody(guest: Guest, runs: str) -> None:
    done = guest.run(f"touch {runs}/of-root", check=False)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


def test_a_client_that_may_read_does_not_write(guest: Guest, ada: Person, served: Served) -> None:
    served.execute("sh", "-c", "echo tool > /data/software/tool && chmod 644 /data/software/tool")
    guest.run(f"mkdir -p /mnt/software && mount -t nfs4 -o vers=4.2 {served.address}:/software /mnt/software")
    try:
        assert ada.run("cat /mnt/software/tool")[1] == "tool\n"
        code, said = ada.run("echo > /mnt/software/other", check=False)
        assert code
        assert "Read-only file system" in said
    finally:
        guest.run("umount /mnt/software")


def test_a_client_that_is_not_listed_is_refused(guest: Guest, served: Served) -> None:
    guest.run("mkdir -p /mnt/private")
    done = guest.run(
        f"mount -t nfs4 -o vers=4.2,retry=0 {served.address}:/private /mnt/private", check=False, timeout=30
    )
    assert done.returncode == 32, done
    assert "No such file or directory" in done.stderr or "access denied" in done.stderr
    assert "/mnt/private" not in guest.run("cat /proc/mounts").stdout


def test_locks_of_an_export(ada: Person, runs: str) -> None:
    ada.run(f"touch {runs}/locked")
    with ada.holds(f"{runs}/locked") as holder:
        assert holder.stdout.readline() == "got\n"
        assert ada.lock(f"{runs}/locked") == "refused"
    assert ada.lock(f"{runs}/locked") == "got"


# --- routes


@dataclass
class Routes:
    """The guest's routes, as the core's states carry them out."""

    served: Served
    folder: Path
    #: tests/system/guest_routes.py, in the guest.
    process: subprocess.Popen[str]

    def pillar(self, routes: dict[str, Any]) -> dict[str, Any]:
        """Return the pillar of the guest, the head of a site with these routes."""
        text = {
            "nodes": {"head": {"roles": ["head"], "address": "10.0.2.15"}},
            "services": {"file-router": {"enabled": True}},
            "routes": {name: {"server": self.served.address, **route} for name, route in routes.items()},
        }
        return sites.pillar(self.folder, json.dumps({"vcore": text}))

    def call(self, what: str, routes: dict[str, Any], password: str = PASSWORD) -> dict[str, Any]:
        """Run the core's code in the guest: plan, apply or status."""
        passwords = {name: password for name, route in routes.items() if "user" in route}
        given = {"do": what, "pillar": self.pillar(routes), "passwords": passwords, "numbers": {OWNER: self.served.uid}}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said.startswith("{"), said + self.process.stdout.read()
        return json.loads(said)

    def target(self, name: str) -> str:
        """Return where a route is mounted."""
        route = ROUTES[name]
        return f"{self.pillar(ROUTES)['base_directory']}/file-router/data/{route.get('path', name)}"


@pytest.fixture(scope="module")
def routes(guest: Guest, served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routes]:
    """Yield the core's code in the guest; no route is mounted afterwards."""
    guest.copy(CHECKOUT / "salt" / "_utils", "/srv/virtual-core/source/salt")
    guest.copy(CHECKOUT / "tests" / "system" / "guest_routes.py", "/srv/virtual-core/source/tests/system")
    with guest.background(["python3", "/srv/virtual-core/source/tests/system/guest_routes.py"]) as process:
        made = Routes(served, tmp_path_factory.mktemp("routes"), process)
        yield made
        made.call("apply", {})


@pytest.fixture(scope="module")
def mounted(routes: Routes, timings: Timings) -> Routes:
    """Mount all of ROUTES."""
    planned = routes.call("plan", ROUTES)
    assert planned["problems"] == {}
    assert set(planned["changes"]) == set(ROUTES)
    with timings.step("guest: three routes mounted"):
        done = routes.call("apply", ROUTES)
    assert done["changes"] == planned["changes"]
    assert sorted(done["comment"].rstrip(".").split("; ")) == [f"{name} was mounted" for name in sorted(ROUTES)]
    return routes


def test_mounted_routes_are_what_is_wanted(mounted: Routes) -> None:
    assert mounted.call("plan", ROUTES)["changes"] == {}
    for name, entry in mounted.call("status", ROUTES).items():
        assert (entry["ok"], entry["state"], entry["message"]) == (True, "mounted", ""), name


def test_a_route_shows_the_servers_files(mounted: Routes, ada: Person, served: Served) -> None:
    served.execute("sh", "-c", f"echo data > /data/runs/data && chown {served.uid} /data/runs/data")
    served.execute("sh", "-c", "echo tool > /data/software/tool && chmod 644 /data/software/tool")
    for name in ("by-smb", "by-nfs"):
        folder = mounted.target(name)
        assert ada.run(f"cat {folder}/data && stat -c %u:%g {folder}/data")[1] == f"data\n{served.uid}:{served.gid}\n"
        ada.run(f"echo {name} > {folder}/written-{name}")
        assert served.execute("cat", f"/data/runs/written-{name}") == f"{name}\n"
        assert served.execute("stat", "-c", "%u", f"/data/runs/written-{name}").strip() == str(served.uid)
    code, said = ada.run(f"cat {mounted.target('tools')}/tool; touch {mounted.target('tools')}/tool", check=False)
    assert (code, said.splitlines()[0]) == (1, "tool")
    assert "Read-only file system" in said


def test_what_a_route_carries_has_no_rights_here(mounted: Routes, guest: Guest, served: Served) -> None:
    served.execute("sh", "-c", "cp /bin/true /data/runs/program && chmod 4755 /data/runs/program")
    for name in ("by-smb", "by-nfs"):
        options = guest.run(["findmnt", "-nro", "OPTIONS", "--type", "nfs4,cifs", mounted.target(name)]).stdout
        assert {"nosuid", "nodev", "noexec"} <= set(options.strip().split(",")), options
        done = guest.run(
            f"setpriv --reuid=10001 --regid=10000 --clear-groups {mounted.target(name)}/program", check=False
        )
        assert done.returncode == 126, done


def test_the_password_of_a_route_is_nowhere_to_be_read(mounted: Routes, guest: Guest) -> None:
    folder = "/etc/virtual-core/routes"
    assert guest.run(f"stat -c %a {folder} {folder}/by-smb.credentials").stdout.split() == ["700", "600"]
    assert PASSWORD in guest.run(f"cat {folder}/by-smb.credentials").stdout
    public = "cat /proc/mounts /etc/systemd/system/*mount /etc/virtual-core/routes/*.json; ps axww; journalctl; dmesg"
    text = guest.run(public).stdout
    assert mounted.target("by-smb") in text
    assert PASSWORD not in text


def test_locks_hold_between_routes(mounted: Routes, ada: Person, served: Served) -> None:
    served.execute("sh", "-c", f"touch /data/runs/shared && chown {served.uid} /data/runs/shared")
    smb, nfs = (f"{mounted.target(name)}/shared" for name in ("by-smb", "by-nfs"))
    for holding, asking in ((nfs, smb), (smb, nfs), (smb, smb), (nfs, nfs)):
        with ada.holds(holding) as holder:
            assert holder.stdout.readline() == "got\n"
            # Ganesha 6.5 describes a holder that is not its client in a way that Linux does not understand: the lock is
            # refused, but as an input/output error.
            refusal = "[Errno 5] Input/output error" if (holding, asking) == (smb, nfs) else "refused"
            assert ada.lock(asking) == refusal, (holding, asking)
        assert ada.lock(asking) == "got", (holding, asking)


def test_what_somebody_unmounts_is_mounted_when_it_is_used(mounted: Routes, guest: Guest, ada: Person) -> None:
    for name in ("by-smb", "by-nfs"):
        guest.run(["umount", mounted.target(name)])
        assert mounted.call("status", ROUTES)[name]["state"] == "mounted when used"
        assert "data" in ada.run(f"ls {mounted.target(name)}")[1]
        assert mounted.call("status", ROUTES)[name]["state"] == "mounted"


def test_a_server_that_goes_and_comes_back(
    mounted: Routes, guest: Guest, ada: Person, served: Served, timings: Timings
) -> None:
    served.execute("sh", "-c", f"touch /data/runs/kept && chown {served.uid} /data/runs/kept")
    smb, nfs = (mounted.target(name) for name in ("by-smb", "by-nfs"))
    with ada.holds(f"{nfs}/kept") as holder:
        assert holder.stdout.readline() == "got\n"
        served.stop()
        try:
            for name, entry in mounted.call("status", ROUTES).items():
                assert not entry["ok"], name
                assert "does not answer" in entry["message"]
            with guest.background(
                [*ada.identity, "bash", "--norc", "-c", f"echo later > {nfs}/later && echo done"]
            ) as writer:
                time.sleep(3)
                assert writer.poll() is None
                served.start()
                with timings.step("guest: a write goes on after the server is back", limit=120):
                    assert writer.stdout.readline() == "done\n"
        except BaseException:
            served.start()
            raise
        assert served.execute("cat", "/data/runs/later") == "later\n"
        with timings.step("guest: the same by SMB", limit=120):
            ada.run(f"echo later > {smb}/later-by-smb", timeout=110)
        assert served.execute("cat", "/data/runs/later-by-smb") == "later\n"
        # The client that held a lock before has it again.
        assert ada.lock(f"{smb}/kept") == "refused"
    assert mounted.call("plan", ROUTES)["changes"] == {}


def test_a_wrong_password_holds_no_other_route_up(mounted: Routes, guest: Guest) -> None:
    done = mounted.call("apply", ROUTES, password="another-one")
    assert set(done["changes"]) == {"by-smb"}
    assert done["comment"].startswith(f"route by-smb: //{mounted.served.address}/runs cannot be mounted: ")
    assert "another-one" not in json.dumps(done)
    assert mounted.call("apply", ROUTES)["comment"] == "by-smb was mounted."


def test_a_route_that_is_taken_away_leaves_nothing(mounted: Routes, guest: Guest) -> None:
    left = {"by-nfs": ROUTES["by-nfs"]}
    done = mounted.call("apply", left)
    assert done["changes"].keys() == {"by-smb", "tools"}
    found = guest.run("cat /proc/mounts; ls /etc/virtual-core/routes /etc/systemd/system; systemctl list-units").stdout
    assert mounted.target("by-nfs") in found
    assert "by-smb" not in found
    assert "other-server" not in found
    assert mounted.call("plan", left)["changes"] == {}
