"""The display of people and groups, and of changes to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal import Group, RenderableType, Table, Text, good, has, plain, table

#: Keys of the results of vcore.user_add and similar commands, with their labels.
LABELS = {"uid": "number", "home": "home", "first_password": "first password"}


def _change(result: Mapping[str, Any]) -> RenderableType:
    facts = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for key, label in LABELS.items():
        if key in result:
            facts.add_row(label, plain(result[key]))
    lines: list[RenderableType] = [plain(result["comment"]), *([facts] if facts.row_count else [])]
    if result["changes"] and (result["test"] or "uid" not in result):
        # Everything about a new person is new: a plan shows it; afterwards vcore.user_show does.
        changes = table("CHANGE", "FROM", "TO")
        for name, change in result["changes"].items():
            old, new = change["old"], change["new"]
            if isinstance(old, dict) or isinstance(new, dict):
                changes.add_row(plain(name), "" if old else "-", "" if new else "-", style="bold")
                for key in {**(old or {}), **(new or {})}:
                    changes.add_row(f"  {key}", plain((old or {}).get(key, "-")), plain((new or {}).get(key, "-")))
            else:
                changes.add_row(plain(name), plain(old or "-"), plain(new or "-"))
        lines += ["", changes]
    return Group(*lines)


def _import(result: Mapping[str, Any]) -> RenderableType:
    counts = [f"{result[key]} {key}" for key in ("added", "changed", "unchanged", "failed")]
    failed = [plain(line) for line in result["lines"] if ": failed: " in line]
    verdict = good(", ".join(counts) + ".", not failed)
    return Group(*failed, verdict, Text(f"First passwords are in {result['first_passwords']}."))


def _people(people: Mapping[str, Any]) -> RenderableType:
    rows = table("NAME", "NUMBER", "WHO", "GROUPS", "STATE", right=(1,), whole=(0,))
    for name, person in people.items():
        state = "locked" if person["locked"] else "first password" if person["first_password"] else "-"
        who, groups = plain(person["name"]), plain(person["groups"])
        rows.add_row(plain(name), str(person["uid"]), who, groups, Text(state))
    return rows


def _groups(groups: Mapping[str, Any]) -> RenderableType:
    rows = table("GROUP", "NUMBER", "FOR", "MEMBERS", right=(1,), whole=(0,))
    for name, group in groups.items():
        description, members = plain(group["description"] or "-"), plain(group["members"])
        rows.add_row(plain(name), str(group["gid"]), description, members)
    return rows


def _each_has(key: str, value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(entry, Mapping) and key in entry for entry in value.values())
    )


SHAPES = (
    (has("changes"), _change),
    (has("lines"), _import),
    (lambda value: _each_has("uid", value), _people),
    (lambda value: _each_has("gid", value), _groups),
)
