"""What counts as a problem of the core, and how status, doctor and the functions for accounts are shown to people."""

import copy
import importlib.util
from pathlib import Path

import pytest
from vcore.certificates import health as certificates
from vcore.kernel import status
from vcore.nodes import health as nodes
from vcore.swarm import health as swarm

CHECKOUT = Path(__file__).parents[3]
NOW = 1_800_000_000.0

SERVICE = {
    "title": "LDAP directory",
    "node": "head",
    "addresses": ["ldaps://ldap.vcore.test:636"],
    "image": "ldap:0123456789ab",
    "desired": 1,
    "running": 1,
    "healthy": 1,
    "since": "2027-01-15T08:00:00.123456789Z",
    "state": "settled",
    "message": "1 of 1 running",
}
WELL = {
    "services": {"ldap": SERVICE},
    "nodes": {"head": {"roles": ["head"], "address": "10.0.0.1", "state": "ready", "availability": "active"}},
    "certificates": {"ldap/tls": {"status": "valid", "days_left": 300, "expires": "2027-12-01"}},
    "disk": {"path": "/data", "total": 100 * 2**30, "free": 50 * 2**30, "used_percent": 50.0},
    "convergence": {"ended": NOW, "ok": True, "states": 18, "changed": 2, "seconds": 1.0, "failed": []},
}


#: The function that judges the facts, by the facts' key.
JUDGES = {"services": swarm.judged, "nodes": nodes.judged, "certificates": certificates.judged}


def judged(facts):
    return {**facts, **{key: judge(facts[key]) for key, judge in JUDGES.items()}}


def ill(**changes):
    facts = copy.deepcopy(WELL)
    for path, value in changes.items():
        *folders, last = path.split("__")
        inner = facts
        for folder in folders:
            inner = inner[folder]
        inner[last] = value
    return facts


def test_a_core_that_is_well_has_no_problems():
    assert status.problems(judged(WELL)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"convergence": None}, "there was no convergence yet"),
        (
            {"convergence": {**WELL["convergence"], "ok": False, "failed": ["The service ldap runs"]}},
            "the last convergence failed: The service ldap runs",
        ),
        ({"services__ldap__healthy": 0}, "service ldap: 0 of 1 tasks are healthy"),
        ({"services__ldap__state": "failed"}, "service ldap: 1 of 1 tasks are healthy: 1 of 1 running"),
        ({"services__ldap__state": "absent"}, "service ldap: does not exist"),
        ({"services__ldap__state": "superfluous"}, "service ldap: runs, but the site does not want it"),
        ({"nodes__head__state": "down"}, "node head: down"),
        (
            {"nodes__head": {"state": "ready", "error": "it does not answer", "attempts": 3, "next": NOW + 20}},
            "node head: it does not answer (3 tries, the next in 20 s)",
        ),
        (
            {"nodes__head": {"state": "not joined", "retiring": True}},
            "node head: is being retired, or was retired while the site file still names it",
        ),
        ({"reconciler": {"problems": ["the reconciler stands still"]}}, "the reconciler stands still"),
        ({"certificates": {"ldap/tls": {"status": "expired", "days_left": -1}}}, "certificate ldap/tls: expired"),
        ({"certificates": {"ldap/tls": {"status": "not issued"}}}, "certificate ldap/tls: not issued"),
        ({"certificates": {"ldap/tls": {"status": "valid", "days_left": 7}}}, "certificate ldap/tls: 7 days left"),
        ({"disk__used_percent": 90.1}, "disk: /data is 90.1 % full"),
        ({"swarm": {"error": "no Docker daemon answers"}}, "no Docker daemon answers"),
        ({"slurm": {"nodes": {}, "jobs": {}, "problems": ["SLURM: compute-1 is down"]}}, "SLURM: compute-1 is down"),
        (
            {"pending": {"count": 1, "keys": [{"id": "compute-1", "reason": "denied", "node": True}]}},
            "key of compute-1: a node has this name, and another key with the same name waits: denied",
        ),
    ],
)
def test_what_is_not_well_is_one_sentence(changes, says, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    (problem,) = status.problems(judged(ill(**changes)))
    assert problem.startswith(says)


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path):
    disk = status.disk(tmp_path / "not" / "yet")
    assert disk["total"] >= disk["free"] > 0
    assert 0 < disk["used_percent"] < 100


# --- the tables --------------------------------------------------------------------------------------------------


@pytest.fixture
def output(monkeypatch):
    """Return the outputter as Salt's loader sets it up."""
    spec = importlib.util.spec_from_file_location("vcore_output", CHECKOUT / "salt" / "_output" / "vcore.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("time.time", lambda: NOW + 3 * 3600)

    def render(data, color=False):
        module.__opts__ = {"color": color}
        return module.output({"local": data})

    return render


def test_a_healthy_core_as_a_table(output, golden):
    text = output({"ok": True, "problems": [], **judged(WELL)})
    golden(Path(__file__).parent / "golden" / "status" / "well.txt", text + "\n")


def test_keys_that_wait_are_listed_without_being_a_problem(output):
    keys = [{"id": "compute-1", "reason": "its token expired"}, {"id": "x\\nNodeName=evil", "reason": "no name"}]
    facts = {**judged(WELL), "pending": {"count": 1000, "keys": keys}}
    assert status.problems(facts) == []
    text = output({"ok": True, "problems": [], **facts})
    assert (
        "compute-1         its token expired\nx\\nNodeName=evil  no name\nand 998 more: salt-key -l pre\n"
        in "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    )


def node(words="idle", **more):
    return {"words": words, "reason": None, "by_hand": False, "ok": True, **more}


def test_slurm_is_shown_by_state_and_a_drain_by_hand_says_whose_it_is(output):
    slurm = {
        "nodes": {
            "compute-1": node(),
            "compute-2": node(),
            "compute-3": node("idle+drain", reason="new disk", by_hand=True),
            "compute-4": node("down+drain", reason="vcore: storage /home is missing", ok=False),
        },
        "jobs": {"pending": 3, "running": 2},
        "problems": ["SLURM: compute-4 is down+drain: vcore: storage /home is missing"],
    }
    facts = {**judged(WELL), "slurm": slurm, "swarm": {"rolls": {"slurm-compute": ["compute-1"]}, "error": None}}
    lines = [line.rstrip() for line in output({"ok": True, "problems": [], **facts}).splitlines()]
    begin = lines.index("SLURM       NODES          WHY")
    assert lines[begin + 1 : begin + 5] == [
        "idle        compute-[1-2]  -",
        "idle+drain  compute-3      drained by hand: new disk",
        "down+drain  compute-4      vcore: storage /home is missing",
        "Queue  3 pending, 2 running",
    ]
    assert "An update of slurm-compute waits for compute-1: salt-run vcore.roll_compute" in lines
    assert status.problems(facts) == slurm["problems"]


def test_problems_stand_at_the_end_and_programs_get_no_colour(output):
    facts = judged(ill(services__ldap__healthy=0, services__ldap__state="waiting"))
    text = output({"ok": False, "problems": status.problems(facts), **facts})
    assert text.endswith("1 problems:\n  - service ldap: 0 of 1 tasks are healthy: 1 of 1 running")
    assert "\x1b" not in text
    assert "\x1b[1;31m" in output({"ok": False, "problems": ["x"], **facts}, color=True)


def test_the_doctor_names_the_remedy_of_what_failed(output):
    checks = [
        {"check": "the directory answers", "ok": True, "saw": "yes", "remedy": ""},
        {"check": "port 389 is closed", "ok": False, "saw": "it answers", "remedy": "find what listens"},
    ]
    text = output(checks)
    assert "FAIL" in text
    assert "remedy: find what listens" in text
    assert text.endswith("2 checks, 1 failed.")


def test_an_error_is_printed_as_it_is(output):
    assert output("this works on the head of a core only; run it there").startswith("this works on the head")


ADDED = {
    "comment": "ada is added.",
    "test": False,
    "uid": 10001,
    "home": "/home/ada",
    "first_password": "/etc/virtual-core/secrets/first-passwords/ada",
    "changes": {
        "uid=ada,ou=people,dc=x": {"old": None, "new": {"uid": ["ada"], "cn": ["Ada [x]"], "objectClass": ["a", "b"]}},
        "members of lab": {"old": [], "new": ["ada"]},
        "home of ada": {"old": None, "new": "/srv/home/ada"},
    },
}
REMOVED = {
    "comment": "ada is removed.",
    "test": False,
    "changes": {
        "members of lab": {"old": ["ada"], "new": []},
        "uid=ada,ou=people,dc=x": {"old": {"uidNumber": "10001", "archive": "/srv/archive"}, "new": None},
    },
}
IMPORTED = {
    "added": 1, "changed": 0, "unchanged": 1, "failed": 1, "first_passwords": "/etc/first-passwords",
    "lines": ["line 2: ada: added", "line 3: bob: unchanged", "line 4: '../x': failed: a name has at most 31"],
}  # fmt: skip
PEOPLE = {
    "ada": {"name": "Ada", "uid": 10001, "groups": ["lab", "other"], "locked": False, "first_password": True},
    "bob": {"name": "Bob\x1b[2J", "uid": 10002, "groups": [], "locked": True, "first_password": False},
}
GROUPS = {"lab": {"gid": 10500, "description": "A [b]lab", "members": ["ada"]}}


def test_what_the_functions_for_accounts_say(output, golden):
    shown = [ADDED, {**ADDED, "comment": "ada would be added.", "test": True}, REMOVED, IMPORTED, PEOPLE, GROUPS]
    text = "\n\n".join(output(value) for value in shown)
    golden(Path(__file__).parent / "golden" / "status" / "accounts.txt", text + "\n")


def test_nothing_in_the_directory_speaks_to_the_terminal(output):
    assert "\x1b[2J" not in output(PEOPLE, color=True)
    assert output("\x1b[2J[bold]x[/bold]") == "\N{REPLACEMENT CHARACTER}[2J[bold]x[/bold]"


NODES = {
    "compute-1": {
        "roles": ["compute"], "key": "accepted", "address": "10.0.0.2", "swarm": "ready", "slurm": "idle+drain",
        "reason": "new disk", "retiring": False, "converging": False, "succeeded": NOW, "error": None, "attempts": 0,
        "next": None,
    },
    "compute-2": {
        "roles": ["compute"], "key": "accepted", "address": None, "swarm": None, "slurm": None, "reason": None,
        "retiring": False, "converging": False, "succeeded": None, "error": "it does not answer", "attempts": 4,
        "next": NOW + 3 * 3600 + 40,
    },
    "stranger": {
        "roles": [], "key": "pending", "address": None, "swarm": None, "slurm": None, "reason": None,
        "retiring": False, "converging": False, "succeeded": None, "error": None, "attempts": 0, "next": None,
    },
}  # fmt: skip


def test_nodes_as_a_table(output, golden):
    text = output({"nodes": NODES, "problems": ["SLURM: slurmctld does not answer"]})
    golden(Path(__file__).parent / "golden" / "status" / "nodes.txt", text + "\n")


def test_what_the_reconciler_and_a_retirement_did(output):
    told = {
        "ok": False, "labelled": ["a"], "resumed": [], "problems": ["slurm.conf was refused"],
        "rounds": 2, "seconds": 3.21,
        "reconciled": {"a": {"result": "converged", "error": None}, "b": {"result": "failed", "error": "no \x1b[2J"}},
    }  # fmt: skip
    lines = [line.rstrip() for line in output(told).splitlines()]
    assert lines == [
        "NODE  RESULT     WHY", "a     converged  -", "b     failed     no \N{REPLACEMENT CHARACTER}[2J", "labelled: a",
        "  - slurm.conf was refused", "2 rounds, 3.2 s.",
    ]  # fmt: skip
    gone = {"done": ["drained", "forgotten"], "remains": None}
    told = {
        "ok": False,
        "retired": {
            "a-1": gone, "a-2": gone | {"remains": "site.sls:6: take it out"},
            "b": gone | {"done": ["drained"]},
        },
        "problems": ["b still runs 1 jobs: 17"],
    }  # fmt: skip
    assert output(told).splitlines() == [
        "a-[1-2]: drained, forgotten.", "b: drained.", "site.sls:6: take it out", "  - b still runs 1 jobs: 17",
    ]  # fmt: skip
