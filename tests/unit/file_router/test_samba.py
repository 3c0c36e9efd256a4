"""smb.conf and the accounts of instruments as they follow from a site."""

import copy
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import VcoreError
from vcore.directory import samba_ids
from vcore.file_router import samba

CHECKOUT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden" / "file-router"
SERVICES = CHECKOUT / "salt" / "states" / "services"
SITE = """
vcore:
  site: {name: genomics, domain: core.example.org, organization: Genomics}
  nodes:
    head: {roles: [head], address: 10.1.0.1}
  groups: {sequencing: {gid: 10500}}
  shares:
    runs:
      path: sequencing/runs
      description: "Runs of the sequencers; 100% [raw] \\\\ Zoë"
      read: [ada, "@people"]
      write: ["@sequencing"]
      group: sequencing
      recycle: true
      nfs: [{hosts: 10.0.0.0/8}, {hosts: 10.1.2.3, access: rw, squash: none}, {hosts: 10.1.0.0/16, any_port: true}]
    software: {read: ["@people"], mode: "2755", nfs: [{hosts: 0.0.0.0/0, squash: all}]}
    hidden: {write: [ada, "@sequencing"], visible: false, mode: "0700"}
    machines: {smb: false, nfs: [{hosts: 172.16.0.0/12, access: rw}]}
    private: {}
  instruments:
    sequencer: {share: runs}
    scanner: {share: hidden}
  services:
    file-router: {enabled: true, settings: {SETTINGS}}
"""
SETTINGS = {
    "ldapsam": "workgroup: GENOMICS",
    "tdbsam": "password_scheme: tdbsam, minimum_protocol: SMB2, homes: false, nfs_3: true",
}


def pillar(folder, settings="", text=SITE):
    return sites.pillar(folder, text.replace("SETTINGS", settings))


@pytest.fixture
def core(tmp_path):
    return pillar(tmp_path)


@pytest.mark.parametrize("case", SETTINGS)
def test_smb_conf(tmp_path, case, golden):
    golden(GOLDEN / f"{case}.smb.conf", samba.smb_conf(pillar(tmp_path, SETTINGS[case])))


def sections(text):
    found = {}
    for line in text.splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = section = {}
        elif " = " in line:
            key, _, value = line.strip().partition(" = ")
            assert key not in section, f"{key} stands twice"
            section[key] = value
    return found


def test_a_share_that_nobody_may_use_is_not_offered(core):
    assert set(sections(samba.smb_conf(core))) == {"global", "homes", "runs", "software", "hidden"}
    assert set(samba.offered(core)) == {"runs", "software", "hidden"}


def test_an_instrument_is_let_in_to_its_share_alone(core):
    found = sections(samba.smb_conf(core))
    for name, section in found.items():
        principals = section.get("valid users", "").split()
        assert ("sequencer" in principals) == (name == "runs")
        assert ("scanner" in principals) == (name == "hidden")
    assert "+_instruments" in found["homes"]["invalid users"].split()


def test_nobody_is_let_in_by_default(core):
    for name, section in sections(samba.smb_conf(core)).items():
        assert name == "global" or section["valid users"], name


def test_what_is_made_follows_the_mode(core):
    found = sections(samba.smb_conf(core))
    masks = ("create mask", "force create mode", "directory mask", "force directory mode")
    assert [found["runs"][mask] for mask in masks] == ["0660", "0660", "2770", "2770"]
    assert [found["software"][mask] for mask in masks] == ["0644", "0644", "2755", "2755"]
    assert [found["hidden"][mask] for mask in masks] == ["0600", "0600", "0700", "0700"]


@given(description=st.text(max_size=60))
def test_no_description_breaks_out_of_its_line(description):
    share = {
        "path": "a",
        "description": description,
        "read": ["ada"],
        "write": [],
        "group": None,
        "mode": "2770",
        "smb": True,
        "visible": True,
        "recycle": False,
        "nfs": [],
    }
    core = {
        "services": {
            "file-router": {
                "settings": {"homes": False, "workgroup": "W", "minimum_protocol": "SMB3", "password_scheme": "tdbsam"}
            }
        },
        "shares": {"a": share},
        "routes": {},
        "instruments": {},
        "accounts": {"group": "people"},
    }
    plain = samba.smb_conf({**core, "shares": {"a": {**share, "description": None}}})
    text = samba.smb_conf(core)
    more = [line for line in text.splitlines() if line not in plain.splitlines()]
    assert len(more) <= 1
    assert all(line.startswith("   comment = ") and not line.endswith("\\") and "%" not in line for line in more)


@pytest.mark.parametrize("value", ["a\nb", "a\r", "x\\", "%U", "a]", "[a", " a", "a\u2028b", "a\x00", "a\u0085"])
def test_what_would_break_out_is_refused(core, value):
    for change in (
        lambda c: c["shares"]["runs"].update(path=value),
        lambda c: c["shares"]["runs"].update(group=value),
        lambda c: c["shares"]["runs"].update(write=[value]),
        lambda c: c["shares"].update({value: c["shares"]["runs"]}),
        lambda c: c["instruments"].update({value: {"share": "runs"}}),
        lambda c: c["services"]["file-router"]["settings"].update(workgroup=value),
        lambda c: c["directory"].update(suffix=value),
    ):
        broken = copy.deepcopy(core)
        change(broken)
        with pytest.raises(VcoreError, match=r"is not allowed in smb\.conf"):
            samba.smb_conf(broken)


@pytest.mark.parametrize("value", ["ada bob", "ada,bob", "a;b", 'a"b', "@a b"])
def test_a_principal_is_one(core, value):
    core["shares"]["runs"]["write"] = [value]
    with pytest.raises(VcoreError, match=r"is not allowed in smb\.conf"):
        samba.smb_conf(core)


# --- identifiers and accounts ---------------------------------------------------------------------------------------


DOMAIN = "S-1-5-21-2390166447-2247480634-3190253550"


def test_identifiers_stay_as_they_are():
    # Directories hold these identifiers: no version of the code may compute others.
    assert samba_ids.domain_sid("dc=core,dc=example,dc=org") == DOMAIN
    assert samba_ids.domain_sid("DC=core,dc=Example,dc=org") == DOMAIN
    assert samba_ids.person_sid("dc=core,dc=example,dc=org", 10001) == f"{DOMAIN}-21002"
    assert samba.instrument_numbers(["sequencer", "scanner"]) == {"scanner": 2111009650, "sequencer": 2139282753}


@given(st.text(alphabet="dcou=,abc", max_size=40))
def test_an_identifier_is_one(suffix):
    parts = samba_ids.domain_sid(suffix).split("-")
    assert parts[:4] == ["S", "1", "5", "21"]
    assert len(parts) == 7
    assert all(0 <= int(part) < 2**32 for part in parts[4:])


def test_numbers_of_instruments_depend_on_nothing_else():
    alone = samba.instrument_numbers(["b"])["b"]
    assert samba.instrument_numbers(["a", "b", "c"])["b"] == alone
    assert samba.FIRST_INSTRUMENT <= alone <= samba.LAST_INSTRUMENT
    # The largest identifier has to fit into 32 bits.
    struct.pack(">I", 2 * samba.LAST_INSTRUMENT + 1000)


def test_the_hash_is_that_of_windows():
    # [MS-NLMP] 4.2.2.1.2
    assert samba.nt_hash("Password") == "A4F49C406510BDCAB6824EE7C30FD852"


def test_accounts_of_instruments(core):
    assert samba.passwd(core) == (
        "scanner:x:2111009650:2147000001:instrument:/nonexistent:/usr/sbin/nologin\n"
        "sequencer:x:2139282753:2147000001:instrument:/nonexistent:/usr/sbin/nologin\n"
    )
    assert samba.group(core) == "_instruments:x:2147000001:\n"
    line = samba.smbpasswd({"scanner": "A" * 32}).rstrip("\n").split(":")
    assert line == ["scanner", "2111009650", "X" * 32, "A" * 32, "[UX         ]", "LCT-00000001", ""]
    assert len(samba.FLAGS) == 13
    entry = samba.instrument_entry("dc=x", "scanner", 2111009650)
    assert "userPassword" not in entry
    assert entry["objectClass"] == ["account", "sambaSamAccount"]


def test_an_account_is_one_line(core):
    for name in ("a:b", "a,b", "a\nb"):
        with pytest.raises(VcoreError):
            samba.passwd({"instruments": {name: {}}})


def test_policies_follow_the_directory(tmp_path):
    core = pillar(tmp_path, SETTINGS["tdbsam"])
    assert samba.policies(core) == {
        "bad lockout attempt": 10,
        "lockout duration": 5,
        "reset count minutes": 5,
        "min password length": 10,
        "password history": 0,
    }
    core["directory"]["policy"].update(lockout_duration=0)
    assert samba.policies(core)["lockout duration"] == -1
    assert "password history" not in samba.policies(pillar(tmp_path))


def test_files_of_another_server_are_not_kept_by_clients(tmp_path):
    """smbd must not grant oplocks there: only then do locks reach the other server."""
    text = (
        "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  services: {file-router: {enabled: true}}\n"
        "  shares: {nas: {read: [ada]}, own: {read: [ada]}}\n"
        "  routes: {runs: {kind: mount, protocol: nfs, server: nas.example.org, source: /runs, path: nas/runs}}\n"
    )
    found = sections(samba.smb_conf(sites.pillar(tmp_path, text)))
    assert found["nas"]["oplocks"] == "no"
    assert "oplocks" not in found["own"]
