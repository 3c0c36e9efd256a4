"""The one shape of every state: the change set is worked out once, and then planned or made.

So a plan lists the very changes that applying makes, and an apply that finds none does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

from .errors import VcoreError

Changes = dict[str, Any]


def converge(
    name: str,
    *,
    test: bool,
    difference: Callable[[], Changes],
    apply: Callable[[Changes], str | None],
    unchanged: str,
    planned: str,
    done: str,
) -> dict[str, Any]:
    """Run a state and return its result: name, result, changes, comment.

    ``difference()`` looks and returns the changes, ``apply(changes)`` makes them and may return a comment that says
    more than ``done``. An error of either is the comment of a failed state, which lists no changes.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": unchanged}
    try:
        changes = difference()
        if changes and test:
            ret.update(result=None, changes=changes, comment=planned)
        elif changes:
            comment = apply(changes)
            ret.update(changes=changes, comment=comment or done)
    except (VcoreError, CommandExecutionError, SaltInvocationError) as error:
        ret.update(result=False, comment=str(error))
    return ret
