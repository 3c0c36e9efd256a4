"""The health check of compute nodes, run by a shell with a stand-in for scontrol that keeps the node's state."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from support import sites
from vcore.services import templates
from vcore.storage import mounting, places

CHECKOUT = Path(__file__).parents[3]
PROGRAM = CHECKOUT / "images/slurm-compute/rootfs/usr/lib/virtual-core/node-health"
TEMPLATES = CHECKOUT / "salt/states/services/slurm-compute/files"
SCONTROL = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
path = Path(__file__).parent / "node.json"
node = json.loads(path.read_text())
node["calls"] += 1
arguments = sys.argv[1:]
if arguments == ["--oneliner", "show", "node", "compute-1"]:
    reason = f" Reason={node['reason']} [root@2026-01-01T00:00:00]" if node["reason"] else ""
    print(f"NodeName=compute-1 Arch=x86_64 State={node['state']} ThreadsPerCore=1{reason} Comment=State=x")
elif arguments[:2] == ["update", "nodename=compute-1"]:
    for argument in arguments[2:]:
        key, _, value = argument.partition("=")
        node[key] = {"drain": "IDLE+DRAIN", "resume": "IDLE"}.get(value, value) if key == "state" else value
    if node["state"] == "IDLE":
        node["reason"] = ""
else:
    sys.exit(f"what is {arguments}?")
path.write_text(json.dumps(node))
"""


class Node:
    """A compute node: its storage, its state in the controller, and the program on it."""

    def __init__(self, folder):
        self.folder = folder
        pillar = sites.pillar(folder, "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n")
        names = {"storage": pillar["storage"]}
        wanted = templates.render(TEMPLATES, "storage-markers.j2", names).decode()
        self.places = {}
        for root in mounting.wanted(pillar).values():
            place = self.places[root.name] = folder / root.name
            place.mkdir()
            (place / mounting.MARKER).write_text(root.marker)
            wanted = wanted.replace(f"/{root.name} ", f"{place} ", 1)
        files = {"/etc/virtual-core/storage-markers": wanted, "/etc/virtual-core/node/name": "compute-1\n"}
        program = PROGRAM.read_text().replace("/run/virtual-core/", f"{folder}/").replace("reads=5", "reads=0.5")
        program = program.replace("PATH=", f"PATH={folder}/bin:", 1)
        for number, (path, text) in enumerate(files.items()):
            (folder / f"file-{number}").write_text(text)
            program = program.replace(path, f"{folder}/file-{number}")
        (folder / "bin").mkdir()
        self.write("health", program)
        self.write("scontrol", SCONTROL)
        self.is_now("IDLE")

    def write(self, name, text):
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def is_now(self, state, reason=""):
        (self.folder / "bin/node.json").write_text(json.dumps({"state": state, "reason": reason, "calls": 0}))

    def check(self, code=0):
        """Run the program once; return the controller's state, reason, and how often it was asked."""
        done = subprocess.run(["dash", self.folder / "bin/health"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        node = json.loads((self.folder / "bin/node.json").read_text())
        return node["state"], node["reason"], node["calls"]


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_node_that_is_well_asks_once(node):
    assert node.check() == ("IDLE", "", 1)
    assert node.check() == ("IDLE", "", 1)
    start = time.perf_counter()
    for _ in range(10):
        node.check()
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", places.KINDS)
def test_a_node_without_its_storage_drains_itself_and_comes_back(node, kind):
    node.check()
    marker = node.places[kind] / mounting.MARKER
    text = marker.read_text()
    marker.unlink()
    assert node.check()[:2] == ("IDLE+DRAIN", f"vcore: storage {node.places[kind]} is missing")
    assert node.check()[:2] == ("IDLE+DRAIN", f"vcore: storage {node.places[kind]} is missing")
    marker.write_text(text)
    assert node.check()[:2] == ("IDLE", "")


def test_the_storage_of_another_core_is_none(node):
    marker = node.places["home"] / mounting.MARKER
    marker.write_text(marker.read_text().replace(" home", " data"))
    assert node.check()[:2] == ("IDLE+DRAIN", f"vcore: storage {node.places['home']} is not this core's")


def test_a_file_server_that_hangs_holds_nothing_up(node):
    marker = node.places["home"] / mounting.MARKER
    marker.unlink()
    os.mkfifo(marker)  # opening it blocks
    start = time.monotonic()
    assert node.check()[:2] == ("IDLE+DRAIN", f"vcore: storage {node.places['home']} does not answer")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("reason", ["disk is broken", "vcore: retiring", "my vcore: storage /home is missing", ""])
def test_what_others_drained_stays(node, reason):
    for state in ("IDLE+DRAIN", "DRAINING", "MIXED+DRAIN"):
        node.is_now(state, reason)
        (node.folder / "storage-is-there").unlink(missing_ok=True)
        assert node.check()[:2] == (state, reason)
    marker = node.places["data"] / mounting.MARKER
    text = marker.read_text()
    marker.unlink()
    assert node.check()[:2] == (state, reason)
    marker.write_text(text)
    assert node.check()[:2] == (state, reason)


def test_a_person_who_takes_a_drained_node_over_wins(node):
    marker = node.places["data"] / mounting.MARKER
    text = marker.read_text()
    marker.unlink()
    node.check()
    node.is_now("IDLE+DRAIN", "being looked at")
    marker.write_text(text)
    assert node.check()[:2] == ("IDLE+DRAIN", "being looked at")


def test_a_controller_that_does_not_answer_is_asked_again(node):
    node.write("scontrol", "#!/bin/sh\nexit 1\n")
    marker = node.places["data"] / mounting.MARKER
    text = marker.read_text()
    marker.unlink()
    node.check(code=1)
    node.write("scontrol", SCONTROL)
    assert node.check()[0] == "IDLE+DRAIN"
    marker.write_text(text)
    assert node.check()[0] == "IDLE"


def test_a_core_without_storage_has_nothing_to_look_at(node):
    (node.folder / "file-0").write_text("")
    for place in node.places.values():
        (place / mounting.MARKER).unlink()
    assert node.check()[:2] == ("IDLE", "")
