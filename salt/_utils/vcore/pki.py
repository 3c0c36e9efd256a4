"""The certificate authority of a core: what certificates are wanted, and the store on the head that holds them.

Certificates are made with M2Crypto. The cryptography package is used for one thing that M2Crypto cannot do:
signing certificate revocation lists. The profile is that of RFC 5280, as ``openssl verify -x509_strict`` checks it.

The authority's key and the leaves' keys are EC, on P-384 and P-256: M2Crypto makes, signs with and writes such keys
(as PKCS #8, named curve) as well as it does RSA, in under a millisecond where RSA 3072 takes half a second.
``rsa-3072`` is there for a service whose clients cannot do elliptic curves.

How the store survives a crash at any point: certificate and key of one name lie in a folder of their own below
``.pairs/<name>/``, and the link ``.pairs/<name>/current`` says which folder counts. ``<name>.crt`` and ``<name>.key``
are fixed links through it. A new pair is written in full, then ``current`` is renamed over: one step swaps both.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import ipaddress
import itertools
import json
import os
import re
import secrets
import shutil
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import NotFound, VcoreError
from .files import write_atomic

try:
    from M2Crypto import ASN1, EC, EVP, RSA, X509, m2

    AVAILABLE = True
except ImportError:  # nodes other than the head only install the public root, which needs no M2Crypto
    AVAILABLE = False

#: Key types that a leaf can have.
KEY_TYPES = ("ec-p256", "rsa-3072")
#: Certificates begin this long before they are made, for nodes whose clock is behind.
BACKDATE = timedelta(hours=1)
#: How long a revocation list is valid; a convergence writes a new one when a third of it is left.
REVOCATION_LIST_LIFETIME = timedelta(days=90)
#: RFC 5280, 5.3.1: the reasons that make sense here.
REVOCATION_REASONS = {
    "unspecified": "unspecified",
    "keyCompromise": "key_compromise",
    "affiliationChanged": "affiliation_changed",
    "superseded": "superseded",
    "cessationOfOperation": "cessation_of_operation",
}
#: Longest time, in seconds, that a run waits for another one that is issuing.
LOCK_TIMEOUT = 60
#: No certificate chain or key is bigger; a supplied file that is, is something else.
MAXIMUM_FILE = 1024 * 1024
#: X509_PURPOSE_SSL_SERVER of OpenSSL's x509v3.h, which M2Crypto does not name.
PURPOSE_TLS_SERVER = 2
#: RFC 5280, appendix A: upper bound of common and organization name, in characters.
MAXIMUM_NAME = 64

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_LEAF_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}/[a-z][a-z0-9.-]{0,29}")
#: DER object identifiers in a public key, by the key type that they mean.
_CURVES = {"ec-p256": bytes.fromhex("06082a8648ce3d030107"), "ec-p384": bytes.fromhex("06052b81040022")}
_RSA = bytes.fromhex("06092a864886f70d010101")

Changes = dict[str, dict[str, Any]]


# What is wanted: pure functions on the resolved pillar.


@dataclass(frozen=True)
class Policy:
    """What the site wants of its authority; ``lifetime`` and ``renew_before`` in days."""

    organization: str
    common_name: str
    lifetime: int
    renew_before: int
    supplied: tuple[Path, Path] | None = None

    @property
    def subject(self) -> str:
        """The subject as :attr:`Facts.subject` writes it."""
        return subject_text(self.organization, self.common_name)


@dataclass(frozen=True)
class Leaf:
    """One certificate that a service wants; ``lifetime`` in days."""

    name: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    organization: str
    lifetime: int
    key_type: str = "ec-p256"
    client: bool = False
    supplied: tuple[Path, Path] | None = None
    required_names: tuple[str, ...] = ()

    @property
    def common_name(self) -> str:
        """The first name that fits; clients look at the alternative names only (RFC 9525)."""
        return next((name for name in self.names if len(name) <= MAXIMUM_NAME), "")

    @property
    def subject(self) -> str:
        """The subject as :attr:`Facts.subject` writes it."""
        return subject_text(self.organization, self.common_name)


def subject_text(organization: str | None, common_name: str | None) -> str:
    """A subject in one line, with the parts that there are: ``O=Virtual Core, CN=ldap.vcore.test``."""
    parts = (("O", (organization or "")[:MAXIMUM_NAME]), ("CN", (common_name or "")[:MAXIMUM_NAME]))
    return ", ".join(f"{key}={value}" for key, value in parts if value)


def policy(vcore: Mapping[str, Any]) -> Policy:
    """The authority that the resolved pillar asks for.

    Raises:
        VcoreError: the pillar is not that of the head, the only node that has an authority.
    """
    if "certificate_authority" not in vcore:
        raise VcoreError("the certificate authority is on the head node only; run this there")
    wanted_ca = vcore["certificate_authority"]
    supplied = None
    if wanted_ca.get("certificate") or wanted_ca.get("key"):
        if not (wanted_ca.get("certificate") and wanted_ca.get("key")):
            raise VcoreError("vcore.certificate_authority: certificate and key are set together or not at all")
        supplied = (Path(wanted_ca["certificate"]), Path(wanted_ca["key"]))
    return Policy(
        organization=vcore["site"]["organization"],
        common_name=f"{vcore['site']['name']} root CA",
        lifetime=wanted_ca["lifetime"],
        renew_before=wanted_ca["renew_before"],
        supplied=supplied,
    )


def required_names(service: str, vcore: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a certificate supplied for ``service`` has to cover: the service's full name.

    A public authority signs neither short names nor private addresses, so these are not asked of it.
    """
    return (f"{service}.{vcore['site']['domain']}",)


def wanted(vcore: Mapping[str, Any], name: str) -> Leaf:
    """The certificate ``<service>/<certificate>`` that the resolved pillar asks for.

    Raises:
        NotFound: no service that is switched on has it.
        VcoreError: a name or address that does not belong into a certificate.
    """
    service, _, item = name.partition("/")
    try:
        certificate = vcore["services"][service]["certificates"][item]
    except KeyError:
        known = ", ".join(_wanted_names(vcore)) or "none"
        raise NotFound(f"no service that is switched on has the certificate {name}; there are: {known}") from None
    for dns in certificate["names"]:
        if len(dns) > 253 or not _DNS_NAME.fullmatch(dns):
            raise VcoreError(f"certificate {name}: {dns!r} is not a DNS name")
    try:
        addresses = tuple(str(ipaddress.ip_address(address)) for address in certificate["addresses"])
    except ValueError as error:
        raise VcoreError(f"certificate {name}: {error}") from None
    if not certificate["names"]:
        raise VcoreError(f"certificate {name} has no names")
    supplied = certificate.get("supplied")
    return Leaf(
        name=name,
        names=tuple(certificate["names"]),
        addresses=addresses,
        organization=vcore["site"]["organization"],
        lifetime=certificate["lifetime"],
        key_type=certificate.get("key_type", "ec-p256"),
        client=certificate.get("client", False),
        supplied=(Path(supplied["certificate"]), Path(supplied["key"])) if supplied else None,
        required_names=required_names(service, vcore),
    )


def _wanted_names(vcore: Mapping[str, Any]) -> list[str]:
    return sorted(
        f"{service}/{item}"
        for service, definition in vcore["services"].items()
        for item in definition.get("certificates") or {}
    )


def wanted_all(vcore: Mapping[str, Any]) -> list[Leaf]:
    """Every certificate that the resolved pillar asks for, by name."""
    return [wanted(vcore, name) for name in _wanted_names(vcore)]


# How it differs from what is there: pure functions on facts.


@dataclass(frozen=True)
class Facts:
    """What a certificate says, as far as this project asks."""

    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    names: frozenset[str]
    addresses: frozenset[str]
    key_type: str
    client: bool

    @property
    def lifetime(self) -> int:
        """Whole days from begin to end."""
        return (self.not_after - self.not_before).days

    def days_left(self, now: datetime) -> int:
        """Whole days until it ends; negative when it has ended."""
        return (self.not_after - now) // timedelta(days=1)

    def renewal(self, renew_before: int) -> datetime:
        """When to renew: a third of the lifetime before the end, or ``renew_before`` days if that is earlier.

        Never in the first third of its life, or a short-lived certificate would be renewed in every run.
        """
        return renewal(self.not_before, self.not_after, timedelta(days=renew_before))


@dataclass(frozen=True)
class Stored:
    """A pair in the store: its facts, and how it stands to its key and to the authority."""

    facts: Facts
    paired: bool
    trusted: bool
    revoked: bool = False


def renewal(begin: datetime, end: datetime, margin: timedelta = timedelta()) -> datetime:
    """The moment from which something that is valid from ``begin`` to ``end`` is to be replaced."""
    third = (end - begin) / 3
    return end - min(max(third, margin), 2 * third)


def expiry_text(end: datetime) -> str:
    """``ends on 2026-05-01``; a date, since days left would differ between a plan and what is applied later."""
    return f"ends on {end:%Y-%m-%d}"


def leaf_difference(
    leaf: Leaf, stored: Stored | None, *, renew_before: int, end: datetime, now: datetime
) -> str | None:
    """Why the stored certificate is not the wanted one, or None when it is; ``end`` is that of the authority."""
    if stored is None:
        return "missing"
    facts = stored.facts
    if not stored.paired:
        return "key does not match"
    if not stored.trusted:
        return "issued by another authority"
    if stored.revoked:
        return "revoked"
    wanted_names, present = {*leaf.names, *leaf.addresses}, facts.names | facts.addresses
    if wanted_names != present:
        parts = [("lacks ", sorted(wanted_names - present)), ("has obsolete ", sorted(present - wanted_names))]
        return "; ".join(verb + ", ".join(names) for verb, names in parts if names)
    if facts.subject != leaf.subject:
        return f"subject {facts.subject}"
    if facts.key_type != leaf.key_type:
        return f"key type {facts.key_type}"
    if facts.client != leaf.client:
        return "for clients too" if facts.client else "not for clients"
    if now >= facts.renewal(renew_before):
        return expiry_text(facts.not_after)
    # One that was cut short by its authority's end has another lifetime, and cannot have a longer one.
    if facts.lifetime != leaf.lifetime and facts.not_after < end:
        return f"lifetime of {facts.lifetime} days"
    return None


def authority_difference(wanted_ca: Policy, facts: Facts | None, now: datetime) -> tuple[str, str] | None:
    """What to do about the authority that the head makes for itself, and why: ``("renew", "ends on 2026-05-01")``.

    ``make`` gives it a new key, so everything is issued anew; ``renew`` keeps name and key, so that all that was
    issued under the old root certificate also checks under the new one, and the other way round until it ends.
    """
    if facts is None:
        return "make", "missing"
    if facts.subject != wanted_ca.subject or facts.issuer != facts.subject:
        return "make", f"subject {facts.subject}"
    if now >= facts.renewal(wanted_ca.renew_before):
        return "renew", expiry_text(facts.not_after)
    if facts.lifetime != wanted_ca.lifetime:
        return "renew", f"lifetime of {facts.lifetime} days"
    return None


def revocation_list_difference(index: Mapping[str, Any], digest: str | None, now: datetime) -> str | None:
    """Why the revocation list has to be written again; ``digest`` is the SHA-256 of the file, None without one."""
    record = index["crl"]
    if digest is None or not record:
        return "missing"
    if digest != record["sha256"]:
        return "unknown content"
    if record["serials"] != _revoked(index, record["authority"]):
        return "lacks revocations"
    begin, end = (datetime.fromisoformat(record[key]) for key in ("last_update", "next_update"))
    return expiry_text(end) if now >= renewal(begin, end) else None


def _revoked(index: Mapping[str, Any], authority: str) -> list[str]:
    return sorted(
        serial
        for serial, entry in index["certificates"].items()
        if entry["revoked"] and entry["authority"] == authority
    )


def covers(present: Iterable[str], name: str) -> bool:
    """Whether a certificate for ``present`` is one for ``name``; a wildcard stands for one label (RFC 9525)."""
    wildcard = "*." + name.partition(".")[2]
    return any(candidate.lower() in (name.lower(), wildcard.lower()) for candidate in present)


# Reading certificates and keys.


def pem_certificates(data: bytes) -> list[bytes]:
    """The certificates in PEM ``data``, in order, each written as OpenSSL does: 64 characters a line.

    It only takes PEM apart; what is inside is the reader's to check. Needs nothing but Python.
    """
    blocks = []
    for match in _PEM_CERTIFICATE.finditer(data):
        with contextlib.suppress(ValueError):
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
            blocks.append(ssl.DER_cert_to_PEM_cert(der).encode())
    return blocks


def _no_passphrase(*_: Any) -> bytes:
    # Without a callback of ours M2Crypto asks on the terminal, and a convergence would hang.
    return b""


def _key_type(key: EVP.PKey) -> str:
    der = key.as_der()[:40]
    if _RSA in der:
        return f"rsa-{key.size() * 8}"
    return next((name for name, identifier in _CURVES.items() if identifier in der), "other")


def _extension(certificate: X509.X509, name: str) -> str:
    try:
        return str(certificate.get_ext(name).get_value())
    except LookupError:
        return ""


def _time(value: ASN1.ASN1_TIME) -> datetime:
    return value.get_datetime().replace(tzinfo=UTC)


def _facts(certificate: X509.X509) -> Facts:
    subject, issuer = certificate.get_subject(), certificate.get_issuer()
    alternative = certificate.get_subject_alt_names()
    return Facts(
        subject=subject_text(subject.O, subject.CN),
        issuer=subject_text(issuer.O, issuer.CN),
        serial=f"{certificate.get_serial_number():x}",
        not_before=_time(certificate.get_not_before()),
        not_after=_time(certificate.get_not_after()),
        names=frozenset(value.decode("ascii", "replace").lower() for kind, value in alternative if kind == m2.GEN_DNS),
        addresses=frozenset(
            str(ipaddress.ip_address(value))
            for kind, value in alternative
            if kind == m2.GEN_IPADD and len(value) in (4, 16)
        ),
        key_type=_key_type(certificate.get_pubkey()),
        client="TLS Web Client Authentication" in _extension(certificate, "extendedKeyUsage"),
    )


@dataclass(frozen=True)
class Pair:
    """A certificate with the rest of its chain, and its key."""

    chain: tuple[X509.X509, ...]
    key: EVP.PKey
    facts: Facts

    @property
    def paired(self) -> bool:
        """Whether the key belongs to the certificate."""
        return bool(self.chain[0].get_pubkey().as_der() == self.key.as_der())

    @property
    def identifier(self) -> str:
        """The certificate's subject key identifier, in hexadecimal."""
        return _extension(self.chain[0], "subjectKeyIdentifier").replace(":", "").lower()

    def certificate_pem(self) -> bytes:
        """The whole chain, the certificate first."""
        return b"".join(certificate.as_pem() for certificate in self.chain)

    def key_pem(self) -> bytes:
        """The key, unencrypted PKCS #8: for the store only."""
        return bytes(self.key.as_pem(cipher=None))

    def signed(self, certificate: X509.X509) -> bool:
        """Whether this authority's key and name are those of the certificate's issuer."""
        authority = self.chain[0]
        return (
            certificate.get_issuer().as_der() == authority.get_subject().as_der()
            and certificate.verify(authority.get_pubkey()) == 1
        )

    def same(self, other: Pair) -> bool:
        """Whether both hold the same certificates and the same key."""
        return self.certificate_pem() == other.certificate_pem() and self.key.as_der() == other.key.as_der()


def _load(certificate: bytes, key: bytes) -> Pair:
    """Raises ValueError, as all of M2Crypto's errors are, or another error for bytes that OpenSSL half accepts."""
    chain = tuple(X509.load_cert_string(block) for block in pem_certificates(certificate))
    if not chain:
        raise ValueError("no certificate")
    return Pair(chain, EVP.load_key_string(key, _no_passphrase), _facts(chain[0]))


def _read(path: Path) -> bytes:
    """Read a small regular file; a VcoreError says what is wrong with any other."""
    try:
        if not path.is_file():
            raise VcoreError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
        with path.open("rb") as stream:
            data = stream.read(MAXIMUM_FILE + 1)
    except (OSError, ValueError) as error:
        raise VcoreError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAXIMUM_FILE:
        raise VcoreError(f"{path} is too big for a PEM file")
    return data


# Files that a site supplies.


def check_supplied(
    certificate_path: Path | str,
    key_path: Path | str,
    *,
    names: Iterable[str] | None = None,
    authority: bool = False,
    now: datetime | None = None,
) -> list[str]:
    """What is wrong with a certificate and key that the site supplies: one sentence a problem, none when all is well.

    Args:
        certificate_path: PEM, the certificate first, then its chain; for an ``authority`` up to the root.
        key_path: PEM, not encrypted.
        names: DNS names and IP addresses that it has to be for.
        authority: whether it is to issue certificates, rather than to be a server's.
        now: with time zone; the present when left out.
    """
    return _supplied(Path(certificate_path), Path(key_path), tuple(names or ()), authority, now or datetime.now(UTC))[1]


def _supplied(
    certificate_path: Path, key_path: Path, names: tuple[str, ...], authority: bool, now: datetime
) -> tuple[Pair | None, list[str]]:
    problems: list[str] = []
    data: list[bytes] = []
    for path in (certificate_path, key_path):
        try:
            data.append(_read(path))
        except VcoreError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    # Whatever a file holds has to end in a sentence, and OpenSSL's readers fail in many ways: hence Exception.
    try:
        blocks = pem_certificates(data[0])
        chain = tuple(X509.load_cert_string(block) for block in blocks)
        facts = [_facts(certificate) for certificate in chain]
    except Exception:
        chain, facts = (), []
    if not chain:
        return None, [f"{certificate_path} is not a PEM certificate"]
    try:
        key = EVP.load_key_string(data[1], _no_passphrase)
        public_key = key.as_der()
    except Exception:
        if b"ENCRYPTED" in data[1]:
            return None, [f"{key_path} is encrypted; write it without a passphrase: openssl pkey -in {key_path}"]
        return None, [f"{key_path} is not a PEM private key"]
    pair = Pair(chain, key, facts[0])
    try:
        if chain[0].get_pubkey().as_der() != public_key:
            problems.append(f"{key_path} is not the key of the first certificate in {certificate_path}")
        for fact in facts:
            subject = f"{certificate_path}: {fact.subject or 'the certificate'}"
            if fact.not_after <= now:
                problems.append(f"{subject} expired on {fact.not_after:%Y-%m-%d}")
            elif fact.not_before > now:
                problems.append(f"{subject} is not valid before {fact.not_before:%Y-%m-%d}")
        problems += _chain_problems(certificate_path, chain)
        missing = [name for name in names if not covers(facts[0].names | facts[0].addresses, name)]
        if missing:
            problems.append(f"{certificate_path} is not for {', '.join(missing)}")
        problems += (_authority_problems if authority else _server_problems)(certificate_path, chain, facts[0])
    except Exception:
        problems.append(f"{certificate_path} is not a well-formed certificate")
    return pair, problems


def _chain_problems(path: Path, chain: tuple[X509.X509, ...]) -> list[str]:
    for certificate, issuer in itertools.pairwise(chain):
        if certificate.get_issuer().as_der() != issuer.get_subject().as_der() or not _verifies(certificate, issuer):
            return [f"{path}: each certificate has to be followed by that of its issuer"]
    return []


def _verifies(certificate: X509.X509, issuer: X509.X509) -> bool:
    return bool(certificate.verify(issuer.get_pubkey()) == 1)


def _server_problems(path: Path, chain: tuple[X509.X509, ...], facts: Facts) -> list[str]:
    problems = []
    if chain[0].check_purpose(PURPOSE_TLS_SERVER, 0) != 1:
        problems.append(f"{path} is not a certificate for TLS servers")
    if facts.key_type.startswith("rsa-") and int(facts.key_type[4:]) < 2048:
        problems.append(f"{path}: an RSA key of {facts.key_type[4:]} bits is too short, 2048 is the least")
    return problems


def _authority_problems(path: Path, chain: tuple[X509.X509, ...], facts: Facts) -> list[str]:
    if chain[0].check_ca() != 1:
        return [f"{path} is not the certificate of an authority: basicConstraints lacks CA:TRUE"]
    problems = []
    usage = _extension(chain[0], "keyUsage")
    if "Certificate Sign" not in usage or "CRL Sign" not in usage:
        problems.append(f"{path}: keyUsage lacks keyCertSign or cRLSign, so it can issue no certificates")
    if not _extension(chain[0], "subjectKeyIdentifier"):
        problems.append(f"{path} has no subjectKeyIdentifier")
    # M2Crypto signs with a digest, which EdDSA keys do not take.
    if not (facts.key_type in _CURVES or (facts.key_type.startswith("rsa-") and int(facts.key_type[4:]) >= 2048)):
        problems.append(f"{path}: an authority's key is RSA of at least 2048 bits, or EC on P-256 or P-384")
    if not _verifies(chain[-1], chain[-1]):
        problems.append(f"{path}: the chain has to go up to the root, the self-signed certificate")
    elif not problems and (error := _verify_chain(chain[0], chain[1:] or chain, times=False)):
        problems.append(f"{path}: {error}")
    return problems


def _verify_chain(
    certificate: X509.X509, authority: tuple[X509.X509, ...], *, crl: bytes | None = None, times: bool = True
) -> str | None:
    """What OpenSSL's strict check says against ``certificate``, whose issuers end in the root; None if nothing."""
    store = X509.X509_Store()
    flags = m2.VERIFY_X509_STRICT | (0 if times else m2.VERIFY_NO_CHECK_TIME)
    if crl is not None:
        store.add_crl(X509.load_crl_string(crl))
        flags |= m2.VERIFY_CRL_CHECK
    store.set_flags(flags)
    store.add_x509(authority[-1])
    issuers = X509.X509_Stack()
    for issuer in authority[:-1]:
        issuers.push(issuer)
    context = X509.X509_Store_Context()
    context.init(store, certificate, issuers)
    return None if context.verify_cert() == 1 else str(m2.x509_get_verify_error(context.get_error()))


# Making certificates.


def _make_key(key_type: str) -> EVP.PKey:
    key = EVP.PKey()
    if key_type == "rsa-3072":
        key.assign_rsa(RSA.gen_key(3072, 65537, lambda *_: 1))
        return key
    pair = EC.gen_params({"ec-p256": EC.NID_X9_62_prime256v1, "ec-p384": EC.NID_secp384r1}[key_type])
    pair.gen_key()
    key.assign_ec(pair)
    return key


def _certificate(
    organization: str,
    common_name: str,
    begin: datetime,
    end: datetime,
    key: EVP.PKey,
    issuer: Pair | None,
    extensions: Iterable[tuple[str, str, bool]],
) -> X509.X509:
    """An unsigned certificate: serial of 159 random bits (RFC 5280 allows 20 octets, the first bit is the sign)."""
    certificate = X509.X509()
    certificate.set_version(2)
    certificate.set_serial_number(secrets.randbits(159) | 1)
    subject = X509.X509_Name()
    for attribute, value in (("O", organization), ("CN", common_name)):
        if value:
            subject.add_entry_by_txt(attribute, ASN1.MBSTRING_FLAG, value[:MAXIMUM_NAME], -1, -1, 0)
    certificate.set_subject_name(subject)
    certificate.set_issuer_name(issuer.chain[0].get_subject() if issuer else subject)
    for setter, moment in ((certificate.set_not_before, begin), (certificate.set_not_after, end)):
        asn1_time = ASN1.ASN1_TIME()
        asn1_time.set_time(int(moment.timestamp()))
        setter(asn1_time)
    certificate.set_pubkey(key)
    for name, text, critical in extensions:
        certificate.add_ext(X509.new_extension(name, text, critical=int(critical)))
    certificate.add_subject_key_identifier()
    identifier = issuer.identifier if issuer else key.get_key_identifier()
    certificate.add_ext(X509.AuthorityKeyIdentifier(identifier).as_extension())
    return certificate


def _sign(certificate: X509.X509, key: EVP.PKey) -> X509.X509:
    if not certificate.sign(key, "sha384" if _key_type(key) == "ec-p384" else "sha256"):
        raise VcoreError("OpenSSL did not sign the certificate")
    return certificate


def make_authority(wanted_ca: Policy, now: datetime, key: EVP.PKey | None = None) -> Pair:
    """A self-signed root, with a new key unless ``key`` is given. It may issue leaves only (pathlen 0)."""
    key = key or _make_key("ec-p384")
    extensions = (("basicConstraints", "CA:TRUE,pathlen:0", True), ("keyUsage", "keyCertSign,cRLSign", True))
    begin, end = now - BACKDATE, now + timedelta(days=wanted_ca.lifetime)
    root = _certificate(wanted_ca.organization, wanted_ca.common_name, begin, end, key, None, extensions)
    return Pair((_sign(root, key),), key, _facts(root))


def make_leaf(leaf: Leaf, authority: Pair, now: datetime) -> Pair:
    """A new key and its certificate, with the authority's chain below the root."""
    if leaf.key_type not in KEY_TYPES:
        raise VcoreError(f"certificate {leaf.name}: key type {leaf.key_type} is not one of {', '.join(KEY_TYPES)}")
    key = _make_key(leaf.key_type)
    usage = "digitalSignature" + (",keyEncipherment" if leaf.key_type.startswith("rsa") else "")
    names = ",".join([f"DNS:{name}" for name in leaf.names] + [f"IP:{address}" for address in leaf.addresses])
    extensions = (
        ("basicConstraints", "CA:FALSE", True),
        ("keyUsage", usage, True),
        ("extendedKeyUsage", "serverAuth,clientAuth" if leaf.client else "serverAuth", False),
        ("subjectAltName", names, False),
    )
    begin = max(now - BACKDATE, authority.facts.not_before)
    end = min(now + timedelta(days=leaf.lifetime), authority.facts.not_after)
    certificate = _certificate(leaf.organization, leaf.common_name, begin, end, key, authority, extensions)
    return Pair((_sign(certificate, authority.key), *authority.chain[:-1]), key, _facts(certificate))


def make_revocation_list(
    authority: Pair, entries: Mapping[str, Mapping[str, Any]], number: int, now: datetime
) -> bytes:
    """A signed list of the revoked certificates ``{serial in hexadecimal: {"revoked": time, "reason": word}}``."""
    # Imported here: it takes 0.1 s, and only a new list needs it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    certificate = x509.load_pem_x509_certificate(authority.chain[0].as_pem())
    key: Any = serialization.load_pem_private_key(authority.key_pem(), None)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now)
        .next_update(now + REVOCATION_LIST_LIFETIME)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(bytes.fromhex(authority.identifier), None, None),
            critical=False,
        )
    )
    for serial, entry in sorted(entries.items()):
        revoked = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(serial, 16))
            .revocation_date(datetime.fromisoformat(entry["revoked"]))
        )
        if entry["reason"] != "unspecified":  # RFC 5280, 5.3.1: then the extension should be absent
            reason = x509.ReasonFlags[REVOCATION_REASONS[entry["reason"]]]
            revoked = revoked.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(revoked.build())
    digest = hashes.SHA384() if _key_type(authority.key) == "ec-p384" else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)


# The store on the head.


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(path: Path, target: str) -> None:
    """Make ``path`` a link to ``target`` in one step."""
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
    _sync(path.parent)


def install_pair(folder: Path, name: str, certificate: bytes, key: bytes) -> None:
    """Put a certificate and its key into the store as ``<name>.crt`` and ``<name>.key``, both in one step."""
    links = {folder / f"{name}.key": "key.pem", folder / f"{name}.crt": "certificate.pem"}
    contents = [(certificate, key)]
    # Plain files, as a backup that followed links restores: first turned into links to the same content, then swapped.
    if all(path.exists() for path in links) and not all(path.is_symlink() for path in links):
        contents.insert(0, ((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes()))
    pairs = folder / ".pairs" / name
    current = pairs / "current"
    for parent in (pairs.parent, pairs):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if current.is_dir() and not current.is_symlink():
        shutil.rmtree(current)

    def link(path: Path) -> None:
        _link(path, f".pairs/{name}/current/{links[path]}")

    # Where there is nothing yet, links that lead nowhere: the first rename of current fills both.
    for path in links:
        if not path.exists() and not path.is_symlink():
            link(path)
    for certificate_data, key_data in contents:
        pair = Path(tempfile.mkdtemp(dir=pairs, prefix="pair-"))
        write_atomic(pair / "key.pem", key_data, mode=0o600)
        write_atomic(pair / "certificate.pem", certificate_data, mode=0o600)
        _link(current, pair.name)
        for path in links:
            if not path.is_symlink():
                link(path)
    remove_superseded(pairs)


def remove_superseded(pairs: Path) -> None:
    """Remove every pair in ``.pairs/<name>`` but the current one: older keys, and what a killed run left."""
    current = pairs / "current"
    if current.exists() and not current.is_symlink():
        return
    keep = {current.name, str(current.readlink())} if current.is_symlink() else set()
    for leftover in pairs.iterdir():
        if leftover.name in keep:
            continue
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)


class Authority:
    """The authority's folder on the head: root-only, one writer at a time, complete again after any crash.

    ``ca.crt`` is the issuing certificate with its chain, the root last; ``ca.key`` its key; ``crl.pem`` the revocation
    list; ``index.json`` every certificate that it issued and that has not ended yet; ``issued/<service>/<name>.crt``
    and ``.key`` the leaves.
    """

    def __init__(self, folder: Path, wanted_ca: Policy, now: datetime | None = None) -> None:
        if not AVAILABLE:
            raise VcoreError("the certificate authority needs M2Crypto, which bootstrap.sh installs on the head")
        self.folder = folder
        self.policy = wanted_ca
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)

    # Reading.

    @property
    def _index_path(self) -> Path:
        return self.folder / "index.json"

    @property
    def _crl_path(self) -> Path:
        return self.folder / "crl.pem"

    def _index(self) -> dict[str, Any]:
        try:
            index = json.loads(self._index_path.read_bytes())
            return {"certificates": dict(index["certificates"]), "crl": index["crl"]}
        except FileNotFoundError:
            return {"certificates": {}, "crl": None}
        except (ValueError, TypeError, KeyError):
            raise VcoreError(f"{self._index_path} is damaged: restore it from a backup") from None

    def current(self) -> Pair | None:
        """The authority in the store, None before it is made.

        Raises:
            VcoreError: it is damaged. A new one would make every certificate untrusted, so that is a person's choice.
        """
        certificate, key = self.folder / "ca.crt", self.folder / "ca.key"
        if not certificate.exists() and not key.exists():
            return None
        try:
            pair = _load(certificate.read_bytes(), key.read_bytes())
        except (OSError, ValueError):
            pair = None
        if pair is None or not pair.paired:
            raise VcoreError(
                f"the authority in {self.folder} is damaged, ca.crt and ca.key are no pair: restore both from a "
                "backup, or remove both to have a new authority, which every node and user then has to trust anew"
            )
        return pair

    def _supplied_authority(self) -> Pair | None:
        if not self.policy.supplied:
            return None
        pair, problems = _supplied(*self.policy.supplied, (), True, self.now)
        if pair is None or problems:
            raise VcoreError("; ".join(problems))
        return pair

    def _leaf_files(self, name: str) -> tuple[Path, Path]:
        service, _, item = name.partition("/")
        folder = self.folder / "issued" / service
        return folder / f"{item}.crt", folder / f"{item}.key"

    def leaf(self, name: str) -> Pair | None:
        """The pair in the store, None where there is none that can be read."""
        certificate, key = self._leaf_files(name)
        try:
            return _load(certificate.read_bytes(), key.read_bytes())
        except (OSError, ValueError):
            return None

    def _stored(self, pair: Pair | None, authority: Pair | None, index: Mapping[str, Any]) -> Stored | None:
        if pair is None:
            return None
        trusted = (
            authority is not None
            and authority.signed(pair.chain[0])
            and [issuer.as_der() for issuer in pair.chain[1:]] == [issuer.as_der() for issuer in authority.chain[:-1]]
        )
        entry = index["certificates"].get(pair.facts.serial) if trusted else None
        return Stored(pair.facts, pair.paired, trusted, bool(entry and entry["revoked"]))

    # Planning: each of these only reads.

    def _authority_plan(self) -> tuple[str, str, Pair | None, Pair | None]:
        """Action (empty for none), reason, the authority that is there, and the one that will be as far as is known."""
        current, supplied = self.current(), self._supplied_authority()
        if supplied:
            if current and current.same(supplied):
                return "", "", current, current
            return "supply", current.facts.subject if current else "missing", current, supplied
        difference = authority_difference(self.policy, current.facts if current else None, self.now)
        if difference is None:
            return "", "", current, current
        action, reason = difference
        return action, reason, current, None if action == "make" else current

    def _loose(self) -> list[Path]:
        """Files and folders of the store that others than root could read."""
        found = []
        for parent, _, files in os.walk(self.folder):
            for path, mode in [(parent, 0o700), *((os.path.join(parent, file), 0o600) for file in files)]:  # noqa: PTH118
                entry = os.lstat(path)
                if not stat.S_ISLNK(entry.st_mode) and (
                    stat.S_IMODE(entry.st_mode) != mode or entry.st_uid != os.geteuid()
                ):
                    found.append(Path(path))
        return sorted(found)

    def plan(self) -> Changes:
        """What :meth:`ensure` would change: ``authority``, ``crl`` and ``permissions``, each from old to new.

        Raises:
            VcoreError: the authority that the site supplies, or the one in the store, cannot be used.
        """
        action, reason, _, pending = self._authority_plan()
        changes: Changes = {}
        if action:
            done = {"make": "made", "renew": "renewed", "supply": "supplied by the site"}[action]
            changes["authority"] = {"old": None if reason == "missing" else reason, "new": done}
        old = self._crl_difference(pending)
        if old:
            changes["crl"] = {"old": None if old == "missing" else old, "new": "signed"}
        loose = self._loose()
        if loose:
            changes["permissions"] = {"old": [str(path) for path in loose], "new": "root only"}
        return changes

    def _crl_difference(self, authority: Pair | None) -> str | None:
        index = self._index()
        digest = hashlib.sha256(self._crl_path.read_bytes()).hexdigest() if self._crl_path.exists() else None
        difference = revocation_list_difference(index, digest, self.now)
        if difference != "missing" and (authority is None or index["crl"]["authority"] != authority.identifier):
            return "of another authority"
        return difference

    def plan_leaves(self, leaves: Iterable[Leaf]) -> Changes:
        """What :meth:`issue` would change once :meth:`ensure` has run: ``{"ldap/tls": {"old": ..., "new": ...}}``.

        Raises:
            VcoreError: a certificate that the site supplies cannot be used.
        """
        authority, index = self._authority_plan()[3], self._index()
        changes: Changes = {}
        for leaf in leaves:
            changes.update(self._leaf_plan(leaf, authority, index)[0])
        return changes

    def _leaf_plan(self, leaf: Leaf, authority: Pair | None, index: Mapping[str, Any]) -> tuple[Changes, Pair | None]:
        pair = self.leaf(leaf.name)
        if leaf.supplied:
            supplied, problems = _supplied(*leaf.supplied, leaf.required_names, False, self.now)
            if supplied is None or problems:
                raise VcoreError(f"certificate {leaf.name}: {'; '.join(problems)}")
            if pair and pair.same(supplied):
                return {}, None
            old = f"issued by {pair.facts.issuer}" if pair else None
            return {leaf.name: {"old": old, "new": "supplied by the site"}}, supplied
        end = authority.facts.not_after if authority else self.now
        stored = self._stored(pair, authority, index)
        reason = leaf_difference(leaf, stored, renew_before=self.policy.renew_before, end=end, now=self.now)
        if reason is None:
            return {}, None
        return {leaf.name: {"old": None if reason == "missing" else reason, "new": "issued"}}, None

    # Carrying out.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store for writing; the kernel lets go of the lock when its holder dies, however it dies."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise VcoreError(
                            f"another run has held {self.folder}/.lock for {LOCK_TIMEOUT} seconds; try again later"
                        ) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _write_index(self, index: dict[str, Any]) -> None:
        """Write it without what has ended: an expired certificate needs no revocation."""
        index["certificates"] = {
            serial: entry
            for serial, entry in sorted(index["certificates"].items())
            if datetime.fromisoformat(entry["expires"]) > self.now
        }
        write_atomic(self._index_path, json.dumps(index, indent=1).encode() + b"\n", mode=0o600)

    def _write_crl(self, authority: Pair) -> None:
        index = self._index()
        serials = _revoked(index, authority.identifier)
        # A number taken from the clock grows over crashes, too, when nobody noted the last one.
        number = max(int(self.now.timestamp()), (index["crl"] or {}).get("number", 0) + 1)
        data = make_revocation_list(
            authority, {serial: index["certificates"][serial] for serial in serials}, number, self.now
        )
        write_atomic(self._crl_path, data, mode=0o600)
        index["crl"] = {
            "authority": authority.identifier,
            "number": number,
            "serials": serials,
            "sha256": hashlib.sha256(data).hexdigest(),
            "last_update": self.now.isoformat(),
            "next_update": (self.now + REVOCATION_LIST_LIFETIME).isoformat(),
        }
        self._write_index(index)

    def ensure(self) -> Changes:
        """Make, renew or take over the authority and sign the revocation list, as far as needed; says what it changed.

        Raises:
            VcoreError: as :meth:`plan` does, or another run holds the store.
        """
        with self._locked():
            changes = self.plan()
            for path in self._loose():
                os.chown(path, os.geteuid(), os.getegid())
                path.chmod(0o700 if path.is_dir() else 0o600)
            # What a run that was killed was writing; nobody else writes while the lock is held.
            for leftover in (*self.folder.glob(".index.json.*"), *self.folder.glob(".crl.pem.*")):
                leftover.unlink()
            for pairs in (*self.folder.glob(".pairs/*"), *self.folder.glob("issued/*/.pairs/*")):
                remove_superseded(pairs)
            if "authority" in changes:
                action, _, current, pending = self._authority_plan()
                if action == "renew" and current:
                    pending = make_authority(self.policy, self.now, current.key)
                authority = pending or make_authority(self.policy, self.now)
                install_pair(self.folder, "ca", authority.certificate_pem(), authority.key_pem())
            if "crl" in changes:
                self._write_crl(self._required())
            return changes

    def _required(self) -> Pair:
        authority = self.current()
        if authority is None:
            raise VcoreError("there is no certificate authority yet: apply the head's states, which make it")
        return authority

    def issue(self, leaf: Leaf, *, force: bool = False) -> Changes:
        """Bring one certificate in line with what is wanted, or with ``force`` issue it anew; says what it changed.

        Raises:
            VcoreError: as :meth:`plan_leaves` does, there is no authority yet, or another run holds the store.
        """
        with self._locked():
            authority, index = self._required(), self._index()
            changes, pair = self._leaf_plan(leaf, authority, index)
            if force and not changes and not leaf.supplied:
                changes = {leaf.name: {"old": "renewal asked for", "new": "issued"}}
            if not changes:
                return changes
            if pair is None:
                pair = make_leaf(leaf, authority, self.now)
                # Noted before it exists: what was ever issued can be revoked, even after a crash in between.
                index["certificates"][pair.facts.serial] = {
                    "name": leaf.name,
                    "authority": authority.identifier,
                    "issued": self.now.isoformat(),
                    "expires": pair.facts.not_after.isoformat(),
                    "revoked": None,
                    "reason": None,
                }
                self._write_index(index)
            certificate, _ = self._leaf_files(leaf.name)
            for folder in (self.folder / "issued", certificate.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            install_pair(certificate.parent, certificate.stem, pair.certificate_pem(), pair.key_pem())
            return changes

    def revoke(self, name: str, reason: str = "unspecified") -> list[str]:
        """Revoke the present certificate of a leaf, or one by its serial, and sign a new list; returns the serials.

        Raises:
            NotFound: no certificate that has not ended goes by that name or serial, or the site supplied it.
            VcoreError: an unknown reason, or another run holds the store.
        """
        if reason not in REVOCATION_REASONS:
            raise VcoreError(f"unknown reason {reason}; it is one of {', '.join(REVOCATION_REASONS)}")
        with self._locked():
            authority, index = self._required(), self._index()
            serial = name.lower().replace(":", "").lstrip("0")
            if _LEAF_NAME.fullmatch(name):
                pair = self.leaf(name)
                serial = pair.facts.serial if pair else ""
            entry = index["certificates"].get(serial)
            if entry is None or entry["authority"] != authority.identifier:
                raise NotFound(f"this authority has issued no certificate {name} that is still valid")
            if not entry["revoked"]:
                entry.update(revoked=self.now.isoformat(), reason=reason)
                self._write_index(index)
            if self._crl_difference(authority):
                self._write_crl(authority)
            return [serial]

    # Showing.

    def anchor(self) -> bytes | None:
        """The root certificate (PEM) that nodes are to trust after :meth:`ensure`; None when it is yet to be made."""
        action, _, _, pending = self._authority_plan()
        return None if pending is None or action == "renew" else bytes(pending.chain[-1].as_pem())

    def information(self) -> dict[str, Any]:
        """The authority for people: subject, validity, key type, fingerprint and where it lies."""
        pair = self._required()
        root = pair.chain[-1]
        return {
            "subject": pair.facts.subject,
            "root": _facts(root).subject,
            "source": "supplied by the site" if self.policy.supplied else "made here",
            "key_type": pair.facts.key_type,
            "expires": f"{pair.facts.not_after:%Y-%m-%d}",
            "days_left": pair.facts.days_left(self.now),
            "sha256": hashlib.sha256(root.as_der()).hexdigest(),
            "certificate": str(self.folder / "ca.crt"),
        }

    def names(self) -> list[str]:
        """Every leaf that lies in the store, whether a service still wants it or not."""
        return sorted(
            f"{path.parent.name}/{path.stem}"
            for path in self.folder.glob("issued/*/*.crt")
            if _LEAF_NAME.fullmatch(f"{path.parent.name}/{path.stem}")
        )

    def leaves(self, wanted_leaves: Iterable[Leaf]) -> dict[str, dict[str, Any]]:
        """Every wanted or stored leaf: names, days left, when it is renewed, and its status in one word or two."""
        index, authority = self._index(), self.current()
        by_name = {leaf.name: leaf for leaf in wanted_leaves}
        result: dict[str, dict[str, Any]] = {}
        for name in sorted({*by_name, *self.names()}):
            pair = self.leaf(name)
            stored = self._stored(pair, authority, index)
            if stored is None:
                result[name] = {"status": "not issued"}
                continue
            facts, leaf = stored.facts, by_name.get(name)
            supplied = bool(leaf and leaf.supplied)
            result[name] = {
                "status": self._status(stored, leaf),
                "days_left": facts.days_left(self.now),
                "expires": f"{facts.not_after:%Y-%m-%d}",
                "renewed": "by the site" if supplied else f"{facts.renewal(self.policy.renew_before):%Y-%m-%d}",
                "names": sorted(facts.names),
                "addresses": sorted(facts.addresses),
                "key_type": facts.key_type,
                "issuer": facts.issuer,
                "serial": facts.serial,
            }
        return result

    def _status(self, stored: Stored, leaf: Leaf | None) -> str:
        facts = stored.facts
        checks: list[tuple[bool, str]] = [
            (not stored.paired, "key does not match"),
            (facts.not_after <= self.now, "expired"),
            (stored.revoked, "revoked"),
            (leaf is None, "unused"),
            (bool(leaf and leaf.supplied), "supplied"),
            (not stored.trusted, "untrusted"),
            (self.now >= facts.renewal(self.policy.renew_before), "renewal due"),
        ]
        return next((status for holds, status in checks if holds), "valid")

    def verify(self, leaf: Leaf) -> list[str]:
        """What is wrong with a leaf in the store: pair, names, end, and OpenSSL's strict check of chain and revocation.

        A certificate that the site supplied is checked as :func:`check_supplied` does: its root is not ours.
        """
        certificate, key = self._leaf_files(leaf.name)
        if leaf.supplied:
            return check_supplied(certificate, key, names=leaf.required_names, now=self.now)
        problems = check_supplied(certificate, key, names=[*leaf.names, *leaf.addresses], now=self.now)
        pair = self.leaf(leaf.name)
        if pair is None:
            return problems
        crl = self._crl_path.read_bytes() if self._crl_path.exists() else None
        error = _verify_chain(pair.chain[0], self._required().chain, crl=crl)
        return problems + ([f"{certificate}: {error}"] if error else [])

    def revocation_list(self) -> dict[str, Any]:
        """The revocation list for people: where it lies, until when it holds, and what it revokes."""
        index = self._index()
        record = index["crl"]
        if not record or not self._crl_path.exists():
            raise NotFound("there is no revocation list yet: apply the head's states, which sign it")
        end = datetime.fromisoformat(record["next_update"])
        entries = index["certificates"]
        return {
            "path": str(self._crl_path),
            "expires": f"{end:%Y-%m-%d}",
            "days_left": (end - self.now) // timedelta(days=1),
            "revoked": {
                serial: {key: entries[serial][key] for key in ("name", "revoked", "reason")}
                for serial in record["serials"]
                if serial in entries
            },
        }


# Trust in the root, on every node. Needs nothing but Python.


@dataclass(frozen=True)
class TrustStore:
    """How a distribution keeps its trusted roots: update-ca-certificates(8), update-ca-trust(8)."""

    anchors: Path
    bundle: Path
    command: tuple[str, ...]


#: By Salt's grain ``os_family``.
TRUST_STORES = {
    "Debian": TrustStore(
        Path("/usr/local/share/ca-certificates"),
        Path("/etc/ssl/certs/ca-certificates.crt"),
        ("update-ca-certificates",),
    ),
    "RedHat": TrustStore(
        Path("/etc/pki/ca-trust/source/anchors"),
        Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
        ("update-ca-trust", "extract"),
    ),
}


def root_of(chain: bytes) -> bytes:
    """The root of a PEM chain, its last certificate.

    Raises:
        VcoreError: there is no certificate in it.
    """
    blocks = pem_certificates(chain)
    if not blocks:
        raise VcoreError("the authority's certificate is not PEM; apply the head's states, which make it")
    return blocks[-1]


def trust_files(os_family: str, registry: str | None) -> tuple[TrustStore, tuple[Path, ...]]:
    """The node's trust store, and the files below it and below Docker's folder that hold the root.

    Raises:
        VcoreError: an unknown kind of distribution, or what is no registry.
    """
    if os_family not in TRUST_STORES:
        raise VcoreError(f"no trust store is known for {os_family}; there are: {', '.join(TRUST_STORES)}")
    if registry is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?", registry):
        raise VcoreError(f"{registry!r} is not a registry, host:port")
    store = TRUST_STORES[os_family]
    files = [store.anchors / "virtual-core.crt"]
    if registry:
        files.append(Path("/etc/docker/certs.d") / registry / "ca.crt")
    return store, tuple(files)


def trust_difference(root: bytes | None, store: TrustStore, files: Iterable[Path]) -> Changes:
    """What to change so that a node trusts ``root``; None stands for one that is yet to be made, unlike any other."""
    changes: Changes = {}
    for path in files:
        present = path.read_bytes() if path.is_file() else None
        if present is None or present != root:
            changes[str(path)] = {"old": None if present is None else "another certificate", "new": "installed"}
    # Looked into as well: a run may have been killed between the file and the command.
    bundle = store.bundle.read_bytes() if store.bundle.is_file() else b""
    if root is None or root.strip() not in bundle:
        changes[str(store.bundle)] = {"old": "without the root", "new": "with the root"}
    return changes


def trust(root: bytes, store: TrustStore, changes: Changes, run: Callable[[tuple[str, ...]], None]) -> None:
    """Carry out what :func:`trust_difference` found; ``run`` runs the distribution's command or raises."""
    for name in changes:
        path = Path(name)
        if path != store.bundle:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(path, root, mode=0o644)
    if str(store.bundle) in changes:
        run(store.command)
        if trust_difference(root, store, ()):
            raise VcoreError(f"{store.command[0]} ran, and {store.bundle} still lacks the root; see what it prints")
