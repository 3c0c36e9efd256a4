"""Samba's accounts, and whether their passwords agree with the directory's: the administrator's side of passwords.

People's own side is :mod:`vcore.passwords.change`.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..base.secrets import Store, generate
from ..directory import entries
from ..directory.client import Directory
from ..people.settings import name_problem
from . import container
from .settings import SERVICE

#: The folder of the secret store with the one-time passwords of Samba accounts, a file for each person.
ONE_TIME_PASSWORDS = "samba-passwords"
ONE_TIME_LENGTH = 20
#: The most seconds between the two times that one password operation leaves in the directory: Samba, which asks for the
#: operation, notes its time a moment before the directory does.
SAME_MOMENT = 5.0
#: Where vcore.passwords.journal keeps an interrupted change, below a home.
JOURNAL = ".local/state/virtual-core/password-change"


def scheme(pillar: Mapping[str, Any]) -> str:
    """Return where Samba keeps its passwords: ``ldapsam`` (the directory) or ``tdbsam`` (a file of its own).

    Raises:
        VcoreError: the core has no file router.
    """
    if SERVICE not in pillar["services"]:
        raise VcoreError(tr("the service {service} is not switched on in the site file", service=SERVICE))
    return str(pillar["services"][SERVICE]["settings"]["password_scheme"])


# --- Samba's accounts -----------------------------------------------------------------------------------------------


def add_account(
    pillar: Mapping[str, Any], paths: Paths, connection: Directory, name: str, *, reset: bool = False
) -> Path:
    """Make a Samba account with a random one-time password for a person; with ``reset`` renew that of an existing one.

    Returns:
        The root-only file that holds the password.

    Raises:
        NotFound: the directory has no such person, or the file router does not run here.
        VcoreError: the account exists (without ``reset``), or the scheme needs none.
    """
    if scheme(pillar) != "tdbsam":
        raise VcoreError(tr("the file router takes its passwords from the directory (password_scheme: ldapsam)"))
    _person(pillar, connection, name)
    if _account(pillar, name) and not reset:
        raise VcoreError(
            tr(
                "{name} has a Samba account already; for a new one-time password: salt-call "
                "vcore.samba_user_add {name} reset=True",
                name=name,
            )
        )
    store, minimum = Store(paths.secrets), pillar["services"]["ldap"]["settings"]["password_minimum_length"]
    password = generate("password", max(ONE_TIME_LENGTH, minimum))
    # Stored before it is set: a password that is set but stored nowhere would be of no use.
    store.write(ONE_TIME_PASSWORDS, name, password)
    for command, data in (
        (["smbpasswd", "-a", "-s", name], password + b"\n" + password + b"\n"),
        (["pdbedit", "--bad-password-count-reset", f"--user={name}"], b""),
    ):
        code, output = container.execute(pillar, command, data)
        if code:
            raise VcoreError(
                tr("Samba refuses the account {name}: {last_line}", name=name, last_line=_last_line(output))
            )
    return store.path(ONE_TIME_PASSWORDS, name)


def _account(pillar: Mapping[str, Any], name: str) -> tuple[str, float] | None:
    """Return a Samba account's NT hash and the time of its password (seconds since 1970), None without an account."""
    code, output = container.execute(pillar, ["pdbedit", "--list", "--smbpasswd-style", f"--user={name}"])
    return read_account(output.decode(errors="replace"), name) if code == 0 else None


def read_account(output: str, name: str) -> tuple[str, float] | None:
    """Read NT hash and time (seconds since 1970) from the output of ``pdbedit --list --smbpasswd-style``.

    Other lines of the output are ignored; None where it does not list the account.
    """
    line = re.search(
        rf"^{re.escape(name)}:\d+:[0-9A-FX]{{32}}:([0-9A-FX]{{32}}):\[[^]]*\]:LCT-([0-9A-F]{{1,16}}):", output, re.M
    )
    return (line[1], float(int(line[2], 16))) if line else None


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")


def _person(pillar: Mapping[str, Any], connection: Directory, name: str) -> dict[str, list[bytes]]:
    problem = name_problem(name)
    if problem:
        raise VcoreError(tr("{name} cannot be the name of a person: {problem}", name=quoted(name), problem=problem))
    dn = f"uid={name},ou=people,{entries.suffix(pillar)}"
    entry = connection.read(
        dn,
        ["homeDirectory", "pwdChangedTime", "pwdReset", "pwdAccountLockedTime", "sambaPwdLastSet", "sambaNTPassword"],
    )
    if entry is None:
        raise NotFound(tr("nobody in the directory is called {name}; see salt-call vcore.user_list", name=name))
    return entry


# --- whether they agree ---------------------------------------------------------------------------------------------


def check(pillar: Mapping[str, Any], connection: Directory, name: str) -> dict[str, Any]:
    """Return whether the directory and Samba have the same password for a person, and since when.

    Returns:
        ``name``, ``scheme``, ``in_sync``, ``since`` (UTC, None if they differ), ``directory_set`` and ``samba_set``
        (UTC), ``must_change``, ``locked``, ``interrupted`` (tdbsam: whether a change was) and a ``summary`` in words.
        It contains no hash.

    Raises:
        NotFound: as :func:`add_account` does.
    """
    entry = _person(pillar, connection, name)
    kind = scheme(pillar)
    account, interrupted = None, False
    if kind == "tdbsam":
        account = _account(pillar, name)
        home = entry["homeDirectory"][0].decode()
        interrupted = container.execute(pillar, ["test", "-e", f"{home}/{JOURNAL}"])[0] == 0
    return judge(name, kind, entry, account, interrupted=interrupted)


def judge(
    name: str,
    kind: str,
    entry: Mapping[str, list[bytes]],
    account: tuple[str, float] | None,
    *,
    interrupted: bool = False,
) -> dict[str, Any]:
    """Return what :func:`check` does, from a person's entry and, with tdbsam, Samba's account."""
    changed = _directory_time(entry)
    kept = float(_first(entry, "sambaPwdLastSet") or 0)
    hashed, first = bool(_first(entry, "sambaNTPassword")), _first(entry, "pwdReset") == "TRUE"
    # Without hash and time of Samba's, somebody wrote userPassword directly, bypassing the password operation. A first
    # password has no time of Samba's either, so that Samba, too, demands its change.
    noted = changed is not None and (abs(changed - kept) <= SAME_MOMENT or (first and not kept))
    bypassed = changed is not None and not (hashed and noted)
    problem = None
    if changed is None:
        problem = tr("the directory has no password for {name}: salt-call vcore.user_reset_password {name}", name=name)
    elif bypassed:
        problem = tr(
            "the directory's password was set without the password operation, so Samba did not get "
            "it; {name} sets it again with salt-call vcore.sync_password",
            name=name,
        )
    if kind == "ldapsam":
        samba_set = kept or (changed if first else None)
    else:
        samba_set = account[1] if account else None
        if problem is None and account is None:
            problem = tr("Samba has no account for {name}: salt-call vcore.samba_user_add {name}", name=name)
        elif problem is None and account is not None and account[0] != _first(entry, "sambaNTPassword").upper():
            later = "the directory's" if changed is not None and changed > account[1] else "Samba's"
            problem = tr("the two passwords differ, {later} was set later; ", later=later) + (
                tr("{name} ends the interrupted change with salt-call vcore.sync_password", name=name)
                if interrupted
                else tr(
                    "salt-call vcore.samba_user_add {name} reset=True, then {name} runs salt-call "
                    "vcore.sync_password --boot",
                    name=name,
                )
            )
    times = [moment for moment in (changed, samba_set) if moment]
    since = _moment(max(times)) if problem is None and times else None
    return {
        "name": name,
        "scheme": kind,
        "in_sync": problem is None,
        "since": since,
        "directory_set": _moment(changed),
        "samba_set": _moment(samba_set),
        "must_change": first,
        "locked": bool(_first(entry, "pwdAccountLockedTime")),
        "interrupted": interrupted,
        "summary": f"not in sync: {problem}" if problem else f"in sync since {since}",
    }


def _first(entry: Mapping[str, list[bytes]], attribute: str) -> str:
    values = entry.get(attribute) or [b""]
    return values[0].decode(errors="replace")


def _directory_time(entry: Mapping[str, list[bytes]]) -> float | None:
    """Return when the directory's password was set, in seconds since 1970; None if it has none.

    slapd writes GeneralizedTime (RFC 4517, 3.3.13).
    """
    value = _first(entry, "pwdChangedTime")
    match = re.fullmatch(r"(\d{14})(\.\d+)?Z", value)
    return float(timegm(time.strptime(match[1], "%Y%m%d%H%M%S"))) if match else None


def _moment(moment: float | None) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment else None
