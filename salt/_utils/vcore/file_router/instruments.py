"""Entries of instruments in the directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import FILE_ROUTER as SERVICE
from ..base.paths import Paths
from ..base.secrets import Store
from . import samba
from .configuration import UNKNOWN_HASH

if TYPE_CHECKING:
    from ..directory.client import Directory

# --- instruments in the directory -------------------------------------------------------------------------------------


def instrument_changes(
    pillar: Mapping[str, Any], paths: Paths, directory: Directory | None, *, test: bool
) -> tuple[dict[str, Any], dict[str, dict[str, list[str]]]]:
    """Return how the instruments' entries differ from what the site wants; only the scheme ldapsam has such entries.

    ``directory`` is None where it does not run yet, which counts as empty.

    Returns:
        The changes for people, by DN, and what to write: whole entries of new instruments, changed attributes of
        others, nothing for those to delete. What is written contains password hashes; the changes do not.

    Raises:
        NotFound: a password does not exist, without ``test``.
        VcoreError: the directory has a person with the name of an instrument.
    """
    from ..directory.entries import diff

    suffix = str(pillar["directory"]["suffix"])
    base = f"ou=instruments,{suffix}"
    ours = pillar["services"][SERVICE]["settings"]["password_scheme"] == "ldapsam"
    numbers = samba.instrument_numbers(pillar["instruments"]) if ours else {}
    store = Store(paths.secrets)
    changes: dict[str, Any] = {}
    writes: dict[str, dict[str, list[str]]] = {}
    for name, number in sorted(numbers.items()):
        dn = f"uid={name},{base}"
        entry = samba.instrument_entry(suffix, name, number)
        secret = f"instrument-{name}"
        known = store.exists(SERVICE, secret)
        if not known and not test:
            store.read(SERVICE, secret)  # raises an error that says what is missing
        hash_ = samba.nt_hash(store.read(SERVICE, secret).decode()) if known else UNKNOWN_HASH
        there = directory.read(dn, [*entry, "sambaNTPassword"]) if directory else None
        if there is None:
            if directory and directory.read(f"uid={name},ou=people,{suffix}", ["uid"]) is not None:
                raise VcoreError(
                    tr(
                        "the instrument {name} cannot be made: the directory has a person of that name; rename it",
                        name=name,
                    )
                )
            changes[dn] = {"old": None, "new": entry}
            writes[dn] = {**entry, "sambaNTPassword": [hash_]}
            continue
        found = {key: [value.decode(errors="replace") for value in values] for key, values in there.items()}
        stored = found.pop("sambaNTPassword", [])
        # Samba puts an L among the flags while an account is locked, and removes it itself later.
        found["sambaAcctFlags"] = [_unlocked(flags) for flags in found.get("sambaAcctFlags", [])]
        change = diff({dn: found}, {dn: entry}).get(dn, {"old": {}, "new": {}})
        write = dict(change["new"])
        if [value.upper() for value in stored] != [hash_]:
            change = {
                "old": {**change["old"], "sambaNTPassword": "another one" if stored else "none"},
                "new": {**change["new"], "sambaNTPassword": f"the secret {SERVICE}/{secret}"},
            }
            write["sambaNTPassword"] = [hash_]
        if write:
            changes[dn], writes[dn] = change, write
    for dn, _ in directory.search(base, "(objectClass=sambaSamAccount)", ["uid"]) if directory else ():
        if dn.lower() not in {f"uid={name},{base}".lower() for name in numbers}:
            changes[dn], writes[dn] = {"old": "an instrument", "new": None}, {}
    return changes, writes


def _unlocked(flags: str) -> str:
    kept = flags.strip("[]").replace("L", "").replace(" ", "")
    return f"[{kept:<11}]"


def write_instruments(
    directory: Directory, changes: Mapping[str, Any], writes: Mapping[str, dict[str, list[str]]]
) -> None:
    """Write what :func:`instrument_changes` returned to the directory."""
    for dn, attributes in writes.items():
        if changes[dn]["new"] is None:
            directory.delete(dn)
        elif changes[dn]["old"] is None:
            directory.add(dn, attributes)
        else:
            directory.replace(dn, attributes)
