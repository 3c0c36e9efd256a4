"""What people read at login, whose programs are killed when memory runs out, and what the login host is given."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.paths import Paths
from vcore.host import containers
from vcore.login import cluster_message, health
from vcore.login.fair_share import Process, excess, sentence
from vcore.services import templates
from vcore.storage.places import MARKER

SITE = """\
vcore:
  nodes: {head: {roles: [head], address: 10.0.0.1}}
  slurm: {mode: managed, srun_ports: {first: 61000, last: 61009}}
"""
NODES = """\
compute-1|idle|0/8/0/8
compute-1|idle|0/8/0/8
compute-2|mixed|3/5/0/8
compute-3|allocated|8/0/0/8
compute-4|drained|0/0/8/8
compute-5|draining*|4/0/4/8
compute-6|down~|0/0/8/8
compute-7|idle*|0/8/0/8
compute-8|reserved|0/8/0/8
compute-9|planned-|0/8/0/8
"""


def test_the_nodes_of_a_cluster_in_a_sentence() -> None:
    assert cluster_message.cluster(NODES) == (
        "The cluster: 9 nodes: 1 idle, 1 in part at work, 1 at work, 1 reserved, 1 drained, 4 down. "
        "13 of 72 processors are free."
    )
    assert cluster_message.cluster("a|idle|0/1/0/1\n") == "The cluster: 1 node: 1 idle. 1 of 1 processor are free."
    assert cluster_message.cluster("") == "The cluster has no nodes yet."


def test_jobs_are_counted_for_everybody_and_each() -> None:
    people = cluster_message.jobs("ada|RUNNING\nada|PENDING\nbob|PENDING\nada|COMPLETING\nbob|FAILED\n../x|RUNNING\n")
    assert people == {"ada": (2, 1), "bob": (0, 1)}
    assert cluster_message.own(people).splitlines()[0] == "ada Yours: 2 running, 1 waiting."
    assert cluster_message.everybody("", people) == "The cluster has no nodes yet.\n2 jobs running, 2 waiting.\n"


@pytest.mark.parametrize("text", ["slurm_load_partitions: Unable to contact slurm controller", "a|idle|1/2\n"])
def test_what_is_no_answer_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError):
        cluster_message.cluster(text)


def test_who_has_too_much_loses_the_largest() -> None:
    programs = [Process(1, 10001, "big", 700), Process(2, 10001, "small", 200), Process(3, 10001, "middle", 300)]
    others = [Process(4, 10002, "other", 1000), Process(5, 0, "root", 9000), Process(6, 101, "daemon", 9000)]
    assert excess([*programs, *others], 1000) == [programs[0]]
    assert excess(programs, 400) == [programs[0], programs[2]]
    assert excess([*programs, *others], 1200) == []
    assert sentence(Process(7, 10001, "a\x1b[31mb", 1), 2 << 30).startswith("a?[31mb (7) was ended: ")


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 2000))
def test_what_is_left_is_within_the_limit(sizes: list[int], limit: int) -> None:
    programs = [Process(number, 10001, "x", size) for number, size in enumerate(sizes)]
    gone = excess(programs, limit)
    assert sum(sizes) - sum(program.memory for program in gone) <= limit
    assert all(sum(sizes) - sum(program.memory for program in gone[:count]) > limit for count in range(len(gone)))


def test_the_login_host_runs_where_there_is_a_batch_queue(tmp_path: Path) -> None:
    assert "login" not in sites.pillar(tmp_path, SITE.replace("managed", "none"))["services"]
    service = sites.pillar(tmp_path, SITE)["services"]["login"]
    assert service["volumes"]["home"]["source"].endswith("/storage/home")
    assert (service["ports"]["srun"]["number"], service["ports"]["srun"]["last"]) == (61000, 61009)


def test_what_it_is_told(tmp_path: Path) -> None:
    pillar = sites.pillar(tmp_path, SITE)
    service = pillar["services"]["login"]
    names = templates.context(service, pillar, "ROOT\n")
    told = {
        name: templates.render(templates.folder("login", entry, sites.OURS), entry["template"], names).decode()
        for name, entry in service["configs"].items()
    }
    assert json.loads(told["slurm.json"]) == {"controller": "10.0.0.1:6817"}
    assert json.loads(told["people.json"])["file_server"] == "file-router"
    assert json.loads(told["login.json"]) == {
        "memory": 2 << 30, "message": None, "open_files": 4096, "processes": 512, "processor_time": 60,
    }  # fmt: skip
    assert told["authority.pem"] == "ROOT\n\n"


@pytest.mark.parametrize(
    ("first", "last", "ok"),
    [(61001, 61063, True), (32700, 32767, True), (60000, 61000, False), (60990, 61063, False), (40000, 40063, False)],
)
def test_the_doctor_names_ports_of_srun_that_a_connection_can_take(first: int, last: int, ok: bool) -> None:
    found = health.free_ports({"number": first, "last": last}, 32768, 60999)
    assert found["ok"] is ok and ("slurm.srun_ports" in found["remedy"]) is not ok
    assert f"{first} to {last}" in found["saw"]


def test_the_doctor_looks_for_the_homes_where_the_login_host_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillar, asked = sites.pillar(tmp_path, SITE), []

    def execute(container: str, command: tuple[str, ...]) -> tuple[int, bytes]:
        asked.append(command)
        return 1, b"no"

    monkeypatch.setattr(containers, "running", lambda *_: "login")
    monkeypatch.setattr(containers, "execute", execute)
    monkeypatch.setattr(health, "_ssh", lambda *_: {"ok": True})
    found = health.checks(pillar, Paths(checkout=sites.CHECKOUT))
    assert found[2]["saw"] == "there is no storage at /home: no"
    assert asked[0][4:] == ("test", "-e", f"/home/{MARKER}")
    told = (sites.CHECKOUT / "images/login/rootfs/usr/lib/virtual-core/login-home").read_text()
    assert f"test -e /home/{MARKER} " in told, "who logs in is asked for the same"


@pytest.mark.parametrize(
    ("said", "ok"), [(b"SSH-2.0-OpenSSH_10.0\r\n", True), (b"HTTP/1.1 400\r\n", False), (b"", False)]
)
def test_the_doctor_tells_ssh_from_something_else(tmp_path: Path, said: bytes, ok: bool) -> None:
    pillar = sites.pillar(tmp_path, SITE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pillar["nodes"]["head"]["address"] = "127.0.0.1"
        pillar["services"]["login"]["ports"]["ssh"]["number"] = server.getsockname()[1]
        pillar["node"]["services"].remove("login")

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        (found,) = health.checks(pillar, Paths(checkout=sites.CHECKOUT))
        thread.join()
    assert found["ok"] is ok and bool(found["remedy"]) is not ok
