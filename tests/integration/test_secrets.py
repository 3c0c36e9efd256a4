"""Secrets can be set, listed and rotated, and their values are nowhere but in the store."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import salt.utils.event
from vcore.base.secrets import Store

KNOWN = {
    ("ldap", "admin-password"): b"known-admin-password-7Hq2",
    ("ldap", "readonly-password"): b"known-readonly-password-9Wz4",
    ("ldap", "samba-password"): b"known-samba-password-3Xc8",
    ("registry", "push"): b"known-push-token-5Rt6",
    ("registry", "pull"): b"known-pull-token-2Bn1",
}


@pytest.fixture
def store(core) -> Store:
    """Return the head's store, filled with known values."""
    store = Store(core.paths().secrets)
    for (service, name), value in KNOWN.items():
        store.write(service, name, value)
    return store


def spellings(value: bytes) -> list[bytes]:
    return [value, base64.b64encode(value)[:-4], value.hex().encode()]


def leaks(core, values: list[bytes]) -> list[Path]:
    """Return files below the root of all daemons, except the store, that contain one of the values."""
    wanted = [spelling for value in values for spelling in spellings(value)]
    found = []
    for path in core.root.rglob("*"):
        if path.is_file() and not path.is_relative_to(core.paths().secrets):
            data = path.read_bytes()
            found += [path for spelling in wanted if spelling in data]
    return found


class Watch:
    """Collects the master's events and the command lines of all processes meanwhile."""

    def __init__(self, core) -> None:
        self.seen = b""
        self._options, self._stop = core.options(), threading.Event()
        self._ready = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._events, self._processes)]

    def _events(self) -> None:
        with salt.utils.event.get_event("master", opts=self._options, listen=True) as bus:
            bus.connect_pub()
            self._ready.set()
            while not self._stop.is_set():
                event = bus.get_event(wait=0.5, full=True, auto_reconnect=True)
                self.seen += repr(event).encode()

    def _processes(self) -> None:
        while not self._stop.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen += path.read_bytes()
                except OSError:
                    continue  # the process has ended

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def nowhere(core) -> Iterator[Callable[..., None]]:
    """Assert at the end that the values were in no event, process, log, result or file except the store's."""
    values: list[bytes] = []
    said: list[str] = []

    def expect(value: bytes, *outputs: str) -> None:
        values.append(value)
        said.extend(outputs)

    with Watch(core) as watch:
        yield expect
    assert b"vcore_secret" in watch.seen
    assert values
    for value in values:
        for spelling in spellings(value):
            assert spelling not in watch.seen
            assert spelling.decode("latin-1") not in "".join(said)
    assert leaks(core, values) == []


def test_a_given_secret_is_read_from_standard_input_and_kept(core, nowhere):
    value = b"typed-by-a-person-8Kp3"
    done = core.run(
        "salt-call", "--log-level=trace", "vcore_secret.set", "ldap/admin-password", input=f"{value.decode()}\n"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["local:", "True"]
    path = core.paths().secrets / "ldap" / "admin-password"
    assert path.read_bytes() == value
    assert path.stat().st_mode & 0o777 == 0o600
    nowhere(value, done.stdout, done.stderr)


def test_a_rotated_secret_is_a_new_one(core, store, nowhere):
    assert core.ask("head", "vcore_secret.rotate", "ldap/admin-password") is True
    new = store.read("ldap", "admin-password")
    assert len(new) == 40
    assert new != KNOWN["ldap", "admin-password"]
    assert store.read("registry", "push") == KNOWN["registry", "push"]
    nowhere(new)


def test_secrets_are_listed_without_their_values(core, store, nowhere):
    store.path("registry", "pull").unlink()
    done = core.run("salt-call", "--out=json", "vcore_secret.list")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)["local"]
    assert set(listed) == {f"{service}/{name}" for service, name in KNOWN}
    assert listed["ldap/admin-password"]["state"] == "present"
    assert listed["registry/pull"]["state"] == "missing"
    assert all(set(entry) == {"kind", "description", "state"} for entry in listed.values())
    for value in KNOWN.values():
        nowhere(value, done.stdout, done.stderr)


@pytest.mark.usefixtures("store")
def test_nothing_that_shows_the_configuration_shows_a_secret(core, nowhere):
    shown = [core.run("salt-run", "--out=json", f"vcore.{name}").stdout for name in ("show", "schema")]
    shown.append(json.dumps(core.ask("*", "pillar.items", unmask=True)))
    shown.append(json.dumps(core.ask("head", "vcore_secret.list")))
    assert "admin-password" in shown[0]
    assert "admin-password" in shown[2]
    for value in KNOWN.values():
        nowhere(value, *shown)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("ldap/admin-password", "\n", "an empty value was given; nothing was changed"),
        ("ldap/nonsense", "value\n", "no service that is switched on has a secret 'ldap/nonsense'"),
    ],
)
def test_what_cannot_be_set_is_said_in_a_sentence(core, name, given, said):
    done = core.run("salt-call", "vcore_secret.set", name, input=given)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not core.paths().secrets.exists()
