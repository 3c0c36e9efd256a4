"""Compute nodes and the batch queue: machines that join by themselves, people's jobs, and what both survive."""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sitefile
import yaml
from cluster import Cluster
from lab.guest import Guest
from lab.hosts import Lab as LabHosts

#: Hosts of the shared lab that other tests do not use as clients, and a guest on its network.
FIRST, SECOND, EMULATED = "compute-2", "compute-3", "compute-11"
PARTITIONS = {"main": {"default": True, "max_time": "1-00:00:00"}}
SLURM = {"mode": "managed", "partitions": PARTITIONS, "nodes": {"compute-[1-9]": {"features": ["lab"]}}}
#: A file that tests put into the compute image for a while.
GENERATION = "/srv/virtual-core/source/images/slurm-compute/rootfs/etc/generation"
STORAGE = {"kind": "path", "path": "/shared"}


def lay_over(head, **keys):
    """Merge ``keys`` into the ``vcore`` mapping of the site file, for good; return the old text."""
    before = sitefile.read(head)
    data = yaml.safe_load(before)
    data["vcore"].update(keys)
    sitefile.write(head, yaml.safe_dump(data))
    return before


@pytest.fixture(scope="module")
def cluster(lab, head, timings):
    """Return the shared core with SLURM on, two bare machines beside it, and two people."""
    with timings.step("compute: bare hosts"):
        lab.up("--bare", "--compute=3")
    head.run("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq openssh-client", timeout=300)
    head.run("mkdir -p /shared/home /shared/data")
    lay_over(head, slurm=SLURM, storage=STORAGE)
    with timings.step("compute: SLURM is switched on"):
        assert sitefile.failed(sitefile.apply(head)) == {}
    made = Cluster(lab, head)
    for name in ("mary", "alan"):
        made.add_person(name)
    return made


# --- joining -------------------------------------------------------------------------------------------------------


def test_a_bare_machine_joins_with_one_line_and_runs_a_job(cluster, timings):
    started = time.monotonic()
    cluster.join(FIRST)
    cluster.wait_idle(FIRST)
    timings.record("compute: bare machine to idle", time.monotonic() - started)
    steps = json.loads(cluster.lab.host(FIRST).run("cat /var/lib/virtual-core/bootstrap.json").stdout)
    for step, seconds in steps.items():
        timings.record(f"compute: join: {step}", seconds)
    number = cluster.submit("mary", "id -un; hostname", "--output out.txt")
    cluster.wait_job(number)
    timings.record("compute: bare machine to a finished job", time.monotonic() - started)
    assert cluster.person("mary", "cat out.txt").split() == ["mary", FIRST]


def test_a_second_machine_joins_while_a_job_runs(cluster):
    before = cluster.controller()
    number = cluster.submit("mary", "sleep 600")
    cluster.wait_job(number, "RUNNING")
    cluster.join(SECOND)
    cluster.wait_idle(SECOND)
    assert cluster.job(number) == "RUNNING"
    assert cluster.controller() == before, "slurmctld was started anew"
    cluster.person("mary", f"scancel {number}")
    assert cluster.nodes()[SECOND]["slurm"].startswith("idle")


def test_all_is_well_and_a_second_apply_changes_nothing(cluster):
    states = sitefile.apply(cluster.head)
    assert sitefile.changes(states) == {}
    status = cluster.head.salt_call("vcore.status", check=False)
    assert status["ok"] is True, status["problems"]
    doctor = cluster.head.salt_call("vcore.doctor", check=False, timeout=120)
    assert [check for check in doctor if not check["ok"]] == []
    done = cluster.head.run("salt --out=json '*' state.apply", timeout=600)
    for node, returned in sitefile.answers(done.stdout).items():
        assert [state["__id__"] for state in returned.values() if state["changes"] or not state["result"]] == [], node


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_jobs_of_every_kind(cluster):
    assert sorted(cluster.person("mary", "srun -N2 hostname").split()) == [FIRST, SECOND]
    array = cluster.submit("mary", "echo $SLURM_ARRAY_TASK_ID > task-$SLURM_ARRAY_TASK_ID", "--array=1-4")
    after = cluster.submit("mary", "cat task-*", f"--dependency=afterok:{array} --output after.txt")
    cluster.wait_job(after)
    assert cluster.person("mary", "cat after.txt").split() == ["1", "2", "3", "4"]
    running = cluster.submit("mary", "sleep 600", "--constraint=lab")
    cluster.wait_job(running, "RUNNING")
    refused = cluster.ask("alan", f"scancel {running}", check=False)
    assert cluster.job(running) == "RUNNING", refused
    cluster.person("mary", f"scancel {running}")
    cluster.wait(lambda: cluster.job(running) == "CANCELLED", "cancelled")


def test_a_job_without_memory_leaves_the_rest_of_the_node_to_others(cluster):
    numbers = [cluster.submit(name, "sleep 300", f"--nodelist={FIRST}") for name in ("mary", "alan")]
    for number in numbers:
        cluster.wait_job(number, "RUNNING")
        cluster.slurm(f"scancel {number}")


def test_no_job_of_a_person_ends_slurmd(cluster):
    for option in ("NONE", "ALL,X"):
        cluster.wait_job(cluster.submit("alan", "true", f"--export={option}"))
    cluster.wait_idle(FIRST, SECOND)


def test_jobs_are_accounted_for(cluster):
    rows = cluster.person("mary", "sacct --noheader --parsable2 --allocations --format=user,state").splitlines()
    assert "mary|COMPLETED" in rows
    assert "alan" in cluster.slurm("sshare --all --noheader --parsable2 --format=user")


def test_ssh_to_a_node_is_for_who_has_a_job_there(cluster):
    number = cluster.submit("mary", "sleep 600", f"--nodelist={FIRST}")
    cluster.wait_job(number, "RUNNING")
    assert cluster.person("mary", f"ssh {FIRST} hostname") == FIRST
    assert cluster.ask("alan", f"ssh {FIRST} hostname", check=False).returncode != 0
    cluster.slurm(f"scancel {number}")


# --- a new compute image -------------------------------------------------------------------------------------------


def test_a_new_compute_image_rolls_from_node_to_node_behind_their_jobs(cluster, timings):
    cluster.head.run(f"date +%s > {GENERATION}")
    number = cluster.submit("mary", "sleep 45", f"--nodelist={FIRST}")
    cluster.wait_job(number, "RUNNING")
    running = cluster.runs(number)
    with timings.step("compute: a new compute image is built and offered"):
        assert sitefile.failed(sitefile.apply(cluster.head)) == {}
    assert cluster.runs(number) == running
    wanted = cluster.head.run(f"cat {GENERATION}").stdout
    assert wanted not in [cluster.generation(node) for node in (FIRST, SECOND)], "it came without a roll"
    with timings.step("compute: it rolls over two nodes"):
        done = cluster.head.run("salt-run vcore.roll_compute", timeout=600)
    assert f"Updated: {FIRST}, {SECOND}." in done.stdout
    assert cluster.job(number) == "COMPLETED"
    assert "Restarts=0" in cluster.runs(number)
    assert [cluster.generation(node) for node in (FIRST, SECOND)] == [wanted, wanted]
    cluster.wait_idle(FIRST, SECOND)
    assert "All compute nodes run the newest one." in cluster.head.run("salt-run vcore.roll_compute").stdout


# --- what a running job outlives --------------------------------------------------------------------------------


def test_a_running_job_outlives_what_happens_to_the_core(cluster):
    number = cluster.submit("mary", "srun sleep 1200", "-N2")
    cluster.wait_job(number, "RUNNING")

    def runs():
        cluster.wait(lambda: cluster.job(number) == "RUNNING", "the job runs", 60)
        for node in (FIRST, SECOND):
            cluster.lab.host(node).run("pgrep -f 'sleep 1200'")

    runs()
    cluster.head.run("salt --out=json '*' state.apply", timeout=600)
    runs()
    cluster.let_write()
    cluster.slurm("sh -c 'kill -9 $(pidof slurmctld)'", check=False)
    cluster.wait(lambda: len(cluster.states()) == 2, "slurmctld answers again")
    runs()
    cluster.head.run("systemctl restart salt-master")
    runs()
    cluster.head.run("systemctl restart docker", timeout=300)
    cluster.wait(lambda: len(cluster.states()) == 2, "slurmctld answers again", 180)
    runs()
    cluster.slurm(f"scancel {number}")
    cluster.wait_idle(FIRST, SECOND)


def test_what_was_drained_by_hand_stays_drained(cluster):
    cluster.slurm(f"scontrol update nodename={FIRST} state=drain reason='fan is loud'")
    for _ in range(5):
        cluster.head.run("salt-run vcore.reconcile", check=False, timeout=300)
    assert cluster.reason(FIRST) == "fan is loud"
    cluster.lab.host(FIRST).run("systemctl reboot", check=False)
    time.sleep(5)
    cluster.wait(lambda: cluster.states().get(FIRST) in ("drained", "drained*"), "drained after its reboot", 180)
    cluster.head.run("salt-run vcore.reconcile", check=False, timeout=300)
    assert cluster.reason(FIRST) == "fan is loud"
    cluster.slurm(f"scontrol update nodename={FIRST} state=resume")
    cluster.wait_idle(FIRST)


def test_a_wrong_partition_is_refused_and_the_old_configuration_goes_on(cluster):
    before, daemon = cluster.slurm("scontrol show partition --oneliner"), cluster.controller()
    wrong = {**SLURM, "partitions": {**PARTITIONS, "few": {"groups": ["nobody-has-it"]}}}
    with sitefile.changed(cluster.head, slurm=wrong):
        failed = sitefile.failed(sitefile.apply(cluster.head, check=False))
        assert "nobody-has-it" in failed["SLURM has its configuration"]
    assert cluster.slurm("scontrol show partition --oneliner") == before
    assert cluster.controller() == daemon
    assert sitefile.changes(sitefile.apply(cluster.head)) == {}


def test_nodes_without_their_storage_take_no_jobs_and_come_back_with_it(cluster):
    # The marker, which distinguishes the storage from an empty folder or another core's storage.
    marker = "/shared/home/.virtual-core-storage"
    cluster.head.run(f"mv {marker} /shared/marker")
    for node in (FIRST, SECOND):
        cluster.wait(lambda node=node: cluster.reason(node).startswith("vcore: storage"), "drained for its storage")
    cluster.head.run(f"mv /shared/marker {marker}")
    cluster.wait_idle(FIRST, SECOND)


# --- power ---------------------------------------------------------------------------------------------------------


def test_from_the_start_of_a_minion_to_idle(cluster, timings):
    """Packages and images are on the machine; everything that the core knows of it is new each time."""
    node, line, took = cluster.lab.host(FIRST), cluster.line(), []
    for _ in range(5):
        cluster.retire(FIRST)
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(cluster.join, FIRST, line=line)
            cluster.wait_idle(FIRST)
            idle = time.time()
            joining.result()
        started = node.run('date -d "$(systemctl show salt-minion -P ActiveEnterTimestamp)" +%s').stdout
        took.append(idle - int(started))
    timings.report("compute: minion start to idle", ", ".join(f"{seconds:.0f} s" for seconds in took))
    timings.record("compute: minion start to idle, median of 5", statistics.median(took))


def test_eight_machines_that_start_in_the_same_second(cluster, timings):
    """Three rounds of machines that the core does not know. They have packages and images; a job runs meanwhile."""
    eight = [FIRST, *(f"compute-{number}" for number in range(4, 11))]
    cluster.retire(FIRST)
    with timings.step("compute: seven more prepared hosts"):
        cluster.lab.clone(FIRST, *eight[1:])
    number = cluster.submit("mary", "sleep 3600", f"--nodelist={SECOND}")
    cluster.wait_job(number, "RUNNING")
    running, took = cluster.runs(number), []
    for leaving in (eight, eight, eight[1:]):
        controller, reconfigures, line = cluster.controller(), cluster.reconfigures(), cluster.line()
        start = time.time() + 6
        with ThreadPoolExecutor(1) as pool:
            at_once = f"sleep $(python3 -c 'import time; print(max({start} - time.time(), 0))')\n{line}"
            joining = pool.submit(cluster.join, *eight, line=at_once)
            cluster.wait_idle(*eight, timeout=600)
            took.append(time.time() - start)
            joining.result()
        assert cluster.reconfigures() - reconfigures <= 2
        assert cluster.controller() == controller, "slurmctld was started anew"
        assert cluster.runs(number) == running
        cluster.retire(*leaving)
    timings.report("compute: 8 machines at once to idle", ", ".join(f"{seconds:.0f} s" for seconds in took))
    cluster.person("mary", f"scancel {number}")
    cluster.lab.down(*eight[1:])
    cluster.wait_idle(FIRST, SECOND)


def test_the_queue_outlives_the_power_of_the_head(cluster):
    cluster.slurm(f"scontrol update nodename={FIRST},{SECOND} state=drain reason='kept free by a test'")
    number = cluster.submit("mary", "true")
    cluster.let_write()
    cluster.lab.host("head").run("sync; systemctl poweroff --force --force", check=False)
    time.sleep(3)
    cluster.wait(lambda: len(cluster.states()) == 2, "slurmctld answers again", 300)
    cluster.wait_job(number, "PENDING")
    cluster.wait(lambda: set(cluster.states().values()) == {"drained"}, "drained as before")

    def resumed():  # a node cannot be resumed before slurmctld has heard of it again
        for node in (FIRST, SECOND):
            cluster.slurm(f"scontrol update nodename={node} state=resume", check=False)
        return not any("drain" in state for state in cluster.states().values())

    cluster.wait(resumed, "resumed")
    cluster.wait_job(number)


def test_everything_comes_back_by_itself_after_a_power_cut(cluster, timings):
    cluster.let_write()
    started = time.monotonic()
    for name in ("head", FIRST, SECOND):
        cluster.lab.host(name).run("systemctl poweroff --force --force", check=False)
    time.sleep(3)
    cluster.wait_idle(FIRST, SECOND, timeout=300)
    timings.record("compute: power cut of all hosts to idle", time.monotonic() - started)
    # Nodes do not need the directory; people who log in do.

    def ran():
        return cluster.ask("mary", "srun hostname", check=False).stdout.strip() in (FIRST, SECOND)

    cluster.wait(ran, "a person's job runs", 300)
    timings.record("compute: power cut of all hosts to a person's job", time.monotonic() - started)


# --- leaving -------------------------------------------------------------------------------------------------------


def test_a_node_is_retired_and_one_that_died_is_forgotten(cluster):
    head = cluster.head
    number = cluster.submit("mary", "sleep 20", f"--nodelist={FIRST}")
    cluster.wait_job(number, "RUNNING")
    head.run(f"salt-run vcore.retire {FIRST} timeout=120", timeout=300)
    assert cluster.job(number) == "COMPLETED", "its job was not waited for"
    assert FIRST not in cluster.states()
    assert FIRST not in head.run("salt-key --list accepted").stdout
    assert FIRST not in head.run("docker node ls --format '{{.Hostname}}'").stdout.split()
    gone = cluster.lab.host(FIRST)
    assert gone.run("docker info --format '{{.Swarm.LocalNodeState}}'").stdout.strip() == "inactive"
    cluster.lab.host(SECOND).run("systemctl stop salt-minion docker.socket docker")
    head.run(f"salt-run vcore.retire {SECOND} dead=True", timeout=300)
    assert cluster.states() == {}
    assert cluster.nodes().keys() == {"head"}
    assert head.salt_call("vcore.status")["ok"] is True


# --- a kernel of its own -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(cluster, checkout, request, timings, tmp_path_factory):
    """Yield a machine with a kernel of its own that is not in a core.

    It has a node's packages, and Docker's images and Salt's environment as a former node has: making these takes
    minutes where a processor is emulated.
    """
    lab = LabHosts(cluster.lab.name)
    cluster.lab.host(FIRST).run("systemctl stop docker.socket docker containerd")
    with timings.step("compute: guest: disks"):
        disks = lab.disks(FIRST, tmp_path_factory.mktemp("disks"))
    subnet = lab.subnet()
    address = f"{subnet[200]}/{subnet.prefixlen}"
    with timings.step("compute: guest: boot"):
        made = Guest(name=EMULATED, bridge=lab.bridge(), address=address, memory=2048, disks=disks)
        made.start()
    try:
        made.run("rm -rf /var/lib/docker/engine-id /var/lib/docker/swarm")
        yield made
        if request.session.testsfailed:
            made.run("cat /var/log/salt/minion > /dev/console; journalctl --no-pager > /dev/console", check=False)
            made.keep_log(checkout / "tests" / "report" / "guest-compute.log")
    finally:
        made.close()


def test_a_machine_with_a_kernel_of_its_own_joins_and_mounts_its_storage(cluster, machine, timings):
    """It joins by itself from the line on: Docker with AppArmor as Debian has it, and NFS from the file router by the
    kernel.
    """
    lay_over(cluster.head, storage={"kind": "nfs"})
    with timings.step("compute: guest: the storage is the file router's"):
        assert sitefile.failed(sitefile.apply(cluster.head)) == {}
    cluster.add_person("emmy")
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(machine.run, ["bash"], input=cluster.line(), timeout=900)

        def idle():
            if joining.done():
                joining.result()  # raises the error if it failed
            return cluster.states().get(EMULATED) == "idle"

        with timings.step("compute: guest: from the line to idle"):
            cluster.wait(idle, "the guest is idle", 900, pause=3)  # a look takes away from what the guest could use
        told = joining.result()
    steps = json.loads(machine.run("cat /var/lib/virtual-core/bootstrap.json").stdout)
    for step, seconds in steps.items():
        timings.record(f"compute: guest: join: {step}", seconds)
    assert steps["packages"] + steps["environment"] < 30, (
        told.stdout
    )  # looking costs a moment, making them takes minutes
    assert machine.run("cat /sys/module/apparmor/parameters/enabled").stdout == "Y\n"
    mounts = machine.run("findmnt --noheadings --raw --types nfs4 --output TARGET").stdout.split()
    assert sorted(mounts) == [f"/srv/virtual-core/data/storage/{kind}" for kind in ("data", "home")]


def test_the_kernel_holds_a_job_to_its_memory(cluster, machine, timings):
    slurmd = "docker ps --no-trunc --format '{{.ID}}'; pgrep -ox slurmd"
    before = machine.run(slurmd).stdout
    # tail keeps its input, because that has no line break at the end.
    greedy = cluster.submit("emmy", "head -c 300M /dev/zero | tail > /dev/null", "--mem=100M")
    modest = cluster.submit("emmy", "head -c 50M /dev/zero | tail | wc -c; hostname", "--mem=200M --output modest.txt")
    with timings.step("compute: guest: a job over its memory, and one within"):
        cluster.wait_job(greedy, "OUT_OF_MEMORY")
        cluster.wait_job(modest, "COMPLETED")
    assert "Memory cgroup out of memory" in machine.run("dmesg").stdout
    assert machine.run(slurmd).stdout == before
    cluster.wait_idle(EMULATED)
    # The head sees what the node has written by NFS.
    home = "/srv/virtual-core/data/file-router/home/emmy"
    assert cluster.head.run(f"cat {home}/modest.txt").stdout.split() == [str(50 * 1024**2), EMULATED]
    assert cluster.head.run(f"stat -c %u {home}/modest.txt").stdout.strip() == str(cluster.uids["emmy"])


def test_it_leaves_again(cluster, machine, timings):
    with timings.step("compute: guest: retired"):
        cluster.head.run(f"salt-run vcore.retire {EMULATED} timeout=120", timeout=600)
    assert cluster.states() == {}
    assert machine.run("findmnt --types nfs4", check=False).stdout == ""


def test_slurm_is_switched_off_again(cluster):
    data = yaml.safe_load(sitefile.read(cluster.head))
    del data["vcore"]["slurm"], data["vcore"]["storage"]
    sitefile.write(cluster.head, yaml.safe_dump(data))
    assert sitefile.failed(sitefile.apply(cluster.head)) == {}
    services = cluster.head.run("docker service ls --format '{{.Name}}'").stdout.split()
    assert sorted(services) == ["directory-web", "file-router", "ldap", "registry"]
    assert cluster.head.salt_call("vcore.status")["ok"] is True
