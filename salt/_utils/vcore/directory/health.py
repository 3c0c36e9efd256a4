"""Status and checks of the directory."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import Unreachable, VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from . import monitoring, web
from .client import Directory, _text, open_administrator
from .entries import suffix, uri, wanted_entries

# --- what people ask ------------------------------------------------------------------------------------------------


def status(pillar: Mapping[str, Any], directory: Directory) -> dict[str, Any]:
    """Return the numbers of entries, the database's used and maximum size (bytes), and people's password policy."""
    base = suffix(pillar)
    maximum = pillar["services"]["ldap"]["settings"]["database_maximum_size"]
    pages = monitoring.read(directory, ("pages_max", "pages_used", "pages_free"))
    total, used, free = (int(value or 0) for value in pages.values())
    default = f"cn=default,ou=policies,{base}"
    policy = directory.read(default, (name for name in wanted_entries(pillar)[default] if name.startswith("pwd"))) or {}
    return {
        "suffix": base,
        "entries": {
            name: sum(1 for _ in directory.search(f"ou={name},{base}", filter_string, ["1.1"]))
            for name, filter_string in (
                ("people", "(objectClass=person)"),
                ("groups", "(objectClass=posixGroup)"),
                ("services", "(objectClass=simpleSecurityObject)"),
            )
        },
        "database": {"used": (used - free) * maximum // total if total else 0, "maximum": maximum},
        "policy": {name: _text(values[0]) for name, values in sorted(policy.items())},
    }


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Check the directory and its web page from this node, as far as they are on."""
    services = pillar["services"]
    directory = _directory(pillar, paths) if "ldap" in services else []
    return directory + (web.checks(pillar, paths) if "directory-web" in services else [])


def _directory(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    address = pillar["nodes"][pillar["services"]["ldap"]["node"]]["address"]
    checks = []

    try:
        with open_administrator(pillar, paths) as directory:
            saw = tr("bound as {whoami}", whoami=directory.whoami())
        ok = True
    except VcoreError as error:
        ok, saw = False, str(error)
    checks.append(
        result(
            tr("the administrator binds at {uri}, the certificate verified by the site's authority", uri=uri(pillar)),
            ok,
            saw,
            tr("run salt-call state.apply, then docker service logs ldap"),
        )
    )

    try:
        Directory(uri(pillar), paths.authority / "ca.crt", "", "").close()
        ok, saw = False, tr("the anonymous bind was accepted")
    except Unreachable as error:
        ok, saw = False, str(error)
    except VcoreError:
        ok, saw = True, "refused"
    checks.append(
        result(
            tr("an anonymous bind is refused"), ok, saw, tr("run salt-call state.apply to bring the configuration back")
        )
    )

    port = pillar["services"]["ldap"]["ports"]["ldaps"]["number"]
    # Such a context verifies certificates and trusts no authority until it is given one.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with (
            socket.create_connection((address, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=address),
        ):
            ok, saw = False, tr("the certificate was accepted")
    except ssl.SSLCertVerificationError as error:
        ok, saw = True, error.verify_message
    except OSError as error:
        ok, saw = False, str(error)
    checks.append(
        result(
            tr("a client without the site's authority refuses the certificate"),
            ok,
            saw,
            tr("run salt-call state.apply, then docker service logs ldap"),
        )
    )

    try:
        socket.create_connection((address, 389), timeout=2).close()
        ok, saw = False, "port 389 answers"
    except OSError as error:
        ok, saw = True, str(error)
    checks.append(
        result(
            tr("nothing answers in the clear at {address}, port 389", address=address),
            ok,
            saw,
            tr("find what listens with ss -ltnp; the core's directory never does"),
        )
    )
    return checks
