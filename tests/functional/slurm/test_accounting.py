"""Accounting in real life: slurmdbd and MariaDB in the core's image, a slurmctld and a node beside them, and people of
a real directory who submit jobs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.directory import build_image, loaders
from support.slurm_services import SlurmCore
from vcore.people import accounts
from vcore.slurm import accounting
from vcore.slurm import health as slurm_health
from vcore.slurm import sacctmgr as slurm_sacctmgr

SLURM: dict[str, Any] = {
    "mode": "managed",
    "cgroups": "off",
    "cluster": "genomics",
    "partitions": {"main": {"default": True, "qos": "long"}},
    "accounts": {
        "sequencing": {"fair_share": 30, "max_cpus": 1, "max_gpus": 1},
        "statistics": {"fair_share": 10, "max_submitted_per_user": 2, "max_time": "1-00:00:00"},
    },
    "qos": {"short": {"priority": 100, "max_time": "0:10:00", "groups": ["sequencing"]}, "long": {}},
}
STATE = "vcore_slurm_accounting.present"
SENTENCE = "SLURM has the accounts of the site and the people of the directory"


def apply(salt: Any, part: str = "all") -> dict[str, Any]:
    """Apply the state, which first announces what it does, and does nothing the second time; return its changes."""
    state = salt.states[STATE]
    plan = state(name=SENTENCE, part=part, test=True)
    assert plan.result is None, plan.comment
    done = state(name=SENTENCE, part=part)
    assert done.result is True, done.comment
    assert done.changes == plan.changes
    again = state(name=SENTENCE, part=part)
    assert (again.result, again.changes) == (True, {}), again
    return dict(done.changes)


class Accounted(SlurmCore):
    """A core with accounting, and what each part of the state changed at first."""

    def bring_up(self) -> None:
        self.changes: dict[str, dict[str, Any]] = {}
        self.planned: dict[str, dict[str, Any]] = {}
        self.bring_up_people()
        self.make_key()
        self.salt = loaders(self)
        # Nothing runs yet.
        for part in ("first", "gpus"):
            self.planned[part] = dict(self.salt.states[STATE](name=SENTENCE, part=part, test=True).changes)
        self.bring_up_slurm(lambda: self.changes.update(first=apply(self.salt, "first")))
        self.changes["gpus"] = apply(self.salt, "gpus")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounted]:
    build_image()
    core = Accounted(tmp_path_factory.mktemp("slurm"), SLURM)
    try:
        core.bring_up()
        yield core
    except BaseException:
        for service in core.containers:
            print(service, core.api.logs(core.containers[service]).decode(errors="replace")[-4000:])
        raise
    finally:
        if not os.environ.get("VCORE_KEEP_LAB"):
            core.take_down()


@pytest.fixture(scope="module")
def salt(core: Accounted) -> Any:
    return core.salt


@pytest.fixture(scope="module")
def ready(core: Accounted, salt: Any) -> Accounted:
    """Return the core with the accounts that its site wants, whatever an earlier test has left."""
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


def test_the_first_apply_brings_all_of_it_and_a_plan_before_it_said_so(core):
    """The controller was started after it, with a partition whose quality of service must exist."""
    changes = core.changes["first"]
    assert changes == core.planned["first"]
    assert set(changes) == {
        "cluster genomics",
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
    assert changes["account sequencing"]["new"] == {"Parent": "root", "Fairshare": 30, "GrpTRES.cpu": 1}


def test_limits_of_gpus_come_when_the_controller_has_told_of_gpus(core):
    limit = "GrpTRES.gres/gpu"
    assert core.changes["gpus"] == {"account sequencing": {"old": {limit: None}, "new": {limit: 1}}}
    assert core.changes["gpus"] == core.planned["gpus"]


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

    # Longer than the account and the quality of service allow.
    for options, wanted in (
        (("--account statistics", "--time 3-0"), "AssocMaxWallDurationPerJobLimit"),
        (("--qos short", "--time 0:30:00"), "QOSMaxWallDurationPerJobLimit"),
    ):
        job = ready.job("ada", *options)
        ready.eventually(lambda job=job: reason(job), lambda said, wanted=wanted: said == wanted)
        ready.on("slurm-controller", "scancel", job)
    code, output = ready.submit("grace", "--qos short")
    assert code != 0, output  # which is for the group sequencing
    assert "Invalid qos" in output
    jobs = [ready.job("grace", "--account statistics", script="sleep 30") for _ in range(2)]
    code, output = ready.submit("grace", "--account statistics")
    assert code != 0, output
    assert "limit" in output.lower()
    ready.on("slurm-controller", "scancel", *jobs)
    for job in jobs:
        ready.ended(job)
    # One processor for the whole account: the second job waits for the first.
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


def test_a_locked_person_submits_nothing_until_unlocked(ready, core):
    job = ready.job("grace")
    assert ready.ended(job)[2] == "COMPLETED"
    with accounts.opened(core.pillar, core.paths) as ours:
        ours.set_locked("grace", True)
    changes = slurm_sacctmgr.synchronise(core.pillar, core.paths)
    # The command that locked the person has also told accounting.
    assert changes == {}
    code, output = ready.submit("grace")
    assert code != 0, output
    with accounts.opened(core.pillar, core.paths) as ours:
        ours.set_locked("grace", False)
    assert ready.ended(ready.job("grace"))[2] == "COMPLETED"


def test_people_who_come_and_go_between_two_applies(ready, core):
    with accounts.opened(core.pillar, core.paths) as ours:
        ours.add("maria", {"groups": ["statistics"]})
    assert ready.ended(ready.job("maria", "--account statistics"))[:2] == ["maria", "statistics"]
    with accounts.opened(core.pillar, core.paths) as ours:
        ours.group_modify("statistics", {}, remove=["maria"])
    code, output = ready.submit("maria", "--account statistics")
    assert code != 0, output
    assert ready.ended(ready.job("maria"))[1] == "people"
    with accounts.opened(core.pillar, core.paths) as ours:
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
    # Salt's loaders would merge a new pillar into the old one, in which a removed account would still be there.
    def synchronise() -> dict[str, Any]:
        changes = slurm_sacctmgr.synchronise(core.pillar, core.paths)
        assert slurm_sacctmgr.synchronise(core.pillar, core.paths) == {}
        return changes

    job = ready.job("ada", "--account sequencing")
    assert ready.ended(job)[2] == "COMPLETED"
    try:
        core.slurm = {**SLURM, "accounts": {"statistics": {"fair_share": 20}}}
        core.settle_pillar()
        changes = synchronise()
        assert changes["account sequencing"] == {"old": "open", "new": "closed"}
        assert changes["account statistics"]["new"]["Fairshare"] == 20
        code, output = ready.submit("ada", "--account sequencing")
        assert code != 0, output
        assert ready.accounted(job)[1] == "sequencing"
    finally:
        core.slurm = SLURM
        core.settle_pillar()
        synchronise()
    assert ready.ended(ready.job("ada", "--account sequencing"))[1] == "sequencing"


def test_a_thousand_people_take_seconds(core, ready):
    with accounts.opened(core.pillar, core.paths) as ours:
        present = ours.look()
    people = slurm_sacctmgr.people(core.pillar, present)
    many = frozenset(f"person-{number}" for number in range(1000))
    crowd = accounting.People(people.names | many, people.locked, people.groups)
    began = time.monotonic()
    plan = accounting.plan(accounting.wanted(core.pillar, crowd), slurm_sacctmgr.look(core.pillar))
    assert plan.changes == {"people of account people": {"old": [], "new": sorted(many)}}
    assert len(plan.commands) == 1
    slurm_sacctmgr.apply(core.pillar, plan)
    assert not accounting.plan(accounting.wanted(core.pillar, crowd), slurm_sacctmgr.look(core.pillar)).changes
    took = time.monotonic() - began
    print(f"1,000 people: {took:.1f} s")
    assert took < 15
    # They are not in the directory: the next look closes them, with a single command.
    changes = slurm_sacctmgr.synchronise(core.pillar, core.paths)
    assert changes == {"people of account people": {"old": sorted(many), "new": []}}


def test_rows_outlive_the_daemons_and_jobs_run_without_them(core, ready):
    before = ready.job("ada")
    assert ready.ended(before)[2] == "COMPLETED"
    # MariaDB alone dies: supervisor starts it again, and slurmdbd goes on.
    code, output = core.on("slurm-accounting", "sh", "-c", "kill -KILL $(cat /run/mysqld/mysqld.pid)")
    assert code == 0, output
    core.wait_for("slurm-accounting")
    assert ready.accounted(before)[2] == "COMPLETED"
    # All of it dies while a job runs.
    core.end("slurm-accounting")
    meanwhile = ready.job("ada", script="sleep 1")
    done = ["squeue", "-h", "-j", meanwhile, "-t", "all", "-o", "%T"]
    ready.eventually(lambda: core.on("slurm-compute", *done)[1].strip(), lambda state: state == "COMPLETED")
    # A controller that starts meanwhile does not wait: it remembers its accounts from its last run.
    core.run("slurm-controller")
    core.run("slurm-accounting")
    assert ready.accounted(before)[2] == "COMPLETED"
    assert ready.ended(meanwhile) == ["ada", "people", "COMPLETED"]


def test_who_has_used_more_waits_behind_who_has_used_less(core, ready):
    def used() -> dict[tuple[str, str], tuple[int, float]]:
        code, output = core.on("slurm-compute", "sshare", "-a", "-n", "-P", "--format=Account,User,RawUsage,LevelFS")
        assert code == 0, output
        rows = [line.split("|") for line in output.replace(" ", "").splitlines()]
        return {(account, user): (int(usage or 0), float(level or 0)) for account, user, usage, level in rows}

    jobs = [ready.job("ada", *options, script="sleep 8") for options in ((), ("--account sequencing",))]
    for job in jobs:
        assert ready.ended(job)[2] == "COMPLETED"
    core.run("slurm-controller")  # slurmctld adds up usage every five minutes, and when it starts
    core.run_node()
    before = ready.eventually(used, lambda rows: rows["people", "ada"][0] >= 6)
    assert before["sequencing", ""][0] >= 6
    assert before["people", "ada"][1] < before["people", "charles"][1]

    def states(*jobs: str) -> list[str]:
        told = core.on("slurm-controller", "squeue", "-h", "-o", "%i %T", "-j", ",".join(jobs))[1]
        found = dict(line.split() for line in told.splitlines())
        return [found[job] for job in jobs]

    # The node is full; of the waiting people, she was first and goes last.
    full = ready.job("grace", "--ntasks 2", script="sleep 60")
    ready.eventually(lambda: states(full), lambda found: found == ["RUNNING"])
    hers, his = (ready.job(name, "--ntasks 2", script="sleep 60") for name in ("ada", "charles"))
    assert states(hers, his) == ["PENDING", "PENDING"]
    core.on("slurm-controller", "scancel", full)
    assert ready.eventually(lambda: states(hers, his), lambda found: "RUNNING" in found) == ["PENDING", "RUNNING"]
    core.on("slurm-controller", "scancel", hers, his)
    for job in (full, hers, his):
        ready.ended(job)


def test_switched_off_and_on_again(core, ready, salt):
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
        assert slurm_sacctmgr.synchronise(pillar, core.paths) == {}
    finally:
        core.pillar = on
    # The data exist, so a plan waits for slurmdbd.
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
    *_, check = slurm_health.checks(core.pillar, core.paths)
    assert check["ok"], check
    core.on("slurm-accounting", "sacctmgr", "-i", "modify", "account", "where", "name=statistics", "set", "Fairshare=1")
    *_, check = slurm_health.checks(core.pillar, core.paths)
    assert (check["ok"], check["saw"]) == (False, "different: account statistics")
