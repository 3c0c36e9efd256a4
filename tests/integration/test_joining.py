"""New machines that ask a live master to join: wanted ones, and all others."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import salt.channel.client
import yaml
from salt.crypt import write_keys
from vcore.base.errors import Refused
from vcore.base.names import JOIN_TOKEN
from vcore.base.secrets import Store
from vcore.enrolment import tokens
from vcore.nodes import registry

CHECKOUT = Path(__file__).parents[2]
KEY = b"k" * 32
FLOOD = 1000
#: The fingerprint of the code that a machine says it has.
CODE = "0123456789abcdef"
#: Ids that one of Salt's formats, a shell, a glob, a list or YAML would misread.
HOSTILE = ["*", "a,b", "x\nNodeName=evil", "x', foo: [{{ 7*7 }}]", "[a-z]*", "-a", "..", "x; reboot", "X", "\x1b[2J"]
WORTHLESS = ["expired", "replayed with another key", "foreign", "of another name", "the token itself"]


@pytest.fixture(scope="module")
def key_pair(tmp_path_factory) -> str:
    """Return the public key of a machine, PEM."""
    folder = tmp_path_factory.mktemp("key")
    write_keys(str(folder), "minion", 2048)
    return (folder / "minion.pub").read_text()


@pytest.fixture
def door(core):
    """Yield a core with secrets, and with no strangers' keys but those of this test."""
    store = Store(core.paths().secrets)
    store.write(*tokens.TOKEN_KEY, KEY)
    store.write(*JOIN_TOKEN, b"SWMTKN-of-this-test")
    before = keys(core)
    yield core
    for state, names in keys(core).items():
        for name in names - before[state]:
            shutil.rmtree(core.master / "pki" / state / name, ignore_errors=True)
            (core.master / "pki" / state / name).unlink(missing_ok=True)
    shutil.rmtree(core.paths().configuration, ignore_errors=True)


def keys(core) -> dict[str, set[str]]:
    """Return the ids that the master has keys of, by state, from its files."""
    folders = {state: core.master / "pki" / state for state in ("minions", "minions_pre", "minions_rejected")}
    return {state: {path.name for path in folder.iterdir()} for state, folder in folders.items() if folder.exists()}


def token(scope: str = "role=compute", ends: float = 3600, key: bytes = KEY) -> str:
    return tokens.make_token(key, scope, int(time.time() + ends))


def ask(core, minion: Any, public_key: Any, proof: Any = None) -> Any:
    """Ask the master to join, as a minion with this id and key does."""
    options = core.options("stranger")
    options["master_ip"] = "127.0.0.1"
    options["master_uri"] = f"tcp://127.0.0.1:{options['master_port']}"
    with salt.channel.client.ReqChannel.factory(options, crypt="clear") as channel:
        return ask_by(channel, minion, public_key, proof)


def ask_by(channel, minion: Any, public_key: Any, proof: Any) -> Any:
    load = {"cmd": "_auth", "id": minion, "nonce": uuid.uuid4().hex, "pub": public_key}
    load |= {"enc_algo": "OAEP-SHA1", "sig_algo": "PKCS1v15-SHA1"}
    if proof is not None:
        load["autosign_grains"] = {tokens.GRAIN: proof}
    return channel.send(load, timeout=20, tries=1)


def wait(what, timeout: float = 180) -> float:
    """Wait until something holds; return the seconds that it took."""
    start = time.monotonic()
    while not what():
        assert time.monotonic() - start < timeout, f"not within {timeout} s"
        time.sleep(0.1)
    return time.monotonic() - start


def accepted(core, name: str) -> bool:
    return name in keys(core)["minions"]


def entries(core) -> dict[str, Any]:
    return registry.Registry(core.paths().nodes).read()


def refusals(core) -> dict[str, str]:
    path = core.paths().state / "enrolment.json"
    return json.loads(path.read_text()) if path.exists() else {}


def settled(core, public_key: str, key: bytes = KEY) -> None:
    """Wait until the reactor has handled all earlier requests: it takes events in order."""
    name = f"last-{uuid.uuid4().hex[:8]}"
    ask(core, name, public_key, tokens.prove(token(key=key), name, public_key))
    wait(lambda: accepted(core, name))


@contextlib.contextmanager
def machine(core, name: str, given: str | None):
    """Make a minion as bootstrap.sh --join leaves it: with etc/node.conf, keys, and a token's proof."""
    folder = core.folder(name)
    pki = folder / "pki" / "minion"
    pki.mkdir(parents=True)
    write_keys(str(pki), "minion", 2048)
    ports = core.options("stranger")
    finger = tokens.fingerprint((core.master / "pki" / "master.pub").read_text())
    own: dict[str, Any] = {"root_dir": str(folder), "pki_dir": "pki/minion", "master_port": ports["master_port"]}
    own |= {"sock_dir": f"/tmp/{uuid.uuid4().hex[:8]}"}
    if given:
        proof = tokens.prove(given, name, (pki / "minion.pub").read_text())
        grains = {tokens.GRAIN: proof, tokens.CODE_GRAIN: CODE}
        own |= {"autosign_grains": [*grains], "grains": grains}
    placeholders = {"ID": name, "MASTER": "127.0.0.1", "MASTER_FINGER": finger}
    core.configure(CHECKOUT / "etc" / "node.conf", folder, placeholders, own, daemon="minion")
    (folder / "conf" / "minion").write_text("")
    program = Path(sys.executable).with_name("salt-minion")
    process = subprocess.Popen([program, f"--config-dir={folder / 'conf'}"], env={**os.environ, "NOTIFY_SOCKET": ""})
    try:
        yield pki
    finally:
        process.terminate()
        process.wait(timeout=120)
        shutil.rmtree(own["sock_dir"], ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def answers(core, name: str) -> bool:
    with contextlib.suppress(KeyError):
        # Requests get no answer before the master listens.
        return core.ask(name, "test.ping", patience=5) is True
    return False


def test_a_machine_with_a_token_is_let_in_by_itself(door, record_property):
    with machine(door, "new-1", token()) as pki:
        seconds = wait(lambda: accepted(door, "new-1"))
        record_property("seconds_to_acceptance", round(seconds, 1))
        print(f"accepted {seconds:.1f} s after its start")
        assert (door.master / "pki/minions/new-1").read_text().split() == (pki / "minion.pub").read_text().split()
        entry = entries(door)["new-1"]
        assert (entry["roles"], entry["by"], entry["swarm_id"]) == (["compute"], "token", None)
        assert entry["code"] == CODE
        wait((door.paths().state / "reconcile/dirty/new-1").exists)  # by the same person, after the key
        wait(lambda: answers(door, "new-1"))
        pillar = door.ask("new-1", "pillar.items", unmask=True)["vcore"]
        assert pillar["node"]["roles"] == ["compute"]
        # It has not joined the swarm yet; once the manager has seen it, it no longer gets the token.
        assert pillar["secrets"] == {"swarm": {"join-token": "SWMTKN-of-this-test"}}
        registry.Registry(door.paths().nodes).update({"new-1": {"swarm_id": "abc"}})
        assert "secrets" not in door.ask("new-1", "pillar.items", unmask=True)["vcore"]
        assert door.ask("stranger", "pillar.items", unmask=True) == {}


def test_a_key_is_accepted_by_hand_without_a_token(door):
    door.site.write_text(door.site.read_text().replace("nodes:\n", "nodes:\n    hand-1: {roles: [compute]}\n"))
    with machine(door, "hand-1", None):
        wait(lambda: "hand-1" in keys(door)["minions_pre"])
        assert door.run("salt-key", "-y", "-a", "hand-1").returncode == 0
        wait(lambda: answers(door, "hand-1"))
        assert door.ask("hand-1", "pillar.items", unmask=True)["vcore"]["node"]["roles"] == ["compute"]
        assert "hand-1" not in entries(door)


def test_ids_that_mean_something_to_somebody_mean_nothing_here(door, key_pair):
    before = keys(door)["minions"]
    for name in HOSTILE:
        with contextlib.suppress(Refused):
            ask(door, name, key_pair, tokens.prove(token(), name, key_pair))
    ask(door, "compute-7", key_pair, None)  # ids that a glob would have matched, too
    settled(door, key_pair)
    assert {name for name in keys(door)["minions"] - before if not name.startswith("last-")} == set()
    assert all(name.startswith("last-") for name in entries(door))
    assert refusals(door) == {}, "none of these was worth a look"


@pytest.mark.parametrize("what", WORTHLESS)
def test_what_does_not_prove_anything_stays_outside(door, key_pair, tmp_path, what):
    write_keys(str(tmp_path), "minion", 2048)
    other = (tmp_path / "minion.pub").read_text()
    name = f"evil-{uuid.uuid4().hex[:6]}"
    proof, says = {
        "expired": (tokens.prove(token(ends=-1), name, key_pair), "its token expired"),
        "replayed with another key": (tokens.prove(token(), name, other), ""),
        "foreign": (tokens.prove(token(key=b"f" * 32), name, key_pair), ""),
        "of another name": (tokens.prove(token("node=somebody"), name, key_pair), "its token is for somebody"),
        "the token itself": (token(), ""),
    }[what]
    ask(door, name, key_pair, proof)
    settled(door, key_pair)
    # Requests that are not for this core are not even examined.
    if says:
        wait(lambda: name in refusals(door))
    assert says in refusals(door).get(name, "")
    assert not accepted(door, name)
    assert name in keys(door)["minions_pre"]
    assert name not in entries(door)
    assert not (door.paths().state / "reconcile/dirty" / name).exists()


@pytest.mark.parametrize("name", ["head", "compute-1"])
def test_a_name_that_is_taken_is_not_given_to_another_key(door, key_pair, name):
    before = (door.master / "pki/minions" / name).read_text()
    ask(door, name, key_pair, tokens.prove(token(), name, key_pair))
    ask(door, name, key_pair, tokens.prove(token(f"node={name}"), name, key_pair))
    settled(door, key_pair)
    assert (door.master / "pki/minions" / name).read_text() == before
    assert name not in entries(door)
    shutil.rmtree(door.master / "pki" / "minions_denied", ignore_errors=True)


def test_malformed_requests_break_nothing(door, key_pair):
    for name, key, proof in [
        ("odd-1", key_pair, ["a", "list"]),
        ("odd-2", key_pair, {"a": "mapping"}),
        ("odd-3", key_pair, "vc1." * 100_000),
        ("odd-4", "no key", tokens.prove(token(), "odd-4", key_pair)),
        ("odd-5", "A" * 100_000, tokens.prove(token(), "odd-5", key_pair)),
        ("n" * 64, key_pair, tokens.prove(token(), "n" * 64, key_pair)),
    ]:
        ask(door, name, key, proof)
    settled(door, key_pair)
    assert not [name for name in keys(door)["minions"] if name.startswith(("odd-", "nn"))]


@pytest.mark.parametrize("proves", [False, True], ids=["without a proof", "with foreign proofs"])
def test_a_thousand_strangers_hold_nobody_up(door, key_pair, record_property, proves):
    """While they ask, the master answers, none of them gets in, and a machine with a token does get in after them."""
    names = [f"flood-{number}" for number in range(FLOOD)]
    foreign = token(key=b"f" * 32)
    pings = []
    options = door.options("stranger")
    options["master_ip"] = "127.0.0.1"
    options["master_uri"] = f"tcp://127.0.0.1:{options['master_port']}"

    def ping() -> float:
        began = time.monotonic()
        assert door.ask("head", "test.ping") is True
        return time.monotonic() - began

    before = max(ping() for _ in range(3))
    start = time.monotonic()
    with salt.channel.client.ReqChannel.factory(options, crypt="clear") as channel:
        for number, name in enumerate(names):
            ask_by(channel, name, key_pair, tokens.prove(foreign, name, key_pair) if proves else None)
            if number % 250 == 249:
                pings.append(ping())
    asked = time.monotonic() - start
    start = time.monotonic()
    settled(door, key_pair)
    behind = time.monotonic() - start
    print(
        f"{FLOOD} asked in {asked:.1f} s; slowest ping {max(pings):.1f} s, {before:.1f} s before; "
        f"the next was let in {behind:.1f} s later"
    )
    record_property("slowest_ping", round(max(pings), 2))
    # On a busy machine a ping takes a while without strangers, too.
    assert max(pings) < 3 + 3 * before
    assert not [name for name in keys(door)["minions"] if name.startswith("flood")]
    assert len([name for name in keys(door)["minions_pre"] if name.startswith("flood")]) == FLOOD
    assert not [name for name in entries(door) if name.startswith("flood")]
    assert len(refusals(door)) <= 100


def test_no_secret_of_enrolment_is_in_a_log_or_an_event(door, key_pair):
    given = token()
    settled(door, key_pair)
    name = f"quiet-{uuid.uuid4().hex[:6]}"
    ask(door, name, key_pair, tokens.prove(given, name, key_pair))
    wait(lambda: accepted(door, name))
    contents = {path: path.read_bytes() for path in door.master.rglob("*") if path.is_file()}
    assert any(name.encode() in text for path, text in contents.items() if path.suffix == ".log")
    for secret in (tokens.parse(given).mac.encode(), KEY, KEY.hex().encode()):
        assert [path for path, text in contents.items() if secret in text] == []


def test_tokens_are_made_for_people_in_a_sentence(door):
    done = door.run("salt-run", "vcore.enrol_token")
    assert done.returncode != 0
    assert done.stdout.startswith("the service enrolment is off, which new machines join by;")
    site = yaml.safe_load(door.site.read_text())
    site["vcore"]["services"]["enrolment"] = {"enabled": True}
    door.site.write_text(yaml.safe_dump(site))
    assert "apply the states on the head" in door.run("salt-run", "vcore.enrol_token").stdout
    door.paths().authority.mkdir(parents=True)
    (door.paths().authority / "ca.crt").write_text("the certificate")
    for arguments, says in {
        ("ttl=8d",): "ttl='8d': say how long the token lives, such as 30m, 1h or 2d, at most 7d\n",
        ("node=*",): "node='*' is no name for a node (a-z, 0-9, -, a letter first)\n",
        ("node=head",): "head is the head itself; choose another name\n",
        ("role=head",): "role='head': a token grants only the role compute; the site file others\n",
    }.items():
        done = door.run("salt-run", "vcore.enrol_token", *arguments)
        assert done.returncode != 0
        assert done.stdout == says
    done = door.run("salt-run", "vcore.enrol_token", "ttl=30m", "node=gpu-1")
    assert done.returncode == 0
    first, _, line = done.stdout.strip().splitlines()
    assert first.startswith("Run this on the new machine. It is good for the node gpu-1, until 20")
    made = tokens.parse(line.split()[1])
    assert made.scope == "node=gpu-1"
    assert 1700 < made.expiry - time.time() <= 1800
    assert line.endswith("exec ./bootstrap.sh --join 10.0.0.1'")


def test_revoked_tokens_have_ended(door, key_pair):
    given = token()
    assert door.run("salt-run", "vcore.enrol_revoke").stdout == "All tokens that were made so far have ended.\n"
    ask(door, "late-1", key_pair, tokens.prove(given, "late-1", key_pair))
    settled(door, key_pair, Store(door.paths().secrets).read(*tokens.TOKEN_KEY))
    assert not accepted(door, "late-1")
