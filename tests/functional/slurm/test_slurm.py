"""SLURM in the project's images: a real slurmctld, two nodes with slurmd, and people of a real directory with jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.directory import build_image, loaders
from support.slurm import COMPUTE, CONTROLLER, SlurmCore
from vcore.base.errors import VcoreError
from vcore.slurm import controller as slurm_controller
from vcore.slurm import queue as slurm_queue
from vcore.slurm import work as slurm_work

NODES = ["compute-1", "compute-2"]
GPUS = [{"type": "a100", "file": f"/dev/nvidia{number}", "mig": None} for number in (0, 1)]
PARTITIONS = {
    "main": {"default": True, "max_time": "2:00:00", "default_time": "0:10:00"},
    "genomics": {"nodes": ["compute-[2-9]"], "groups": ["genomics"], "priority": 10},
}
PROLOG = '#!/bin/sh\necho "$SLURM_JOB_ID of $SLURM_JOB_USER" >>/data/prolog\n'


class Queue(SlurmCore):
    """A core whose SLURM is configured by the states, as a site's is."""

    def __init__(self, folder: Path) -> None:
        slurm: dict[str, Any] = {
            "partitions": PARTITIONS,
            "prolog": PROLOG,
            "nodes": {"compute-2": {"features": ["big"]}},
        }
        super().__init__(folder, slurm=slurm)

    def state(self, function: str, *, test: bool = False) -> Any:
        # The existing loaders would merge the new pillar into the old one.
        return loaders(self).states[f"vcore_slurm.{function}"](name="it", test=test)

    def converge(self) -> Any:
        """Plan, apply, and apply again: the plan lists what applying does, and the second time nothing is left."""
        plan = self.state("configured", test=True)
        assert plan.result is None, plan.comment
        done = self.state("configured")
        assert done.result is True, done.comment
        assert done.changes == plan.changes
        for test in (False, True):
            again = self.state("configured", test=test)
            assert (again.result, again.changes) == (True, {}), again.comment
        return done

    def reconfigures(self) -> int:
        return self.logs_of(CONTROLLER).count("Processing Reconfiguration Request")

    def controller(self) -> str:
        """Return what changes when slurmctld is restarted: the starts of the container and of the wrapper."""
        return str(self.on(CONTROLLER, "pgrep", "-f", "slurm-controller run")[1])

    def submit(self, who: str, command: str, *options: str) -> int:
        said = self.as_person(who, f"sbatch --parsable {' '.join(options)} --wrap '{command}'")
        return int(said.strip().splitlines()[-1].split(";")[0])

    def job(self, number: int, *, until: tuple[str, ...] = ("COMPLETED",), timeout: float = 180) -> str:
        """Wait until a job has one of these states; return what scontrol says of it."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            said = self.on(CONTROLLER, "scontrol", "--oneliner", "show", "job", str(number))[1]
            if any(f"JobState={state}" in said for state in until):
                return said
            time.sleep(0.2)
        pytest.fail(f"job {number} is not {until}: {said}\n{self.logs_of(CONTROLLER)[-2000:]}")

    def output(self, who: str, name: str) -> str:
        return (self.home() / who / name).read_text()


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """Yield a cluster of two nodes, both idle."""
    build_image()
    core = Queue(tmp_path_factory.mktemp("slurm"))
    try:
        core.prepare()
        core.volume(CONTROLLER, "configuration").mkdir(parents=True)
        core.enrol("compute-1", 11, gpus=GPUS)
        first = core.state("configured")
        assert first.result, first.comment
        core.start_controller()
        assert core.state("serving").result
        assert core.state("configured").changes == {}
        core.start_node("compute-1", 11, ("/dev/nvidia0", "/dev/nvidia1"))
        core.start_login()
        core.wait_for(["compute-1"], "idle")
        # The second node joins a running cluster.
        core.enrol("compute-2", 12)
        core.converge()
        core.start_node("compute-2", 12)
        core.wait_for(NODES, "idle")
        yield core
    finally:
        core.take_down()


def test_jobs_of_people_run_on_one_node_and_on_both(queue: Queue) -> None:
    said = queue.as_person("ada", "srun -N2 --label sh -c 'echo $(hostname) $(id -un) $(id -gn)'")
    assert sorted(said.split("\n"))[-2:] == ["0: compute-1 ada people", "1: compute-2 ada people"]
    number = queue.submit("bob", "echo $HOME; pwd; id -u", "--output=out")
    queue.job(number)
    assert queue.output("bob", "out").split() == ["/home/bob", "/home/bob", "10002"]


def test_the_limits_of_a_session_are_not_those_of_a_job(queue: Queue) -> None:
    said = queue.as_person("ada", "ulimit -n 1000; srun sh -c 'ulimit -n'")
    assert int(said.split()[-1]) > 4096


def test_arrays_dependencies_and_cancelling(queue: Queue) -> None:
    array = queue.submit(
        "ada", "echo $SLURM_ARRAY_TASK_ID >part-$SLURM_ARRAY_TASK_ID", "--array=1-4", "--output=/dev/null"
    )
    after = queue.submit("ada", "cat part-1 part-2 part-3 part-4", f"--dependency=afterok:{array}", "--output=sum")
    queue.job(after, timeout=240)
    assert queue.output("ada", "sum").split() == ["1", "2", "3", "4"]
    sleeper = queue.submit("ada", "sleep 600", "--output=/dev/null")
    queue.job(sleeper, until=("RUNNING",))
    assert "Access/permission denied" in queue.as_person("bob", f"scancel {sleeper}", check=False)
    queue.as_person("ada", f"scancel {sleeper}")
    queue.job(sleeper, until=("CANCELLED",))


def test_gpus_are_given_one_by_one(queue: Queue) -> None:
    assert queue.nodes()["compute-1"]["gres"] == "gpu:a100:2"
    said = queue.as_person("ada", "srun --gres=gpu:a100:1 sh -c 'echo $(hostname) gpu $CUDA_VISIBLE_DEVICES'")
    assert "compute-1 gpu 0" in said
    said = queue.as_person("ada", "srun --gres=gpu:2 -n1 sh -c 'echo gpu $CUDA_VISIBLE_DEVICES'")
    assert "gpu 0,1" in said
    assert "Requested node configuration is not available" in queue.as_person(
        "ada", "srun --gres=gpu:3 true", check=False
    )


def test_partitions_groups_features_prolog_and_records(queue: Queue) -> None:
    assert "compute-2" in queue.as_person("ada", "srun -p genomics hostname")
    assert "compute-2" in queue.as_person("ada", "srun --constraint=big hostname")
    assert "group not permitted" in queue.as_person("bob", "srun -p genomics hostname", check=False).lower()
    assert "Requested time limit is invalid" in queue.as_person("ada", "srun -t 3:00:00 true", check=False)
    assert " of ada" in (queue.data_folder() / "prolog").read_text()
    records = (queue.volume(CONTROLLER, "state") / "completions" / "jobs.log").read_text()
    assert re.search(r"UserId=ada\(10001\).*JobState=COMPLETED", records)


def test_root_has_no_jobs(queue: Queue) -> None:
    assert queue.on("login", "srun", "true")[0] != 0


def test_no_job_ends_slurmd(queue: Queue) -> None:
    for option in ("NONE", "ALL,X=1"):
        number = queue.submit("bob", "env | wc -l", f"--export={option}", "--output=/dev/null")
        queue.job(number)
    queue.wait_for(NODES, "idle")
    for name in NODES:
        assert "slurmd" in queue.on(name, "pgrep", "-al", "slurmd")[1]
        assert "clone: Operation not permitted" not in queue.logs_of(name)


def test_a_job_without_memory_takes_no_whole_node_and_one_over_its_memory_ends(queue: Queue) -> None:
    said = queue.on(
        CONTROLLER, "scontrol", "--oneliner", "show", "job", str(queue.submit("ada", "sleep 1", "--output=/dev/null"))
    )[1]
    assert "MinMemoryCPU=100M" in said
    eater = 'python3 -c "import time; kept = bytes([1]) * 500000000; time.sleep(90)"'
    number = queue.submit("ada", eater, "--mem=200M", "--output=/dev/null")
    assert "JobState=COMPLETED" not in queue.job(
        number, until=("FAILED", "CANCELLED", "OUT_OF_MEMORY", "COMPLETED"), timeout=240
    )


def test_a_wrong_setting_is_refused_and_the_old_configuration_stays_in_force(queue: Queue) -> None:
    before, count = slurm_controller.folder(queue.pillar).joinpath("slurm.conf").read_bytes(), queue.reconfigures()
    # A mistake that only slurmctld can notice: the site's own checks have let it through.
    queue.pillar["slurm"]["partitions"]["main"]["max_time"] = "soon"
    for _ in range(2):
        refused = queue.state("configured")
        assert refused.result is False
        assert 'Bad value "soon" for MaxTime' in refused.comment
        assert "the old one stays in force" in refused.comment
    assert slurm_controller.folder(queue.pillar).joinpath("slurm.conf").read_bytes() == before
    assert queue.reconfigures() == count
    queue.change()
    assert queue.state("configured").changes == {}
    assert "compute" in queue.as_person("ada", "srun hostname")


def test_a_change_is_one_reconfigure_and_running_jobs_go_on(queue: Queue) -> None:
    count, controller = queue.reconfigures(), queue.controller()
    number = queue.submit("ada", "sleep 12; echo end", "-N2", "--output=long")
    queue.job(number, until=("RUNNING",))
    queue.change(nodes={"compute-2": {"features": ["big", "new"]}})
    done = queue.converge()
    assert list(done.changes) == ["nodes.conf"]
    assert "+NodeName=compute-2" in done.changes["nodes.conf"]
    assert queue.reconfigures() == count + 1
    assert queue.controller() == controller
    queue.job(number)
    assert queue.output("ada", "long") == "end\n"


def test_what_a_roll_and_a_retirement_want_of_jobs(queue: Queue) -> None:
    """The face ``work``: drained behind a job, which is waited for; taken back by its own reason only."""
    pillar, reason = queue.pillar, "update of the compute image"
    number = queue.submit("ada", "sleep 15", "--nodelist=compute-1", "--output=/dev/null")
    queue.job(number, until=("RUNNING",))
    assert slurm_work.known(pillar, ["compute-1", "compute-9"]) == ["compute-1"]
    assert slurm_work.drain(pillar, ["compute-1", "compute-9"], reason) == ["compute-1"]
    assert slurm_work.drain(pillar, ["compute-1"], reason) == []
    assert slurm_work.running(pillar, ["compute-1", "compute-2"]) == {"compute-1": [str(number)]}
    queue.job(number)
    assert slurm_work.running(pillar, ["compute-1"]) == {}
    began = slurm_work.started(pillar, "compute-1")
    assert began and began > 1_700_000_000
    assert slurm_work.is_back(pillar, "compute-1", None)
    assert not slurm_work.is_back(pillar, "compute-1", began)
    slurm_work.release(pillar, ["compute-1"], "another reason")
    assert "drain" in queue.nodes()["compute-1"]["flags"]
    slurm_work.release(pillar, ["compute-1"], reason)
    queue.wait_for(NODES, "idle")
    assert not slurm_work.forget(pillar, queue.paths)  # the registry has lost no node


def test_a_bad_file_that_got_there_all_the_same_does_not_end_slurmctld(queue: Queue) -> None:
    path = slurm_controller.folder(queue.pillar) / "nodes.conf"
    good = path.read_bytes()
    try:
        path.write_bytes(good + b"NodeName=compute-1 NodeAddr=10.0.0.9\n")
        with pytest.raises(VcoreError, match=r"does not read its configuration|does not answer"):
            slurm_controller.reconfigure(queue.pillar)
        assert queue.on(CONTROLLER, "scontrol", "ping")[0] == 0
        assert "compute" in queue.as_person("ada", "srun hostname")
    finally:
        path.write_bytes(good)
    # There is no difference and the configuration is known to be in force: nothing is left to do.
    assert queue.state("configured").changes == {}


def test_a_node_with_less_than_its_line_is_drained_and_comes_back_when_the_line_is_right(queue: Queue) -> None:
    right = queue.enrolled["compute-2"]["hardware"]
    queue.enrol("compute-2", 12, memory_mib=right["memory_mib"] * 2)
    slurm_controller.configure(queue.pillar, queue.paths)
    end = time.monotonic() + 60
    assert slurm_queue.resume(queue.pillar) == []
    while "drain" not in queue.nodes()["compute-2"]["flags"] and time.monotonic() < end:
        time.sleep(0.3)
    assert queue.nodes()["compute-2"]["reason"].startswith("Low RealMemory")
    queue.enrol("compute-2", 12)
    slurm_controller.configure(queue.pillar, queue.paths)
    end = time.monotonic() + 60
    while not (back := slurm_queue.resume(queue.pillar)) and time.monotonic() < end:
        time.sleep(0.3)
    assert back == ["compute-2"]
    queue.wait_for(NODES, "idle")


def test_what_a_person_drained_stays_so_and_what_the_system_drained_comes_back(queue: Queue) -> None:
    queue.on(CONTROLLER, "scontrol", "update", "nodename=compute-1", "state=drain", "reason=the fan is loud")
    assert slurm_queue.drain(queue.pillar, NODES, "a test") == ["compute-2"]
    for round_ in range(5):
        queue.change(nodes={"compute-2": {"weight": round_ + 1}})
        slurm_controller.configure(queue.pillar, queue.paths)
        if round_ == 2:
            assert slurm_queue.resume(queue.pillar) == ["compute-2"]
        assert slurm_queue.resume(queue.pillar, "compute-1") == []
        node = queue.nodes()["compute-1"]
        assert "drain" in node["flags"]
        assert (node["reason"], node["by"]) == ("the fan is loud", "root")
    queue.start_node("compute-1", 11, ("/dev/nvidia0", "/dev/nvidia1"))  # as after a reboot
    time.sleep(4)
    assert queue.nodes()["compute-1"]["reason"] == "the fan is loud"
    queue.on(CONTROLLER, "scontrol", "update", "nodename=compute-1", "state=resume")
    queue.wait_for(NODES, "idle")


def test_storage_that_is_missing_drains_the_node(queue: Queue) -> None:
    marker = queue.home() / ".virtual-core-storage"
    text = marker.read_text()
    check = "/usr/lib/virtual-core/node-health"
    try:
        marker.unlink()
        queue.on("compute-1", "rm", "-f", "/run/virtual-core/storage-is-there")
        assert queue.on("compute-1", check)[0] == 0
        assert queue.nodes()["compute-1"]["reason"] == "vcore: storage /home is missing"
        assert slurm_queue.resume(queue.pillar) == []  # the node itself clears it
    finally:
        marker.write_text(text)
    assert queue.on("compute-1", check)[0] == 0
    queue.wait_for(["compute-1"], "idle")


def test_a_new_controller_keeps_the_queue_and_what_runs(queue: Queue) -> None:
    running = queue.submit("ada", "sleep 15; echo end", "-N2", "--output=kept")
    queue.job(running, until=("RUNNING",))
    waiting = queue.submit("bob", "echo waited", "--exclusive", "-N2", "--output=waited")
    began = time.monotonic()
    queue.api.stop(queue.containers[CONTROLLER], timeout=20)
    assert time.monotonic() - began < 12, "slurmctld does not end on SIGTERM"
    assert queue.api.inspect_container(queue.containers[CONTROLLER])["State"]["ExitCode"] == 0
    queue.start_controller()
    queue.job(running, timeout=180)
    assert queue.output("ada", "kept") == "end\n"
    queue.job(waiting, timeout=180)
    assert queue.output("bob", "waited") == "waited\n"


def test_a_new_image_that_refuses_the_configuration_takes_the_one_before(queue: Queue) -> None:
    place = slurm_controller.folder(queue.pillar)
    good = (place / "slurm.conf").read_bytes()
    queue.api.stop(queue.containers[CONTROLLER], timeout=20)
    queue.remove_one(CONTROLLER)
    queue.pillar["slurm"]["partitions"]["main"]["max_time"] = "soon"
    written = queue.state("configured")
    assert written.result, written.comment
    assert b"MaxTime=soon" in (place / "slurm.conf").read_bytes()
    queue.start_controller()
    refused = queue.state("serving")
    assert refused.result is False
    assert 'Bad value "soon"' in refused.comment
    assert (place / "slurm.conf").read_bytes() == good
    queue.change()
    assert queue.state("configured").result
    assert queue.state("serving").result
    queue.wait_for(NODES, "idle")


def test_a_node_that_is_taken_out_is_gone(queue: Queue) -> None:
    del queue.enrolled["compute-2"]
    queue.change(partitions={"main": {"default": True}})
    slurm_controller.configure(queue.pillar, queue.paths)
    assert list(queue.nodes()) == ["compute-1"]
    assert COMPUTE not in queue.logs_of(CONTROLLER)
