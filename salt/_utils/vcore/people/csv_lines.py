"""People as lines of a CSV file, which are parsed and checked one by one, so that a bad line does not affect others.

A header names the columns, in any order; ``name`` has to be one of them. An empty cell means no change. The items of
lists (``groups``, ``ssh_keys``) are separated by ``;``. A cell cannot contain a line break.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..base.errors import Invalid
from ..base.messages import quoted, tr
from ..kernel.documents import unknown_key
from .settings import SHELLS, Person, name_problem, plain

COLUMNS = ("name", "given_name", "surname", "mail", "telephone", "uid", "groups", "shell", "ssh_keys")
LISTS = ("groups", "ssh_keys")
#: Separator of two keys; the comment at the end of a key may contain a semicolon.
_BETWEEN_KEYS = re.compile(r";\s*(?=(?:ssh|ecdsa|sk)-)")

MESSAGES = {
    "string_too_short": "has to have at least one character",
    "string_too_long": "is too long",
    "int_type": "has to be a whole number",
    "extra_forbidden": "is not a property of a person",
}
FORMS = {
    "mail": "has to be a mail address, such as ada@example.org",
    "telephone": "has to be a telephone number, such as +44 20 7946 0000",
    "shell": f"has to be one of {', '.join(SHELLS)}",
    "groups": "a name has at most 31 characters of a-z, 0-9, - and _, and begins with a letter",
}


@dataclass(frozen=True)
class Line:
    """A line of the file: a person's data, or what is wrong with the line."""

    number: int
    name: str
    person: dict[str, Any] | None = None
    problem: str = ""


def check_name(name: str) -> None:
    """Check that a person or group may have this name.

    Raises:
        Invalid: it may not; the message says why.
    """
    if problem := name_problem(name):
        raise Invalid(f"{quoted(name)}: {problem}")


def check_person(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a person's data after checking them as in the site file; values of None are left out.

    Raises:
        Invalid: a value is not acceptable; the message is about the first one.
    """
    try:
        return plain(Person.model_validate({key: value for key, value in data.items() if value is not None}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = str(first["loc"][0])
        message = MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        if first["type"] in ("string_pattern_mismatch", "literal_error"):
            message = FORMS.get(column, message)
        raise Invalid(f"{column} {quoted(first['input'])}: {message}") from None


def _row(line: str) -> list[str]:
    """Return the cells of one line.

    Raises:
        csv.Error: the line is not CSV.
    """
    # Without strict, csv would close a quote that is open at the end of the line.
    rows = list(csv.reader([line], strict=True))
    return [cell.strip() for cell in rows[0]] if rows else []


def _header(cells: list[str]) -> list[str]:
    for cell in cells:
        if cell not in COLUMNS:
            raise Invalid(f"line 1: {quoted(cell)}: {unknown_key(cell, COLUMNS).replace('key', 'column')}")
        if cells.count(cell) > 1:
            raise Invalid(tr("line 1: the column {cell} occurs twice", cell=cell))
    if "name" not in cells:
        raise Invalid(
            tr(
                "line 1 has to name the columns, with commas between them; known are {columns}",
                columns=", ".join(COLUMNS),
            )
        )
    return cells


def _items(column: str, cell: str) -> list[str]:
    items = _BETWEEN_KEYS.split(cell) if column == "ssh_keys" else cell.split(";")
    return [item.strip() for item in items if item.strip()]


def _person(cells: Mapping[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for column, cell in cells.items():
        if column == "name" or not cell:
            continue
        if column == "uid":
            if not re.fullmatch(r"[0-9]{1,10}", cell):
                raise Invalid(tr("uid {cell}: has to be a whole number", cell=quoted(cell)))
            data[column] = int(cell)
        else:
            data[column] = _items(column, cell) if column in LISTS else cell
    return {key: value for key, value in check_person(data).items() if key in data}


def parse(content: bytes) -> list[Line]:
    """Parse a file: return one :class:`Line` for each line that is not blank, in order.

    Raises:
        Invalid: the file as a whole is not usable: it is not UTF-8, or has no valid header.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise Invalid(tr("line {number} is not UTF-8; save the file as CSV UTF-8", number=number)) from None
    rows = [line.removesuffix("\r") for line in text.split("\n")]
    try:
        header = _header(_row(rows[0]))
    except csv.Error as error:
        raise Invalid(tr("line 1 is not CSV: {error}", error=error)) from None
    lines: list[Line] = []
    names: dict[str, int] = {}
    numbers: dict[int, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row.strip():
            continue
        name = ""
        try:
            cells = _row(row)
            name = dict(zip(header, cells, strict=False)).get("name", "")
            if len(cells) != len(header):
                raise Invalid(
                    tr("has {cells} cells where the header has {header}", cells=len(cells), header=len(header))
                )
            check_name(name)
            if name in names:
                raise Invalid(tr("{name} is already on line {names}", name=name, names=names[name]))
            person = _person(dict(zip(header, cells, strict=True)))
            uid = person.get("uid")
            if uid in numbers:
                raise Invalid(tr("uid {uid} is already on line {numbers}", uid=uid, numbers=numbers[uid]))
            names[name] = number
            if uid is not None:
                numbers[uid] = number
            lines.append(Line(number, name, person))
        except csv.Error as error:
            lines.append(Line(number, name, None, f"is not CSV: {error}"))
        except Invalid as error:
            lines.append(Line(number, name, None, str(error)))
    return lines


def write(people: Iterable[tuple[str, Mapping[str, Any]]]) -> bytes:
    """Return people as a CSV file from which :func:`parse` reads the same people.

    Values in the directory that :func:`parse` would not accept are left out: a spreadsheet might take them for
    formulas.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, person in people:
        cells = [name]
        for column in COLUMNS[1:]:
            value = person.get(column)
            try:
                checked = check_person({column: value}).get(column) if value else None
            except Invalid:
                checked = None
            cells.append(";".join(checked) if isinstance(checked, list) else str(checked or ""))
        writer.writerow(cells)
    return stream.getvalue().encode()
