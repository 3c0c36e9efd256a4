"""The health of the certificates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from . import x509
from .authority import Authority

#: Days left, at or below which a certificate that was not renewed is a problem.
DAYS_LIMIT = 7


def is_good(certificate: Mapping[str, Any]) -> bool:
    """Return whether a certificate is fine: its status is, and it does not end soon if a service uses it."""
    status = certificate["status"]
    return status in Authority.WELL and (status == "unused" or certificate["days_left"] > DAYS_LIMIT)


def judged(certificates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the certificates, each with ``ok``: whether it is fine."""
    return {name: {**certificate, "ok": is_good(certificate)} for name, certificate in certificates.items()}


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``certificates`` by name, each with ``ok``, and ``authority``: why it cannot be asked, or None."""
    try:
        found = Authority(paths.authority, x509.policy(pillar)).leaves(x509.wanted_all(pillar))
    except (VcoreError, OSError) as error:
        return {"certificates": {}, "authority": {"error": str(error)}}
    return {"certificates": judged(found), "authority": {"error": None}}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return what is not well with the authority and with each certificate."""
    error = facts.get("authority", {}).get("error")
    found = [error] if error else []
    for name, certificate in facts.get("certificates", {}).items():
        if certificate["ok"]:
            continue
        if certificate["status"] not in Authority.WELL:
            found.append(tr("certificate {name}: {status}", name=name, status=certificate["status"]))
        else:
            found.append(
                tr(
                    "certificate {name}: {days_left} days left; apply the states to renew it",
                    name=name,
                    days_left=certificate["days_left"],
                )
            )
    return found


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Verify the certificates of all services that are on."""
    found = []
    for leaf in x509.wanted_all(pillar):
        try:
            wrong = Authority(paths.authority, x509.policy(pillar)).verify(leaf)
        except (VcoreError, OSError) as error:
            wrong = [str(error)]
        saw = "; ".join(wrong) or tr("chain, names and dates are right")
        found.append(
            result(
                tr("the certificate {name} verifies", name=leaf.name), not wrong, saw, tr("run salt-call state.apply")
            )
        )
    return found
