"""Certificates: which are wanted, how those that exist differ, and reading, checking and making X.509.

Certificates are made with M2Crypto. The cryptography package is used for one thing that M2Crypto cannot do:
signing certificate revocation lists. The profile is that of RFC 5280, as ``openssl verify -x509_strict`` checks it.

The authority's key and the leaves' keys are EC, on P-384 and P-256: M2Crypto makes, signs with and writes such keys
(as PKCS #8, named curve) as well as it does RSA, in under a millisecond where RSA 3072 takes half a second.
``rsa-3072`` is there for a service whose clients cannot do elliptic curves.

Nothing here writes a file: the store on the head is :mod:`vcore.certificates.authority`, a node's trust
:mod:`vcore.certificates.trust`.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import itertools
import re
import secrets
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.messages import quoted, tr

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
#: Bytes. No certificate chain or key is bigger; a supplied file that is bigger is something else.
MAXIMUM_FILE = 1024 * 1024
#: X509_PURPOSE_SSL_SERVER of OpenSSL's x509v3.h, which M2Crypto does not name.
PURPOSE_TLS_SERVER = 2
#: RFC 5280, appendix A: upper bound of common and organization name, in characters.
MAXIMUM_NAME = 64

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
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
    """One certificate that a service wants; ``lifetime`` in days.

    One that the site supplies has to cover ``required_names`` only, the service's full name: a public authority signs
    neither short names nor private addresses.
    """

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
    """Return a subject in one line, with the parts that there are: ``O=Virtual Core, CN=ldap.vcore.test``."""
    parts = (("O", (organization or "")[:MAXIMUM_NAME]), ("CN", (common_name or "")[:MAXIMUM_NAME]))
    return ", ".join(f"{key}={value}" for key, value in parts if value)


def policy(vcore: Mapping[str, Any]) -> Policy:
    """Return the authority that the resolved pillar asks for.

    Raises:
        VcoreError: the pillar is not that of the head, the only node that has an authority.
    """
    if "certificate_authority" not in vcore:
        raise VcoreError(tr("the certificate authority is on the head node only; run this there"))
    wanted_ca = vcore["certificate_authority"]
    supplied = None
    if wanted_ca.get("certificate") or wanted_ca.get("key"):
        if not (wanted_ca.get("certificate") and wanted_ca.get("key")):
            raise VcoreError(tr("vcore.certificate_authority: certificate and key are set together or not at all"))
        supplied = (Path(wanted_ca["certificate"]), Path(wanted_ca["key"]))
    return Policy(
        organization=vcore["site"]["organization"],
        common_name=f"{vcore['site']['name']} root CA",
        lifetime=wanted_ca["lifetime"],
        renew_before=wanted_ca["renew_before"],
        supplied=supplied,
    )


def wanted(vcore: Mapping[str, Any], name: str) -> Leaf:
    """Return the certificate ``<service>/<certificate>`` that the resolved pillar asks for.

    Raises:
        NotFound: no service that is switched on has it.
        VcoreError: a name or address is not valid in a certificate.
    """
    service, _, item = name.partition("/")
    try:
        certificate = vcore["services"][service]["certificates"][item]
    except KeyError:
        known = ", ".join(_wanted_names(vcore)) or "none"
        raise NotFound(
            tr("no service that is switched on has the certificate {name}; there are: {known}", name=name, known=known)
        ) from None
    for dns in certificate["names"]:
        if len(dns) > 253 or not _DNS_NAME.fullmatch(dns):
            raise VcoreError(tr("certificate {name}: {dns} is not a DNS name", name=name, dns=quoted(dns)))
    try:
        addresses = tuple(str(ipaddress.ip_address(address)) for address in certificate["addresses"])
    except ValueError as error:
        raise VcoreError(tr("certificate {name}: {error}", name=name, error=error)) from None
    if not certificate["names"]:
        raise VcoreError(tr("certificate {name} has no names", name=name))
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
        required_names=(f"{service}.{vcore['site']['domain']}",),
    )


def _wanted_names(vcore: Mapping[str, Any]) -> list[str]:
    return sorted(
        f"{service}/{item}"
        for service, definition in vcore["services"].items()
        for item in definition.get("certificates") or {}
    )


def wanted_all(vcore: Mapping[str, Any]) -> list[Leaf]:
    """Return every certificate that the resolved pillar asks for, by name."""
    return [wanted(vcore, name) for name in _wanted_names(vcore)]


# How it differs from what is there: pure functions on facts.


@dataclass(frozen=True)
class Facts:
    """What a certificate says, as far as this project uses it."""

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
        """Return the whole days until it ends, negative if it has ended."""
        return (self.not_after - now) // timedelta(days=1)

    def renewal(self, renew_before: int) -> datetime:
        """Return when to renew: a third of the lifetime before the end, or ``renew_before`` days if that is earlier.

        Never in the first third of its life, or a short-lived certificate would be renewed in every run.
        """
        return renewal(self.not_before, self.not_after, timedelta(days=renew_before))


@dataclass(frozen=True)
class Stored:
    """A pair in the store: its facts, whether the key matches, whether our authority issued it, and revocation."""

    facts: Facts
    paired: bool
    trusted: bool
    revoked: bool = False


def renewal(begin: datetime, end: datetime, margin: timedelta = timedelta()) -> datetime:
    """Return the moment from which something that is valid from ``begin`` to ``end`` is to be replaced."""
    third = (end - begin) / 3
    return end - min(max(third, margin), 2 * third)


def expiry_text(end: datetime) -> str:
    """Return ``ends on 2026-05-01``: a date, since days left would differ between a plan and a later apply."""
    return f"ends on {end:%Y-%m-%d}"


def leaf_difference(
    leaf: Leaf, stored: Stored | None, *, renew_before: int, end: datetime, now: datetime
) -> str | None:
    """Return why the stored certificate is not the wanted one, or None when it is; ``end`` is that of the authority."""
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
    # If the authority's end cut it short, its lifetime differs and cannot be longer.
    if facts.lifetime != leaf.lifetime and facts.not_after < end:
        return f"lifetime of {facts.lifetime} days"
    return None


def authority_difference(wanted_ca: Policy, facts: Facts | None, now: datetime) -> tuple[str, str] | None:
    """Return what to do about the authority that the head makes, and why: ``("renew", "ends on 2026-05-01")``, or None.

    ``make`` gives it a new key, so everything is issued anew; ``renew`` keeps name and key, so that all that was
    issued under the old root certificate also verifies under the new one, and vice versa until the old one ends.
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
    """Return why the revocation list has to be written again, or None; ``digest`` is the file's SHA-256, if any."""
    record = index["crl"]
    if digest is None or not record:
        return "missing"
    if digest != record["sha256"]:
        return "unknown content"
    if record["serials"] != revoked_serials(index, record["authority"]):
        return "lacks revocations"
    begin, end = (datetime.fromisoformat(record[key]) for key in ("last_update", "next_update"))
    return expiry_text(end) if now >= renewal(begin, end) else None


def revoked_serials(index: Mapping[str, Any], authority: str) -> list[str]:
    """Return the serials that an authority's list has to hold; ``authority`` is its subject key identifier."""
    return sorted(
        serial
        for serial, entry in index["certificates"].items()
        if entry["revoked"] and entry["authority"] == authority
    )


def covers(present: Iterable[str], name: str) -> bool:
    """Return whether a certificate for ``present`` is one for ``name``; a wildcard stands for one label (RFC 9525)."""
    wildcard = "*." + name.partition(".")[2]
    return any(candidate.lower() in (name.lower(), wildcard.lower()) for candidate in present)


# Reading certificates and keys.


def pem_certificates(data: bytes) -> list[bytes]:
    """Return the certificates in PEM ``data``, in order, each written as OpenSSL does: 64 characters a line.

    It only takes PEM apart; the caller has to check what is inside. Standard library only.
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


def _subject(name: X509.X509_Name) -> str:
    # M2Crypto raises AttributeError for a part that the name does not have.
    return subject_text(getattr(name, "O", None), getattr(name, "CN", None))


def _time(value: ASN1.ASN1_TIME) -> datetime:
    return value.get_datetime().replace(tzinfo=UTC)


def read_facts(certificate: X509.X509) -> Facts:
    """Return the facts of a certificate."""
    alternative = certificate.get_subject_alt_names()
    return Facts(
        subject=_subject(certificate.get_subject()),
        issuer=_subject(certificate.get_issuer()),
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


def _issued_by(certificate: X509.X509, issuer: X509.X509) -> bool:
    same_name = certificate.get_issuer().as_der() == issuer.get_subject().as_der()
    return bool(same_name and certificate.verify(issuer.get_pubkey()) == 1)


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
        """Return the whole chain, the certificate first."""
        return b"".join(certificate.as_pem() for certificate in self.chain)

    def key_pem(self) -> bytes:
        """Return the key, unencrypted PKCS #8: for the store only."""
        return bytes(self.key.as_pem(cipher=None))

    def signed(self, certificate: X509.X509) -> bool:
        """Return whether this authority's key and name are those of the certificate's issuer."""
        return _issued_by(certificate, self.chain[0])

    def same(self, other: Pair) -> bool:
        """Return whether both hold the same certificates and the same key."""
        return self.certificate_pem() == other.certificate_pem() and self.key.as_der() == other.key.as_der()


def load_pair(certificate: bytes, key: bytes) -> Pair:
    """Return the pair in two PEM files of the store.

    Raises:
        ValueError: there is no such pair; all of M2Crypto's errors are ValueErrors. Bytes that OpenSSL half accepts can
            raise other errors.
    """
    chain = tuple(X509.load_cert_string(block) for block in pem_certificates(certificate))
    if not chain:
        raise ValueError(tr("no certificate"))
    return Pair(chain, EVP.load_key_string(key, _no_passphrase), read_facts(chain[0]))


def _read(path: Path) -> bytes:
    """Return the content of a small regular file; raise a VcoreError that says what is wrong with any other."""
    try:
        if not path.is_file():
            raise VcoreError(
                tr("{path} is not a file", path=path) if path.exists() else tr("{path} does not exist", path=path)
            )
        with path.open("rb") as stream:
            data = stream.read(MAXIMUM_FILE + 1)
    except (OSError, ValueError) as error:
        raise VcoreError(
            tr("{path} cannot be read: {getattr}", path=path, getattr=getattr(error, "strerror", None) or error)
        ) from None
    if len(data) > MAXIMUM_FILE:
        raise VcoreError(tr("{path} is too big for a PEM file", path=path))
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
    """Return what is wrong with a certificate and key that the site supplies, one sentence for each problem.

    Args:
        certificate_path: PEM, the certificate first, then its chain; for an ``authority`` up to the root.
        key_path: PEM, not encrypted.
        names: DNS names and IP addresses that it has to cover.
        authority: whether it is to issue certificates, rather than to be a server's.
        now: with time zone; by default the present.
    """
    now = now or datetime.now(UTC)
    return read_supplied(Path(certificate_path), Path(key_path), names=names or (), authority=authority, now=now)[1]


def read_supplied(
    certificate_path: Path, key_path: Path, *, names: Iterable[str] = (), authority: bool = False, now: datetime
) -> tuple[Pair | None, list[str]]:
    """Return the pair that the site supplies, None if it cannot be read, and what :func:`check_supplied` returns."""
    problems: list[str] = []
    data: list[bytes] = []
    for path in (certificate_path, key_path):
        try:
            data.append(_read(path))
        except VcoreError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    # Whatever a file holds has to lead to a message, and OpenSSL's readers fail in many ways: hence Exception.
    try:
        blocks = pem_certificates(data[0])
        chain = tuple(X509.load_cert_string(block) for block in blocks)
        facts = [read_facts(certificate) for certificate in chain]
        # OpenSSL ignores bytes behind the certificate, and accepts encodings that are not DER; other readers do not.
        readable = bool(chain) and [certificate.as_pem() for certificate in chain] == blocks
    except Exception:
        readable = False
    if not readable:
        return None, [tr("{certificate_path} is not a PEM certificate", certificate_path=certificate_path)]
    try:
        key = EVP.load_key_string(data[1], _no_passphrase)
        key.as_der()  # fails for a key that OpenSSL half accepts
    except Exception:
        if b"ENCRYPTED" in data[1]:
            return None, [
                tr(
                    "{key_path} is encrypted; write it without a passphrase: openssl pkey -in {key_path}",
                    key_path=key_path,
                )
            ]
        return None, [tr("{key_path} is not a PEM private key", key_path=key_path)]
    pair = Pair(chain, key, facts[0])
    try:
        if not pair.paired:
            problems.append(
                tr(
                    "{key_path} is not the key of the first certificate in {certificate_path}",
                    key_path=key_path,
                    certificate_path=certificate_path,
                )
            )
        for fact in facts:
            subject = f"{certificate_path}: {fact.subject or 'the certificate'}"
            if fact.not_after <= now:
                problems.append(
                    tr("{subject} expired on {not_after:%Y-%m-%d}", subject=subject, not_after=fact.not_after)
                )
            elif fact.not_before > now:
                problems.append(
                    tr(
                        "{subject} is not valid before {not_before:%Y-%m-%d}",
                        subject=subject,
                        not_before=fact.not_before,
                    )
                )
        if not all(_issued_by(certificate, issuer) for certificate, issuer in itertools.pairwise(chain)):
            problems.append(
                tr(
                    "{certificate_path}: each certificate has to be followed by that of its issuer",
                    certificate_path=certificate_path,
                )
            )
        missing = [name for name in names if not covers(facts[0].names | facts[0].addresses, name)]
        if missing:
            problems.append(
                tr(
                    "{certificate_path} is not for {missing}",
                    certificate_path=certificate_path,
                    missing=", ".join(missing),
                )
            )
        problems += (_authority_problems if authority else _server_problems)(certificate_path, chain, facts[0])
    except Exception:
        problems.append(tr("{certificate_path} is not a well-formed certificate", certificate_path=certificate_path))
    return pair, problems


def _server_problems(path: Path, chain: tuple[X509.X509, ...], facts: Facts) -> list[str]:
    problems = []
    if chain[0].check_purpose(PURPOSE_TLS_SERVER, 0) != 1:
        problems.append(tr("{path} is not a certificate for TLS servers", path=path))
    if facts.key_type.startswith("rsa-") and int(facts.key_type[4:]) < 2048:
        problems.append(
            tr(
                "{path}: an RSA key of {key_type} bits is too short, 2048 is the least",
                path=path,
                key_type=facts.key_type[4:],
            )
        )
    return problems


def _authority_problems(path: Path, chain: tuple[X509.X509, ...], facts: Facts) -> list[str]:
    if chain[0].check_ca() != 1:
        return [tr("{path} is not the certificate of an authority: basicConstraints lacks CA:TRUE", path=path)]
    problems = []
    usage = _extension(chain[0], "keyUsage")
    if "Certificate Sign" not in usage or "CRL Sign" not in usage:
        problems.append(tr("{path}: keyUsage lacks keyCertSign or cRLSign, so it can issue no certificates", path=path))
    if not _extension(chain[0], "subjectKeyIdentifier"):
        problems.append(tr("{path} has no subjectKeyIdentifier", path=path))
    # M2Crypto signs with a digest, which EdDSA keys do not take.
    if not (facts.key_type in _CURVES or (facts.key_type.startswith("rsa-") and int(facts.key_type[4:]) >= 2048)):
        problems.append(
            tr("{path}: an authority's key is RSA of at least 2048 bits, or EC on P-256 or P-384", path=path)
        )
    if not _issued_by(chain[-1], chain[-1]):
        problems.append(tr("{path}: the chain has to go up to the root, the self-signed certificate", path=path))
    elif not problems and (error := verify_chain(chain[0], chain[1:] or chain, times=False)):
        problems.append(f"{path}: {error}")
    return problems


def verify_chain(
    certificate: X509.X509, authority: tuple[X509.X509, ...], *, crl: bytes | None = None, times: bool = True
) -> str | None:
    """Return OpenSSL's strict objection to ``certificate``, whose issuers end in the root; None if there is none."""
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
    """Return an unsigned certificate.

    Its serial has 159 random bits: RFC 5280 allows 20 octets, and the first bit is the sign.
    """
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
        raise VcoreError(tr("OpenSSL did not sign the certificate"))
    return certificate


def make_authority(wanted_ca: Policy, now: datetime, key: EVP.PKey | None = None) -> Pair:
    """Return a self-signed root, with a new key unless ``key`` is given; it may issue leaves only (pathlen 0)."""
    key = key or _make_key("ec-p384")
    extensions = (("basicConstraints", "CA:TRUE,pathlen:0", True), ("keyUsage", "keyCertSign,cRLSign", True))
    begin, end = now - BACKDATE, now + timedelta(days=wanted_ca.lifetime)
    root = _certificate(wanted_ca.organization, wanted_ca.common_name, begin, end, key, None, extensions)
    return Pair((_sign(root, key),), key, read_facts(root))


def make_leaf(leaf: Leaf, authority: Pair, now: datetime) -> Pair:
    """Return a new key and its certificate, with the authority's chain below the root."""
    if leaf.key_type not in KEY_TYPES:
        raise VcoreError(
            tr(
                "certificate {name}: key type {key_type} is not one of {key_types}",
                name=leaf.name,
                key_type=leaf.key_type,
                key_types=", ".join(KEY_TYPES),
            )
        )
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
    return Pair((_sign(certificate, authority.key), *authority.chain[:-1]), key, read_facts(certificate))


def make_revocation_list(
    authority: Pair, entries: Mapping[str, Mapping[str, Any]], number: int, now: datetime
) -> bytes:
    """Return a signed list of revoked certificates, ``{hexadecimal serial: {"revoked": time, "reason": word}}``."""
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
