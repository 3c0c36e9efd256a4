"""The administrator's half of one password for the directory and Samba: whether they agree, and Samba's accounts.

What people do themselves is in :mod:`vcore.passwords.change`.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
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
#: One operation of the directory notes its time twice; Samba, when it asks for that operation, a moment before it.
SAME_MOMENT = 5.0
#: Where passwords.Journal keeps a change that was interrupted, below a home.
JOURNAL = ".local/state/virtual-core/password-change"


def scheme(pillar: Mapping[str, Any]) -> str:
    """Where Samba keeps its passwords.

    Raises:
        VcoreError: the core has no file router.
    """
    if SERVICE not in pillar["services"]:
        raise VcoreError(f"the service {SERVICE} is not switched on in the site file")
    return str(pillar["services"][SERVICE]["settings"]["password_scheme"])


# --- Samba's accounts -----------------------------------------------------------------------------------------------


def add_account(
    pillar: Mapping[str, Any], paths: Paths, connection: Directory, name: str, *, reset: bool = False
) -> Path:
    """Make a person's Samba account with a random one-time password; with ``reset`` give an existing one a new one.

    Returns:
        The root-only file that holds the password.

    Raises:
        NotFound: the directory has no such person, or the file router does not run here.
        VcoreError: the account exists (without ``reset``), or the scheme needs none.
    """
    if scheme(pillar) != "tdbsam":
        raise VcoreError("the file router takes its passwords from the directory (password_scheme: ldapsam)")
    _person(pillar, connection, name)
    if _account(pillar, name) and not reset:
        raise VcoreError(
            f"{name} has a Samba account already; for a new one-time password: "
            f"salt-call vcore.samba_user_add {name} reset=True"
        )
    store, minimum = Store(paths.secrets), pillar["services"]["ldap"]["settings"]["password_minimum_length"]
    password = generate("password", max(ONE_TIME_LENGTH, minimum))
    # In the store first: a password that nobody can read would have to be set again.
    store.write(ONE_TIME_PASSWORDS, name, password)
    for command, data in (
        (["smbpasswd", "-a", "-s", name], password + b"\n" + password + b"\n"),
        (["pdbedit", "--bad-password-count-reset", f"--user={name}"], b""),
    ):
        code, output = container.execute(pillar, command, data)
        if code:
            raise VcoreError(f"Samba refuses the account {name}: {_last_line(output)}")
    return store.path(ONE_TIME_PASSWORDS, name)


def _account(pillar: Mapping[str, Any], name: str) -> tuple[str, float] | None:
    """The NT hash of a Samba account and when its password was set, or None if there is no account."""
    code, output = container.execute(pillar, ["pdbedit", "--list", "--smbpasswd-style", f"--user={name}"])
    return read_account(output.decode(errors="replace"), name) if code == 0 else None


def read_account(output: str, name: str) -> tuple[str, float] | None:
    """NT hash and time out of ``pdbedit --list --smbpasswd-style``, among whatever else it says."""
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
        raise VcoreError(f"{name!r} is nobody: {problem}")
    dn = f"uid={name},ou=people,{entries.suffix(pillar)}"
    entry = connection.read(
        dn,
        ["homeDirectory", "pwdChangedTime", "pwdReset", "pwdAccountLockedTime", "sambaPwdLastSet", "sambaNTPassword"],
    )
    if entry is None:
        raise NotFound(f"nobody in the directory is called {name}; see salt-call vcore.user_list")
    return entry


# --- whether they agree ---------------------------------------------------------------------------------------------


def check(pillar: Mapping[str, Any], connection: Directory, name: str) -> dict[str, Any]:
    """Whether the directory and Samba have the same password for a person, and since when.

    Returns:
        ``in_sync``, ``since`` (UTC, None if they differ), ``scheme``, when either side was set, whether a change was
        interrupted (tdbsam), whether the account is locked, and a ``summary`` in words. No hash is among it.

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
    """What :func:`check` answers, from a person's entry and, with tdbsam, Samba's account."""
    changed = _directory_time(entry)
    kept = float(_first(entry, "sambaPwdLastSet") or 0)
    hashed, first = bool(_first(entry, "sambaNTPassword")), _first(entry, "pwdReset") == "TRUE"
    # Samba's half of the password operation did not take place: somebody wrote userPassword by itself. Of a first
    # password Samba notes no time, so that it has to be changed there, too.
    noted = changed is not None and (abs(changed - kept) <= SAME_MOMENT or (first and not kept))
    bypassed = changed is not None and not (hashed and noted)
    problem = None
    if changed is None:
        problem = f"the directory has no password for {name}: salt-call vcore.user_reset_password {name}"
    elif bypassed:
        problem = (
            "the directory's password was set without the password operation, which Samba does not notice; "
            f"{name} sets it again with salt-call vcore.sync_password"
        )
    if kind == "ldapsam":
        samba_set = kept or (changed if first else None)
    else:
        samba_set = account[1] if account else None
        if problem is None and account is None:
            problem = f"Samba has no account for {name}: salt-call vcore.samba_user_add {name}"
        elif problem is None and account is not None and account[0] != _first(entry, "sambaNTPassword").upper():
            later = "the directory's" if changed is not None and changed > account[1] else "Samba's"
            problem = f"the two passwords differ, {later} was set later; " + (
                f"{name} ends the interrupted change with salt-call vcore.sync_password"
                if interrupted
                else f"salt-call vcore.samba_user_add {name} reset=True, then {name} runs "
                "salt-call vcore.sync_password --boot"
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
    """When the directory's password was set; GeneralizedTime, RFC 4517, 3.3.13, as slapd writes it."""
    value = _first(entry, "pwdChangedTime")
    match = re.fullmatch(r"(\d{14})(\.\d+)?Z", value)
    return float(timegm(time.strptime(match[1], "%Y%m%d%H%M%S"))) if match else None


def _moment(moment: float | None) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment else None
