"""Whether the certificates are well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.errors import VcoreError
from ..base.paths import Paths
from . import x509
from .authority import Authority


def _certificates(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    checks = []
    for leaf in x509.wanted_all(pillar):
        try:
            found = Authority(paths.authority, x509.policy(pillar)).verify(leaf)
        except (VcoreError, OSError) as error:
            found = [str(error)]
        saw = "; ".join(found) or "chain, names and dates are right"
        checks.append(result(f"the certificate {leaf.name} verifies", not found, saw, "run salt-call state.apply"))
    return checks


#: Certificates that have this or less and were not renewed are a problem, in days.
DAYS_LIMIT = 7


def is_good(certificate: Mapping[str, Any]) -> bool:
    """Whether a certificate is fine: its status is, and it does not end soon where a service uses it."""
    status = certificate["status"]
    return status in Authority.WELL and (status == "unused" or certificate["days_left"] > DAYS_LIMIT)
