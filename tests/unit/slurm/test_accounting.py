"""Accounts, people and qualities of service: what follows from site and directory, and how slurmdbd differs from it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import VcoreError
from vcore.people import plans
from vcore.slurm import accounting, sacctmgr
from vcore.slurm.accounting import Member, People, Shown

GOLDEN = Path(__file__).parent / "golden" / "accounting"
SITE = """vcore:
  nodes: {head: {roles: [head], address: 10.0.0.1}}
  slurm:
    mode: managed
    cluster: genomics
    accounts:
      biology: {fair_share: 30, max_cpus: 64, max_memory: 100G}
      sequencing: {parent: biology, fair_share: 2, max_gpus: 4, max_time: "1-12:00:00"}
      courses: {group: students, max_jobs: 10, max_submitted_per_user: 5}
    qos:
      short: {priority: 100, max_time: "4:00:00", max_cpus_per_user: 8}
      gpu: {groups: [sequencing], max_gpus_per_user: 2, max_time: UNLIMITED}
"""
PEOPLE = People(
    names=frozenset({"ada", "grace", "charles", "maria"}),
    locked=frozenset({"charles"}),
    groups={"sequencing": frozenset({"ada", "charles"}), "students": frozenset({"grace"}), "biology": frozenset()},
)
#: What sacctmgr of SLURM 24.11.5 answered for a small cluster.
ANSWERS = {
    "clusters": "genomics\n",
    "resources": "cpu|\nmem|\nfs|disk\ngres|gpu\n",
    "organizations": "people|virtual-core\nroot|root\nbiology|virtual-core\nguests|ours\n",
    "users": "ada|people\nada|people\ncharles|\nroot|root\n",
    "qos": "normal|Normal QOS default|0||||\nshort|virtual-core|100|04:00:00|||cpu=8,gres/gpu=2\n",
    "associations": "root|||1|||||||normal,short\nroot|root||1|||||||\npeople||root|1|||||||\n"
    "people|ada||1|||||0||\npeople|charles||5||||3|||gpu,normal\n"
    "biology||root|30|cpu=64,mem=100G,billing=7|3||||1-12:00:00|\nbiology|ada||1|||||0||\nbiology|ada||1|||||||\n"
    "guests||root|1|||||||\n",
}


@pytest.fixture(scope="module")
def pillar(tmp_path_factory):
    return sites.pillar(tmp_path_factory.mktemp("site"), SITE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a site without settings for accounts."""
    text = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  slurm: {mode: managed}\n"
    return sites.pillar(tmp_path_factory.mktemp("site"), text)


def test_what_is_wanted(pillar):
    wanted = accounting.wanted(pillar, PEOPLE)
    assert wanted.members == {
        "people": {"ada", "grace", "maria"},
        "biology": set(),
        "sequencing": {"ada"},
        "courses": {"grace"},
    }
    assert wanted.accounts["sequencing"] == {
        "Parent": "biology",
        "Fairshare": 2,
        "GrpTRES.gres/gpu": 4,
        "MaxWallDurationPerJob": 36 * 60,
    }
    assert wanted.accounts["biology"]["GrpTRES.mem"] == 100 * 1024
    assert wanted.qos["short"] == {"Priority": 100, "MaxWallDurationPerJob": 240, "MaxTRESPerUser.cpu": 8}
    assert wanted.qos["gpu"] == {"Priority": 0, "MaxTRESPerUser.gres/gpu": 2}
    assert wanted.everybody == {"normal", "short"}
    assert wanted.extra == {"ada": {"normal", "short", "gpu"}}


def test_what_is_there():
    shown = accounting.shown(ANSWERS)
    assert shown.members == {
        ("root", "root"): Member(),
        ("people", "ada"): Member(closed=True),
        ("people", "charles"): Member(qos=frozenset({"gpu", "normal"})),
        # Two associations, one per partition, of which one is open.
        ("biology", "ada"): Member(),
    }
    assert shown.accounts["biology"] == {
        "Parent": "root",
        "Fairshare": 30,
        "GrpTRES.cpu": 64,
        "GrpTRES.mem": 102400,
        "GrpJobs": 3,
        "MaxWallDurationPerJob": 2160,
    }
    assert shown.qos["short"]["MaxTRESPerUser.gres/gpu"] == 2
    assert shown.resources >= accounting.GPU
    assert shown.everybody == {"normal", "short"}


def test_a_new_slurmdbd_gets_all_of_it(pillar, golden):
    plan = accounting.plan(accounting.wanted(pillar, PEOPLE), Shown(resources=accounting.GPU))
    golden(GOLDEN / "new.json", json.dumps({"changes": plan.changes, "commands": plan.commands}, indent=2) + "\n")


def test_one_that_has_some_of_it_gets_the_rest(pillar, golden):
    plan = accounting.plan(accounting.wanted(pillar, PEOPLE), accounting.shown(ANSWERS))
    golden(GOLDEN / "some.json", json.dumps({"changes": plan.changes, "commands": plan.commands}, indent=2) + "\n")


def perform(shown: Shown, commands: list[list[str]]) -> Shown:
    """Apply commands to a model of slurmdbd, as far as sacctmgr's effects matter here."""
    accounts_, qos, members = ({name: dict(value) if isinstance(value, dict) else value for name, value in part.items()}
                               for part in (shown.accounts, shown.qos, shown.members))  # fmt: skip
    organizations, defaults, everybody, clusters = (
        dict(shown.organizations), dict(shown.defaults), shown.everybody, shown.clusters
    )  # fmt: skip

    def change(settings, words):
        for word in words:
            name, _, value = word.partition("=")
            parts = [(name, value)]
            if name in accounting.RESOURCES:
                parts = [(f"{name}.{part.partition('=')[0]}", part.partition("=")[2]) for part in value.split(",")]
            for key, text in parts:
                if text == "-1":
                    settings.pop(key, None)
                else:
                    settings[key] = int(text) if text.isdecimal() else text

    for command in commands:
        assert command[:3] == ["sacctmgr", "--immediate", "--quiet"]
        verb, what, *words = command[3:]
        place = dict(word.split("=", 1) for word in words if "=" in word)
        if (verb, what) == ("add", "cluster"):
            clusters |= {words[0]}
        elif (verb, what) == ("add", "qos"):
            change(qos.setdefault(words[0], {"Priority": 0}), [w for w in words[1:] if not w.startswith("Desc")])
        elif (verb, what) == ("modify", "qos"):
            change(qos[place["name"]], words[words.index("set") + 1 :])
        elif (verb, what) == ("add", "account"):
            assert place["Parent"] == "root" or place["Parent"] in accounts_
            new = {"Fairshare": 1}
            change(new, [w for w in words[2:] if not w.startswith(("Desc", "Organization"))])
            accounts_[words[0]] = new
            organizations.setdefault(words[0], place["Organization"])
        elif (verb, what) == ("modify", "account"):
            new = words[words.index("set") + 1 :]
            if place["name"] == "root":
                everybody = frozenset(place["QOS"].split(","))
            elif "Organization" in place:
                organizations[place["name"]] = place["Organization"]
            else:
                change(accounts_[place["name"]], new)
        elif (verb, what) == ("add", "user"):
            for name in place["name"].split(","):
                assert (place["account"], name) not in members
                members[place["account"], name] = Member()
                defaults.setdefault(name, place["account"])
        elif (verb, what) == ("modify", "user"):
            for name in place["name"].split(","):
                if "DefaultAccount" in place:
                    defaults[name] = place["DefaultAccount"]
                    continue
                before = members[place["account"], name]
                closed = {"0": True, "-1": False}.get(place.get("MaxSubmitJobs", ""), before.closed)
                own = frozenset(place["QOS"].split(",")) - {""} if "QOS" in place else before.qos
                members[place["account"], name] = Member(closed, own or None)
        else:
            raise AssertionError(command)
    return Shown(clusters, shown.resources, organizations, accounts_, everybody, qos, members, defaults)


NAMES = st.sampled_from(["ada", "grace", "charles", "maria", "root-2"])
GROUPS = st.fixed_dictionaries({name: st.frozensets(NAMES) for name in ("sequencing", "students", "biology")})
DIRECTORY = st.builds(People, st.frozensets(NAMES), st.frozensets(NAMES), GROUPS)
EMPTY = Shown(resources=accounting.GPU)


@given(before=DIRECTORY, after=DIRECTORY)
def test_what_was_carried_out_is_no_difference_any_more(pillar, before, after):
    there = EMPTY
    for people in (before, after):
        wanted = accounting.wanted(pillar, people)
        for part in (accounting.FIRST, accounting.GPUS):
            there = perform(there, accounting.plan(wanted, there, part).commands)
        assert accounting.plan(wanted, there).changes == {}
    # Exactly the members may charge an account, and nobody was deleted.
    members = {key for key, member in there.members.items() if not member.closed}
    assert members == {(account, user) for account, users in wanted.members.items() for user in users}
    assert there.members.keys() >= {("people", name) for name in before.names - before.locked}


@given(number=st.integers(1, 3000))
def test_commands_grow_with_kinds_of_changes_not_with_people(plain, number):
    people = People(frozenset(f"person-{count}" for count in range(number)))
    plan = accounting.plan(accounting.wanted(plain, people), EMPTY)
    assert len(plan.commands) == 2 + -(-number // accounting.CHUNK)


@given(text=st.text())
def test_answers_that_are_none_are_refused_and_never_half_read(text):
    for name in ANSWERS:
        try:
            accounting.shown({**ANSWERS, name: text})
        except VcoreError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("name", ["ada,grace", "ada account=root", "ada\n", "*", "-i", "x" * 40])
def test_a_name_that_is_none_reaches_no_command(pillar, name):
    with pytest.raises(VcoreError, match="which SLURM might not accept"):
        accounting.wanted(pillar, People(frozenset({name})))


@pytest.mark.parametrize(("text", "minutes"), [("10:00:00", 600), ("1-12:00:00", 2160), ("00:00:30", 1), ("x", "x")])
def test_durations(text, minutes):
    assert accounting.minutes(text) == minutes


def test_limits_of_gpus_wait_for_a_slurmctld_that_knows_of_them(pillar):
    with pytest.raises(VcoreError, match="knows of none yet"):
        accounting.plan(accounting.wanted(pillar, PEOPLE), Shown())


def test_all_but_limits_of_gpus_waits_for_nothing(pillar):
    plan = accounting.plan(accounting.wanted(pillar, PEOPLE), Shown(), accounting.FIRST)
    assert "gres" not in json.dumps([plan.changes, plan.commands])
    limits = accounting.plan(accounting.wanted(pillar, PEOPLE), EMPTY, accounting.GPUS)
    assert set(limits.changes) == {"account sequencing", "qos gpu"}


def test_slurm_conf_says_nothing_where_accounting_is_off(tmp_path, pillar):
    lines = dict(accounting.slurm_conf_lines(pillar))
    assert lines["AccountingStorageHost"] == "10.0.0.1"
    assert lines["AccountingStorageEnforce"] == "associations,limits,qos"
    off = SITE + "  services: {slurm-accounting: {enabled: false}}\n"
    assert accounting.slurm_conf_lines(sites.pillar(tmp_path, off)) == []


def test_the_order_of_services(pillar):
    order = list(pillar["services"])
    assert order.index("slurm-accounting") < order.index("slurm-controller") < order.index("slurm-compute")


def entry(**values):
    return plans.Entry("uid=x", {name: [value] for name, value in values.items()})


def test_the_site_file_is_as_good_as_done():
    """A run applies the site's people before accounting, so a plan counts on them."""
    present = plans.Present({"ada": entry(), "old": entry(), "grace": entry(shadowExpire="1")},
                               {"lab": entry(memberUid="ada")})  # fmt: skip
    site = {
        "ada": {"groups": []},
        "old": {"removed": True},
        "grace": {"locked": False},
        "new": {"locked": True, "groups": ["lab", "other"]},
    }
    people = sacctmgr.people({"people": site}, present)
    assert people.names == {"ada", "grace", "new"}
    assert people.locked == {"new"}
    assert people.groups == {"lab": {"new"}, "other": {"new"}}
