"""What each node learns about the core: through its pillar, the fileserver, and by pretending to be somebody else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import salt.channel.client
import salt.loader
import vcore.kernel.pillar
from salt.exceptions import AuthenticationError

MASKED = "**********"


def pillar(core, minion: str) -> dict[str, Any]:
    """Return the pillar that the master compiles for a minion, with its values."""
    return core.ask(minion, "pillar.items", unmask=True)


def test_the_head_gets_the_whole_configuration(core):
    found = pillar(core, "head")
    assert found == {"vcore": vcore.kernel.pillar.pillar(core.paths(), "head")}
    assert set(found["vcore"]["services"]) == {"ldap", "registry"}
    assert found["vcore"]["services"]["ldap"]["settings"]["suffix"] == "dc=core,dc=test"


def test_a_compute_node_gets_its_part_only(core):
    found = pillar(core, "compute-1")["vcore"]
    common = {"site", "base_directory", "states", "network", "head", "names", "registry", "directory", "storage"}
    assert set(found) == common | {"node", "services"}
    assert found["head"] == {"name": "head", "address": "10.0.0.1"}
    assert found["node"] == {
        "name": "compute-1",
        "roles": ["compute"],
        "address": "10.0.0.2",
        "logins": None,
        "enrolled": None,
        "swarm_id": None,
        "hardware": None,
        "forgotten": None,
        "retiring": False,
        "services": ["ldap"],
        "storage": {},
    }
    # The directory is pinned here, so its data folder has to be made; the registry is not.
    assert set(found["services"]) == {"ldap"}
    assert set(found["services"]["ldap"]) == {"name", "node", "volumes", "node_states"}
    assert "secret" not in json.dumps(found)


def test_a_stranger_gets_nothing(core):
    assert pillar(core, "stranger") == {}


def test_the_authority_reaches_nodes_as_its_certificate_without_its_key(core):
    authority = core.paths().authority
    authority.mkdir(parents=True)
    (authority / "ca.crt").write_text("the certificate")
    (authority / "ca.key").write_text("the private key")
    found = {minion: pillar(core, minion) for minion in ("head", "compute-1", "stranger")}
    assert found["head"]["vcore"]["authority_certificate"] == "the certificate"
    assert found["compute-1"]["vcore"]["authority_certificate"] == "the certificate"
    assert found["stranger"] == {}
    assert "the private key" not in json.dumps(found)


def test_salt_call_shows_the_structure_of_the_pillar_and_masks_its_values(core):
    done = core.run("salt-call", "--out=json", "pillar.items", on="compute-1")
    found = json.loads(done.stdout)["local"]["vcore"]
    common = {"site", "base_directory", "states", "network", "head", "names", "registry", "directory", "storage"}
    assert set(found) == common | {"node", "services"}
    assert found["site"]["domain"] == MASKED
    assert "core.test" not in done.stdout


def test_states_read_the_values_that_commands_mask(core):
    assert core.ask("head", "pillar.get", "vcore:site:organization") == MASKED
    core.ask("head", "state.apply")
    assert core.converged() == {"head": "Department of Tests"}


def test_each_node_gets_the_states_of_its_roles(core):
    assert core.ask("*", "state.show_top") == {
        "head": {"base": ["roles.node", "roles.head"]},
        "compute-1": {"base": ["roles.node", "roles.compute"]},
        "stranger": {"base": []},
    }


@pytest.mark.parametrize("name", ["*", "", "Head", "head ", "head\n", "../head", "x', foo: [{{ 7*7 }}]", "compute-2"])
def test_ids_that_the_site_does_not_name_get_nothing(core, name):
    options = core.options()
    assert salt.loader.pillars(options, {})["vcore"](name, {}) == {}
    assert salt.loader.pillars(options, {})["vcore"]("head", {})["vcore"]["node"]["name"] == "head"


# --- as an attacker on a node, who speaks the protocol ------------------------------------------------------------


class Claim(dict):
    """A request that keeps the minion id with which it was made; Salt's client would replace it by its own."""

    def __setitem__(self, key, value):
        if key != "id":
            super().__setitem__(key, value)


def request(core, minion: str, command: str, **load: Any) -> Any:
    """Send the master a request with the keys of a minion."""
    options = core.options(minion)
    options["master_ip"] = "127.0.0.1"
    options["master_uri"] = f"tcp://127.0.0.1:{options['master_port']}"
    with salt.channel.client.ReqChannel.factory(options, crypt="aes") as channel:
        message = Claim({"id": minion, "cmd": command, **load})
        if command == "_pillar":
            return channel.crypted_transfer_decode_dictentry(message, dictkey="pillar", timeout=10, tries=1)
        return channel.send(message, timeout=10, tries=1)


def pillar_request(core, minion: str, claimed: str) -> dict[str, Any]:
    more = {"saltenv": "base", "pillarenv": None, "pillar_override": {}, "extra_minion_data": {}, "ver": "2"}
    return request(core, minion, "_pillar", id=claimed, grains={"id": claimed, "roles": ["head"]}, **more)


def test_a_node_cannot_ask_for_the_pillar_of_another(core):
    own = pillar_request(core, "compute-1", "compute-1")
    assert own["vcore"]["node"]["name"] == "compute-1"
    with pytest.raises(AuthenticationError):
        pillar_request(core, "compute-1", "head")


def test_the_fileserver_has_the_states_and_modules_and_nothing_else(core):
    tree = core.checkout / "salt"
    roots = [tree / "states", tree]
    wanted = {str(path.relative_to(root)) for root in roots for path in root.rglob("*") if path.is_file()}
    listed = set(request(core, "compute-1", "_file_list", saltenv="base"))
    assert "top.sls" in listed
    assert {path for path in listed if "__pycache__" not in path} == {
        path for path in wanted if "__pycache__" not in path
    }
    assert not [path for path in listed if "site.sls" in path or path.startswith("pillar")]


def test_no_path_leads_out_of_the_fileserver(core):
    def read(path: str) -> str:
        answer = request(core, "compute-1", "_serve_file", path=path, saltenv="base", loc=0, gzip=0)
        return answer.get("data") or ""

    secret = core.paths().secrets / "ldap" / "admin-password"
    secret.parent.mkdir(parents=True)
    secret.write_text("a secret")
    assert "roles.node" in str(read("top.sls"))
    for target in (core.site, secret):
        up = "/".join([".."] * 12)
        for path in (str(target), f"../../pillar/{target.name}", f"{up}{target}", f"roles/{up}{target}", f"|{target}"):
            assert read(path) in ("", b""), path


# --- what it costs ----------------------------------------------------------------------------------------------


def compile_seconds(core, folder: Path, number: int) -> float:
    """Return the processor time that the pillars of all nodes of such a site take, through Salt's loader."""
    pillars = folder / "pillar"
    pillars.mkdir(parents=True)
    (folder / "salt").symlink_to(core.checkout / "salt")
    names = [f"compute-{index}" for index in range(1, number)]
    nodes = "".join(
        f"    {name}: {{roles: [compute], address: 10.1.{index // 200}.{index % 200 + 1}}}\n"
        for index, name in enumerate(names)
    )
    site = "vcore:\n  network: {subnet: 198.18.0.0/24, bridge_subnet: 198.18.1.0/24, ingress_subnet: 198.18.2.0/24}\n"
    (pillars / "site.sls").write_text(f"{site}  nodes:\n    head: {{roles: [head], address: 10.0.0.1}}\n{nodes}")
    options = core.options()
    options["virtual_core"]["checkout"] = str(folder)
    compiled = salt.loader.pillars(options, {})["vcore"]
    compiled("stranger", {})  # imports are not measured
    (pillars / "site.sls").touch()
    start = time.process_time()
    found = [compiled(name, {}) for name in ("head", *names)]
    seconds = time.process_time() - start
    assert all(found)
    return seconds


def test_a_thousand_nodes_cost_no_more_than_their_number(core, tmp_path, record_property):
    few, many = compile_seconds(core, tmp_path / "few", 250), compile_seconds(core, tmp_path / "many", 1000)
    record_property("seconds_for_1000_pillars", round(many, 2))
    print(f"250 pillars: {few:.2f} s, 1000 pillars: {many:.2f} s of processor time")
    assert many < 2 * 4 * few, "the cost of a pillar grows with the number of nodes"
    assert many < 10
