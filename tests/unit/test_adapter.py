"""What Salt's modules import, and why one is missing; and the common form of all states: plan and apply list the same
changes, and errors are sentences.
"""

import contextlib
import inspect

import pytest
import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError
from vcore import adapter
from vcore.base.errors import Postponed, VcoreError

WORDS = {"unchanged": "in order", "planned": "would change", "done": "changed"}


def run(changes, *, test=False, apply=lambda changes: None):
    def steps():
        yield changes
        return apply(changes[0] if isinstance(changes, tuple) else changes)

    return adapter.converge("x", steps(), test=test, **WORDS)


def test_nothing_to_do():
    assert run({}) == {"name": "x", "result": True, "changes": {}, "comment": "in order"}
    assert run("it is away for a moment")["comment"] == "it is away for a moment"


def test_a_plan_lists_what_the_apply_makes_and_makes_nothing():
    made = []
    plan = run({"a": 1}, test=True, apply=made.append)
    assert (plan["result"], plan["changes"], plan["comment"], made) == (None, {"a": 1}, "would change", [])
    done = run({"a": 1}, apply=made.append)
    assert (done["result"], done["changes"], done["comment"], made) == (True, {"a": 1}, "changed", [{"a": 1}])
    assert run({"a": 1}, apply=lambda _: "more words")["comment"] == "more words"


@pytest.mark.parametrize("test", [True, False])
def test_what_cannot_be_looked_at_yet_is_words_in_a_plan_and_a_failure_else(test):
    def steps():
        raise Postponed("it is made in this run")
        yield {}

    done = adapter.converge("a sentence", steps(), test=test, unchanged="fine")
    assert done == {"name": "a sentence", "result": test, "changes": {}, "comment": "it is made in this run"}


def test_a_plan_has_more_words_where_they_stand_beside_the_changes():
    changes = ({"a": 1}, "one thing would change")
    plan = run(changes, test=True)
    assert (plan["result"], plan["changes"], plan["comment"]) == (None, {"a": 1}, "one thing would change")
    assert run(changes)["comment"] == "changed"
    assert run(({}, "nothing would change"), test=True)["comment"] == "in order"


@pytest.mark.parametrize("changes", [{"a": 1}, {}, "there is nothing to compare with"])
@pytest.mark.parametrize("test", [True, False])
def test_what_a_state_holds_open_ends_with_it(changes, test):
    said = []

    @contextlib.contextmanager
    def connection():
        said.append("open")
        try:
            yield
        finally:
            said.append("closed")

    def steps():
        with connection():
            yield changes
            said.append("made")

    adapter.converge("x", steps(), test=test, **WORDS)
    makes = bool(changes) and isinstance(changes, dict) and not test
    assert said == (["open", "made", "closed"] if makes else ["open", "closed"])


def test_an_error_in_looking_or_in_closing_fails_the_state():
    def looks():
        raise VcoreError("nobody answers")
        yield {}

    def closes():
        try:
            yield {"a": 1}
        finally:
            raise VcoreError("the lock is gone")

    for steps, test in ((looks, False), (looks, True), (closes, False), (closes, True)):
        failed = adapter.converge("x", steps(), test=test, **WORDS)
        assert (failed["result"], failed["changes"]) == (False, {})


def test_changes_are_yielded_once():
    def steps():
        yield {"a": 1}
        yield {"b": 1}

    with pytest.raises(RuntimeError, match="once"):
        adapter.converge("x", steps(), test=False, **WORDS)


@pytest.mark.parametrize("error", [VcoreError("no"), CommandExecutionError("no"), OSError(28, "No space left")])
def test_an_error_is_the_comment_of_a_failed_state_without_changes(error):
    def refuse(_):
        raise error

    failed = run({"a": 1}, apply=refuse)
    assert (failed["result"], failed["changes"], failed["comment"]) == (False, {}, str(error))


def test_the_pillar_of_a_mistaken_site_a_stranger_and_another_node():
    with pytest.raises(VcoreError, match=r"site\.sls:2"):
        adapter.head({"_errors": ["site.sls:2: vcore.x: unknown key"]})
    with pytest.raises(VcoreError, match="names no node"):
        adapter.node({})
    other = {"vcore": {"node": {"name": "compute-1", "roles": ["compute"]}}}
    assert adapter.node(other) == other["vcore"]
    with pytest.raises(VcoreError, match="on the head"):
        adapter.head(other)


def test_what_the_file_system_refuses_is_salts_error():
    with (
        pytest.raises(CommandExecutionError, match=r"hosts cannot be written: .*No space"),
        adapter.salt_errors("hosts cannot be written"),
    ):
        raise OSError(28, "No space left")


def test_a_module_whose_imports_are_there_is_loaded():
    with adapter.imports("json") as virtual:
        import json
    assert json and inspect.isfunction(virtual)
    assert virtual() is True


def test_a_module_whose_imports_are_missing_says_which():
    with adapter.imports() as virtual:
        import a_library_of_the_head  # noqa: F401
    assert virtual() == (False, "the vcore package cannot be imported: No module named 'a_library_of_the_head'")
    with adapter.imports("a_library_for_later") as virtual:
        pass
    assert virtual() == (False, "the vcore package cannot be imported: No module named 'a_library_for_later'")
    with pytest.raises(ZeroDivisionError), adapter.imports():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            "from vcore import adapter\n\nwith adapter.imports() as __virtual__:\n    import a_library_of_the_head\n",
            "the vcore package cannot be imported: No module named 'a_library_of_the_head'",
        ),
        (
            "from vcore import adapter\n\nwith adapter.imports('a_library_for_later') as __virtual__:\n    pass\n",
            "the vcore package cannot be imported: No module named 'a_library_for_later'",
        ),
        ("from vcore import adapter\n\nwith adapter.imports() as __virtual__:\n    import json\n", None),
        ("from no_brain import adapter\n", "No module named 'no_brain'"),
    ],
)
def test_salts_loader_tells_the_reason(tmp_path, program, says):
    (tmp_path / "tried.py").write_text(f"{program}\n\ndef answer():\n    return 42\n")
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts.update(root_dir=str(tmp_path), cachedir=str(tmp_path / "cache"), extension_modules="")
    functions = salt.loader.LazyLoader([str(tmp_path)], opts, tag="module")
    if says is None:
        assert functions["tried.answer"]() == 42
    else:
        assert "tried.answer" not in functions
        assert functions.missing_fun_string("tried.answer") == f"'tried' __virtual__ returned False: {says}"
