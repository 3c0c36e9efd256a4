"""What the core wants in the directory, how it compares that with what is there, and slapd's configuration."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.paths import Paths
from vcore.directory import client
from vcore.directory import entries as directory_entries
from vcore.kernel.documents import SiteError
from vcore.services import templates

CHECKOUT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden" / "directory"
SERVICES = CHECKOUT / "salt" / "states" / "services"
SITE = """
vcore:
  site: {name: genomics, domain: core.example.org, organization: "Genomics: Dept. of Zoë"}
  nodes:
    head: {roles: [head], address: 10.1.0.1}
  services:
    ldap:
      settings:
"""


def pillar(folder, settings=""):
    return sites.pillar(folder, SITE + (settings or "        log_level: none\n"))


@pytest.fixture
def core(tmp_path):
    return pillar(tmp_path)


def test_wanted_entries(core, golden):
    golden(
        GOLDEN / "entries.json", json.dumps(directory_entries.wanted_entries(core), indent=2, ensure_ascii=False) + "\n"
    )


def test_configuration(core, golden):
    names = templates.context(core["services"]["ldap"], core, "")
    golden(GOLDEN / "config.ldif", templates.render(SERVICES / "ldap" / "files", "config.ldif.j2", names).decode())


def test_every_setting_reaches_the_directory(tmp_path):
    def derived(settings):
        core = pillar(tmp_path, settings)
        names = templates.context(core["services"]["ldap"], core, "")
        rendered = templates.render(SERVICES / "ldap" / "files", "config.ldif.j2", names)
        return rendered, directory_entries.wanted_entries(core)

    other = {
        "suffix": "dc=example,dc=org",
        "password_minimum_length": 20,
        "password_history": 0,
        "lockout_failures": 0,
        "lockout_duration": 1,
        "database_maximum_size": "1G",
        "log_level": "stats",
    }
    known = pillar(tmp_path)["services"]["ldap"]["settings"]
    assert set(other) == set(known)
    plain = derived("")
    for name, value in other.items():
        assert derived(f"        {name}: {value}\n") != plain, f"{name} changes nothing"


@pytest.mark.parametrize(
    "settings",
    [
        "suffix: o=example",
        'suffix: "dc=example\\nolcRootPW: x"',
        "password_minimum_length: 7",
        "password_history: -1",
        "lockout_failures: many",
        "lockout_duration: -1",
        "database_maximum_size: 1M",
        "log_level: any",
    ],
)
def test_bad_settings_are_refused(tmp_path, settings):
    name = settings.partition(":")[0]
    with pytest.raises(SiteError, match=f"vcore.services.ldap.settings.{name}"):
        pillar(tmp_path, f"        {settings}\n")


def test_parents_come_first_and_no_password_is_planned(core):
    seen = {directory_entries.suffix(core).partition(",")[2]}
    for dn, attributes in directory_entries.wanted_entries(core).items():
        assert dn.partition(",")[2] in seen
        seen.add(dn)
        assert not any(directory_entries.is_hash(name) for name in attributes)
    assert set(directory_entries.service_accounts(core)) < seen


def test_secrets_of_the_service_accounts_are_in_the_catalogue(core):
    secrets = core["services"]["ldap"]["secrets"]
    for name in directory_entries.service_accounts(core).values():
        # These passwords stay on the head: the directory gets them by its own protocol.
        assert secrets[name]["path"] is None


def test_no_lockout_when_no_failure_locks(tmp_path):
    entries = directory_entries.wanted_entries(pillar(tmp_path, "        lockout_failures: 0\n"))
    policy = entries["cn=default,ou=policies,dc=core,dc=example,dc=org"]
    # An administrator's lock has to hold in any case, which it would not with pwdLockout FALSE.
    assert (policy["pwdLockout"], policy["pwdMaxFailure"]) == (["TRUE"], ["0"])


def test_the_address_of_the_directory(core):
    assert directory_entries.uri(core) == "ldaps://10.1.0.1:636"
    core["nodes"]["head"]["address"] = "fd00::1"
    assert directory_entries.uri(core) == "ldaps://[fd00::1]:636"


@pytest.mark.parametrize(
    "name", ["userPassword", "USERPASSWORD", "userPassword;lang-de", "pwdHistory", "sambaNTPassword"]
)
def test_hashes_are_known_by_any_spelling(name):
    assert directory_entries.is_hash(name)
    assert not directory_entries.is_hash(f"x{name}")


def test_diff_of_each_kind():
    wanted = {
        "dc=x": {"objectClass": ["organization"], "o": ["X"]},
        "ou=a,dc=x": {"objectClass": ["organizationalUnit"], "ou": ["a"]},
        "ou=b,dc=x": {"objectClass": ["organizationalUnit"], "ou": ["b"]},
    }
    current = {
        "dc=x": {"objectclass": ["ORGANIZATION", "extensibleObject"], "O": ["Y"], "description": ["theirs"]},
        "ou=a,dc=x": {"objectClass": ["top", "organizationalUnit"], "ou": ["a"]},
        "ou=theirs,dc=x": {"ou": ["theirs"]},
    }
    assert directory_entries.diff(current, wanted) == {
        "dc=x": {"old": {"o": ["Y"]}, "new": {"o": ["X"]}},
        "ou=b,dc=x": {"old": None, "new": wanted["ou=b,dc=x"]},
    }
    current["ou=b,dc=x"] = {"objectClass": ["extensibleObject"]}
    assert directory_entries.diff(current, wanted)["ou=b,dc=x"] == {
        "old": {"objectClass": ["extensibleObject"], "ou": []},
        "new": {"objectClass": ["extensibleObject", "organizationalUnit"], "ou": ["b"]},
    }


values = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3, unique_by=str.lower)
entry = st.dictionaries(st.sampled_from(["objectClass", "cn", "description", "pwdMinLength"]), values)
trees = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), entry)


@given(current=trees, wanted=trees)
def test_applying_a_diff_leaves_none_and_touches_nothing_else(current, wanted):
    before, asked = copy.deepcopy(current), copy.deepcopy(wanted)
    changes = directory_entries.diff(current, wanted)
    assert (current, wanted) == (before, asked)
    for dn, change in changes.items():
        current[dn] = {**(current.get(dn) or {}), **change["new"]}
        if change["old"] is not None:
            assert change["old"].keys() == change["new"].keys() <= wanted[dn].keys()
    assert directory_entries.diff(current, wanted) == {}
    for dn, attributes in before.items():
        for name, there in attributes.items():
            if name not in wanted.get(dn, {}):
                assert current[dn][name] == there
        assert set(attributes.get("objectClass", [])) <= set(current[dn].get("objectClass", []))


def test_a_plan_shows_passwords_by_name_only():
    planned = client.Plan({"a": {"old": {"o": ["x"]}, "new": {"o": ["y"]}}}, {"a": "a-password", "b": "b-password"}, {})
    assert planned.changes() == {
        "a": {
            "old": {"o": ["x"], "userPassword": "another one"},
            "new": {"o": ["y"], "userPassword": "the secret ldap/a-password"},
        },
        "b": {"old": {"userPassword": "another one"}, "new": {"userPassword": "the secret ldap/b-password"}},
    }
    assert planned.entries == {"a": {"old": {"o": ["x"]}, "new": {"o": ["y"]}}}


def test_a_directory_that_nobody_made_is_planned_whole(core, tmp_path):
    paths = Paths(CHECKOUT, tmp_path / "etc", tmp_path / "state")
    core["services"]["ldap"]["volumes"]["data"]["source"] = str(tmp_path)
    assert not client.has_been_up(core, paths)
    changes = client.plan(core, paths, None).changes()
    assert {dn: change["new"] for dn, change in changes.items()} == directory_entries.wanted_entries(core)
    assert not (tmp_path / "etc").exists() and not (tmp_path / "state").exists()
    (tmp_path / "data.mdb").touch()
    assert client.has_been_up(core, paths)
