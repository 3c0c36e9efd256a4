"""Every config template of every service, rendered as swarm gets it; and what those of traits say in each of them."""

import json

import pytest
from support import sites
from vcore.services import templates

NODES = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  slurm: {mode: managed}\n"
SITES = {
    "managed": NODES,
    "without files": NODES + "  services: {file-router: {enabled: false}, login: {enabled: false}}\n",
    "tdbsam": NODES + "  services: {file-router: {settings: {password_scheme: tdbsam}}}\n",
}
#: The services whose containers know people: by what name they find the directory, and whether passwords are changed.
PEOPLE = {
    "file-router": ("ldaps://ldap", True),
    "login": ("ldaps://ldap", True),
    "slurm-accounting": ("ldaps://ldap", False),
    "slurm-compute": ("ldaps://ldap.vcore.test", False),
    "slurm-controller": ("ldaps://ldap.vcore.test", False),
}


def rendered(pillar, name):
    """The configs of a service, by name."""
    service = pillar["services"][name]
    names = templates.context(service, pillar, "ROOT\n")
    return {
        item: templates.render(templates.folder(name, config, sites.OURS), config["template"], names).decode()
        for item, config in service["configs"].items()
    }


@pytest.mark.parametrize("site", SITES)
def test_every_config_renders(tmp_path, site):
    pillar = sites.pillar(tmp_path, SITES[site])
    for name, service in pillar["services"].items():
        assert rendered(pillar, name).keys() == service["configs"].keys()


@pytest.mark.parametrize(
    ("site", "service"),
    [(site, service) for site in SITES for service in PEOPLE
     if site != "without files" or service.startswith("slurm")],
)  # fmt: skip
def test_who_knows_people_is_told_where_they_are(tmp_path, site, service):
    pillar = sites.pillar(tmp_path, SITES[site])
    directory, passwords = PEOPLE[service]
    configs = rendered(pillar, service)
    assert configs["authority.pem"] == "ROOT\n\n"
    assert json.loads(configs["people.json"]) == {
        "directory": directory,
        "suffix": "dc=vcore,dc=test",
        "group": "people",
        "file_server": "file-router" if passwords else None,
        "password_scheme": ("tdbsam" if site == "tdbsam" else "ldapsam") if passwords else None,
        "password_minimum_length": 10,
    }


def test_on_the_network_of_a_node_the_directory_has_the_port_that_it_is_published_at(tmp_path):
    pillar = sites.pillar(tmp_path, NODES)
    pillar["services"]["ldap"]["ports"]["ldaps"]["number"] = 1636
    found = {name: json.loads(rendered(pillar, name)["people.json"])["directory"] for name in PEOPLE}
    assert {name: address for name, address in found.items() if address != "ldaps://ldap"} == {
        "slurm-compute": "ldaps://ldap.vcore.test:1636",
        "slurm-controller": "ldaps://ldap.vcore.test:1636",
    }


def test_exactly_these_services_know_people(tmp_path):
    services = sites.pillar(tmp_path, NODES)["services"]
    assert {name for name, service in services.items() if "people.json" in service["configs"]} == set(PEOPLE)
