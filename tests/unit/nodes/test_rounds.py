"""A round, as far as it goes without a master: who is given what, what is remembered, and how it is told."""

import pytest
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.nodes import decisions, rounds
from vcore.nodes.converging import Assignment, assign
from vcore.nodes.decisions import CONVERGE, Flight
from vcore.nodes.journal import Journal


@pytest.fixture
def paths(tmp_path):
    return Paths(checkout=tmp_path, configuration=tmp_path, state=tmp_path)


def test_a_node_that_is_due_gets_its_states_when_it_has_the_code_and_the_code_first_when_not():
    has = {"a": "new", "b": "old", "c": "new", "d": "old", "e": None}
    assert assign("abcde", {"a", "b"}, has, code="new", full=True) == Assignment("new", ["b"], ["d", "e"], ["a"])
    assert assign("abcdef", {"a", "f"}, has, code="new", full=False) == Assignment("new", ["f"], [], ["a"])


def test_what_is_begun_is_remembered_before_it_is_done_beside_the_round_before(paths):
    with Journal(paths, rounds.quietly).ending():
        pass
    before = decisions.load(paths).round
    journal = Journal(paths, rounds.quietly)
    journal.gives({"a": Flight("1", CONVERGE, 5.0)})
    found = decisions.load(paths)
    assert (found.flights, found.round) == ({"a": Flight("1", CONVERGE, 5.0)}, before)
    assert before["ended"] >= before["began"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (VcoreError("the site has a mistake"), "the site has a mistake"),
        (KeyError("a"), "an error of the core: KeyError('a')"),
    ],
)
def test_a_round_that_an_error_ends_is_remembered_with_it(paths, error, told):
    journal = Journal(paths, rounds.quietly)
    with pytest.raises(type(error)), journal.ending():
        journal.gives({"a": Flight("1", CONVERGE, 5.0)})
        raise error
    found = decisions.load(paths).round
    assert (found["error"], found["waiting"]) == (told, ["a"])


def test_a_round_without_work_is_no_news_and_has_a_line_all_the_same(paths):
    with Journal(paths, rounds.quietly).ending() as idle:
        pass
    assert not rounds.is_news(idle)
    assert ": 0 converged, 0 failed" in rounds.summary(idle)
    told = []
    journal = Journal(paths, told.append)
    with journal.ending() as busy:
        journal.failed("a", "it does not answer")
        journal.undelivered("slurm.conf was refused")
    assert rounds.is_news(busy)
    assert told == ["a: it does not answer", "slurm.conf was refused"]
    assert rounds.summary(busy).endswith("1 failed; a: it does not answer; slurm.conf was refused")
