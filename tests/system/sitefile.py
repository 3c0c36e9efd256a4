"""The site file of a head under test, and the effect of applying it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from conftest import Host

SITE = "/srv/virtual-core/source/pillar/site.sls"


def read(head: Host) -> str:
    """Return the text of the site file."""
    return head.run(["cat", SITE]).stdout


def write(head: Host, text: str) -> None:
    """Replace the site file."""
    head.run(f"cat > {SITE}", input=text)


@contextmanager
def changed(head: Host, **keys: Any) -> Iterator[None]:
    """Merge ``keys`` into the ``vcore`` mapping for a while; afterwards the old file is back, but not applied."""
    before = read(head)
    data = yaml.safe_load(before)
    data["vcore"].update(keys)
    write(head, yaml.safe_dump(data))
    try:
        yield
    finally:
        write(head, before)


def answers(text: str) -> dict[str, Any]:
    """Return what each node has answered, by node: ``salt --out=json`` prints one document per node."""
    found: dict[str, Any] = {}
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        found |= document
        text = text[end:]
    return found


def apply(head: Host, *, test: bool = False, check: bool = True) -> dict[str, Any]:
    """What ``salt '*' state.apply`` returns for the head, by state id; with ``test`` the plan.

    With ``check``, a state that fails is an AssertionError that holds its comment.
    """
    plan = " test=True" if test else ""
    done = head.run(f"salt --out=json '*' state.apply{plan}", check=False, timeout=900)
    returned = answers(done.stdout)["head"]
    assert isinstance(returned, dict), returned
    states = {state["__id__"]: state for state in returned.values()}
    if check:
        assert (done.returncode, failed(states)) == (0, {}), (done.returncode, failed(states), done.stderr)
    return states


def changes(states: dict[str, Any]) -> dict[str, Any]:
    """Return the changes of those states that have any."""
    return {name: state["changes"] for name, state in states.items() if state["changes"]}


def failed(states: dict[str, Any]) -> dict[str, str]:
    """Return the comments of the states that failed by themselves."""
    return {
        name: state["comment"]
        for name, state in states.items()
        if state["result"] is False and not state["comment"].startswith("One or more requisite failed")
    }
