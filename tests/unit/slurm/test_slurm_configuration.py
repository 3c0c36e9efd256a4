"""SLURM's configuration as text: golden files, and that nothing a node says becomes a line of its own."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sites
from support.cost import least_seconds
from vcore.base.errors import VcoreError
from vcore.kernel import resolve
from vcore.kernel.documents import SiteError
from vcore.nodes import hardware
from vcore.slurm import configuration, controller, names, queue

GOLDEN = Path(__file__).parent / "golden" / "slurm"
HEAD = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"
FACTS = {
    "sockets": 2, "cores_per_socket": 16, "threads_per_core": 2, "cpus": 64, "memory_mib": 257_543,
    "scratch_mib": 937_000, "cgroups": "v2", "gpus": [],
}  # fmt: skip
A100 = {"type": "a100", "file": "/dev/nvidia0", "mig": None}
MIG = [
    {
        "type": "a100",
        "file": "/dev/nvidia1",
        "mig": {
            "profile": "1g.5gb",
            "files": ["/dev/nvidia1", f"/dev/nvidia-caps/nvidia-cap{n}", f"/dev/nvidia-caps/nvidia-cap{n + 1}"],
        },
    }
    for n in (30, 39)
]
SITE = """
  slurm:
    mode: managed
    cluster: genomics
    partitions:
      main: {default: true}
      gpu: {nodes: ["compute-[1-20]", "late-1"], groups: [sequencing], priority: 10, max_nodes: 2, qos: short}
      none: {nodes: ["compute-[90-99]"], max_time: UNLIMITED}
    nodes:
      compute-[1-3]: {features: [ib, avx512], weight: 10}
      compute-2: {weight: 20, memory_reserve: 8G}
    qos: {short: {max_time: "4:00:00"}}
    limits: {jobs: 50000, array: 10001, memory_per_node: 128G}
    prolog: "#!/bin/sh\\nexit 0\\n"
    srun_ports: {first: 61000, last: 61100}
  groups: {sequencing: {}}
"""


def node(number, **more):
    facts = more.pop("hardware", {**FACTS})
    entry = {"roles": ["compute"], "enrolled": 1, "by": "token", "address": f"10.0.1.{number}", "swarm_id": "x"}
    return {**entry, "hardware": facts, "code": None, "forgotten": None, "retiring": False, **more}


def pillar(folder, text=SITE, nodes=None):
    enrolled = {f"compute-{number}": node(number) for number in (1, 2, 10)} if nodes is None else nodes
    return resolve.node_pillar(sites.resolved(folder, HEAD + text, enrolled=enrolled), "head")


def test_the_files_are_written_as_before(golden, tmp_path):
    nodes = {f"compute-{number}": node(number) for number in (1, 2, 10)}
    nodes["compute-3"] = node(3, hardware={**FACTS, "gpus": [A100, *MIG], "cgroups": "v2"})
    nodes["compute-4"] = node(4, address=None)
    nodes["compute-5"] = node(5, hardware=None)
    nodes["compute-6"] = node(6, retiring=True, hardware=None)
    data = pillar(tmp_path, nodes=nodes)
    text = "".join(f"--- {name}\n{content.decode()}" for name, content in sorted(configuration.files(data).items()))
    golden(GOLDEN / "cluster.txt", text)
    assert set(configuration.left_out(data)) == {"compute-4", "compute-5", "compute-6"}


def test_a_node_that_is_being_retired_keeps_its_line_while_it_has_jobs(tmp_path):
    data = pillar(tmp_path, nodes={"compute-1": node(1), "compute-2": node(2, retiring=True)})
    assert list(configuration.compute_nodes(data)) == ["compute-1", "compute-2"]
    gone = pillar(tmp_path, nodes={"compute-1": node(1), "compute-2": node(2, retiring=True, hardware=None)})
    assert list(configuration.compute_nodes(gone)) == ["compute-1"]
    assert configuration.left_out(gone) == {"compute-2": "it is being retired"}


def test_one_machine_alone(golden, tmp_path):
    text = HEAD.replace("[head]", "[head, compute]")[len("vcore:\n") :]
    data = resolve.node_pillar(
        sites.resolved(
            tmp_path,
            f"vcore:\n{text}  slurm: {{mode: managed}}\n",
            enrolled={"head": node(1, roles=[], hardware={**FACTS, "cgroups": "none"})},
        ),
        "head",
    )
    golden(GOLDEN / "one.txt", "".join(f"--- {n}\n{c.decode()}" for n, c in sorted(configuration.files(data).items())))


@pytest.mark.parametrize(
    ("memory", "reserve", "usable"),
    [(257_543, 512, 252_352), (16_000, 512, 15_488), (1_000, 512, 448), (24_105, 8192, 15_872), (100, 512, 1)],
)
def test_memory_stays_below_what_slurmd_finds(memory, reserve, usable):
    found = configuration.real_memory(memory, reserve * 1024**2)
    assert found == usable or (memory < 200 and found >= 1)
    assert found < memory


def test_the_kernel_holds_jobs_where_every_node_can_or_weak_nodes_are_left_out(tmp_path):
    strong, weak = {"a": node(1)}, {"b": node(2, hardware={**FACTS, "cgroups": "none"})}

    def decided(nodes, wanted):
        data = pillar(tmp_path, f"  slurm: {{mode: managed, cgroups: '{wanted}'}}\n", nodes)
        return configuration.limits_by_kernel(data), list(configuration.compute_nodes(data))

    assert decided(strong, "auto") == (True, ["a"])
    assert decided(strong | weak, "auto") == (False, ["a", "b"])
    assert decided(strong | weak, "on") == (True, ["a"])
    assert decided(strong, "off") == (False, ["a"])
    assert decided({}, "auto") == (False, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cpus": 65}, "cpus is not"),
        ({"cpus": "64\nNodeName=evil"}, "cpus has to be a number"),
        ({"memory_mib": 0}, "memory_mib has to be"),
        ({"memory_mib": True}, "memory_mib has to be"),
        ({"memory_mib": 1e9}, "memory_mib has to be"),
        ({"scratch_mib": -1}, "scratch_mib has to be"),
        ({"cgroups": "v3"}, "cgroups has to be"),
        ({"gpus": [{"type": "a100 State=DOWN", "file": "/dev/nvidia0", "mig": None}]}, "type of a GPU"),
        ({"gpus": [{"type": "a100", "file": "/dev/nvidia0\nNodeName=x", "mig": None}]}, "file of a GPU"),
        ({"gpus": [{"type": "a100", "file": "/etc/shadow", "mig": None}]}, "file of a GPU"),
        ({"gpus": [{"type": "a100", "file": "/dev/../etc/x", "mig": None}]}, "file of a GPU"),
        ({"gpus": [A100, A100]}, "lists a device twice"),
        ({"gpus": [{"type": "a100"}]}, "has type, file and mig"),
        ({"gpus": [{**A100, "mig": {"profile": "x y", "files": ["/dev/nvidia0"]}}]}, "profile of a GPU"),
        ({"gpus": "many"}, "gpus has to be a list"),
        ({"evil": 1}, "unknown hardware"),
    ],
)
def test_lies_about_hardware_are_refused(tmp_path, change, says):
    with pytest.raises(VcoreError, match=says):
        hardware.validate({**FACTS, **change})
    # If the registry holds such facts all the same, the node is left out, and the reason is given.
    data = pillar(tmp_path, nodes={"compute-1": node(1, hardware={**FACTS, **change}), "compute-2": node(2)})
    assert list(configuration.compute_nodes(data)) == ["compute-2"]
    assert says in configuration.left_out(data)["compute-1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(changes=st.dictionaries(st.sampled_from(sorted(FACTS)), JSON, max_size=4), address=JSON)
def test_whatever_a_node_says_there_is_a_line_for_it_or_none(tmp_path_factory, changes, address):
    data = pillar(tmp_path_factory.mktemp("site"), nodes={"compute-1": node(1)})
    data["nodes"]["compute-1"] |= {"hardware": {**FACTS, **changes}, "address": address}
    text = configuration.nodes_conf(data)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) <= 1
    assert all(line.startswith("NodeName=compute-1 NodeAddr=") for line in lines)
    assert text.isascii()
    assert set(configuration.left_out(data)) | set(configuration.compute_nodes(data)) == {"compute-1"}


@pytest.mark.parametrize("value", ["a b", "a\nNodeName=b", "a=b", "a#b", "a\\", '"a"', "", "a\x00", "ä"])
def test_what_is_not_one_word_is_never_written(value):
    with pytest.raises(VcoreError, match="does not accept"):
        configuration.word(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  slurm: {partitions: {a: {default: true, qos: fast}}}\n", "a.qos: fast is not among slurm.qos"),
        ("  slurm: {partitions: {a: {default: true, max_time: '10:00'}}}\n", "1:00:00 is longer than max_time, 10:00"),
        ("  slurm: {srun_ports: {first: 2000, last: 1999}}\n", "srun_ports: first is greater than last"),
        ("  slurm: {prolog: 'rm -rf /'}\n", "prolog: has to be a script"),
        ("  slurm: {cluster: 'a b'}\n", "cluster: has to match"),
    ],
)
def test_a_mistake_in_the_site_is_one_line(tmp_path, text, says):
    with pytest.raises(SiteError) as caught:
        sites.resolved(tmp_path, HEAD + text)
    (problem,) = caught.value.problems
    assert says in str(problem)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("10:30", 630), ("1:00:00", 3600), ("2-12", 216_000), ("1-00:30", 88_200), ("7-00:00:00", 604_800)],
)
def test_time_limits_are_understood(limit, seconds):
    assert names.seconds(limit) == seconds


def test_ten_thousand_nodes_cost_no_more_than_ten_times_a_thousand(tmp_path):
    def cost(count):
        nodes = {f"compute-{n}": node(1, address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(1, count + 1)}
        text = SITE.replace('compute-[1-20]", "late-1', f"compute-[1-{count}]")
        data = pillar(tmp_path, text, nodes)

        def names_all_nodes():
            found = configuration.files(data)
            assert f"Nodes=compute-[1-{count}]".encode() in found["slurm.conf"]
            return found["nodes.conf"].count(b"NodeName=") == count

        return least_seconds(names_all_nodes, times=3)

    thousand = cost(1_000)
    assert thousand < 1
    assert cost(10_000) < 30 * thousand, "the cost grows faster than the nodes"


# --- the client -----------------------------------------------------------------------------------------------------


class Scontrol:
    """A stand-in for slurmctld: gives answers, and records its commands."""

    def __init__(self, nodes):
        self.nodes, self.told = nodes, []

    def execute(self, _, command):
        if "show" in command:
            return 0, json.dumps({"nodes": self.nodes}).encode()
        self.told.append(command)
        return 0, b""


def shown(name, *states, reason="", by="root"):
    return {"name": name, "state": list(states), "reason": reason, "reason_set_by_user": by}


@pytest.fixture
def scontrol(monkeypatch):
    found = Scontrol(
        [
            shown("idle-1", "IDLE"),
            shown("ours-1", "IDLE", "DRAIN", reason="vcore: a test"),
            shown("ours-2", "DOWN", "DRAIN", "NOT_RESPONDING", reason="vcore: a test"),
            shown("person-1", "IDLE", "DRAIN", reason="the fan is loud"),
            shown("person-2", "IDLE", "DRAIN", reason="Low RealMemory, I think", by="ada"),
            shown(
                "less-1",
                "IDLE",
                "DRAIN",
                reason="Low RealMemory (reported:100 < 100.00% of configured:200)",
                by="slurm",
            ),
            shown("store-1", "IDLE", "DRAIN", reason="vcore: storage /home is missing"),
            shown("rolls-1", "IDLE", "DRAIN", reason="vcore: update of the compute image"),
            shown("quiet-1", "IDLE", "DRAIN"),
        ]
    )
    monkeypatch.setattr(controller, "execute", found.execute)
    return found


def test_only_what_the_system_said_is_taken_back_and_only_where_the_node_is_well(scontrol):
    assert queue.resume({}) == ["ours-1", "less-1"]
    assert scontrol.told == [["scontrol", "update", "nodename=ours-1,less-1", "state=resume"]]
    assert queue.resume({}, "person-1") == []
    assert queue.resume({}, because="vcore: other") == []
    assert queue.resume({}, "rolls-1") == []
    assert queue.resume({}, ["rolls-1", "store-1"], abandoned=["vcore: update of the compute image"]) == ["rolls-1"]
    with pytest.raises(VcoreError, match="is taken back"):
        queue.resume({}, because="")


def test_who_was_drained_by_a_person_keeps_that_reason(scontrol):
    assert queue.drain({}, ["idle-1", "person-1", "quiet-1", "ours-1"], "retired") == ["idle-1", "ours-1"]
    assert scontrol.told == [["scontrol", "update", "nodename=idle-1,ours-1", "state=drain", "reason=vcore: retired"]]


def test_jobs_by_node_with_one_question(monkeypatch):
    told = []

    def execute(_, command):
        told.append(command)
        return 0, b"17_3 compute-[1-2,4]\n18 compute-2\n"

    monkeypatch.setattr(controller, "execute", execute)
    jobs = queue.jobs_on({}, ["compute-1", "compute-2", "compute-3"])
    assert jobs == {"compute-1": ["17_3"], "compute-2": ["17_3", "18"]}
    assert [command[3] for command in told] == ["--nodelist=compute-[1-3]"]
    with pytest.raises(VcoreError, match="no node"):
        queue.jobs_on({}, ["compute-1", "compute-2 --all"])


@pytest.mark.parametrize("name", ["nobody", "idle-1,person-1", "idle-1 state=down", "ALL", ""])
def test_a_name_that_slurm_does_not_know_reaches_no_command(scontrol, name):
    with pytest.raises(VcoreError, match="has no node"):
        queue.drain({}, [name], "x")
    assert scontrol.told == []


@pytest.mark.parametrize("reason", ["a\nb", 'a"b', "a" * 300])
def test_a_reason_is_one_line(scontrol, reason):
    with pytest.raises(VcoreError, match="one line"):
        queue.drain({}, "idle-1", reason)
