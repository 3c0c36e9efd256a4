"""Every SLS, under named sites, through Salt's own renderer; every state function that they name exists."""

import json
from pathlib import Path

import pytest
import salt.client
import salt.config
from support import sites
from vcore.services import catalogue

CHECKOUT = Path(__file__).parents[2]
STATES = CHECKOUT / "salt" / "states"

HEAD = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"
CATALOGUE = catalogue.load(STATES / "services")
PEOPLE = """
vcore:
  nodes:
    head: {roles: [head], address: 10.0.0.1, logins: {groups: [sequencing]}}
    compute-1: {roles: [compute], address: 10.0.0.2, logins: {}}
  services: {ldap: {}}
  flavors: [bioinformatics]
  groups: {sequencing: {}}
  people: {ada: {groups: [sequencing]}}
  shares: {runs: {write: ["@sequencing"], nfs: [{hosts: 10.0.0.0/24}]}}
  instruments: {sequencer: {share: runs}}
  routes: {nas: {kind: mount, server: nas.example.org, source: projects, user: reader}}
"""
QUEUE = """
vcore:
  nodes: {{head: {{roles: [head], address: 10.0.0.1}}, compute-1: {{roles: [compute], address: 10.0.0.2}}}}
  slurm: {slurm}
"""
THEIR_SLURM = "ClusterName=dept\nSlurmctldHost=ctl\nAuthType=auth/slurm\nAuthInfo=use_client_ids\n"
NEEDED = {required for service in CATALOGUE.values() for required in service.requires}


def switched(wanted):
    """A site in which exactly the services that ``wanted`` answers true for are on."""
    return HEAD + "  services: " + json.dumps({name: {"enabled": wanted(name)} for name in CATALOGUE})


SITES = {
    "one machine": HEAD,
    "a cluster": "vcore:\n  nodes:\n    head: {roles: [head], address: 10.0.0.1}\n"
    "    compute-1: {roles: [compute], address: 10.0.0.2}\n  services: {ldap: {node: compute-1}}\n",
    "people and files": PEOPLE,
    "files elsewhere": PEOPLE.replace("services: {", "services: {file-router: {node: compute-1}, "),
    "a batch queue": QUEUE.format(slurm="{mode: managed, accounts: {sequencing: {}}}"),
    "a batch queue without accounting": QUEUE.format(slurm="{mode: managed}")
    + "  services: {slurm-accounting: {enabled: false}}\n",
    "a batch queue of the site's own": QUEUE.format(
        slurm="{mode: existing, configuration: FOLDER/slurm.conf, key: FOLDER/slurm.key}"
    ),
    "everything on": switched(lambda name: True),
    "everything off": switched(lambda name: False),
    "only what others need": switched(lambda name: name in NEEDED),
}


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    root = tmp_path_factory.mktemp("minion")
    options = salt.config.minion_config(None)
    options.update(
        root_dir=str(root),
        cachedir=str(root / "cache"),
        pki_dir=str(root / "pki"),
        extension_modules=str(root / "extmods"),
        id="head",
        file_client="local",
        file_roots={"base": [str(STATES), str(CHECKOUT / "salt")]},
        pillar_roots={"base": []},
        module_dirs=[str(CHECKOUT / "salt")],
        states_dirs=[str(CHECKOUT / "salt" / "_states")],
        enable_fqdns_grains=False,
        enable_gpu_grains=False,
        log_file="/dev/null",
    )
    return salt.client.Caller(mopts=options)


def roles():
    """Every SLS that a node can get: those of top.sls and what takes a role off again."""
    return sorted(
        f"roles.{path.parent.name}" + ("" if path.stem == "init" else f".{path.stem}")
        for path in (STATES / "roles").glob("*/*.sls")
    )


def text(case, folder):
    """The site file of a case, whose own files lie in ``folder``."""
    (folder / "slurm.conf").write_text(THEIR_SLURM)
    (folder / "slurm.key").write_bytes(b"k" * 1024)
    (folder / "slurm.key").chmod(0o600)
    return SITES[case].replace("FOLDER", str(folder))


@pytest.mark.parametrize("case", SITES)
@pytest.mark.parametrize("sls", roles())
def test_an_sls_renders_and_names_real_states(caller, tmp_path, case, sls):
    minion = "compute-1" if sls.startswith(("roles.compute", "roles.node")) and "compute-1" in SITES[case] else "head"
    rendered = caller.cmd(
        "state.show_low_sls", sls, pillar={"vcore": sites.pillar(tmp_path, text(case, tmp_path), minion)}
    )
    assert rendered, f"{sls} has no state"
    assert all(isinstance(low, dict) for low in rendered), rendered
    known = caller.sminion.states
    for low in rendered:
        assert f"{low['state']}.{low['fun']}" in known, low
        assert not {"unless", "onlyif", "creates"} & set(low), "a check in an SLS loads every module once"


def test_the_whole_head_is_in_order(caller, tmp_path):
    rendered = caller.cmd("state.show_low_sls", "roles.head", pillar={"vcore": sites.pillar(tmp_path, HEAD)})
    order = {low["__id__"]: low["order"] for low in rendered}
    assert (
        order["The service registry runs"]
        < order["The service ldap runs"]
        < order["The directory has its base entries"]
    )


def test_accounting_runs_before_the_controller_and_has_its_key(caller, tmp_path):
    """The first start of a controller waits for slurmdbd, which is to be there; what it knows comes from both."""
    site = sites.pillar(tmp_path, SITES["a batch queue"])
    rendered = caller.cmd("state.show_low_sls", "roles.head", pillar={"vcore": site})
    required = {low["__id__"]: low.get("require", []) for low in rendered}
    accounts = "SLURM has the accounts of the site and the people of the directory"
    (before,) = (low["require_in"] for low in rendered if low["__id__"] == accounts)
    assert {"vcore_secret": "The secrets of slurm-controller exist"} in required["The service slurm-accounting runs"]
    assert {"vcore_swarm": "The service slurm-accounting runs"} in required["The service slurm-controller runs"]
    assert {"vcore_swarm": "The service slurm-accounting runs"} in required[accounts]
    assert {"vcore_slurm": "SLURM has its configuration"} in before
    assert {"vcore_slurm": "SLURM goes by its configuration"} in required["SLURM has the limits of GPUs of the site"]


def test_where_accounting_is_off_nothing_waits_for_it(caller, tmp_path):
    site = sites.pillar(tmp_path, SITES["a batch queue without accounting"])
    rendered = caller.cmd("state.show_low_sls", "roles.head", pillar={"vcore": site})
    assert "accounting" not in json.dumps(rendered)


def test_a_slurm_of_the_sites_own_has_no_controller_here(caller, tmp_path):
    site = sites.pillar(tmp_path, text("a batch queue of the site's own", tmp_path))
    rendered = caller.cmd("state.show_low_sls", "roles.head", pillar={"vcore": site})
    ids = {low["__id__"] for low in rendered}
    assert "The site's SLURM is offered the compute nodes" in ids
    assert "The service slurm-compute runs" in ids
    assert not any("slurm-controller" in name or "slurm-accounting" in name for name in ids)
