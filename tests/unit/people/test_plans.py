"""How people and groups become entries of the directory, who gets which number, and people as lines of a CSV file."""

import copy
import json
import os
import string
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import Invalid, VcoreError
from vcore.people import csv_lines, plans
from vcore.people.homes import Homes
from vcore.people.plans import Entry, Planner, Present, Taken
from vcore.people.settings import ACCOUNT_NAME, SHELLS, name_problem

CHECKOUT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden" / "accounts"
SERVICES = CHECKOUT / "salt" / "states" / "services"
BASE = "dc=core,dc=example,dc=org"
SITE = """
vcore:
  site: {name: genomics, domain: core.example.org, organization: Genomics}
  nodes:
    head: {roles: [head], address: 10.1.0.1}
    store: {roles: [compute], address: 10.1.0.2}
  accounts: {first_id: 20000, last_id: 20199, group: genomics}
  services:
    file-router: {enabled: true}
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada"


def pillar(folder, more=""):
    return sites.pillar(folder, SITE + more)


@pytest.fixture
def core(tmp_path):
    return pillar(tmp_path)


def dn(name):
    return f"uid={name},ou=people,{BASE}"


def person(name, number, **more):
    return Entry(dn(name), {
        "uid": [name], "uidNumber": [str(number)], "gidNumber": ["20000"], "cn": [name], "sn": [name],
        "objectClass": ["inetOrgPerson", "posixAccount"], "loginShell": ["/bin/sh"], "pwdChangedTime": ["2026"], **more,
    })  # fmt: skip


def group(name, number, uids=(), dns=()):
    return Entry(f"cn={name},ou=groups,{BASE}", {
        "cn": [name], "gidNumber": [str(number)], "objectClass": ["posixGroup", "vcoreMemberGroup"],
        "memberUid": list(uids), "member": [dn(uid) for uid in dns],
    })  # fmt: skip


def planner(core, tmp_path, present=None, taken=None, unfinished=()):
    homes = replace(Homes.of(core), folder=tmp_path / "home")
    return Planner(core, present or Present(), taken or Taken(), homes, unfinished)


# --- entries --------------------------------------------------------------------------------------------------------


def test_entries_of_each_kind(core, tmp_path, golden):
    present = Present(
        {"bob": person("bob", 20001), "lea": person("lea", 20002, shadowExpire=["1"])},
        {"lab": group("lab", 20001, ["bob"], ["bob"])},
    )
    made = planner(core, tmp_path, present)
    made.group("new", {"description": "A new one"})
    made.person("ada", {"given_name": "Ada", "surname": "Lovelace", "mail": "ada@example.org", "telephone": "+44 20",
                        "groups": ["lab", "new"], "shell": "/bin/zsh", "ssh_keys": [KEY]})  # fmt: skip
    made.person("zoe", {"uid": 20099, "locked": True})
    made.person("bob", {"surname": "Builder", "mail": "", "groups": []})
    made.everybody({}, {"ada", "zoe", "bob"})
    changes = made.done().changes(plans.Paths(configuration=Path("/etc/virtual-core")), made.homes)
    text = json.dumps(changes, indent=2, ensure_ascii=False).replace(str(tmp_path), "/srv")
    golden(GOLDEN / "changes.json", text + "\n")


@pytest.mark.parametrize(
    ("before", "locked", "after"),
    [
        ("", False, "[U          ]"),
        ("", True, "[DU         ]"),
        ("[U          ]", True, "[DU         ]"),
        ("[DU         ]", False, "[U          ]"),
        ("[UX         ]", True, "[DUX        ]"),
        ("[UX         ]", False, None),
        ("[DU         ]", True, None),
        ("[LU         ]", False, None),
        ("[LU         ]", True, "[DU         ]"),
        ("[DLU        ]", False, "[U          ]"),
    ],
)
def test_flags_of_samba(core, before, locked, after):
    there = person("ada", 20001, **({"sambaAcctFlags": [before]} if before else {}))
    wanted = plans.person_attributes("ada", {"locked": locked}, number=20001, pillar=core, there=there)
    assert wanted.get("sambaAcctFlags") == ([after] if after else None)


def test_either_mark_is_a_lock_and_a_passing_one_is_none(core):
    assert person("a", 1, shadowExpire=["1"]).locked
    assert person("a", 1, pwdAccountLockedTime=[plans.LOCKED]).locked
    assert not person("a", 1, pwdAccountLockedTime=["20260101000000Z"], shadowExpire=["30000"]).locked
    # The site's locks are the administrators' lock; they lift no other.
    there = person("a", 1, pwdAccountLockedTime=["20260101000000Z"], shadowExpire=["30000"])
    wanted = plans.person_attributes("a", {"locked": False}, number=1, pillar=core, there=there)
    assert not {"pwdAccountLockedTime", "shadowExpire"} & wanted.keys()


def test_nothing_is_planned_for_who_is_as_wanted(core, tmp_path):
    data = {"given_name": "Ada", "surname": "Lovelace", "groups": ["lab"], "ssh_keys": [KEY], "locked": True}
    first = planner(core, tmp_path, Present({}, {"lab": group("lab", 20001)}))
    first.person("ada", data)
    new = first.done().people["ada"]["new"]
    (tmp_path / "home" / "ada").mkdir(parents=True)
    os.chown(tmp_path / "home" / "ada", int(new["uidNumber"][0]), 20000)
    there = Entry(dn("ada"), {**new, "pwdChangedTime": ["2026"]})
    again = planner(core, tmp_path, Present({"ada": there}, {"lab": group("lab", 20001, ["ada"], ["ada"])}))
    again.person("ada", data)
    again.everybody({}, {"ada"})
    plan = again.done()
    assert (plan.people, plan.groups, plan.members, plan.passwords, plan.homes) == ({}, {}, {}, [], {})


def test_no_first_password_for_who_was_made_elsewhere(core, tmp_path):
    bare = person("web", 20001, pwdChangedTime=[])
    for unfinished, wanted in (((), []), (("web",), ["web"])):
        made = planner(core, tmp_path, Present({"web": bare}), unfinished=unfinished)
        made.everybody({}, ())
        assert made.done().passwords == wanted


# --- numbers --------------------------------------------------------------------------------------------------------


@given(
    used=st.sets(st.integers(0, 30)), past=st.sets(st.integers(0, 30)), first=st.integers(0, 30), size=st.integers(0, 9)
)
def test_a_number_is_never_in_use_and_only_at_need_an_old_one(used, past, first, size):
    last = first + size
    free = set(range(first, last + 1)) - used
    if not free:
        with pytest.raises(VcoreError, match="last_id"):
            plans.next_free(first, last, used, past)
        return
    number = plans.next_free(first, last, used, past)
    assert number in free
    assert number == min(free - past or free)


def test_numbers_of_the_directory_the_site_the_host_and_the_past_are_not_given(core, tmp_path):
    core["people"] = {"promised": {"uid": 20001, "removed": False}, "gone": {"uid": 20006, "removed": True}}
    present = Present({"bob": person("bob", 20000)}, {}, {20002: "robot"})
    made = planner(core, tmp_path, present, Taken(uids={20003: "daemon"}, past_uids=frozenset([20004])))
    for name in ("ada", "promised", "zoe"):
        made.person(name, {})
    numbers = {name: entry["new"]["uidNumber"] for name, entry in made.done().people.items()}
    assert numbers == {"ada": ["20005"], "promised": ["20001"], "zoe": ["20006"]}
    for number, holder in ((20000, "bob"), (20001, "promised"), (20002, "robot"), (20003, "daemon"), (20005, "ada")):
        with pytest.raises(Invalid, match=f"the uid {number} of max belongs to {holder}"):
            made.person("max", {"uid": number})
    with pytest.raises(Invalid, match="account of this host"):
        made.person("daemon", {})


def test_who_is_refused_takes_no_number(core, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ada").symlink_to("/etc")
    made = planner(core, tmp_path)
    with pytest.raises(Invalid, match="not a folder"):
        made.person("ada", {})
    with pytest.raises(Invalid, match="no group"):
        made.person("bob", {"groups": ["none"]})
    made.person("zoe", {})
    assert list(made.done().people) == ["zoe"] and made.plan.people["zoe"]["new"]["uidNumber"] == ["20000"]


def test_host_accounts(tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\n# comment\n+::::::\nuser:x:1000:1000:::\n\n")
    (tmp_path / "group").write_text("root:x:0:\nusers:x:100:user\n")
    taken = plans.host_accounts(tmp_path / "passwd", tmp_path / "group")
    assert (taken.uids, taken.gids) == ({0: "root", 1000: "user"}, {0: "root", 100: "users"})


# --- members --------------------------------------------------------------------------------------------------------

names = st.sets(st.sampled_from("abcdef"))


@given(by_uid=names, by_dn=names, before=names)
def test_agreed_members(by_uid, by_dn, before):
    agreed = plans.agreed_members(by_uid, by_dn, before)
    for name in by_uid | by_dn | before:
        if (name in by_uid) == (name in by_dn):
            assert (name in agreed) == (name in by_uid)
        else:
            assert (name in agreed) == (name not in before)


def test_members_are_changed_where_they_differ_and_nowhere_else(core, tmp_path):
    people = {name: person(name, 20010 + index) for index, name in enumerate(("ada", "bob", "eve", "zoe"))}
    groups = {
        "both": group("both", 20001, ["ada", "eve"], ["bob", "eve"]),
        "gone": group("gone", 20002, ["nobody", "zoe"], ["zoe"]),
        "genomics": group("genomics", 20000, ["ada"], []),
    }
    made = planner(core, tmp_path, Present(people, groups))
    made.everybody({"both": ["bob"]}, ())
    members = made.done().members
    assert set(members) == {"both", "gone", "genomics"}
    assert (members["both"].add_dn, members["both"].remove_dn) == ({"ada"}, {"bob"})
    assert not (members["both"].add_uid or members["both"].remove_uid)
    assert (members["gone"].removed, members["gone"].added) == (["nobody"], [])
    assert members["genomics"].remove_uid == {"ada"}


def test_a_plan_of_a_large_site_takes_no_time(core, tmp_path):
    """Looking at every member of every group for every person took 15 s."""
    people = {name: person(name, 20010 + index) for index, name in enumerate(f"p{n}" for n in range(8000))}
    groups = {f"g{n}": group(f"g{n}", 20001 + n, [*people][n::20], [*people][n::20]) for n in range(20)}
    del core["services"]["file-router"]
    made = planner(core, tmp_path, Present(people, groups))
    began = time.process_time()
    for index, name in enumerate(people):
        made.person(name, {"groups": [f"g{index % 20}"]})
    made.everybody({}, people)
    assert made.done().members == {}
    assert time.process_time() - began < 3


def test_the_first_group_of_people_stays(core, tmp_path):
    present = Present({"ada": person("ada", 20001, gidNumber=["20005"])}, {"lab": group("lab", 20005)})
    with pytest.raises(Invalid, match="primary group of ada"):
        planner(core, tmp_path, present).remove_group("lab")


# --- homes ----------------------------------------------------------------------------------------------------------


def test_where_homes_are(tmp_path):
    here = Homes.of(pillar(tmp_path))
    assert here.served and here.elsewhere is None
    assert here.path("ada") == Path("/srv/virtual-core/data/file-router/home/ada")
    assert here.archive == Path("/srv/virtual-core/data/file-router/data/archive")
    elsewhere = pillar(tmp_path)
    elsewhere["services"]["file-router"]["node"] = "store"
    there = Homes.of(elsewhere)
    assert not there.served and there.elsewhere == "store"
    off = pillar(tmp_path)
    del off["services"]["file-router"]
    assert not Homes.of(off).served and Homes.of(off).elsewhere is None
    off["accounts"]["archive"] = "/backup/homes"
    assert Homes.of(off).archive == Path("/backup/homes")


def test_homes_are_archived_where_root_alone_writes(core, tmp_path):
    homes = replace(Homes.of(core), folder=tmp_path / "home", archive=tmp_path / "archive")
    (tmp_path / "home" / "ada").mkdir(parents=True)
    homes.archive.mkdir()
    for owner, mode in ((0, 0o777), (0, 0o2770), (20001, 0o700)):
        os.chown(homes.archive, owner, 0)
        homes.archive.chmod(mode)
        with pytest.raises(VcoreError, match="others than root may write to"):
            homes.store("ada")
    assert list(homes.archive.iterdir()) == [] and (tmp_path / "home" / "ada").is_dir()


def test_a_home_that_its_owner_still_writes_to_is_deleted_all_the_same(core, tmp_path):
    homes = replace(Homes.of(core), folder=tmp_path / "home")
    (tmp_path / "home" / "ada" / "work").mkdir(parents=True)
    writer = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\nprint(flush=True)\nn = 0\n"
         "while True:\n    open(f'f{n}', 'w').close()\n    n += 1"],
        cwd=tmp_path / "home" / "ada" / "work", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        writer.stdout.read(1)
        threading.Timer(0.5, writer.kill).start()
        homes.delete("ada")
    finally:
        writer.kill()
        writer.communicate()
    assert list((tmp_path / "home").iterdir()) == []


# --- CSV ------------------------------------------------------------------------------------------------------------


def line(text):
    (found,) = csv_lines.parse(f"name,given_name,surname,mail,telephone,uid,groups,shell,ssh_keys\n{text}".encode())
    return found


def test_a_line_says_what_its_cells_say():
    keys = f"{KEY}; at work;ssh-rsa AAAA"
    found = line(f' ada ,Ada,"Lovelace, Countess",ada@example.org,+44 20,20042,lab; other ,/bin/zsh,{keys}')
    assert found == csv_lines.Line(2, "ada", {
        "given_name": "Ada", "surname": "Lovelace, Countess", "mail": "ada@example.org", "telephone": "+44 20",
        "uid": 20042, "groups": ["lab", "other"], "shell": "/bin/zsh", "ssh_keys": [f"{KEY}; at work", "ssh-rsa AAAA"],
    })  # fmt: skip
    assert line("ada,,,,,,,,").person == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("root,,,,,,,,", "'root': root is a name that the system uses"),
        ("\u0430da,,,,,,,,", "'\\u0430da': a name has"),
        ("ada", "has 1 cells where the header has 9"),
        ("ada,,,,,,,,,", "has 10 cells where"),
        ('ada,"Ada,,,,,,,', "is not CSV"),
        ('ada,"A"da,,,,,,,', "is not CSV"),
        ("ada,A\x07da,,,,,,,", "given_name 'A\\x07da': has to be text on one line"),
        ("ada,=1+1,,,,,,,", "given_name '=1+1': may not begin with"),
        ("ada,,@SUM(A1),,,,,,", "surname '@SUM(A1)': may not begin with"),
        ("ada,,,ada,,,,,", "mail 'ada': has to be a mail address"),
        ("ada,,,,ada,,,,", "telephone 'ada': has to be a telephone number"),
        ("ada,,,,,1e4,,,", "uid '1e4': has to be a whole number"),
        ("ada,,,,,\u0661\u0662,,,", "has to be a whole number"),
        ("ada,,,,,100,,,", "uid 100: Input should be greater than or equal to 9001"),
        ("ada,,,,,,a b,,", "groups 'a b': a name has"),
        ("ada,,,,,,root,,", "groups 'root': root is a name"),
        ("ada,,,,,,,bash,", "shell 'bash': has to be one of /bin/bash, /bin/sh"),
        ("ada,,,,,,,,AAAA", "ssh_keys 'AAAA': has to be a public ssh key"),
        (f"ada,{'x' * 129},,,,,,,", "is too long"),
    ],
)
def test_a_bad_line_is_told_in_one_line(text, problem):
    found = line(text)
    assert found.person is None and problem in found.problem
    assert found.problem.isascii() and "\n" not in found.problem


def test_what_stands_twice():
    text = "name,uid\nada,20001\nada,\nbob,20001\nbob,x\nbob,20002\n"
    assert [(found.number, found.problem) for found in csv_lines.parse(text.encode())] == [
        (2, ""), (3, "ada is already on line 2"), (4, "uid 20001 is already on line 2"),
        (5, "uid 'x': has to be a whole number"), (6, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1"),
        (b"ada,Ada\n", "line 1: 'ada': unknown column"),
        (b"name,nmae\n", "unknown column; did you mean name?"),
        (b"given_name,mail\n", "line 1 has to name the columns"),
        (b"name,mail,mail\n", "the column mail occurs twice"),
        (b"name;mail\n", "line 1: 'name;mail'"),
        (b'"name\n', "line 1 is not CSV"),
        (b"name\nada\n\xff\n", "line 3 is not UTF-8"),
        ("name\nada\n".encode("utf-16"), "line 1 is not UTF-8"),
    ],
)
def test_what_is_no_such_file(content, problem):
    with pytest.raises(Invalid) as error:
        csv_lines.parse(content)
    assert problem in str(error.value)


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text(alphabet='name,gv_;\n\r"ax\0 ', max_size=200))
def test_no_text_breaks_the_parser(text):
    for content in (text, f"name,mail\n{text}"):
        try:
            lines = csv_lines.parse(content.encode(errors="surrogatepass"))
        except Invalid:
            continue
        for found in lines:
            assert (found.person is None) == bool(found.problem)
            assert found.person is None or name_problem(found.name) is None
            assert "\n" not in found.problem


printable = st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
called = printable.filter(lambda text: text[0] not in "=+-@")
account = st.from_regex(ACCOUNT_NAME, fullmatch=True).filter(lambda name: name_problem(name) is None)
word = st.text(alphabet=string.ascii_letters + string.digits, min_size=1, max_size=12)
people = st.fixed_dictionaries({}, optional={
    "given_name": called, "surname": called, "mail": st.builds("{}@{}".format, word, word),
    "telephone": st.from_regex(r"\+[0-9]{1,9}( [0-9]{1,4}){0,3}", fullmatch=True),
    "uid": st.integers(9001, 2_000_000_000), "groups": st.lists(account, min_size=1, max_size=3),
    "shell": st.sampled_from(SHELLS),
    "ssh_keys": st.lists(st.builds("ssh-rsa {} {}".format, word, word), min_size=1, max_size=2),
})  # fmt: skip


@settings(max_examples=100)
@given(st.dictionaries(account, people, max_size=4))
def test_what_is_written_is_read(everybody):
    numbers = [data["uid"] for data in everybody.values() if "uid" in data]
    before = copy.deepcopy(everybody)
    content = csv_lines.write(everybody.items())
    assert everybody == before
    found = csv_lines.parse(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    if len(set(numbers)) == len(numbers):
        assert {line.name: line.person for line in found} == everybody


def test_an_export_leaves_out_what_an_import_would_not_take():
    data = {"telephone": "=1+1", "given_name": "=1+1", "surname": "two\nlines", "mail": "ada@example.org"}
    assert csv_lines.write([("ada", data)]).splitlines()[1] == b"ada,,,ada@example.org,,,,,"
