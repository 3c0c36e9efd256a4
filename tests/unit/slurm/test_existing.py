"""A SLURM that the site already has: its files are read and never written. And other schedulers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.kernel.documents import SiteError
from vcore.slurm import existing, offer
from vcore.slurm import service as slurm_service

CONF = """# A cluster
ClusterName=dept  # of biology
SlurmctldHost=ctl1(10.9.0.1)
SlurmctldHost=ctl2
SlurmctldPort=6917-6920
AuthType=auth/slurm
CredType=cred/slurm
AuthInfo=use_client_ids,ttl=60
SlurmctldParameters=idle_on_node_suspend,enable_configless
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=db
NodeName=n[1-9] CPUs=4
"""


NODES = """vcore:
  nodes: {head: {roles: [head], address: 10.0.0.1}, compute-1: {roles: [compute], address: 10.0.0.2}}
"""


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "slurm.conf").write_text(CONF + "Include parts.conf\n")
    (folder / "parts.conf").write_text("PartitionName=all Nodes=ALL\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "slurm.key").write_bytes(b"k" * 1024)
    (folder / "slurm.key").chmod(0o600)
    return folder


def site(files, more=""):
    named = f"    configuration: {files}/slurm.conf\n    key: {files}/slurm.key\n"
    return f"{NODES}  slurm:\n    mode: existing\n{named}{more}"


def refused(tmp_path, text):
    with pytest.raises(SiteError) as caught:
        sites.resolved(tmp_path, text)
    (problem,) = caught.value.problems
    return str(problem)


def test_what_is_read_of_it():
    assert existing.facts(CONF) == {
        "cluster": "dept",
        "controllers": ["10.9.0.1:6917", "ctl2:6917"],
        "configless": True,
        "accounting": "db",
    }


def test_the_core_runs_clients_of_it_and_no_controller(tmp_path, files):
    pillar = sites.pillar(tmp_path, site(files))
    assert pillar["slurm"]["controller"] == "10.9.0.1:6917,ctl2:6917"
    assert "slurm-compute" in pillar["services"]
    assert not {"slurm-controller", "slurm-accounting"} & set(pillar["services"])
    compute = pillar["services"]["slurm-compute"]
    assert compute["secrets"]["key"]["file"] == f"{files}/slurm.key"
    assert "slurm.conf" not in compute["configs"]


def test_where_its_controller_hands_nothing_out_clients_get_the_files(tmp_path, files):
    (files / "slurm.conf").write_text(CONF.replace(",enable_configless", "") + "include parts.conf\n")
    configs = sites.pillar(tmp_path, site(files))["services"]["slurm-compute"]["configs"]
    assert configs["slurm.conf"]["path"] == "/etc/slurm/slurm.conf"
    assert configs["cgroup.conf"]["file"] == f"{files}/cgroup.conf"
    text = slurm_service.content(configs["slurm.conf"]).decode()
    assert text.endswith("NodeName=n[1-9] CPUs=4\nPartitionName=all Nodes=ALL\n")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("ClusterName=dept", ""), "it has no ClusterName"),
        (("SlurmctldHost", "#"), "it has no SlurmctldHost"),
        (("AuthType=auth/slurm", "AuthType=auth/munge"), "its AuthType is auth/munge"),
        (("AuthType=auth/slurm", ""), "its AuthType is auth/munge"),
        (("use_client_ids,", ""), "no use_client_ids"),
        (("ctl1(10.9.0.1)", "'$(x)'"), "is no host"),
        (("6917-6920", "x"), "is no port"),
        (("NodeName", "Include gone.conf\nNodeName"), "gone.conf cannot be read"),
        (("NodeName", "Include slurm.conf\nNodeName"), "include one another"),
    ],
)
def test_a_slurm_conf_that_the_core_can_be_no_client_of_is_one_line(tmp_path, files, change, says):
    (files / "slurm.conf").write_text(CONF.replace(*change))
    line = refused(tmp_path, site(files))
    assert "vcore.slurm.configuration: " in line
    assert says in line
    assert str(files) in line


def test_a_key_has_to_be_one_and_to_be_secret(tmp_path, files):
    (files / "slurm.key").chmod(0o644)
    assert "vcore.slurm.key" in refused(tmp_path, site(files))
    (files / "slurm.key").chmod(0o600)
    (files / "slurm.key").write_bytes(b"short")
    assert "has 5 bytes" in refused(tmp_path, site(files))
    (files / "slurm.key").unlink()
    assert "cannot be read: No such file" in refused(tmp_path, site(files))


def test_what_the_sites_slurm_says_itself_is_not_said_twice(tmp_path, files):
    line = refused(tmp_path, site(files, "    partitions: {main: {default: true}}\n"))
    assert "vcore.slurm.partitions: is for the core's own SLURM" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{mode: existing, key: /k}", "vcore.slurm.configuration: is required with mode: existing"),
        ("{mode: managed, key: /k}", "vcore.slurm.key: is for a SLURM that the site has (mode: existing)"),
        ("{mode: pbs}", "vcore.slurm.mode: pbs is not supported: the core runs jobs with SLURM only"),
        ("{mode: Grid Engine}", "Grid Engine is not supported"),
        ("{mode: HTCondor}", "HTCondor is not supported"),
        ("{mode: slurm}", "has to be 'none', 'managed' or 'existing'"),
        ("{mode: managed, accounts: {a: {parent: b}}}", "accounts.a.parent: no account b below vcore.slurm.accounts"),
        ("{mode: managed, accounts: {a: {parent: a}}}", "a is a part of a"),
        (
            "{mode: managed, default_account: a, accounts: {a: {group: b}}}",
            "everybody may charge a, which is slurm.default_account",
        ),
    ],
)
def test_mistakes_of_the_section(tmp_path, text, says):
    head = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"
    assert says in refused(tmp_path, f"{head}  slurm: {text}\n")


@pytest.mark.parametrize("service", ["slurm-controller", "slurm-accounting"])
def test_what_the_head_asks_runs_on_the_head(tmp_path, service):
    text = f"{NODES}  slurm: {{mode: managed}}\n  services: {{{service}: {{node: compute-1}}}}\n"
    assert "runs on the head only" in refused(tmp_path, text)


def test_a_service_of_the_queue_without_its_controller_is_refused(tmp_path):
    text = (
        "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"
        "  slurm: {mode: managed}\n  services: {slurm-controller: {enabled: false}}\n"
    )
    assert "slurm-accounting, slurm-compute require slurm-controller" in refused(tmp_path, text)


@given(text=st.text())
def test_no_text_breaks_the_reader(text):
    try:
        existing.facts(text)
    except VcoreError as error:
        assert len(str(error).splitlines()) == 1


def test_nodes_are_offered_and_nothing_of_the_sites_is_written(tmp_path, files):
    pillar = sites.pillar(tmp_path, site(files))
    hardware = {
        "sockets": 1, "cores_per_socket": 2, "threads_per_core": 1, "cpus": 2, "memory_mib": 2048,
        "scratch_mib": 10240, "gpus": [], "cgroups": "none",
    }  # fmt: skip
    pillar["nodes"]["compute-1"]["hardware"] = hardware
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    paths = Paths(checkout=tmp_path, configuration=tmp_path / "etc", state=tmp_path / "state")
    planned = offer.differences(pillar, paths)
    assert offer.write_offer(pillar, paths) == planned
    offered = paths.state / "slurm" / "nodes.conf.virtual-core"
    assert "NodeName=compute-1 NodeAddr=10.0.0.2 " in offered.read_text()
    assert set(planned) == {str(offered), str(offered.with_name("gres.conf.virtual-core"))}
    assert offer.differences(pillar, paths) == {}
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
