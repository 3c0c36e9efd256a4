"""The certificate authority: what is wanted, how it differs, what is made, and what supplied files hold."""

import dataclasses
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from vcore.base.errors import NotFound, VcoreError
from vcore.certificates import trust, x509

GOLDEN = Path(__file__).parent / "golden" / "pki"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def pillar(**certificate):
    wanted = {
        "names": ["ldap", "ldap.vcore.test", "head", "head.vcore.test", "localhost"],
        "addresses": ["10.0.0.1", "127.0.0.1", "fd00:0::1"],
        "lifetime": 397,
        "supplied": None,
    }
    return {
        "site": {"name": "vcore", "domain": "vcore.test", "organization": "Universität, Core + Co"},
        "certificate_authority": {"certificate": None, "key": None, "lifetime": 3650, "renew_before": 30},
        "services": {"ldap": {"certificates": {"tls": wanted | certificate}}, "plain": {"certificates": {}}},
    }


LEAF = x509.wanted(pillar(), "ldap/tls")
POLICY = x509.policy(pillar())
FACTS = x509.Facts(
    subject=LEAF.subject,
    issuer=POLICY.subject,
    serial="1f",
    not_before=NOW - DAY,
    not_after=NOW + 397 * DAY - DAY,
    names=frozenset(LEAF.names),
    addresses=frozenset(LEAF.addresses),
    key_type="ec-p256",
    client=False,
)


def difference(now=NOW, leaf=LEAF, end=NOW + 3000 * DAY, renew_before=30, **changed):
    stands = {key: changed.pop(key) for key in ("paired", "trusted", "revoked") if key in changed}
    stored = x509.Stored(dataclasses.replace(FACTS, **changed), **({"paired": True, "trusted": True} | stands))
    return x509.leaf_difference(leaf, stored, renew_before=renew_before, end=end, now=now)


def test_wanted():
    assert LEAF.addresses == ("10.0.0.1", "127.0.0.1", "fd00::1")
    assert LEAF.subject == "O=Universität, Core + Co, CN=ldap"
    assert LEAF.required_names == ("ldap.vcore.test",)
    assert POLICY.subject == "O=Universität, Core + Co, CN=vcore root CA"
    assert [leaf.name for leaf in x509.wanted_all(pillar())] == ["ldap/tls"]


def test_long_names_fit_the_certificate():
    long = ".".join(["a" * 40] * 3)
    leaf = x509.wanted(pillar(names=[long]), "ldap/tls")
    assert leaf.common_name == ""
    assert x509.subject_text("o" * 70, "c" * 70) == f"O={'o' * 64}, CN={'c' * 64}"


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        ({"names": ["ldap,IP:1.2.3.4"]}, "is not a DNS name"),
        ({"names": ["a..b"]}, "is not a DNS name"),
        ({"names": []}, "has no names"),
        ({"addresses": ["10.0.0.256"]}, "10.0.0.256"),
    ],
)
def test_nothing_unchecked_reaches_a_certificate(certificate, message):
    with pytest.raises(VcoreError, match=message):
        x509.wanted(pillar(**certificate), "ldap/tls")


@pytest.mark.parametrize("name", ["ldap/other", "other/tls", "ldap", "", "/", "ldap/tls/x"])
def test_unknown_certificate(name):
    with pytest.raises(NotFound, match="there are: ldap/tls"):
        x509.wanted(pillar(), name)


def test_authority_is_on_the_head_only():
    with pytest.raises(VcoreError, match="on the head node only"):
        x509.policy({"site": {}})
    half = pillar()
    half["certificate_authority"]["key"] = "/ca.key"
    with pytest.raises(VcoreError, match="together"):
        x509.policy(half)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"paired": False}, "key does not match"),
        ({"trusted": False}, "issued by another authority"),
        ({"revoked": True}, "revoked"),
        ({"names": frozenset({*LEAF.names, "lpad"}) - {"ldap"}}, "lacks ldap; has obsolete lpad"),
        ({"addresses": frozenset()}, "lacks 10.0.0.1, 127.0.0.1, fd00::1"),
        ({"subject": "O=Univeristät, CN=ldap"}, "subject O=Univeristät, CN=ldap"),
        ({"key_type": "rsa-3072"}, "key type rsa-3072"),
        ({"client": True}, "for clients too"),
        ({"leaf": dataclasses.replace(LEAF, client=True)}, "not for clients"),
        ({"leaf": dataclasses.replace(LEAF, lifetime=90)}, "lifetime of 397 days"),
        # Cut short by the end of the authority's own certificate: a longer one cannot be had.
        ({"leaf": dataclasses.replace(LEAF, lifetime=800), "end": FACTS.not_after}, None),
        # A third of 397 days is 132.3 days.
        ({"now": FACTS.not_after - 133 * DAY}, None),
        ({"now": FACTS.not_after - 132 * DAY}, "ends on 2027-04-01"),
        ({"now": FACTS.not_after - 1 * DAY}, "ends on 2027-04-01"),
        ({"now": FACTS.not_after}, "ends on 2027-04-01"),
        ({"now": FACTS.not_after - 199 * DAY, "renew_before": 200}, "ends on 2027-04-01"),
    ],
)
def test_leaf_difference(changed, reason):
    assert difference(**changed) == reason


def test_missing_leaf():
    assert x509.leaf_difference(LEAF, None, renew_before=30, end=NOW, now=NOW) == "missing"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"issuer": "CN=other"}, ("make", f"subject {POLICY.subject}")),
        ({"subject": "CN=typo"}, ("make", "subject CN=typo")),
        ({"not_before": NOW - 3650 * DAY, "not_after": NOW + 9 * DAY}, ("renew", "ends on 2026-03-10")),
        ({"not_after": NOW + 2000 * DAY}, ("renew", "lifetime of 2001 days")),
    ],
)
def test_authority_difference(changed, expected):
    facts = dataclasses.replace(FACTS, subject=POLICY.subject, not_after=NOW + 3649 * DAY)
    assert x509.authority_difference(POLICY, dataclasses.replace(facts, **changed), NOW) == expected


def test_missing_authority():
    assert x509.authority_difference(POLICY, None, NOW) == ("make", "missing")


@given(lifetime=st.integers(1, 8000), margin=st.integers(0, 9000))
def test_a_new_certificate_is_never_due(lifetime, margin):
    due = x509.renewal(NOW - x509.BACKDATE, NOW + lifetime * DAY, margin * DAY)
    assert NOW < due <= NOW + lifetime * DAY - lifetime * DAY / 3


def record(**changed):
    entry = {"name": "ldap/tls", "authority": "aa", "expires": "2027-01-01T00:00:00+00:00", "reason": None}
    return {
        "certificates": {"1": entry | {"revoked": NOW.isoformat()}, "2": entry | {"revoked": None}},
        "crl": {
            "authority": "aa",
            "serials": ["1"],
            "sha256": "digest",
            "last_update": NOW.isoformat(),
            "next_update": (NOW + 90 * DAY).isoformat(),
        }
        | changed,
    }


@pytest.mark.parametrize(
    ("index", "digest", "days", "expected"),
    [
        (record(), "digest", 0, None),
        (record(), None, 0, "missing"),
        ({"certificates": {}, "crl": None}, "digest", 0, "missing"),
        (record(), "other", 0, "unknown content"),
        (record(serials=[]), "digest", 0, "lacks revocations"),
        (record(), "digest", 59, None),
        (record(), "digest", 60, "ends on 2026-05-30"),
        (record(), "digest", 91, "ends on 2026-05-30"),
    ],
)
def test_revocation_list_difference(index, digest, days, expected):
    assert x509.revocation_list_difference(index, digest, NOW + days * DAY) == expected


@pytest.mark.parametrize(
    ("present", "name", "expected"),
    [
        ("ldap.vcore.test", "LDAP.vcore.test", True),
        ("*.vcore.test", "ldap.vcore.test", True),
        ("*.vcore.test", "a.ldap.vcore.test", False),
        ("*.vcore.test", "vcore.test", False),
        ("*", "ldap", False),
        ("l*.vcore.test", "ldap.vcore.test", False),
        ("10.0.0.1", "10.0.0.1", True),
    ],
)
def test_covers(present, name, expected):
    assert x509.covers([present], name) is expected


def described(pair):
    """Describe a certificate as text, with its random parts replaced by their names."""
    certificate, known = pair.chain[0], {pair.identifier: "<own identifier>"}
    yield f"version: {certificate.get_version() + 1}"
    yield f"subject: {pair.facts.subject}"
    yield f"issuer: {pair.facts.issuer}"
    yield f"valid: {pair.facts.not_before:%Y-%m-%d %H:%M} to {pair.facts.not_after:%Y-%m-%d %H:%M}"
    yield f"key: {pair.facts.key_type}"
    for position in range(certificate.get_ext_count()):
        extension = certificate.get_ext_at(position)
        value = extension.get_value().replace(":", "").lower() if "Identifier" in extension.get_name() else None
        text = known.get(value, "<issuer's identifier>") if value else extension.get_value()
        yield f"{extension.get_name()}{' (critical)' if extension.get_critical() else ''}: {text}"


@pytest.fixture(scope="module")
def authority():
    return x509.make_authority(POLICY, NOW)


def test_profile(golden, authority):
    leaves = [
        LEAF,
        dataclasses.replace(LEAF, client=True, lifetime=5000),
        dataclasses.replace(LEAF, key_type="rsa-3072", addresses=()),
    ]
    pairs = [authority, *(x509.make_leaf(leaf, authority, NOW) for leaf in leaves)]
    golden(GOLDEN / "profile.txt", "\n\n".join("\n".join(described(pair)) for pair in pairs) + "\n")
    assert all(pair.paired for pair in pairs)
    assert len({pair.facts.serial for pair in pairs}) == len(pairs)
    assert all(2**100 < int(pair.facts.serial, 16) < 2**159 for pair in pairs)


def test_a_made_leaf_is_what_was_wanted(authority):
    pair = x509.make_leaf(LEAF, authority, NOW)
    stored = x509.Stored(pair.facts, pair.paired, authority.signed(pair.chain[0]))
    end = authority.facts.not_after
    assert x509.leaf_difference(LEAF, stored, renew_before=30, end=end, now=NOW) is None


def test_a_renewed_root_keeps_what_was_issued(authority):
    renewed = x509.make_authority(POLICY, NOW + 3000 * DAY, authority.key)
    leaf = x509.make_leaf(LEAF, authority, NOW)
    assert renewed.facts.serial != authority.facts.serial
    assert renewed.identifier == authority.identifier
    assert renewed.signed(leaf.chain[0])
    assert not x509.make_authority(POLICY, NOW).signed(leaf.chain[0])


def test_unknown_key_type(authority):
    with pytest.raises(VcoreError, match="key type dsa is not one of ec-p256, rsa-3072"):
        x509.make_leaf(dataclasses.replace(LEAF, key_type="dsa"), authority, NOW)


# Supplied files.


@pytest.fixture(scope="module")
def files(tmp_path_factory, authority):
    """Make files of every kind that a site may supply."""
    folder = tmp_path_factory.mktemp("supplied")
    leaf = x509.make_leaf(LEAF, authority, NOW)
    other = x509.make_leaf(dataclasses.replace(LEAF, client=True), authority, NOW)
    contents = {
        "leaf.crt": leaf.certificate_pem(),
        "leaf.key": leaf.key_pem(),
        "chain.crt": leaf.certificate_pem() + authority.certificate_pem(),
        "reversed.crt": authority.certificate_pem() + leaf.certificate_pem(),
        "other.key": other.key_pem(),
        "encrypted.key": leaf.key.as_pem("aes_256_cbc", lambda *_: b"passphrase"),
        "ca.crt": authority.certificate_pem(),
        "ca.key": authority.key_pem(),
        "empty": b"",
        "text": b"certificate",
        "broken.crt": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "big": b"x" * (x509.MAXIMUM_FILE + 1),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "more", "problems"),
    [
        ("leaf.crt", "leaf.key", {"names": ["ldap.vcore.test", "127.0.0.1"]}, []),
        ("chain.crt", "leaf.key", {}, []),
        ("ca.crt", "ca.key", {"authority": True}, []),
        ("missing", "leaf.key", {}, ["missing does not exist"]),
        ("missing", "gone", {}, ["missing does not exist", "gone does not exist"]),
        (".", "leaf.key", {}, ["is not a file"]),
        ("empty", "leaf.key", {}, ["empty is not a PEM certificate"]),
        ("text", "leaf.key", {}, ["text is not a PEM certificate"]),
        ("broken.crt", "leaf.key", {}, ["broken.crt is not a PEM certificate"]),
        ("big", "leaf.key", {}, ["big is too big for a PEM file"]),
        ("leaf.crt", "text", {}, ["text is not a PEM private key"]),
        ("leaf.crt", "leaf.crt", {}, ["leaf.crt is not a PEM private key"]),
        ("leaf.crt", "encrypted.key", {}, ["encrypted.key is encrypted; write it without a passphrase"]),
        ("leaf.crt", "other.key", {}, ["other.key is not the key of the first certificate in"]),
        (
            "reversed.crt",
            "leaf.key",
            {},
            ["is not the key of the first", "has to be followed by that of its issuer", "is not a certificate for TLS"],
        ),
        ("leaf.crt", "leaf.key", {"names": ["web.vcore.test", "ldap", "1.2.3.4"]}, ["not for web.vcore.test, 1.2.3.4"]),
        ("leaf.crt", "leaf.key", {"now": NOW + 397 * DAY}, ["CN=ldap expired on 2027-04-02"]),
        ("leaf.crt", "leaf.key", {"now": NOW - DAY}, ["CN=ldap is not valid before 2026-03-01"]),
        ("leaf.crt", "leaf.key", {"authority": True}, ["is not the certificate of an authority"]),
        ("ca.crt", "ca.key", {}, ["is not a certificate for TLS servers"]),
    ],
)
def test_check_supplied(files, certificate, key, more, problems):
    found = x509.check_supplied(files / certificate, str(files / key), **({"now": NOW} | more))
    assert len(found) == len(problems), found
    for sentence, part in zip(found, problems, strict=True):
        assert part in sentence
        assert "\n" not in sentence


def damaged(original):
    """Return the original with some bytes replaced, removed or inserted, and arbitrary bytes."""
    return st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(lambda data: b"-----BEGIN CERTIFICATE-----\n" + data),
        st.tuples(st.integers(0, len(original)), st.integers(0, 80), st.binary(max_size=60)).map(
            lambda cut: original[: cut[0]] + cut[2] + original[cut[0] + cut[1] :]
        ),
    )


@pytest.mark.parametrize("role", [False, True])
def test_check_supplied_survives_any_bytes(files, tmp_path, role):
    name = "ca" if role else "leaf"
    certificate, key = ((files / f"{name}.{suffix}").read_bytes() for suffix in ("crt", "key"))

    @settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
    @given(damaged(certificate), damaged(key), st.booleans())
    def survives(certificate_bytes, key_bytes, good_key):
        (tmp_path / "x.crt").write_bytes(certificate_bytes)
        (tmp_path / "x.key").write_bytes(key if good_key else key_bytes)
        found = x509.check_supplied(
            tmp_path / "x.crt", tmp_path / "x.key", names=["ldap.vcore.test"], authority=role, now=NOW
        )
        assert all(isinstance(sentence, str) for sentence in found)
        if b"BEGIN CERTIFICATE" not in certificate_bytes:
            assert found

    survives()


def der_damaged(der):
    return st.tuples(st.integers(0, len(der) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda cut: der[: cut[0]] + cut[1] + der[cut[0] + len(cut[1]) :]
    )


def test_check_supplied_survives_well_formed_pem_of_damaged_der(files, tmp_path, authority):
    """Flip bytes of the DER below the PEM, which reach OpenSSL's parsers of names, times, keys and extensions."""
    der = authority.chain[0].as_der()

    @settings(max_examples=400)
    @given(der_damaged(der))
    @example(der + b"\x00")
    def survives(data):
        (tmp_path / "x.crt").write_text(ssl.DER_cert_to_PEM_cert(data))
        found = x509.check_supplied(tmp_path / "x.crt", files / "ca.key", authority=True, now=NOW)
        assert found or data == der

    survives()


@given(st.binary(max_size=500))
def test_pem_certificates_takes_any_bytes(data):
    assert all(block.startswith(b"-----BEGIN CERTIFICATE-----\n") for block in x509.pem_certificates(data * 2))


def test_pem_certificates_normalises(authority):
    pem = authority.certificate_pem()
    windows = b"subject=/CN=x\r\n" + pem.replace(b"\n", b"\r\n") + b"\r\ntail"
    assert x509.pem_certificates(windows + pem) == [pem, pem]
    assert trust.root_of(windows) == pem
    with pytest.raises(VcoreError, match="not PEM"):
        trust.root_of(b"")


# Trust.


@pytest.mark.parametrize(
    ("family", "registry", "message"),
    [("Suse", None, "no trust store"), ("Debian", "../x:1", "is not a registry"), ("Debian", "a b", "is not a")],
)
def test_trust_files_refuses(family, registry, message):
    with pytest.raises(VcoreError, match=message):
        trust.trust_files(family, registry)


def test_trust_difference(tmp_path):
    store = trust.TrustStore(tmp_path / "anchors", tmp_path / "bundle.pem", ("update",))
    files = (tmp_path / "anchors" / "virtual-core.crt", tmp_path / "docker" / "ca.crt")
    root, runs = b"the root\n", []

    def update(command):
        runs.append(command)
        store.bundle.write_bytes(b"others\n" + files[0].read_bytes())

    expected = {
        str(files[0]): {"old": None, "new": "installed"},
        str(files[1]): {"old": None, "new": "installed"},
        str(store.bundle): {"old": "without the root", "new": "with the root"},
    }
    changes = trust.trust_difference(root, store, files)
    assert changes == expected == trust.trust_difference(None, store, files)
    trust.trust(root, store, changes, update)
    assert runs == [("update",)]
    assert trust.trust_difference(root, store, files) == {}
    assert {change["old"] for change in trust.trust_difference(b"new\n", store, files).values()} == {
        "another certificate",
        "without the root",
    }
    with pytest.raises(VcoreError, match="still lacks the root"):
        trust.trust(b"new\n", store, trust.trust_difference(b"new\n", store, ()), lambda command: None)


def test_nodes_need_only_python():
    """Code that nodes run imports neither M2Crypto nor pydantic nor cryptography."""
    code = (
        "import sys\n"
        "for name in ('M2Crypto', 'pydantic', 'cryptography', 'yaml'): sys.modules[name] = None\n"
        "from vcore.certificates import authority, trust, x509\n"
        "print(x509.AVAILABLE, trust.trust_files('RedHat', 'registry.vcore.test:5000')[1])\n"
        "try: authority.Authority(None, None)\n"
        "except x509.VcoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(x509.__file__).parents[2])},
    )
    assert "/etc/docker/certs.d/registry.vcore.test:5000/ca.crt" in done.stdout
    assert done.stdout.startswith("False ")
    assert "needs M2Crypto" in done.stdout
