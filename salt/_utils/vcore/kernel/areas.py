"""Areas: the packages beside this one, found by folder, and their faces, found by file.

An *area* is one subject of the core: a package with its settings, its part of the pillar, its checks. A *face* is a
file in it whose name is fixed. Code that needs something from every area declares it in a ``Protocol`` and asks for it:

    @areas.face("health")
    class Checks(Protocol):
        def checks(self, pillar: Mapping[str, Any], paths: Paths) -> list[Check]: ...

    for area, module in areas.asked(Checks).items():
        module.checks(pillar, paths)

This asks ``vcore.<area>.health`` of each area that has this file with a function ``checks`` in it. A new area is asked
like all others, without a change to any file outside its folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ..base.errors import VcoreError
from ..base.messages import tr

PACKAGE, _, _ = __name__.partition(".")
FOLDER = Path(__file__).resolve().parents[1]
#: Packages that every area may import; they are not areas themselves.
FLOORS = ("base", "host", "kernel")

T = TypeVar("T")


@cache
def names() -> tuple[str, ...]:
    """Return the names of all areas, each after the areas that it uses.

    Raises:
        VcoreError: areas use each other in a circle.
    """
    folders = sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))
    uses = {name: import_module(f"{PACKAGE}.{name}").USES for name in folders if name not in FLOORS}
    try:
        return tuple(TopologicalSorter(uses).static_order())
    except CycleError as error:
        raise VcoreError(tr("areas use each other in a circle: {circle}", circle=" -> ".join(error.args[1]))) from None


def face(name: str) -> Callable[[type[T]], type[T]]:
    """Declare a protocol as something that areas offer in their file ``<name>.py``."""

    def declare(protocol: type[T]) -> type[T]:
        setattr(protocol, "__face__", name)  # noqa: B010  a protocol's own attributes would be among its members
        return protocol

    return declare


def members(protocol: type[Any]) -> frozenset[str]:
    """Return the names that a module needs to have to fulfil a protocol."""
    own = {**vars(protocol), **vars(protocol).get("__annotations__", {})}
    return frozenset(name for name in own if not name.startswith("_"))


@cache
def asked(protocol: type[T]) -> dict[str, T]:
    """Return the modules that fulfil a protocol declared with :func:`face`, by area name.

    An area without the file, or without one of the names in it, is left out. Areas come after those that they use.
    """
    wanted, file = members(protocol), vars(protocol)["__face__"]
    modules = {name: _module(name, file) for name in names()}
    return {name: module for name, module in modules.items() if module and wanted <= vars(module).keys()}  # type: ignore[misc]


@cache
def _module(area: str, file: str) -> ModuleType | None:
    path = FOLDER / area / f"{file}.py"
    return import_module(f"{PACKAGE}.{area}.{file}") if path.is_file() else None
