"""The settings of the directory's web page, and that it makes people as the accounts' functions do."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import sites
from vcore.base.paths import Paths
from vcore.directory import web
from vcore.people import plans, settings
from vcore.services import catalogue, templates

CHECKOUT = Path(__file__).parents[3]
SERVICES = CHECKOUT / "salt" / "states" / "services"
ROOT = CHECKOUT / "images" / "directory-web" / "rootfs"
SITE = """
vcore:
  site: {name: genomics, domain: core.example.org, organization: "Genes & <b>Genomics</b>"}
  nodes: {head: {roles: [head], address: 10.1.0.1}}
  accounts: {first_id: 20000, last_id: 29999, group: genomics, shell: /bin/zsh}
  services: {directory-web: {enabled: true}}
"""


@pytest.fixture
def core(tmp_path):
    return sites.pillar(tmp_path, SITE)


def rendered(core, name):
    service = core["services"]["directory-web"]
    names = templates.context(service, core, "")
    return templates.render(SERVICES / "directory-web" / "files", service["configs"][name]["template"], names)


def template(core, name):
    """Return the object classes, and each attribute's value or the function that makes it."""
    root = ElementTree.fromstring(rendered(core, name))
    values = {entry.get("id"): entry.findtext("value") for entry in root.iter("attribute")}
    return [entry.get("id") for entry in root.iter("objectClass")], values


def test_what_the_page_is_told(core):
    assert json.loads(rendered(core, "directory-web.json")) == {
        "organization": "Genes & <b>Genomics</b>",
        "suffix": "dc=core,dc=example,dc=org",
        "first_id": 20000,
        "last_id": 29999,
        "group": "genomics",
        "idle_timeout": 10,
    }


def test_a_person_made_there_is_one_of_ours(core):
    classes, values = template(core, "person.xml")
    ours = plans.person_attributes("ada", {}, number=20001, pillar=core, there=None)
    # The next run of the states adds Samba's classes and attributes.
    assert [name for name in ours["objectClass"] if not name.startswith("samba")] == classes
    assert {name for name in ours if not name.startswith("samba")} - {"objectClass"} <= set(values)
    assert [values["gidNumber"]] == ours["gidNumber"]
    assert [values["loginShell"]] == ours["loginShell"]
    assert not {"userPassword", "sambaNTPassword"} & set(values)


def test_a_group_made_there_is_one_of_ours(core):
    classes, values = template(core, "group.xml")
    assert classes == plans.GROUP_CLASSES
    assert "ou=people,dc=core,dc=example,dc=org" in values["member"]


def test_names_that_the_system_uses_are_the_same_ones():
    names = (ROOT / "etc" / "phpldapadmin" / "hooks" / "reserved-names").read_text().split()
    assert sorted(names) == sorted(settings.RESERVED_NAMES)


def test_the_directory_keeps_passwords_off_the_port_that_the_page_uses(core):
    listener = "ldaps://0.0.0.0:1636/"
    assert listener in (CHECKOUT / "images/ldap/rootfs/usr/lib/virtual-core/slapd.sh").read_text()
    assert "'ldaps://ldap:1636'" in (ROOT / "etc" / "phpldapadmin" / "config.php").read_text()
    names = templates.context(core["services"]["ldap"], core, "")
    lines = templates.render(SERVICES / "ldap" / "files", "config.ldif.j2", names).decode().splitlines()
    access = [line for line in lines if line.startswith(("olcAccess", "  by")) and "olcAccess: to *" not in line]
    database = access[next(i for i, line in enumerate(access) if "userPassword" in line) :]
    assert database[1] == f'  by sockurl.exact="{listener}" auth', "the rule comes before every other on passwords"


def test_it_needs_no_secret():
    service = catalogue.load(SERVICES)["directory-web"]
    assert service.secrets == {}, "people log in as themselves; there is nothing to be read there"


def test_its_address(core):
    assert web.address(core) == "https://10.1.0.1:8081/"
    core["nodes"]["head"]["address"] = "2001:db8::1"
    assert web.address(core) == "https://[2001:db8::1]:8081/"


def test_a_page_that_is_not_there_is_said_with_a_remedy(core, tmp_path):
    found = web.checks(core, Paths(checkout=CHECKOUT, configuration=tmp_path, state=tmp_path))
    assert [(entry["ok"], bool(entry["remedy"])) for entry in found] == [(False, True)] * 2
