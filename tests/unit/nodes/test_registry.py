"""The registry of enrolled nodes, and which of its facts reach the resolved configuration."""

import json

import pytest
from support import sites
from vcore.base.errors import VcoreError
from vcore.kernel import resolve
from vcore.nodes import registry as nodes_registry

SITE = """
vcore:
  nodes:
    head: {roles: [head], address: 10.0.0.1}
    named: {roles: [compute], address: 10.0.0.2}
"""


@pytest.fixture
def registry(tmp_path):
    return nodes_registry.Registry(tmp_path / "configuration" / "nodes.json")


def test_an_entry_has_every_key_and_keeps_what_is_not_changed(registry):
    assert registry.read() == {}
    registry.update({"compute-1": {"roles": ["compute"], "by": "token"}})
    registry.update({"compute-1": {"address": "10.0.0.11"}, "compute-2": {"by": "hand"}})
    found = registry.read()
    assert found["compute-1"] == {**nodes_registry.UNKNOWN, "roles": ["compute"], "by": "token", "address": "10.0.0.11"}
    registry.remove(["compute-1", "never-there"])
    assert list(registry.read()) == ["compute-2"]


def test_the_file_is_for_root_only(registry):
    registry.update({"compute-1": {}})
    assert registry.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["*", "a,b", "x\nNodeName=evil", "", "Compute", "-a", "a" * 64])
def test_what_is_no_name_is_refused_and_nothing_is_written(registry, name):
    with pytest.raises(VcoreError, match="is no name for a node"):
        registry.update({"good": {}, name: {}})
    assert registry.read() == {}


def test_a_key_that_no_entry_has_is_refused(registry):
    with pytest.raises(VcoreError, match="no colour"):
        registry.update({"compute-1": {"colour": "red"}})


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [1]}'])
def test_a_damaged_file_is_named_with_the_remedy(registry, text):
    registry.path.parent.mkdir()
    registry.path.write_text(text)
    with pytest.raises(VcoreError, match=r"nodes\.json: damaged .* enrol the nodes again"):
        registry.read()


def test_an_enrolled_node_is_a_node_and_the_site_file_wins(tmp_path, registry):
    registry.update(
        {
            "compute-1": {"roles": ["compute"], "address": "10.0.0.11", "swarm_id": "abc"},
            "named": {"roles": ["compute"], "address": "10.0.0.99"},
            "by-hand": {"by": "hand"},
        }
    )
    path = tmp_path / "site"
    path.mkdir()
    resolved = sites.resolved(path, SITE, enrolled=registry.read())
    assert set(resolved["nodes"]) == {"head", "named", "compute-1"}, "a key alone gives no role"
    assert resolved["nodes"]["named"]["address"] == "10.0.0.2"
    assert resolved["nodes"]["compute-1"]["roles"] == ["compute"]
    assert resolve.node_pillar(resolved, "compute-1")["node"]["address"] == "10.0.0.11"
    assert resolve.node_pillar(resolved, "by-hand") == {}
    assert "10.0.0.2" not in json.dumps(resolve.node_pillar(resolved, "compute-1")), "a node sees another one"
