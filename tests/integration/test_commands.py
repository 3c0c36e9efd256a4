"""The commands that people type on the head and elsewhere: their output and exit codes."""

from __future__ import annotations

import json

import jsonschema
import pytest
import vcore.kernel.pillar
import yaml


def test_the_schema_accepts_what_the_site_may_say_and_refuses_the_rest(core):
    done = core.run("salt-run", "--out=json", "vcore.schema")
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = yaml.safe_load(core.site.read_text())["vcore"]
    validator.validate(good)
    validator.validate(yaml.safe_load((core.checkout / "pillar" / "site.sls.example").read_text())["vcore"])
    for bad in (
        {**good, "netwrok": {}},
        {**good, "nodes": {}},
        {**good, "nodes": {"head": {"roles": ["haed"]}}},
        {**good, "base_directory": "relative"},
        {**good, "certificate_authority": {"lifetime": "long"}},
        {key: value for key, value in good.items() if key != "nodes"},
    ):
        assert not validator.is_valid(bad), bad


def test_show_prints_the_resolved_configuration(core):
    wanted = vcore.kernel.pillar.resolved(core.paths())
    done = core.run("salt-run", "--out=json", "vcore.show")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted


def test_show_prints_one_service(core):
    done = core.run("salt-run", "--out=json", "vcore.show", "ldap")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == vcore.kernel.pillar.resolved(core.paths())["services"]["ldap"]


def test_show_says_which_services_there_are(core):
    done = core.run("salt-run", "vcore.show", "nonsense")
    assert done.returncode != 0
    assert done.stdout == "no service 'nonsense' is switched on; there are: registry, ldap\n"


@pytest.mark.parametrize(
    ("minion", "command", "says"),
    [
        ("compute-1", "vcore.status", "this works on the head of a core only; run it there"),
        ("stranger", "vcore.doctor", "this minion's pillar has no vcore: the site names no node of its id"),
        ("compute-1", "vcore_secret.list", "this works on the head of a core only; run it there"),
    ],
)
def test_elsewhere_the_commands_of_the_head_say_so_in_a_sentence(core, minion, command, says):
    done = core.run("salt-call", command, on=minion)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).splitlines() == [f"Error running '{command}': {says}"]


def test_nodes_cannot_command_each_other(core):
    assert core.ask("head", "test.ping") is True
    mark = core.root / "commanded"
    assert core.ask("compute-1", "publish.publish", "head", "file.touch", str(mark)) == {}
    assert not core.ask("compute-1", "publish.runner", "vcore.show")
    assert not mark.exists()
    assert not core.options().get("peer")
    assert not core.options().get("peer_run")


@pytest.fixture
def record(core):
    """Return whether a command leaves a record of a convergence on the head."""
    path = core.paths().state / "convergence.json"

    def recorded(*command: str) -> bool:
        path.unlink(missing_ok=True)
        done = core.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        core.idle()
        return path.exists()

    return recorded


@pytest.mark.parametrize("command", [("salt", "head"), ("salt-call",)], ids=["salt", "salt-call"])
def test_whole_convergences_are_recorded_and_nothing_else(core, record, command):
    assert not record(*command, "state.apply", "test=True")
    assert not record(*command, "state.apply", "roles.node")
    assert record(*command, "state.apply")
    found = json.loads((core.paths().state / "convergence.json").read_text())
    assert found["ok"]
    assert (found["states"], found["failed"]) == (1, [])


def test_other_ways_to_say_it_are_told_apart_too(core):
    path = core.paths().state / "convergence.json"
    for function, arguments, named, whole in [
        ("state.apply", [], {"mods": "roles.node"}, False),
        ("state.apply", [], {"test": True, "queue": True}, False),
        ("state.sls", ["roles.node"], {}, False),
        ("test.ping", [], {}, False),
        ("state.highstate", [], {}, True),
        ("state.apply", [], {"queue": True}, True),
    ]:
        path.unlink(missing_ok=True)
        core.ask("head", function, *arguments, **named)
        core.idle()
        assert path.exists() == whole, (function, arguments, named)
