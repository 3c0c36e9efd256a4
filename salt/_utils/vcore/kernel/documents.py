"""Configuration files: strict YAML, and problems that name file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..base.errors import Invalid
from ..base.messages import tr


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    source: str
    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class SiteError(Invalid):
    """The configuration cannot be used; ``problems`` says why, one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML file: its data, the line of each key, and the documents that it was merged over."""

    source: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    below: tuple[Document, ...] = ()

    def over(self, below: Document) -> Document:
        """Merge this document over ``below``, and return the result; it still knows the place of every key."""
        return Document(self.source, merge(below.data, self.data), self.lines, (*self.below, below))

    def has(self, location: Location) -> bool:
        """Return whether ``location`` exists in this document or one below it."""
        return any(location in document.lines for document in (self, *self.below))

    def problem(self, location: Location, message: str) -> Problem:
        """Return a problem with the value at ``location`` that names the file which sets it."""
        for document in (self, *self.below):
            if location in document.lines:
                return Problem(document.source, key(location), message, document.lines[location])
        known = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in self.lines), None)
        return Problem(self.source, key(location), message, self.lines[known] if known else None)


#: More keys than any site has. Aliases of aliases can expand a small file to billions.
MAXIMUM_KEYS = 100_000


class _Loader(yaml.SafeLoader):
    """A YAML loader that notes the line of every key, and refuses duplicate keys, which YAML would silently accept."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.lines: dict[Location, int] = {}

    def note(self, node: yaml.Node, location: Location = (), ancestors: tuple[yaml.Node, ...] = ()) -> None:
        """Walk the tree and note the lines; an alias may occur in several places, but never inside itself."""
        if node in ancestors:
            raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
        if len(self.lines) > MAXIMUM_KEYS:
            raise yaml.constructor.ConstructorError(None, None, "the file is too large", node.start_mark)
        ancestors = (*ancestors, node)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(None, None, "a key has to be a plain word", key.start_mark)
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} occurs twice", key.start_mark
                    )
                seen.add(key.value)
                self.lines[(*location, key.value)] = key.start_mark.line + 1
                self.note(value, (*location, key.value), ancestors)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[(*location, index)] = value.start_mark.line + 1
                self.note(value, (*location, index), ancestors)


def parse(text: str, source: str) -> Document:
    """Read one configuration file: a YAML mapping with the single key ``vcore``.

    Raises:
        SiteError: the text is not such a mapping.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                loader.note(node)
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise SiteError(
            [Problem(source, "", tr("not valid YAML: {reason}", reason=reason), mark.line + 1 if mark else None)]
        ) from None
    except (ValueError, RecursionError) as error:
        # PyYAML does not translate the errors of malformed timestamps and numbers, and of very deep nesting.
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SiteError([Problem(source, "", tr("not valid YAML: {reason}", reason=reason))]) from None
    if not isinstance(data, dict):
        raise SiteError([Problem(source, "", tr("the file has to be a mapping with the key vcore"))])
    unknown = [key for key in data if key != "vcore"]
    if unknown:
        key = str(unknown[0])
        raise SiteError([Problem(source, key, unknown_key(key, ["vcore"]), loader.lines.get((key,)))])
    site = data.get("vcore", {})
    if not isinstance(site, dict):
        raise SiteError([Problem(source, "vcore", tr("has to be a mapping"), loader.lines.get(("vcore",)))])
    lines = {location[1:]: line for location, line in loader.lines.items() if len(location) > 1}
    return Document(source, site, lines)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge one configuration over another: mappings merge, everything else, lists included, replaces."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def key(location: Location) -> str:
    """Return a location as messages show it, such as ``vcore.network.subnet``; always one line, whatever the keys."""
    words = (str(part) if str(part).isprintable() else repr(part) for part in location)
    return ".".join(("vcore", *words))


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Return the message for a key that does not exist, with the most similar known key."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def shown(value: Any) -> str:
    """Return a value as error messages quote it: on one line, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
