"""The batch queue and the storage in the site file."""

import pytest
from support import sites
from vcore.kernel.documents import SiteError
from vcore.nodes import hostlist
from vcore.slurm import settings

HEAD = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n"


def resolved(folder, text):
    return sites.resolved(folder, HEAD + text)


def refused(folder, text):
    with pytest.raises(SiteError) as caught:
        resolved(folder, text)
    (problem,) = caught.value.problems
    return str(problem)


def test_hostlists_are_expanded():
    assert hostlist.expand("compute-[1-3,7]") == ["compute-1", "compute-2", "compute-3", "compute-7"]
    assert hostlist.expand("a,b-[08-10]") == ["a", "b-08", "b-09", "b-10"]


@pytest.mark.parametrize("text", ["compute-[1-", "x\nNodeName=evil", "compute-[1-999999999]", "Compute-1", "*", "a b"])
def test_what_is_no_hostlist_is_refused(text):
    with pytest.raises(ValueError, match=r"list of nodes|more than"):
        hostlist.expand(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  slurm: {partitions: {a: {}, b: {}}}\n", "exactly one partition is the default, not 0"),
        (
            "  slurm: {partitions: {a: {default: true}, b: {default: true}}}\n",
            "exactly one partition is the default, not 2: a, b",
        ),
        ("  slurm: {partitions: {a: {default: true, max_time: 1:00:00}}}\n", "max_time: has to be text"),
        ("  slurm: {partitions: {a: {default: true, max_time: soon}}}\n", "max_time: has to match"),
        ("  slurm: {partitions: {a: {default: true, nodes: ['x[']}}}\n", "nodes.0: has to be a list of nodes"),
        ("  slurm: {partitions: {'a b': {default: true}}}\n", "slurm.partitions.a b: has to match"),
        ("  slurm: {nodes: {'*': {weight: 1}}}\n", "slurm.nodes.*: has to be a list of nodes"),
        ("  storage: {kind: path}\n", "storage.path: is required where storage.kind is path"),
        ("  storage: {path: /shared}\n", "storage.path: goes with storage.kind: path"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, text, says):
    assert says in refused(tmp_path, text)


def test_without_partitions_there_is_one_with_all_nodes(tmp_path):
    found = settings.all_partitions(resolved(tmp_path, "  slurm: {mode: managed}\n")["slurm"])
    assert list(found) == ["main"]
    assert found["main"]["default"] is True
    assert found["main"]["nodes"] == []
