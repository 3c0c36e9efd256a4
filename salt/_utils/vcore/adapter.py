"""Where the brain meets Salt: what a module imports, its errors, the pillar as Salt hands it over, and the one shape of
every state.

Salt's modules import this one first and unguarded, so it needs no more than Salt and the standard library.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

# The one exception whose message alone a runner prints; of any other, salt-run shows a traceback.
from salt.exceptions import NotImplemented as RunnerError

from .base.errors import Postponed, VcoreError
from .base.messages import tr

Changes = dict[str, Any]
#: What a state does, see :func:`converge`.
Steps = Generator[Changes | str | tuple[Changes, str], None, str | None]


@contextmanager
def imports(*later: str) -> Iterator[Callable[[], bool | tuple[bool, str]]]:
    """Import what a Salt module needs, and give it the ``__virtual__`` that says what of this is missing.

    ::

        with adapter.imports("docker") as __virtual__:
            from vcore.base.paths import Paths

    A ``__virtualname__`` stands in the block as its last line: Salt, which is told of a module of that name that cannot
    be loaded, would load no other file of the same name.

    ``later`` are libraries that the module needs and imports where they are used, since they take a while to load.
    """
    missing = next((f"No module named {name!r}" for name in later if importlib.util.find_spec(name) is None), "")

    def virtual() -> bool | tuple[bool, str]:
        return (False, f"the vcore package cannot be imported: {missing}") if missing else True

    try:
        yield virtual
    except ImportError as error:
        missing = str(error)


@contextmanager
def salt_errors(failed: str = "") -> Iterator[None]:
    """Turn errors of the brain and the file system into Salt's own, which is shown without a traceback.

    ``failed`` says what could not be done; it precedes the file system's message.

    Raises:
        CommandExecutionError: the body raised VcoreError or OSError.
    """
    try:
        yield
    except VcoreError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:
        raise CommandExecutionError(f"{failed}: {error}" if failed else str(error)) from None


@contextmanager
def runner_errors() -> Iterator[None]:
    """Turn what the brain or the file system refuses into the error of runners, which is shown without a traceback."""
    try:
        yield
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None


def say(message: str) -> None:
    """Tell whoever watches a runner how far it is: on standard error, beside what it returns.

    Salt's own ``__jid_event__`` is there in one file of a virtual name only, and the front doors are several.
    """
    print(message, file=sys.stderr, flush=True)


def name(value: Any) -> str:
    """Return an argument that names a person or group, which Salt has read as YAML; nothing becomes a bad name."""
    return "" if value is None else str(value)


def node(pillar: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the core's configuration in the ``__pillar__`` of any node, the head included.

    Raises:
        VcoreError: the site has a mistake (the message is the external pillar's), or does not name this node.
    """
    if "_errors" in pillar:
        raise VcoreError("\n".join(pillar["_errors"]))
    if not pillar.get("vcore"):
        raise VcoreError(tr("this minion's pillar has no vcore: the site names no node of its id"))
    data: Mapping[str, Any] = pillar["vcore"]
    return data


def head(pillar: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the core's whole configuration from the head's ``__pillar__``.

    Raises:
        VcoreError: as for :func:`node`, or this node is not the head.
    """
    data = node(pillar)
    if "head" not in data.get("node", {}).get("roles", []):
        raise VcoreError(tr("this works on the head of a core only; run it there"))
    return data


def converge(
    name: str, steps: Steps, *, test: bool, unchanged: str, planned: str = "", done: str = ""
) -> dict[str, Any]:
    """Run a state and return its result: name, result, changes, comment.

    The change set is worked out once, and then planned or made. So a plan lists the very changes that applying makes,
    and an apply that finds none does nothing. ``steps`` is a generator, which looks, yields the changes, and makes
    them behind that::

        def steps():
            planned = controller.plan(pillar, paths)
            yield planned.changes
            controller.apply(pillar, paths, planned)

    It is closed at its ``yield`` by a plan, or where there are no changes; what it holds open by ``with`` ends with it.
    Beside the changes it may yield a comment that says more than ``planned``, and return one that says more than
    ``done``. A text instead of changes says why there are none, where that is not ``unchanged``; so does
    :class:`Postponed` in a plan. Any other error on either side of the ``yield`` is the comment of a failed state,
    which lists no changes.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": unchanged}
    try:
        with closing(steps):
            found = next(steps)
            found, announced = found if isinstance(found, tuple) else (found, planned)
            if isinstance(found, str):
                ret.update(comment=found or unchanged)
            elif found and test:
                ret.update(result=None, changes=found, comment=announced)
            elif found:
                comment = _finish(steps)
                ret.update(changes=found, comment=comment or done)
    except Postponed as reason:  # which a plan only says
        ret.update(result=test, changes={}, comment=str(reason))
    except (VcoreError, CommandExecutionError, SaltInvocationError, OSError) as error:
        ret.update(result=False, changes={}, comment=str(error))
    return ret


def _finish(steps: Steps) -> str | None:
    """Go on behind the ``yield``; return the comment."""
    try:
        next(steps)
    except StopIteration as end:
        comment: str | None = end.value
        return comment
    raise RuntimeError("the steps of a state yield their changes once")
