"""A mistake in the site file: every command reports it in one clear line, and nothing is done."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from vcore.host import network
from vcore.kernel import convergence


def clash() -> tuple[str, str]:
    """Return the network through which this machine reaches the world, and its interface."""
    route = next(route for route in network.read_routes() if ip_address(network.own_address() or "") in route.network)
    return str(route.network), route.interface


NETWORK, INTERFACE = clash()

#: By name: the text of a good site that is replaced, the replacement, and the resulting line.
MISTAKES = {
    "yaml": ("services:", "services: [", "site.sls:10: not valid YAML: expected ',' or ']', but got '<scalar>'"),
    "unknown key": ("network:", "netwrok:", "site.sls:4: vcore.netwrok: unknown key; did you mean network?"),
    "two heads": (
        "[compute]",
        "[head]",
        "site.sls:5: vcore.nodes: exactly one node has the role head, not 2: head, compute-1",
    ),
    "subnet clash": (
        "198.18.0.0/24",
        NETWORK,
        f"site.sls:4: vcore.network.subnet: {NETWORK} overlaps {NETWORK}, which this host reaches by {INTERFACE}",
    ),
    "required service off": (
        "  services:\n",
        "  services:\n    registry: {enabled: false}\n",
        "site.sls:9: vcore.services.registry.enabled: "
        "the service ldap requires registry; switch registry on, or ldap off",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_on_every_node_and_runs_no_state(core, mistake):
    right, wrong, line = MISTAKES[mistake]
    good = core.site.read_text()
    assert right in good
    core.site.write_text(good.replace(right, wrong, 1))

    applied = core.run("salt", "--out=json", "--out-indent=-1", "*", "state.apply")
    assert applied.returncode != 0
    told = ["Pillar failed to render with the following messages:", f"Failed to load ext_pillar vcore: {line}"]
    answers = [json.loads(answer) for answer in applied.stdout.splitlines()]
    assert sorted(answers, key=str) == [{"compute-1": told}, {"head": told}, {"stranger": told}]
    assert core.converged() == {}
    core.idle()
    record = convergence.last(core.paths())
    assert record is not None
    assert not record["ok"]
    assert record["failed"] == told

    checked = core.run("salt-run", "vcore.validate")
    assert checked.returncode != 0
    assert checked.stdout == f"{line}\n"

    # Once corrected, the site works at once: nothing was restarted or refreshed.
    core.site.write_text(good)
    core.ask("*", "state.apply")
    assert core.converged() == {"head": "Department of Tests", "compute-1": "Department of Tests"}


def test_a_valid_site_is_called_valid(core):
    checked = core.run("salt-run", "vcore.validate")
    assert (checked.returncode, checked.stdout) == (0, "The configuration is valid.\n")


def test_a_changed_setting_is_seen_by_the_next_run(core):
    core.site.write_text(core.site.read_text().replace("Department of Tests", "Another One"))
    core.ask("*", "state.apply")
    assert core.converged() == {"head": "Another One", "compute-1": "Another One"}


@pytest.mark.parametrize("command", ["vcore.show", "vcore.validate"])
def test_the_runners_say_a_mistake_without_a_traceback(core, command):
    core.site.unlink()
    done = core.run("salt-run", command)
    assert done.returncode != 0
    assert len(done.stdout.splitlines()) == 1
    assert "copy site.sls.example to it" in done.stdout
    assert "Traceback" not in done.stderr
