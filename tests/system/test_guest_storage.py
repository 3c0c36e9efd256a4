"""A compute node's homes and data, mounted by a real kernel from the core's file router, in a guest on its network."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.guest import Guest
from support import sites
from timings import Timings
from vcore.file_router import configuration
from vcore.kernel import resolve as kernel_resolve
from vcore.storage import mounting, places

if TYPE_CHECKING:
    from support.file_router import FileCore

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = CHECKOUT / "images/slurm-compute/rootfs/usr/lib/virtual-core/node-health"
BASE = "/srv/virtual-core/data"
HOME, DATA = (f"{BASE}/storage/{kind}" for kind in places.KINDS)
ADA, BOB = 10001, 10002
#: A scontrol in the guest that remembers its commands; SLURM itself has its own tests.
SCONTROL = """#!/bin/sh
state=$(cat /run/node-state 2>/dev/null || echo IDLE)
case $1 in
    --oneliner) echo "NodeName=compute-1 State=$state Reason=$(cat /run/node-reason) [root@now]" ;;
    update)
        shift
        for argument; do
            case $argument in
                state=drain) echo IDLE+DRAIN >/run/node-state ;;
                state=resume) echo IDLE >/run/node-state; : >/run/node-reason ;;
                reason=*) echo "${argument#reason=}" >/run/node-reason ;;
            esac
        done ;;
esac
"""


class Served:
    """The core's file router, and the compute node that the guest is."""

    def __init__(self, core: FileCore, folder: Path) -> None:
        assert core.network
        self.core, self.folder = core, folder
        networks = core.api.inspect_container(core.router)["NetworkSettings"]["Networks"]
        self.address = str(networks[core.network.name]["IPAddress"])
        subnet = ipaddress.IPv4Network(core.network.subnet)
        self.node = str(subnet[200])
        self.interface = f"{self.node}/{subnet.prefixlen}"
        self.bridge = f"br-{core.network.id[:12]}"

    def resolved(self, *, with_node: bool = True, **more: Any) -> dict[str, Any]:
        """Resolve a site with the file router's node and, if wanted, the guest; ``more`` are further sections."""
        nodes: dict[str, Any] = {"head": {"roles": ["head"], "address": self.address}}
        if with_node:
            nodes["compute-1"] = {"roles": ["compute"], "address": self.node}
        text = {"nodes": nodes, "services": {"file-router": {"enabled": True}}, "base_directory": BASE, **more}
        text["site"] = {"domain": self.core.pillar["site"]["domain"]}
        return sites.resolved(self.folder, json.dumps({"vcore": text}))

    def admit(self, *, node: bool) -> None:
        """Bring the exports to what the site wants, with or without the node, as the state does."""
        self.core.pillar["storage_clients"] = self.resolved(with_node=node)["storage_clients"]
        self.core.configure()
        for command in (["settle", "--wait", "3"], ["file-router", "reload"]):
            code, output = self.core.on_router(f"/usr/lib/virtual-core/{command[0]}", *command[1:])
            assert code == 0, output

    def execute(self, *command: str) -> str:
        """Run a command where the files are served; return its output."""
        code, output = self.core.on_router(*command)
        assert code == 0, output
        return output


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, timings: Timings) -> Iterator[Served]:
    """Yield the file router's and the directory's images, each in a container of this machine, without a node yet."""
    from support.directory import build_image
    from support.file_router import FileCore

    build_image()
    core = FileCore(tmp_path_factory.mktemp("served"), shares={}, instruments={})
    try:
        with timings.step("guest: a file router for its storage"):
            core.bring_up()
        for name, number in (("ada", ADA), ("bob", BOB)):
            core.add_person(name, number, password="correct-horse-7")
            assert core.on_router("/usr/lib/virtual-core/make-home", name)[0] == 0
        for root in mounting.wanted(core.pillar).values():
            mounting.mark(root)
        yield Served(core, tmp_path_factory.mktemp("site"))
    finally:
        core.take_down()


class Node:
    """The guest as a compute node: the core's code in it, and people at work."""

    def __init__(self, guest: Guest, served: Served, process: subprocess.Popen[str]) -> None:
        self.guest, self.served, self.process = guest, served, process
        self.pillar = kernel_resolve.node_pillar(served.resolved(), "compute-1")

    def call(self, what: str, pillar: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the core's code in the guest: plan, apply, absent or facts."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"do": what, "pillar": pillar or self.pillar}) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said.startswith("{"), said + self.process.stdout.read()
        return json.loads(said)

    def run(self, command: str, *, person: int | None = None, check: bool = True, timeout: float = 60) -> str:
        """Run a command in bash, as root or as a person; return both outputs."""
        identity = [] if person is None else ["setpriv", f"--reuid={person}", "--regid=10000", "--clear-groups"]
        done = self.guest.run([*identity, "bash", "--norc", "-c", command], check=check, timeout=timeout)
        return done.stdout + done.stderr

    def health(self) -> tuple[str, str]:
        """Run the health check as slurmd does; return the node's state and reason."""
        self.run("node-health", timeout=40)
        return (
            self.run("cat /run/node-state 2>/dev/null || echo IDLE").strip(),
            self.run("cat /run/node-reason").strip(),
        )


@pytest.fixture(scope="module")
def node(served: Served, timings: Timings) -> Iterator[Node]:
    """Yield a guest on the file router's network; nothing of the storage is left in it afterwards."""
    with timings.step("guest: boot on a network of this machine"):
        guest = Guest(name="compute-1", bridge=served.bridge, address=served.interface)
        guest.start()
    try:
        guest.copy(CHECKOUT / "salt" / "_utils", "/srv/virtual-core/source/salt")
        guest.copy(CHECKOUT / "tests" / "system" / "guest_storage.py", "/srv/virtual-core/source/tests/system")
        # A compute node's container has these; its folders /home and /data are the node's.
        guest.copy(PROGRAM, "/usr/local/bin")
        guest.run("cat > /usr/local/bin/scontrol && chmod 755 /usr/local/bin/scontrol", input=SCONTROL)
        guest.run("mkdir -p /etc/virtual-core/node /run/virtual-core /data; : > /run/node-reason")
        guest.run("echo compute-1 > /etc/virtual-core/node/name")
        identifier = served.core.pillar["storage"]["identifier"]
        lines = "".join(f"{BASE}/storage/{kind} virtual-core {identifier} {kind}\n" for kind in places.KINDS)
        guest.run("cat > /etc/virtual-core/storage-markers", input=lines)
        with guest.background(["python3", "/srv/virtual-core/source/tests/system/guest_storage.py"]) as process:
            yield Node(guest, served, process)
    finally:
        guest.close()


@pytest.fixture(scope="module")
def mounted(node: Node, timings: Timings) -> Node:
    """Return the node with its storage mounted."""
    node.served.admit(node=True)
    with timings.step("guest: the storage of a compute node mounted", limit=30):
        done = node.call("apply")
    assert done["ok"], done
    node.run(f"echo of ada > {HOME}/ada/result && mkdir {HOME}/ada/folder", person=ADA)
    return node


def test_a_node_that_the_file_router_does_not_know_waits_and_gets_in_by_itself(node: Node, timings: Timings) -> None:
    served = node.served
    planned = node.call("plan")
    assert set(planned["changes"]) == {"home", "data", "units"}
    done = node.call("apply")
    assert done["changes"] == planned["changes"]
    assert not done["ok"]
    assert f"storage home: {served.address}:/core.home cannot be mounted: " in done["comment"]
    assert node.health() == ("IDLE+DRAIN", f"vcore: storage {HOME} is missing")
    served.admit(node=True)
    with timings.step("guest: a node that got access has its storage", limit=40):
        while not node.call("facts")["ok"]:
            time.sleep(0.5)
    assert node.call("plan")["changes"] == {}
    assert node.health() == ("IDLE", "")


def test_it_is_nfs_4_2_and_waits_for_its_server(mounted: Node) -> None:
    assert mounted.call("plan") == {"changes": {}, "comment": "", "ok": True}
    for place in (HOME, DATA):
        fields = mounted.run(f"findmnt -nro FSTYPE,OPTIONS {place}").split()
        assert fields[0] == "nfs4"
        assert {"rw", "vers=4.2", "hard", "nosuid", "nodev"} <= set(fields[1].split(",")), fields


def test_homes_belong_to_their_people(mounted: Node) -> None:
    assert mounted.run(f"stat -c %u:%g {HOME} {HOME}/ada {HOME}/bob").split() == ["0:0", "10001:10000", "10002:10000"]
    assert mounted.served.execute("stat", "-c", "%u", "/home/ada/result", "/home/ada/folder").split() == ["10001"] * 2
    assert mounted.served.execute("cat", "/home/ada/result") == "of ada\n"
    assert "Permission denied" in mounted.run(f"touch {HOME}/ada/other", person=BOB, check=False)


def test_a_new_home_is_seen_at_once(mounted: Node) -> None:
    assert "No such file" in mounted.run(f"ls {HOME}/new", check=False)
    mounted.served.execute("install", "-d", "-o", str(BOB), "/home/new")
    mounted.run(f"touch {HOME}/new/file", person=BOB)


@pytest.mark.parametrize("person", [None, ADA])
def test_nobody_on_a_node_takes_the_storage_away(mounted: Node, person: int | None) -> None:
    for command in (f"rm -f {HOME}/{mounting.MARKER}", f"touch {HOME}/mallory", f"mv {HOME}/ada {HOME}/eve"):
        assert "Permission denied" in mounted.run(command, person=person, check=False), command
    assert "Permission denied" in mounted.run(f"echo > {HOME}/ada/result", check=False), "root is nobody there"
    mounted.served.execute("test", "-f", f"/home/{mounting.MARKER}")


def test_locks_and_many_small_files(mounted: Node, timings: Timings) -> None:
    mounted.guest.copy(CHECKOUT / "tests" / "system" / "guest_lock.py", "/opt/tests")
    asked = mounted.run(f"python3 /opt/tests/guest_lock.py {HOME}/ada/result < /dev/null", person=ADA)
    assert asked.strip() == "got"
    with timings.step("guest: 200 small files by NFS"):
        mounted.run(f"cd {HOME}/ada/folder && for n in $(seq 200); do echo $n > $n; done", person=ADA)
    assert len(mounted.served.execute("ls", "/home/ada/folder").split()) == 200


def test_another_node_costs_no_session(mounted: Node, timings: Timings) -> None:
    served = mounted.served
    with mounted.guest.background(
        ["setpriv", f"--reuid={ADA}", "--regid=10000", "--clear-groups", "python3", "/opt/tests/guest_lock.py",
         f"{HOME}/ada/result"]
    ) as holder:  # fmt: skip
        assert holder.stdout
        assert holder.stdout.readline() == "got\n"
        process = served.execute("cat", "/run/ganesha.pid")
        served.core.pillar["storage_clients"] = [*served.resolved()["storage_clients"], "192.0.2.77"]
        with timings.step("guest: another node is let in"):
            assert configuration.admit(served.core.pillar, served.core.paths) is True
        assert served.execute("cat", "/run/ganesha.pid") == process
        assert "192.0.2.77" in served.execute("cat", "/etc/virtual-core/file-router/ganesha.conf")
        mounted.run(f"echo meanwhile > {HOME}/ada/meanwhile", person=ADA)
        assert mounted.run(f"python3 /opt/tests/guest_lock.py {HOME}/ada/result < /dev/null", person=ADA,
                           check=False).strip() == "refused"  # fmt: skip
    served.admit(node=True)


def test_a_file_router_that_restarts_ends_no_work(mounted: Node, timings: Timings) -> None:
    served = mounted.served
    write = f"for n in $(seq 30); do echo $n >> {HOME}/ada/log; sleep 0.2; done; echo done"
    with mounted.guest.background(
        ["setpriv", f"--reuid={ADA}", "--regid=10000", "--clear-groups", "bash", "--norc", "-c", write]
    ) as writer:
        time.sleep(1)
        served.core.api.restart(served.core.router, timeout=10)
        served.core.wait_for_router()
        assert writer.stdout
        with timings.step("guest: a write goes on after the file router is back", limit=120):
            assert writer.stdout.readline() == "done\n"
    assert served.execute("cat", "/home/ada/log").split() == [str(number) for number in range(1, 31)]
    assert mounted.call("facts")["ok"]


def test_a_server_that_hangs_drains_the_node_until_it_answers(mounted: Node, timings: Timings) -> None:
    served = mounted.served
    assert mounted.health() == ("IDLE", "")
    served.core.api.pause(served.core.router)
    try:
        with timings.step("guest: the health check of a node whose file server hangs", limit=30):
            assert mounted.health() == ("IDLE+DRAIN", f"vcore: storage {HOME} does not answer")
        seen = mounted.call("facts")
        assert seen["problems"] == [f"storage {kind}: {BASE}/storage/{kind} does not answer" for kind in places.KINDS]
    finally:
        served.core.api.unpause(served.core.router)
    deadline = time.monotonic() + 60
    while mounted.health() != ("IDLE", "") and time.monotonic() < deadline:
        time.sleep(1)
    assert mounted.health() == ("IDLE", "")


def test_what_is_unmounted_comes_back_by_itself(mounted: Node, timings: Timings) -> None:
    mounted.run(f"systemctl stop {mounting.RETRY}.timer {mounting.RETRY}.service && umount {HOME}")
    assert mounted.health() == ("IDLE+DRAIN", f"vcore: storage {HOME} is missing")
    assert "Operation not permitted" in mounted.run(f"touch {HOME}/lost", check=False)
    mounted.run(f"systemctl start {mounting.RETRY}.timer")
    with timings.step("guest: the storage is mounted again", limit=40):
        while not mounted.call("facts")["ok"]:
            time.sleep(0.5)
    assert mounted.health() == ("IDLE", "")


def test_a_node_that_leaves_keeps_nothing(mounted: Node) -> None:
    done = mounted.call("absent")
    assert done["ok"], done
    assert {name for name, change in done["changes"].items() if change["new"] is None} == set(places.KINDS)
    found = mounted.run("cat /proc/mounts; ls /etc/systemd/system /etc/virtual-core/storage; systemctl list-timers")
    assert "core.home" not in found
    assert "virtual-core-storage" not in found
    assert mounted.run(f"ls -d {BASE}/storage", check=False).startswith("ls: cannot access")
    assert mounted.served.execute("cat", "/home/ada/result") == "of ada\n"
    assert mounted.call("absent")["changes"] == {}


def test_a_shared_file_system_may_come_later(node: Node, timings: Timings) -> None:
    shared = "/lustre/core 100%"
    site = node.served.resolved(storage={"kind": "path", "path": shared})
    pillar = kernel_resolve.node_pillar(site, "compute-1")
    node.run(f"mkdir -p '{shared}/home' '{shared}/data'")
    done = node.call("apply", pillar)
    assert not done["ok"]
    assert f"storage home: {shared}/home has no {mounting.MARKER}" in done["comment"]
    node.run(f"mount -t tmpfs tmpfs '{shared}' && mkdir '{shared}/home' '{shared}/data'")
    for root in mounting.wanted(kernel_resolve.node_pillar(site, "head")).values():
        node.guest.run(f"cat > '{root.source}/{mounting.MARKER}'", input=root.marker)
    with timings.step("guest: a shared file system that came later", limit=40):
        while not node.call("facts", pillar)["ok"]:
            time.sleep(0.5)
    assert node.call("plan", pillar) == {"changes": {}, "comment": "", "ok": True}
    node.run(f"mkdir '{shared}/home/ada'")
    assert "ada" in node.run(f"ls {HOME}")
    assert node.health() == ("IDLE", "")
    assert node.call("absent")["ok"]
    assert f"{BASE}/storage" not in node.run("cat /proc/mounts")
    assert "ada" in node.run(f"ls '{shared}/home'")
