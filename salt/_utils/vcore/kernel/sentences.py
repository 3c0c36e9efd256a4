"""Turns pydantic's errors into lines that an administrator can act on."""

from __future__ import annotations

import re
import typing
from typing import Any

from pydantic import ValidationError

from ..base.messages import tr
from .documents import Document, Location, Problem, shown, unknown_key
from .models import (
    Model,
)


def _known_keys(model: type[Model], location: Location) -> list[str]:
    """Return the keys that the mapping at ``location`` of a model may have."""
    kind: Any = model
    for part in location:
        if isinstance(kind, type) and issubclass(kind, Model):
            kind = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        else:
            arguments = [a for a in typing.get_args(kind) if a is not type(None)]
            kind = arguments[-1] if arguments else None
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Model) else []


#: Our messages, by pydantic's error type, where pydantic's own are too technical for an administrator.
MESSAGES = {
    "missing": "is required",
    "int_type": "has to be a whole number",
    "bool_type": "has to be true or false",
    "string_type": "has to be text (put it in quotes)",
    "list_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "model_attributes_type": "has to be a mapping",
}


#: Phrases of pydantic's other messages (regular expressions), and what replaces them.
PHRASES = {
    r"Value error, ": "",
    r"Input should be greater than or equal to ": "has to be at least ",
    r"Input should be less than or equal to ": "has to be at most ",
    r"Input should be ": "has to be ",
    r"(String|List|Dictionary) should have ": "has to have ",
    r"String should match pattern ": "has to match ",
    r" after validation, not \d+": "",
}


def _plain(message: str) -> str:
    for pattern, phrase in PHRASES.items():
        message = re.sub(pattern, phrase, message)
    return message


def problems(error: ValidationError, model: type[Model], document: Document, prefix: Location = ()) -> list[Problem]:
    """Turn pydantic's errors into problems that name the key and the remedy."""
    found: dict[Location, Problem] = {}
    for entry in error.errors(include_url=False):
        inner = entry["loc"]
        if inner[-1] == "[key]" and not document.has((*prefix, *inner)):
            inner = inner[:-1]  # pydantic's mark for an error in the key itself
        location = (*prefix, *inner)
        if entry["type"] == "extra_forbidden":
            message = unknown_key(str(location[-1]), _known_keys(model, inner[:-1]))
        elif entry["type"] in MESSAGES:
            message = MESSAGES[entry["type"]]
        else:
            message = _plain(entry["msg"])
        quotable = not isinstance(entry["input"], dict | list) and "@" not in str(entry["input"])
        if quotable and entry["type"] not in ("missing", "extra_forbidden"):
            message += tr(", not {input}", input=shown(entry["input"]))
        # A union reports one error for each of its members; the first member is most likely the one that was meant.
        found.setdefault(location, document.problem(location, message))
    return list(found.values())
