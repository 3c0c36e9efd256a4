"""Which jobs count as a convergence, and what is recorded of one."""

import pytest
from vcore.base.paths import Paths
from vcore.kernel import convergence


@pytest.mark.parametrize(
    ("function", "arguments", "whole"),
    [
        ("state.apply", [], True),
        ("state.highstate", [], True),
        ("state.apply", ["queue=True"], True),
        ("state.apply", [{"__kwarg__": True, "queue": True}], True),
        ("state.apply", ["test=True"], False),
        ("state.apply", [{"__kwarg__": True, "test": True}], False),
        ("state.apply", ["roles.head"], False),
        ("state.apply", ["mods=roles.head"], False),
        ("state.apply", [{"__kwarg__": True, "mods": "roles.head"}], False),
        ("test.ping", [], False),
    ],
)
def test_only_a_whole_apply_counts(function, arguments, whole):
    assert convergence.is_whole(function, arguments) is whole


def test_a_job_of_several_functions_counts_by_each_of_them():
    job = {"fun": ["test.ping", "state.apply"], "fun_args": [[], [{"queue": True}]], "return": {"state.apply": {}}}
    assert convergence.functions(job) == [("test.ping", [], None), ("state.apply", [{"queue": True}], {})]
    assert convergence.functions({"fun": "test.ping", "return": True}) == [("test.ping", [], True)]


def test_a_summary_counts_and_names_what_failed():
    states = {
        "a": {"__id__": "One thing", "result": True, "changes": {"x": 1}, "duration": 1500.0},
        "b": {"__id__": "Another", "result": False, "changes": {}, "duration": 500},
        "c": {"result": True, "changes": {}},
    }
    assert convergence.summary(states, now=10.0) == {
        "ended": 10.0, "ok": False, "states": 3, "changed": 1, "seconds": 2.0, "failed": ["Another"],
    }  # fmt: skip


def test_a_run_that_could_not_start_is_no_success():
    assert convergence.summary(["Pillar failed to render"], now=1.0)["ok"] is False


def test_the_record_survives_and_a_broken_one_is_none(tmp_path):
    paths = Paths(state=tmp_path / "state")
    assert convergence.last(paths) is None
    entry = convergence.summary({}, now=3.0)
    convergence.record(paths, entry)
    assert convergence.last(paths) == entry
    (paths.state / convergence.FILE).write_text("{half")
    assert convergence.last(paths) is None
