"""Where the brain meets Salt: its errors, the pillar as Salt hands it over, and the one shape of every state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

from .base.errors import VcoreError

Changes = dict[str, Any]


@contextmanager
def salt_errors(failed: str = "") -> Iterator[None]:
    """Turn what the brain or the file system refuses into Salt's error, which is shown without a traceback.

    ``failed`` says what could not be done, before the file system's own words.
    """
    try:
        yield
    except VcoreError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:
        raise CommandExecutionError(f"{failed}: {error}" if failed else str(error)) from None


def node(pillar: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a node, the head or another one, knows of the core, from its ``__pillar__``.

    Raises:
        VcoreError: the site has a mistake, in the words of the external pillar, or does not name this node.
    """
    if "_errors" in pillar:
        raise VcoreError("\n".join(pillar["_errors"]))
    if not pillar.get("vcore"):
        raise VcoreError("this minion's pillar has no vcore: the site names no node of its id")
    data: Mapping[str, Any] = pillar["vcore"]
    return data


def head(pillar: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole configuration of the core, from the head's ``__pillar__``.

    Raises:
        VcoreError: as :func:`node` does, or this node is not the head.
    """
    data = node(pillar)
    if "head" not in data.get("node", {}).get("roles", []):
        raise VcoreError("this is answered on the head of a core only; ask there")
    return data


def converge(
    name: str,
    *,
    test: bool,
    difference: Callable[[], Changes | str],
    apply: Callable[[Changes], str | None],
    unchanged: str,
    planned: str | Callable[[Changes], str],
    done: str,
) -> dict[str, Any]:
    """Run a state and return its result: name, result, changes, comment.

    The change set is worked out once, and then planned or made. So a plan lists the very changes that applying makes,
    and an apply that finds none does nothing.

    ``difference()`` looks and returns the changes, or says why there are none where that is not ``unchanged``;
    ``apply(changes)`` makes them and may return a comment that says more than ``done``; ``planned`` may be a function
    of the changes. An error of either is the comment of a failed state, which lists no changes.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": unchanged}
    try:
        found = difference()
        if isinstance(found, str):
            ret.update(comment=found or unchanged)
        elif found and test:
            ret.update(result=None, changes=found, comment=planned(found) if callable(planned) else planned)
        elif found:
            comment = apply(found)
            ret.update(changes=found, comment=comment or done)
    except (VcoreError, CommandExecutionError, SaltInvocationError, OSError) as error:
        ret.update(result=False, comment=str(error))
    return ret
