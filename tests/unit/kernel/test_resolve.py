"""What follows from a site, as golden files, and that a node sees only its own part."""

import json
from pathlib import Path

import pytest
from support import sites
from vcore.file_router import samba
from vcore.kernel import resolve
from vcore.nodes import registry

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / "golden" / "resolve"
#: A catalogue of the tests' own, so that new services of the project change nothing here.
CATALOGUE = FOLDER / "catalogue"
CLUSTER = """
vcore:
  site: {name: genomics, domain: core.example.org, organization: Genomics}
  base_directory: /data
  nodes:
    head: {roles: [head], address: 10.1.0.1}
    compute-1: {roles: [compute], address: 10.1.0.2}
  services:
    directory:
      node: compute-1
      memory: {limit: 2G}
"""


@pytest.fixture
def resolved(tmp_path):
    return sites.resolved(tmp_path, CLUSTER, services=CATALOGUE, head_address="10.9.9.9")


@pytest.mark.parametrize("minion", ["head", "compute-1"])
def test_the_pillar_of_a_node(resolved, minion, golden):
    golden(
        GOLDEN / f"{minion}.json", json.dumps(resolve.node_pillar(resolved, minion), indent=2, sort_keys=True) + "\n"
    )


def test_a_stranger_gets_nothing(resolved):
    assert resolve.node_pillar(resolved, "compute-2") == {}
    assert resolve.node_pillar(resolved, "*") == {}


def test_services_stand_behind_what_they_require(resolved):
    names = list(resolved["services"])
    assert names.index("store") < names.index("directory")


def test_the_suffix_follows_from_the_domain(resolved):
    assert resolved["services"]["directory"]["settings"]["suffix"] == "dc=core,dc=example,dc=org"


def test_certificates_name_the_service_and_its_node(resolved):
    certificate = resolved["services"]["directory"]["certificates"]["tls"]
    domain = "core.example.org"
    names = {"directory", f"directory.{domain}", "compute-1", f"compute-1.{domain}", "localhost", "people"}
    assert set(certificate["names"]) == names
    assert certificate["addresses"] == ["10.1.0.2", "127.0.0.1"]


def test_memory_of_the_site_wins_and_the_rest_stays(resolved):
    assert resolved["services"]["directory"]["memory"]["limit"] == 2 * 1024**3


def test_the_passwords_of_instruments_leave_the_head_only_where_the_file_router_wants_them(tmp_path):
    """They go to the node that runs the file router, with the scheme tdbsam, together with Samba's password policy."""
    text = (
        "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}, files: {roles: [compute], address: 10.0.0.2}}\n"
        "  services: {file-router: {enabled: true, node: files, settings: {password_scheme: SCHEME}}}\n"
        "  shares: {runs: {}}\n  instruments: {sequencer: {share: runs}}\n"
    )

    def core(scheme):
        return sites.resolved(tmp_path, text.replace("SCHEME", scheme))

    def wanted(resolved, node="files"):
        return [secret for secret in resolve.node_secrets(resolved, node) if secret[0] == "file-router"]

    assert wanted(core("ldapsam")) == []
    resolved = core("tdbsam")
    assert wanted(resolved) == [("file-router", "instrument-sequencer")]
    assert resolve.node_secrets(resolved, "head") == []
    assert samba.policies(resolve.node_pillar(resolved, "files")).keys() >= {"password history", "lockout duration"}


def test_the_join_token_of_the_swarm_is_for_nodes_that_have_not_joined(tmp_path):
    """A compute node has it until the manager has seen the node, and again when the manager has lost it."""

    def wanted(name, **entry):
        entries = {"new-1": {**registry.UNKNOWN, "roles": ["compute"], **entry}}
        resolved = sites.resolved(tmp_path, "vcore:\n  nodes: {head: {roles: [head]}}\n", enrolled=entries)
        return resolve.node_secrets(resolved, name)

    assert wanted("new-1") == [("swarm", "join-token")]
    assert wanted("new-1", swarm_id="abc") == []
    assert wanted("new-1", retiring=True) == []
    assert wanted("head") == []
    assert wanted("stranger") == []
