"""The reconciler with a live master and live minions: nothing depends on an event, and slow nodes hold nobody up.

Only Docker and SLURM have stand-ins (tests/support); the system tests have nodes with the real ones.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from vcore.nodes import code, decisions
from vcore.swarm import rolling


@pytest.fixture
def cluster(checkout) -> Iterator[Cluster]:
    """Yield a cluster in which nothing runs yet."""
    root = Path(tempfile.mkdtemp(prefix="vcore-"))  # it contains sockets, whose paths have to be short
    made = Cluster(root, checkout)
    yield made
    made.close()
    shutil.rmtree(root, ignore_errors=True)


def well(cluster: Cluster, *names: str) -> bool:
    """Return whether all of these nodes take jobs, as far as the reconciler knows."""
    records, labels = cluster.state.nodes, cluster.swarm.labels()
    return all(
        name in records and records[name].succeeded and not records[name].attempts and labels[name] for name in names
    )


def test_a_new_node_without_the_code_takes_jobs_and_is_left_alone_then(cluster):
    cluster.add("compute-1", code=False)
    cluster.start_master(every=3600)
    cluster.start("compute-1")
    cluster.until(lambda: well(cluster, "compute-1"), 90)
    entry = cluster.registry.read()["compute-1"]
    assert entry["code"] == code.code(cluster.checkout / "salt")
    assert entry["address"] == cluster.swarm.nodes["compute-1"]["Status"]["Addr"]
    assert entry["swarm_id"] == cluster.swarm.nodes["compute-1"]["ID"]
    assert entry["hardware"]["cpus"] > 0
    assert cluster.swarm.labels()["compute-1"] == {"vcore.node": "compute-1", "vcore.role.compute": "true"}
    assert [asked["nodes"] for asked in cluster.asked("configure")][-1] == ["compute-1"]
    converged, log = cluster.converged("compute-1"), list(cluster.swarm.log)
    done = cluster.run("vcore.reconcile", "--out=json")  # a full round, which finds nothing to do
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reconciled"] == {}
    assert (cluster.converged("compute-1"), cluster.swarm.log) == (converged, log)

    # While a roll is under way, only the roll itself resumes what it has drained.
    drained = cluster.root / "drained.json"
    drained.write_text('{"compute-1": "vcore: update of the compute image"}')
    with rolling.alone("slurm-compute", cluster.paths):
        assert json.loads(cluster.run("vcore.reconcile", "--out=json").stdout)["resumed"] == []
    assert json.loads(cluster.run("vcore.reconcile", "--out=json").stdout)["resumed"] == ["compute-1"]
    assert drained.read_text() == "{}"

    # The node is given new code without anybody asking, and runs it from then on.
    module = cluster.checkout / "salt" / "_modules" / "vcore_new.py"
    module.write_text('def word():\n    return "new"\n')
    done = cluster.run("vcore.reconcile", "compute-1", "--out=json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reconciled"]["compute-1"]["result"] == "converged"
    assert cluster.registry.read()["compute-1"]["code"] == code.code(cluster.checkout / "salt")
    assert "new" in cluster.run("compute-1", "vcore_new.word", command="salt").stdout


def test_thirty_minions_at_once_are_one_round_and_one_configuration(cluster):
    names = [f"compute-{number}" for number in range(1, 31)]
    cluster.start_master(every=3600)
    cluster.until(lambda: cluster.state.round, 60)
    for name in names:
        cluster.add(name)
    began, before = time.monotonic(), len(cluster.asked("configure"))
    cluster.start(*names)
    cluster.until(lambda: well(cluster, *names), 400)
    took = time.monotonic() - began
    asked = cluster.asked("configure")[before:]
    print(f"\n30 minions: {took:.1f} s from their start; {len(asked)} configurations; rounds: {cluster.rounds()}")
    assert asked[-1]["nodes"] == sorted(names)
    # On a busy machine the minions' starts spread over more than a minute; each late one causes another round.
    assert len(asked) <= 2
    assert {cluster.converged(name) for name in names} <= {1, 2}
    addresses = [entry["address"] for entry in cluster.registry.read().values()]
    assert len(set(addresses)) == 30


def test_a_burst_of_marks_is_one_round(cluster):
    cluster.add("compute-1")
    cluster.start_master(every=3600)
    cluster.start("compute-1")
    cluster.until(lambda: well(cluster, "compute-1"), 90)
    time.sleep(3)  # the round that its start may have caused
    before = cluster.converged("compute-1")
    for _ in range(30):
        decisions.mark(cluster.paths, ["compute-1", "*", "nobody"])
        time.sleep(0.05)
    cluster.until(lambda: cluster.converged("compute-1") > before and not decisions.marks(cluster.paths), 60)
    time.sleep(4)
    assert cluster.converged("compute-1") == before + 1


def at_its_states(cluster, name):
    """Return whether a node was told to apply its states, and has not answered."""
    flight = cluster.state.flights.get(name)
    return flight is not None and flight.kind == decisions.CONVERGE


def test_a_lost_event_costs_nothing_but_time(cluster):
    cluster.add("compute-1")
    cluster.start_master(off=True)
    cluster.start("compute-1")
    cluster.until(lambda: "True" in cluster.run("compute-1", "test.ping", command="salt").stdout, 90)
    cluster.stop("master")
    shutil.rmtree(decisions.folder(cluster.paths), ignore_errors=True)
    cluster.start_master(every=10)  # nobody tells the reconciler that the minion has started
    cluster.until(lambda: well(cluster, "compute-1"), 120)


def test_a_master_that_is_killed_in_the_middle_goes_on(cluster):
    cluster.add("compute-1")
    (cluster.root / "compute-1" / "slow").write_text("20")
    cluster.start_master(every=3600)
    cluster.start("compute-1")
    cluster.until(lambda: at_its_states(cluster, "compute-1"), 90)
    time.sleep(1)
    cluster.stop("master", signal.SIGKILL)
    # It runs its job, or was heard to start meanwhile: either is recorded.
    assert {"compute-1"} & (cluster.state.flights.keys() | decisions.marks(cluster.paths).keys())
    (cluster.root / "compute-1" / "slow").unlink()
    cluster.start_master(every=3600)
    cluster.until(lambda: well(cluster, "compute-1"), 180)


def test_nobody_waits_for_a_node_that_is_slow_dead_or_broken(cluster):
    for name in ("slow", "dead", "broken", "fine"):
        cluster.add(name)
    (cluster.root / "slow" / "slow").write_text("45")
    (cluster.root / "broken" / "broken").write_text("")
    cluster.start_master(every=3600)
    cluster.start("slow", "broken", "fine")
    cluster.until(lambda: well(cluster, "fine"), 60)
    assert not well(cluster, "slow")
    assert "slow" not in cluster.asked("configure")[-1]["nodes"]
    broken = cluster.until(lambda: cluster.state.nodes.get("broken", decisions.Record()).attempts >= 2, 90)
    broken = cluster.state.nodes["broken"]
    assert broken.error == "Something is wrong here: the disk is on fire"
    assert broken.next - broken.tried == decisions.back_off(broken.attempts)
    dead = cluster.until(lambda: cluster.state.nodes.get("dead"), 90)
    assert dead.error == "it does not answer"
    cluster.until(lambda: well(cluster, "slow"), 150)

    shown = json.loads(cluster.run("vcore.nodes", "--out=json").stdout)["nodes"]
    assert (shown["broken"]["error"], shown["dead"]["error"]) == (broken.error, dead.error)
    assert shown["broken"]["next"] > 0
    assert (shown["fine"]["key"], shown["fine"]["swarm"], shown["fine"]["slurm"]) == ("accepted", "ready", "idle")

    # Named explicitly, it is converged without waiting for its next try.
    (cluster.root / "broken" / "broken").unlink()
    done = cluster.run("vcore.reconcile", "broken", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert well(cluster, "broken")
    done = cluster.run("vcore.reconcile", "dead", "wait=1")
    assert done.returncode != 0


def test_a_node_that_vanishes_half_way_comes_back(cluster):
    cluster.add("compute-1")
    (cluster.root / "compute-1" / "slow").write_text("60")
    cluster.start_master(every=3600)
    cluster.start("compute-1")
    cluster.until(lambda: at_its_states(cluster, "compute-1"), 90)
    time.sleep(2)
    cluster.stop("compute-1", signal.SIGKILL)
    cluster.until(lambda: cluster.state.nodes.get("compute-1", decisions.Record()).error == "it does not answer", 120)
    (cluster.root / "compute-1" / "slow").unlink()
    cluster.start("compute-1")
    cluster.until(lambda: well(cluster, "compute-1"), 60)


def test_one_round_at_a_time(cluster):
    cluster.add("compute-1")
    (cluster.root / "compute-1" / "slow").write_text("8")
    cluster.start_master(off=True)
    cluster.start("compute-1")
    cluster.until(lambda: "True" in cluster.run("compute-1", "test.ping", command="salt").stdout, 90)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: cluster.run("vcore.reconcile", "--out=json", timeout=300), range(3)))
    assert [done.returncode for done in runs] == [0, 0, 0], [done.stderr for done in runs]
    # One of the rounds converged the node; the others waited for their turn, and found it done or running.
    told = [json.loads(done.stdout)["reconciled"] for done in runs]
    assert {entry["compute-1"]["result"] for entry in told if entry} == {"converged"}
    assert cluster.converged("compute-1") == 1


def test_slurm_that_refuses_is_shown_and_tried_again(cluster):
    cluster.add("compute-1")
    (cluster.root / "refuses").touch()
    cluster.start_master(every=3600)
    cluster.start("compute-1")
    error = cluster.until(lambda: cluster.state.owed.error, 90)
    assert error == "slurmctld refuses the configuration: no such partition"
    assert not cluster.swarm.labels()["compute-1"]  # it would look for itself in SLURM, and not find itself
    (cluster.root / "refuses").unlink()
    cluster.until(lambda: well(cluster, "compute-1") and not cluster.state.owed.error, 90)


def test_who_takes_no_part_is_told_why(cluster):
    cluster.add("pending-1", accept=False)
    cluster.add("stranger", role=False)
    cluster.start_master(off=True)
    for name, why in {
        "*": "'*' is no name for a node",
        "nobody": "no minion nobody has shown up yet",
        "pending-1": "the key of pending-1 is pending",
        "stranger": "stranger has no role: name it below vcore.nodes of the site file, or enrol it by a token",
    }.items():
        done = cluster.run("vcore.reconcile", name)
        assert done.returncode != 0
        assert why in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


def test_a_node_that_lies_takes_no_jobs(cluster):
    cluster.add("compute-1")
    cluster.add("liar")
    (cluster.root / "liar" / "docker").write_text(cluster.swarm.host("compute-1"))
    cluster.start_master(every=3600)
    cluster.start("compute-1", "liar")
    cluster.until(lambda: well(cluster, "compute-1"), 90)
    record = cluster.until(lambda: (found := cluster.state.nodes.get("liar")) and found.error and found, 90)
    assert "it says that it is" in record.error
    assert cluster.registered() == ["compute-1"]
    assert cluster.swarm.labels()["liar"] == {}


def registered(cluster: Cluster, *names: str) -> None:
    """Register nodes as if they had been converged, without a minion."""
    for name in names:
        cluster.add(name)
        member = cluster.swarm.nodes[name]
        hardware = {"sockets": 1, "cores_per_socket": 2, "threads_per_core": 1, "cpus": 2, "memory_mib": 4096}
        cluster.registry.update(
            {name: {"swarm_id": member["ID"], "address": member["Status"]["Addr"], "hardware": hardware}}
        )


def keys(cluster: Cluster) -> str:
    return cluster.run("--list-all", command="salt-key").stdout


def test_nodes_are_taken_out_as_their_jobs_end(cluster):
    cluster.add("compute-1")
    cluster.add("compute-2")
    secret = cluster.root / "compute-1/configuration/secrets/swarm/join-token"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret")
    (cluster.root / "jobs.json").write_text('{"compute-1": ["17", "18"]}')
    cluster.start_master(every=3600)
    cluster.start("compute-1", "compute-2")
    cluster.until(lambda: well(cluster, "compute-1") and well(cluster, "compute-2"), 90)
    identity = cluster.swarm.nodes["compute-1"]["ID"]

    before = len(cluster.asked("configure"))
    done = cluster.run("vcore.retire", "compute-[1-2]", "timeout=1")
    assert done.returncode != 0, done.stdout + done.stderr
    assert "compute-1 still runs 2 jobs: 17, 18; it takes no new ones." in done.stdout
    (drained,) = cluster.asked("drain")
    assert (drained["nodes"], drained["reason"]) == (["compute-1", "compute-2"], "vcore: retiring")
    assert [asked["nodes"] for asked in cluster.asked("configure")[before:]] == [["compute-1"]]
    assert "compute-2" not in cluster.registry.read()
    assert "compute-2" not in keys(cluster)
    assert "compute-1 is being retired" in cluster.run("vcore.reconcile", "compute-1").stdout
    decisions.mark(cluster.paths, ["compute-1"])
    cluster.until(lambda: not decisions.marks(cluster.paths), 30)
    assert cluster.asked("configure")[-1]["nodes"] == ["compute-1"]  # it stays in SLURM while its jobs run

    assert cluster.run("vcore.retire", "compute-1", "cancel=True").returncode == 0
    assert cluster.asked("release")
    assert not cluster.registry.read()["compute-1"]["retiring"]

    (cluster.root / "jobs.json").unlink()
    done = cluster.run("vcore.retire", "compute-1", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [
        "drained", "out of SLURM", "secrets, trust and swarm taken off the machine", "out of the swarm", "key deleted",
        "forgotten",
    ]  # fmt: skip
    assert json.loads(done.stdout) == {
        "ok": True, "retired": {"compute-1": {"done": steps, "remains": None}}, "problems": [],
    }  # fmt: skip
    assert cluster.asked("configure")[-1]["nodes"] == []
    assert f"DELETE /nodes/{identity}" in cluster.swarm.log
    assert cluster.registry.read() == {}
    assert "compute-1" not in keys(cluster)
    assert (cluster.root / "compute-1" / "absent").exists()
    assert not secret.exists()
    assert not list((cluster.root / "compute-1/pki/minion").glob("minion.*"))
    assert "there is no node compute-1" in cluster.run("vcore.retire", "compute-1").stdout


def test_a_node_that_died_is_taken_out_from_wherever_that_was_cut_off(cluster):
    registered(cluster, "dead-1", "dead-2", "dead-3")
    cluster.start_master(off=True)
    site = cluster.paths.site.read_text()
    cluster.paths.site.write_text(site.replace("  slurm:", "    dead-2: {roles: [compute]}\n  slurm:"))

    # Interrupted after the node left SLURM, and after its key was deleted.
    cluster.registry.update({"dead-1": {"retiring": True, "hardware": None}})
    done = cluster.run("vcore.retire", "dead-1", "dead=True")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dead-1: out of SLURM, out of the swarm, key deleted, forgotten." in done.stdout

    began = time.monotonic()
    done = cluster.run("vcore.retire", "dead-2")
    assert done.returncode != 0
    assert "dead-2: it does not answer. Mend that and run salt-run vcore.retire dead-2 again" in done.stdout
    assert time.monotonic() - began < 120

    done = cluster.run("vcore.retire", "dead-2", "dead=True", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    line = "site.sls:7: vcore.nodes.dead-2: still names the node: take this out, and apply the states"
    assert json.loads(done.stdout)["retired"]["dead-2"]["remains"] == line
    assert "dead-2" not in keys(cluster)
    entry = cluster.registry.read()["dead-2"]
    assert (entry["retiring"], entry["swarm_id"], entry["hardware"]) == (True, None, None)
    assert cluster.run("vcore.retire", "dead-2", "dead=True").returncode == 0  # nothing is left to do
    cluster.paths.site.write_text(site)
    assert cluster.run("vcore.retire", "dead-2", "dead=True").returncode == 0
    assert sorted(cluster.registry.read()) == ["dead-3"]
    assert sorted(cluster.swarm.nodes) == ["dead-3", "head"]
    assert cluster.asked("configure")[-1]["nodes"] == ["dead-3"]

    for name, why in {
        "head": "head is the head; bootstrap.sh --uninstall takes the core off it",
        "*": "'*' has to be a list of nodes such as",
        "nobody": "there is no node nobody",
    }.items():
        done = cluster.run("vcore.retire", name, "dead=True")
        assert done.returncode != 0
        assert why in done.stdout
    assert sorted(cluster.registry.read()) == ["dead-3"]
