"""Accounting as it runs: slurmdbd and MariaDB of the core's image, a slurmctld and a node beside them, and people of a
real directory who submit jobs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from support.directory import CHECKOUT, build_image, loaders, write_pillar
from support.file_router import FileCore, Network
from support.images import build, machine
from vcore import accounting, accounting_client, accounts_client, slurm, templates
from vcore.secrets import Store, generate

NODE = "compute-1"
HARDWARE = {
    "sockets": 1, "cores_per_socket": 2, "threads_per_core": 1, "cpus": 2, "memory_mib": 2048, "scratch_mib": 10240,
    "gpus": [], "cgroups": "none",
}  # fmt: skip
SLURM: dict[str, Any] = {
    "mode": "managed",
    "cgroups": "off",
    "cluster": "genomics",
    "accounts": {
        "sequencing": {"fair_share": 30, "max_cpus": 1, "max_gpus": 1},
        "statistics": {"fair_share": 10, "max_submitted_per_user": 2, "max_time": "1-00:00:00"},
    },
    "qos": {"short": {"priority": 100, "max_time": "0:10:00", "groups": ["sequencing"]}, "long": {}},
}
SERVICES = ("slurm-accounting", "slurm-controller", "slurm-compute")
STATE = "vcore_slurm_accounting.present"
SENTENCE = "SLURM has the accounts of the site and the people of the directory"


class Subnet(Network):
    """A network on which containers can be given addresses: Docker allows that where the subnet was asked for."""

    def __init__(self, api: Any) -> None:
        super().__init__(api)
        self.remove()
        pool = docker.types.IPAMPool(subnet=self.subnet, gateway=f"{self.subnet.rsplit('.', 1)[0]}.1")
        self.id = api.create_network(self.name, driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))[
            "Id"
        ]


class SlurmCore(FileCore):
    """A core with a directory, accounting, a controller and a node, on a network whose gateway is the head."""

    def __init__(self, folder: Path) -> None:
        self.slurm = SLURM
        self.containers: dict[str, str] = {}
        # By their numbers: another checkout's tests may take the names meanwhile.
        self.images = {service: machine().inspect_image(build(service))["Id"] for service in SERVICES}
        super().__init__(folder, shares={}, instruments={})

    def site(self, settings: dict[str, Any]) -> str:
        found = yaml.safe_load(super().site(settings))
        found["vcore"]["slurm"] = self.slurm
        if self.network is not None:
            found["vcore"]["nodes"][NODE] = {"roles": ["compute"], "address": self.address(9)}
        return yaml.safe_dump(found)

    def start(self, configuration: str | None = None, *, wait: bool = True) -> None:
        if self.network is None:
            self.network = Subnet(self.api)
        super().start(configuration, wait=wait)

    @property
    def directory(self) -> str:
        """The address of the directory's container."""
        networks = self.api.inspect_container(self.container)["NetworkSettings"]["Networks"]
        return str(networks[self.network.name]["IPAddress"])

    @property
    def gateway(self) -> str:
        return self.address(1)

    def address(self, number: int) -> str:
        """An address on the network; the first is this machine's, which is the head here."""
        return f"{self.network.subnet.rsplit('.', 1)[0]}.{number}"

    def settle_pillar(self) -> None:
        """The pillar of the site as it is now, on the ports of these tests."""
        self.pillar = self._pillar({})
        self.pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = self.port
        self.pillar["nodes"][NODE]["hardware"] = HARDWARE
        if (self.folder / "pillar").exists():
            write_pillar(self)

    def seen_by_containers(self) -> dict[str, Any]:
        """The pillar, with the head at an address that the network knows, too."""
        pillar = json.loads(json.dumps(self.pillar))
        pillar["nodes"]["head"]["address"] = self.gateway
        return pillar

    def source(self, service: str, volume: str) -> Path:
        return Path(self.pillar["services"][service]["volumes"][volume]["source"])

    def run(self, service: str, *, wait: bool = True) -> None:
        """Start a new container of a service on its volumes, as swarm does for each new task."""
        self.end(service)
        definition = self.pillar["services"][service]
        binds: dict[str, tuple[str, str]] = {}
        for volume in definition["volumes"].values():
            place = Path(volume["source"])
            if not place.exists():
                place.mkdir(parents=True)
                os.chown(place, volume["owner"], volume["group"])
                place.chmod(int(volume["mode"], 8))
            binds[str(place)] = (volume["path"], "rw")
        rendered = self.folder / "rendered" / service
        rendered.mkdir(parents=True, exist_ok=True)
        authority = (self.paths.authority / "ca.crt").read_text()
        names = {**templates.context(definition, self.pillar, ""), "authority": {"certificate": authority}}
        # On this network the directory has the port that it listens on, not the one that it is published at.
        names["services"] = json.loads(json.dumps(names["services"]))
        names["services"]["ldap"]["ports"]["ldaps"]["number"] = 636
        names["nodes"] = self.seen_by_containers()["nodes"]
        for name, config in definition["configs"].items():
            files = CHECKOUT / "salt" / "states" / "services" / service / "files"
            (rendered / name).unlink(missing_ok=True)
            (rendered / name).write_bytes(templates.render(files, config["template"], names))
            os.chown(rendered / name, config["owner"], config["group"])
            (rendered / name).chmod(int(config["mode"], 8))
            binds[str(rendered / name)] = (config["path"], "ro")
        for name, secret in definition["secrets"].items():
            if secret["path"]:
                binds[str(Store(self.paths.secrets).path(secret["service"] or service, name))] = (secret["path"], "ro")
        published = {port["number"]: (self.gateway, port["number"]) for port in definition["ports"].values()}
        compute = service == "slurm-compute"
        self.containers[service] = self.api.create_container(
            self.images[service],
            hostname=NODE if compute else service,
            labels={"com.docker.swarm.service.name": service},
            ports=list(published),
            networking_config=self.api.create_networking_config(
                {
                    self.network.name: self.api.create_endpoint_config(
                        aliases=[service], ipv4_address=self.address(9) if compute else None
                    )
                }
            ),
            host_config=self.api.create_host_config(
                binds={source: {"bind": target, "mode": mode} for source, (target, mode) in binds.items()},
                port_bindings={} if compute else published,
                cap_add=definition["capabilities"],
                extra_hosts={"ldap.vcore.test": self.directory},
                mem_limit=definition["memory"]["limit"],
                network_mode=self.network.name,
            ),
        )["Id"]
        self.api.start(self.containers[service])
        if wait:
            self.wait_for(service)

    def end(self, service: str) -> None:
        """End a service as swarm does, if it runs; its volumes stay."""
        if service in self.containers:
            self.api.stop(self.containers[service], timeout=20)
            self.api.remove_container(self.containers.pop(service), force=True)

    def wait_for(self, service: str, timeout: float = 90) -> None:
        def health() -> tuple[int, str]:
            if self.api.inspect_container(self.containers[service])["State"]["Running"]:
                return self.on(service, "/sbin/server_health.sh")
            logs = self.api.logs(self.containers[service]).decode(errors="replace")
            pytest.fail(f"{service} has ended:\n{logs[-3000:]}")

        self.eventually(health, lambda answer: answer[0] == 0, timeout)

    def on(self, service: str, *command: str, user: str = "") -> tuple[int, str]:
        """Run a program in the container of a service: exit code and output."""
        return self._execute(self.containers[service], command, user)

    def sql(self, statement: str) -> str:
        code, output = self.on("slurm-accounting", "mariadb", "--batch", "--skip-column-names", "-e", statement)
        assert code == 0, output
        return output

    def configure_slurm(self) -> None:
        """slurm.conf and its files as the brain makes them, where slurmctld reads them."""
        place = self.source("slurm-controller", "configuration")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in slurm.files(self.seen_by_containers()).items():
            # Its program belongs to the node's half, which these tests have nothing of.
            lines = [line for line in content.decode().splitlines() if not line.startswith("HealthCheck")]
            (place / name).write_text("\n".join([*lines, ""]))

    def bring_up_slurm(self) -> None:
        super(FileCore, self).bring_up()
        self.settle_pillar()
        store = Store(self.paths.secrets)
        for name, definition in self.pillar["services"]["slurm-controller"]["secrets"].items():
            if definition["service"] is None:
                store.write("slurm-controller", name, generate(definition["kind"], definition["length"]))
        with accounts_client.opened(self.pillar, self.paths) as ours:
            ours.group_add("sequencing", {})
            ours.group_add("statistics", {})
        self.add_person("ada", 10001, password="Chosen-by-ada-1")
        self.add_person("grace", 10002, password="Chosen-by-grace-1")
        self.add_person("charles", 10003, password="Chosen-by-charles-1")
        with accounts_client.opened(self.pillar, self.paths) as ours:
            ours.group_modify("sequencing", {}, add=["ada"])
            ours.group_modify("statistics", {}, add=["ada", "grace"])
        self.run("slurm-accounting")
        self.configure_slurm()
        self.run("slurm-controller")
        node = self.source("slurm-compute", "node")
        node.mkdir(parents=True)
        (node / "name").write_text(f"{NODE}\n")
        self.run("slurm-compute")

    def take_down(self) -> None:
        for service in list(self.containers):
            self.api.remove_container(self.containers.pop(service), force=True)
        super().take_down()

    # -- people at work

    def submit(self, name: str, *options: str, script: str = "true") -> tuple[int, str]:
        """``sbatch`` of a person; its exit code and what it says."""
        words = " ".join((*options, f"--wrap '{script}'"))
        command = f"cd /tmp && exec sbatch --parsable --output /dev/null --mem 64 {words}"
        # Docker knows the people of the image's own files only.
        become = ["setpriv", f"--reuid={name}", "--regid=people", "--init-groups"]
        return self.on("slurm-compute", *become, "bash", "-c", command)

    def job(self, name: str, *options: str, script: str = "true") -> str:
        """A job that is accepted; its number."""
        code, output = self.submit(name, *options, script=script)
        assert code == 0, output
        return output.strip()

    def accounted(self, job: str) -> list[str]:
        """The row of a job in accounting: person, account, state."""
        code, output = self.on(
            "slurm-compute", "sacct", "-X", "-n", "-P", "-a", "-j", job, "--format=User,Account,State"
        )
        assert code == 0, output
        return output.strip().split("|")

    def ended(self, job: str) -> list[str]:
        return self.eventually(
            lambda: self.accounted(job), lambda row: row[-1].startswith(("COMPLETED", "FAILED", "CANCELLED")), 40
        )

    @staticmethod
    def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], timeout: float = 30) -> Any:
        end = time.monotonic() + timeout
        while not good(answer := ask()):
            if time.monotonic() > end:
                pytest.fail(f"not in {timeout} seconds; the last answer was {answer!r}")
            time.sleep(0.2)
        return answer


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCore]:
    build_image()
    core = SlurmCore(tmp_path_factory.mktemp("slurm"))
    try:
        core.bring_up_slurm()
        yield core
    except BaseException:
        for service in core.containers:
            print(service, core.api.logs(core.containers[service]).decode(errors="replace")[-4000:])
        raise
    finally:
        if not os.environ.get("VCORE_KEEP_LAB"):
            core.take_down()


@pytest.fixture(scope="module")
def salt(core: SlurmCore) -> Any:
    return loaders(core)


@pytest.fixture
def apply(core: SlurmCore, salt: Any) -> Callable[[], dict[str, Any]]:
    """Apply the state, which announces first what it does, and does nothing the second time; its changes."""

    def apply() -> dict[str, Any]:
        state = salt.states[STATE]
        plan = state(name=SENTENCE, test=True)
        assert plan.result is None, plan.comment
        done = state(name=SENTENCE)
        assert done.result is True, done.comment
        assert done.changes == plan.changes
        again = state(name=SENTENCE)
        assert (again.result, again.changes) == (True, {}), again
        return dict(done.changes)

    return apply


@pytest.fixture(scope="module")
def ready(core: SlurmCore, salt: Any) -> SlurmCore:
    """The core, with the accounts that its site wants."""
    done = salt.states[STATE](name=SENTENCE)
    assert done.result is True, done.comment
    return core


def test_nobody_reaches_the_database_but_slurmdbd(core):
    code, output = core.on("slurm-accounting", "sh", "-c", "ss -lnt 2>/dev/null || cat /proc/net/tcp /proc/net/tcp6")
    assert code == 0
    assert "0CEA" not in output, "MariaDB listens on 3306"
    assert ":3306" not in output
    code, output = core.on("slurm-accounting", "mariadb", "-e", "select 1", user="nobody")
    assert code != 0
    assert "Access denied" in output
    config = (core.folder / "rendered" / "slurm-accounting" / "slurmdbd.conf").read_text()
    assert "StoragePass" not in config


def test_the_first_apply_brings_all_of_it_and_the_second_nothing(core, salt, apply):
    changes = apply()
    assert set(changes) == {
        "account people",
        "account sequencing",
        "account statistics",
        "people of account people",
        "people of account sequencing",
        "people of account statistics",
        "qos long",
        "qos of everybody",
        "qos of people of account people",
        "qos of people of account sequencing",
        "qos of people of account statistics",
        "qos short",
    }
    assert changes["people of account people"] == {"old": [], "new": ["ada", "charles", "grace"]}
    assert changes["people of account statistics"] == {"old": [], "new": ["ada", "grace"]}
    assert changes["account sequencing"]["new"] == {
        "Parent": "root", "Fairshare": 30, "GrpTRES.cpu": 1, "GrpTRES.gres/gpu": 1
    }  # fmt: skip


def test_a_plan_of_a_new_core_is_what_the_first_apply_does(core, ready, monkeypatch):
    """Where no slurmdbd was ever there, the plan is made against an empty one."""
    from vcore import accounts

    with accounts_client.opened(core.pillar, core.paths) as ours:
        present = ours.look()
    pillar = json.loads(json.dumps(core.pillar))
    pillar["services"]["slurm-accounting"]["volumes"]["data"]["source"] = str(core.folder / "nowhere")
    planned = accounting_client.plan(pillar, core.paths, present, test=True)
    fresh = accounting.plan(accounting.wanted(core.pillar, accounting_client.people(core.pillar, present)),
                            accounting.Shown(clusters=frozenset({"genomics"}), resources=accounting.GPU))  # fmt: skip
    assert planned.changes == fresh.changes
    assert isinstance(present, accounts.Present)


def test_a_job_is_accounted_to_its_person_and_account(ready):
    job = ready.job("ada")
    other = ready.job("ada", "--account sequencing", script="exit 3")
    assert ready.ended(job) == ["ada", "people", "COMPLETED"]
    assert ready.ended(other) == ["ada", "sequencing", "FAILED"]


def test_who_is_not_in_a_group_cannot_charge_its_account(ready):
    code, output = ready.submit("charles", "--account sequencing")
    assert code != 0
    assert "Invalid account" in output


def test_limits_and_qualities_of_service_hold(ready):
    def reason(job: str) -> str:
        return ready.on("slurm-controller", "squeue", "-h", "-o", "%r", "-j", job)[1].strip()

    # Longer than the account, and than the quality of service, allows.
    for options, wanted in (
        (("--account statistics", "--time 3-0"), "AssocMaxWallDurationPerJobLimit"),
        (("--qos short", "--time 0:30:00"), "QOSMaxWallDurationPerJobLimit"),
    ):
        job = ready.job("ada", *options)
        ready.eventually(lambda job=job: reason(job), lambda said, wanted=wanted: said == wanted)
        ready.on("slurm-controller", "scancel", job)
    code, output = ready.submit("grace", "--qos short")
    assert code != 0, output  # which is for sequencing
    assert "Invalid qos" in output
    jobs = [ready.job("grace", "--account statistics", script="sleep 30") for _ in range(2)]
    code, output = ready.submit("grace", "--account statistics")
    assert code != 0, output
    assert "limit" in output.lower()
    ready.on("slurm-controller", "scancel", *jobs)
    for job in jobs:
        ready.ended(job)
    # One processor for all of the account: the second job waits for the first.
    first = ready.job("ada", "--account sequencing", script="sleep 30")
    second = ready.job("ada", "--account sequencing", script="sleep 30")
    jobs = [first, second]
    try:
        ready.eventually(lambda: reason(second), lambda said: said == "AssocGrpCpuLimit")
    finally:
        ready.on("slurm-controller", "scancel", *jobs)
    for job in jobs:
        ready.ended(job)


def test_shares_differ(ready):
    code, output = ready.on("slurm-compute", "sshare", "-a", "-n", "-P", "--format=Account,User,RawShares,NormShares")
    assert code == 0, output
    rows = {tuple(line.split("|")[:2]): line.split("|")[2:] for line in output.replace(" ", "").splitlines()}
    assert rows["sequencing", ""][0] == "30"
    assert rows["statistics", ""][0] == "10"
    assert float(rows["sequencing", ""][1]) == pytest.approx(3 * float(rows["statistics", ""][1]), rel=0.01)
    code, output = ready.on("slurm-controller", "scontrol", "show", "config")
    assert "priority/multifactor" in output


def test_a_locked_person_submits_nothing_until_unlocked(ready, apply, core):
    job = ready.job("grace")
    assert ready.ended(job)[2] == "COMPLETED"
    with accounts_client.opened(core.pillar, core.paths) as ours:
        ours.set_locked("grace", True)
    changes = accounting_client.synchronise(core.pillar, core.paths)
    # The command that locked has seen to it.
    assert changes == {}
    code, output = ready.submit("grace")
    assert code != 0, output
    with accounts_client.opened(core.pillar, core.paths) as ours:
        ours.set_locked("grace", False)
    assert ready.ended(ready.job("grace"))[2] == "COMPLETED"


def test_people_who_come_and_go_between_two_applies(ready, core):
    with accounts_client.opened(core.pillar, core.paths) as ours:
        ours.add("maria", {"groups": ["statistics"]})
    assert ready.ended(ready.job("maria", "--account statistics"))[:2] == ["maria", "statistics"]
    with accounts_client.opened(core.pillar, core.paths) as ours:
        ours.group_modify("statistics", {}, remove=["maria"])
    code, output = ready.submit("maria", "--account statistics")
    assert code != 0, output
    assert ready.ended(ready.job("maria"))[1] == "people"
    with accounts_client.opened(core.pillar, core.paths) as ours:
        ours.remove("maria", archive=False)
    rows = ready.sql("select distinct account from slurm_acct_db.genomics_job_table join "
                     "slurm_acct_db.genomics_assoc_table using (id_assoc) where user = 'maria'")  # fmt: skip
    assert set(rows.split()) == {"people", "statistics"} or set(rows.split()) == {"", "people", "statistics"}


def test_what_an_administrator_made_stays(ready, salt):
    def sacctmgr(*words: str) -> None:
        code, output = ready.on("slurm-accounting", "sacctmgr", "-i", *words)
        assert code == 0, output

    sacctmgr("add", "account", "guests", "Organization=ours", "Description=hand")
    sacctmgr("add", "user", "charles", "account=guests")
    sacctmgr("modify", "user", "where", "name=charles", "account=people", "set", "MaxJobs=3", "Fairshare=5")
    again = salt.states[STATE](name=SENTENCE)
    assert (again.result, again.changes) == (True, {}), again


def test_an_account_that_the_site_drops_is_closed_and_keeps_its_rows(core, ready):
    # Without Salt, whose loaders lay a new pillar over the old one: an account that is gone would still be there.
    def apply() -> dict[str, Any]:
        changes = accounting_client.synchronise(core.pillar, core.paths)
        assert accounting_client.synchronise(core.pillar, core.paths) == {}
        return changes

    job = ready.job("ada", "--account sequencing")
    assert ready.ended(job)[2] == "COMPLETED"
    try:
        core.slurm = {**SLURM, "accounts": {"statistics": {"fair_share": 20}}}
        core.settle_pillar()
        changes = apply()
        assert changes["account sequencing"] == {"old": "open", "new": "closed"}
        assert changes["account statistics"]["new"]["Fairshare"] == 20
        code, output = ready.submit("ada", "--account sequencing")
        assert code != 0, output
        assert ready.accounted(job)[1] == "sequencing"
    finally:
        core.slurm = SLURM
        core.settle_pillar()
        apply()
    assert ready.ended(ready.job("ada", "--account sequencing"))[1] == "sequencing"


def test_a_thousand_people_take_seconds(core, ready):
    with accounts_client.opened(core.pillar, core.paths) as ours:
        present = ours.look()
    people = accounting_client.people(core.pillar, present)
    many = frozenset(f"person-{number}" for number in range(1000))
    crowd = accounting.People(people.names | many, people.locked, people.groups)
    began = time.monotonic()
    plan = accounting.plan(accounting.wanted(core.pillar, crowd), accounting_client.look(core.pillar))
    assert plan.changes == {"people of account people": {"old": [], "new": sorted(many)}}
    assert len(plan.commands) == 1
    accounting_client.apply(core.pillar, plan)
    assert not accounting.plan(accounting.wanted(core.pillar, crowd), accounting_client.look(core.pillar)).changes
    took = time.monotonic() - began
    print(f"1,000 people: {took:.1f} s")
    assert took < 15
    # They are not the directory's: the next look closes them, in one command, too.
    changes = accounting_client.synchronise(core.pillar, core.paths)
    assert changes == {"people of account people": {"old": sorted(many), "new": []}}


def test_rows_outlive_the_daemons_and_jobs_run_without_them(core, ready):
    before = ready.job("ada")
    assert ready.ended(before)[2] == "COMPLETED"
    # MariaDB alone: supervisor starts it again, slurmdbd goes on.
    code, output = core.on("slurm-accounting", "sh", "-c", "kill -KILL $(cat /run/mysqld/mysqld.pid)")
    assert code == 0, output
    core.wait_for("slurm-accounting")
    assert ready.accounted(before)[2] == "COMPLETED"
    # All of it, while a job runs.
    core.end("slurm-accounting")
    meanwhile = ready.job("ada", script="sleep 1")
    done = ["squeue", "-h", "-j", meanwhile, "-t", "all", "-o", "%T"]
    ready.eventually(lambda: core.on("slurm-compute", *done)[1].strip(), lambda state: state == "COMPLETED")
    # A controller that starts meanwhile does not wait: it knows its accounts from its last run.
    core.run("slurm-controller")
    core.run("slurm-accounting")
    assert ready.accounted(before)[2] == "COMPLETED"
    assert ready.ended(meanwhile) == ["ada", "people", "COMPLETED"]


def test_switched_off_and_on_again(core, ready, salt, apply):
    job = ready.job("ada")
    assert ready.ended(job)[2] == "COMPLETED"
    off = yaml.safe_load(core.site({}))
    assert off["vcore"]["slurm"]["mode"] == "managed"
    try:
        pillar = json.loads(json.dumps(core.pillar))
        del pillar["services"]["slurm-accounting"]
        on = core.pillar
        core.pillar = pillar
        core.configure_slurm()
        core.end("slurm-accounting") if "slurm-accounting" in on["services"] else None
        code, output = core.on("slurm-controller", "/usr/lib/virtual-core/slurm-controller", "reload")
        assert code == 0, output
        without = ready.job("charles", "--account nowhere", script="true")
        state = ["squeue", "-h", "-j", without, "-t", "all", "-o", "%T"]
        ready.eventually(lambda: core.on("slurm-compute", *state)[1].strip(), lambda said: said == "COMPLETED")
        assert accounting_client.synchronise(pillar, core.paths) == {}
    finally:
        core.pillar = on
    # Its data exist, so a plan waits for it.
    plan = salt.states[STATE](name=SENTENCE, test=True)
    assert (plan.result, plan.changes) == (True, {})
    assert "compared when it runs" in plan.comment
    core.run("slurm-accounting")
    core.configure_slurm()
    code, output = core.on("slurm-controller", "/usr/lib/virtual-core/slurm-controller", "reload")
    assert code == 0, output
    assert ready.accounted(job) == ["ada", "people", "COMPLETED"]
    code, output = ready.submit("charles", "--account nowhere")
    assert code != 0, output
    shutil.rmtree(core.folder / "rendered", ignore_errors=True)


def test_doctor_says_what_differs(core, ready):
    (check,) = accounting_client.check(core.pillar, core.paths)
    assert check["ok"], check
    core.on("slurm-accounting", "sacctmgr", "-i", "modify", "account", "where", "name=statistics", "set", "Fairshare=1")
    (check,) = accounting_client.check(core.pillar, core.paths)
    assert (check["ok"], check["saw"]) == (False, "different: account statistics")
