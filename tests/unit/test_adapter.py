"""The one shape of every state: plan and apply list the same, and errors are sentences."""

import pytest
from salt.exceptions import CommandExecutionError
from vcore import adapter
from vcore.base.errors import VcoreError

WORDS = {"unchanged": "in order", "planned": "would change", "done": "changed"}


def run(changes, *, test=False, apply=lambda changes: None):
    return adapter.converge("x", test=test, difference=lambda: changes, apply=apply, **WORDS)


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
