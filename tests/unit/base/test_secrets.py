"""The secret store: permissions, generation, and that only read() reveals a value."""

import stat

import pytest
from vcore.base import secrets
from vcore.base.errors import NotFound, VcoreError

PASSWORD = {"kind": "password", "length": 40}


@pytest.fixture
def store(tmp_path):
    return secrets.Store(tmp_path / "secrets")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_generated_once_and_closed(store):
    assert store.difference("ldap", "admin", PASSWORD) == "missing"
    store.ensure("ldap", "admin", PASSWORD)
    value = store.read("ldap", "admin")
    assert len(value) == 40
    assert store.difference("ldap", "admin", PASSWORD) is None
    store.ensure("ldap", "admin", PASSWORD)
    assert store.read("ldap", "admin") == value
    assert mode(store.path("ldap", "admin")) == 0o600
    assert mode(store.folder) == mode(store.folder / "ldap") == 0o700


def test_open_permissions_are_found_and_closed(store):
    store.ensure("ldap", "admin", PASSWORD)
    value = store.read("ldap", "admin")
    store.path("ldap", "admin").chmod(0o644)
    assert store.difference("ldap", "admin", PASSWORD) == "permissions"
    store.ensure("ldap", "admin", PASSWORD)
    assert mode(store.path("ldap", "admin")) == 0o600
    assert store.read("ldap", "admin") == value


@pytest.mark.parametrize(("kind", "length"), [("password", 16), ("token", 17), ("token", 64), ("bytes", 1024)])
def test_kinds_have_the_length_asked_for_and_differ(kind, length):
    values = {secrets.generate(kind, length) for _ in range(20)}
    assert {len(value) for value in values} == {length}
    assert len(values) == 20


def test_a_supplied_secret_is_asked_of_a_person(store):
    with pytest.raises(VcoreError, match=r"salt-call vcore_secret\.set mail/relay"):
        store.ensure("mail", "relay", {"kind": "supplied", "length": 32})
    assert not store.exists("mail", "relay")
    store.write("mail", "relay", b"typed")
    store.ensure("mail", "relay", {"kind": "supplied", "length": 32})
    assert store.read("mail", "relay") == b"typed"


def test_reading_what_is_not_there_says_so(store):
    with pytest.raises(NotFound, match="ldap/admin has no value yet"):
        store.read("ldap", "admin")


def test_fingerprints_are_stable_keyed_and_tell_nothing(store, tmp_path):
    another = secrets.Store(tmp_path / "another")
    for each in (store, another):
        each.ensure("ldap", "admin", PASSWORD)
    first = store.fingerprint(b"secret")
    assert first == store.fingerprint(b"secret") != store.fingerprint(b"other")
    assert first != another.fingerprint(b"secret")
    assert len(first) == 12
    store.write("ldap", "admin", b"another value")
    assert store.fingerprint(b"secret") == first


def test_a_fingerprint_writes_nothing(store):
    assert store.fingerprint(b"secret") is None
    assert not store.folder.exists()


def test_a_write_that_fails_leaves_the_old_value(store, monkeypatch):
    store.write("ldap", "admin", b"old")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        store.write("ldap", "admin", b"new")
    monkeypatch.undo()
    assert store.read("ldap", "admin") == b"old"
    assert [entry.name for entry in (store.folder / "ldap").iterdir()] == ["admin"]
