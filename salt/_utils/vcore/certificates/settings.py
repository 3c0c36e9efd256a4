"""What a site may write about certificates, and the checks of its own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..base.messages import tr
from ..host.network import Route
from ..kernel.documents import Location, Problem, unknown_key
from ..kernel.models import (
    AbsolutePath,
    Model,
    field,
)
from ..kernel.sections import Section
from ..kernel.site import Configuration
from ..services import catalogue
from ..services.settings import SERVICES


class SuppliedCertificate(Model):
    """A certificate that the site brings."""

    certificate: AbsolutePath = field(
        description="PEM file on the head, the chain behind the certificate.", example="/etc/ssl/site/ldap.pem"
    )
    key: AbsolutePath = field(
        description="PEM file of its unencrypted private key, on the head, readable by root only.",
        example="/etc/ssl/private/ldap.key",
    )


class AuthoritySettings(Model):
    """The certificate authority of the core."""

    certificate: AbsolutePath | None = field(
        None,
        description="PEM file of an authority that the site brings, with the chain up to its root.",
        example="/etc/ssl/site/authority.pem",
    )
    key: AbsolutePath | None = field(
        None,
        description="PEM file of its unencrypted private key, readable by root only.",
        example="/etc/ssl/private/authority.key",
    )
    lifetime: int = field(
        3650, ge=365, le=7300, unit="days", description="Validity of an authority made here.", example=7300
    )
    renew_before: int = field(
        30,
        ge=1,
        le=180,
        unit="days",
        description="Service certificates are renewed at least this long before they end.",
        example=60,
    )


AUTHORITY: Section[AuthoritySettings] = Section(
    "certificate_authority", AuthoritySettings, description="The certificate authority."
)
SUPPLIED: Section[dict[str, SuppliedCertificate]] = Section(
    "services.*.certificates",
    dict[str, SuppliedCertificate],
    description="Certificates that the site brings, by the name that the service gives them.",
)

SECTIONS = (AUTHORITY, SUPPLIED)


def problems(configuration: Configuration) -> list[Problem]:
    """Return a problem for each certificate that the site brings and its service does not have."""
    known = catalogue.of(configuration)
    return [
        configuration.document.problem(
            ("services", name, "certificates", item), unknown_key(item, known[name].certificates)
        )
        for name, service in SERVICES.of(configuration.site).items()
        if name in known
        for item in SUPPLIED.of(service)
        if item not in known[name].certificates
    ]


def host_problems(configuration: Configuration, routes: Sequence[Route]) -> list[Problem]:
    """Check the certificates that the site brings, where it brings any (reading X.509 costs an import)."""
    site, document = configuration.site, configuration.document
    authority = AUTHORITY.of(site)
    supplied: list[tuple[Location, str, str, bool, list[str] | None]] = []
    if (authority.certificate is None) != (authority.key is None):
        missing = "key" if authority.key is None else "certificate"
        return [
            document.problem(
                ("certificate_authority",), tr("certificate and key go together; {missing} is missing", missing=missing)
            )
        ]
    if authority.certificate and authority.key:
        supplied.append((("certificate_authority",), authority.certificate, authority.key, True, None))
    for name, service in SERVICES.of(site).items():
        for item, pair in SUPPLIED.of(service).items():
            location: Location = ("services", name, "certificates", item)
            names = [f"{name}.{site.site.domain}"]
            supplied.append((location, pair.certificate, pair.key, False, names))
    if not supplied:
        return []
    from . import x509

    return [
        document.problem(location, message)
        for location, certificate, private_key, is_authority, names in supplied
        for message in x509.check_supplied(Path(certificate), Path(private_key), names=names, authority=is_authority)
    ]
