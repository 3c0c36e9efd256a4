"""Sections: keys that areas add to a model of the kernel or of another area, such as the site file.

A section is one key with its type and its description, at a *place*: ``slurm`` is a key of the model itself,
``nodes.*.logins`` is a key of each value of the mapping ``nodes``.
"""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from pydantic import create_model

from .models import Model, field

T = TypeVar("T")
M = TypeVar("M", bound=Model)


class Section(Generic[T]):
    """One key that an area adds to a model, and typed access to its value."""

    def __init__(self, place: str, kind: Any, *, description: str, **more: Any) -> None:
        """Describe the key: ``kind`` is its type, ``more`` goes to pydantic's Field. Without a default in ``more``, the
        default is an empty value of the type, unless ``more`` has ``required=True``.
        """
        self.place, self.kind = place, kind
        self.name = place.rpartition(".")[2]
        self._required = bool(more.pop("required", False))
        self._more = {"description": description, **more}

    def of(self, model: Model) -> T:
        """Return the section's value in an extended model."""
        value: T = getattr(model, self.name)
        return value

    def field(self, kind: Any) -> Any:
        """Return the section's pydantic field; ``kind`` is its type with the keys that other areas add below it."""
        if self._required or not {"default", "default_factory"}.isdisjoint(self._more):
            return field(**self._more)
        return field(default_factory=typing.get_origin(kind) or kind, **self._more)


def extended(model: type[M], sections: Iterable[Section[Any]]) -> type[M]:
    """Return a subclass of a model with these sections added, each at its place; the model itself if there are none."""
    return _extended(model, [(section.place.split("."), section) for section in sections])


def _extended(model: type[M], sections: list[tuple[list[str], Section[Any]]]) -> type[M]:
    own = {place[0]: section for place, section in sections if len(place) == 1}
    below: dict[str, list[tuple[list[str], Section[Any]]]] = {}
    for place, section in sections:
        if len(place) > 1:
            below.setdefault(place[0], []).append((place[1:], section))
    fields: dict[str, Any] = {}
    for name, section in own.items():
        kind = _within(section.kind, below.pop(name, []))
        fields[name] = (kind, section.field(kind))
    for name, inner in below.items():
        known = copy.copy(model.model_fields[name])
        kind = _within(known.annotation, inner)
        if known.default_factory is known.annotation:
            known.default_factory = kind
        fields[name] = (kind, known)
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields) if fields else model


def _within(kind: Any, sections: list[tuple[list[str], Section[Any]]]) -> Any:
    """Return a type with these sections added to its models: a model, a mapping of models (``*``), a union with None.

    Raises:
        TypeError: the type is none of these.
    """
    if not sections:
        return kind
    if isinstance(kind, type) and issubclass(kind, Model):
        return _extended(kind, sections)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict and all(place[0] == "*" for place, _ in sections):
        inner = _within(arguments[1], [(place[1:], section) for place, section in sections])
        return types.GenericAlias(dict, (arguments[0], inner))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member if member is type(None) else _within(member, sections) for member in arguments]
        return typing.Union[tuple(members)]  # noqa: UP007  the members are only known at run time
    raise TypeError(f"nothing can be added below {kind}")
