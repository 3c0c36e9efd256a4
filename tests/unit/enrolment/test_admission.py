"""What the head does with a proof, what it shows of pending keys, and what it offers to new machines."""

import json
import threading
from dataclasses import replace

import pytest
from vcore.base.errors import Refused, VcoreError
from vcore.base.paths import Paths
from vcore.base.secrets import Store
from vcore.enrolment import admission, health, tokens
from vcore.nodes import registry

KEY = b"k" * 32
PUB = "-----BEGIN PUBLIC KEY-----\nMIIBIjAN\nBgkqhkiG\nIDAQAB\n-----END PUBLIC KEY-----\n"
PUB2 = PUB.replace("MIIBIjAN", "MIIBIjAO")
NOW = 1_764_150_000
SITE = """\
vcore:
  network: {subnet: 198.18.0.0/24, bridge_subnet: 198.18.1.0/24, ingress_subnet: 198.18.2.0/24}
  nodes: {head: {roles: [head], address: 10.0.0.1}, named: {roles: [compute], address: 10.0.0.2}}
"""


class Keys:
    """The master's keys in memory; the integration tests cover Salt's own."""

    def __init__(self, accepts=True, **keys):
        self.keys, self.accepts = keys, accepts

    def find(self, minion):
        return self.keys.get(minion)

    def accept(self, minion):
        if self.accepts:
            self.keys[minion] = ("accepted", self.keys[minion][1])

    def reject(self, minion):
        self.keys[minion] = ("rejected", self.keys[minion][1])


@pytest.fixture
def paths(tmp_path, checkout):
    """Make a core with a site, a catalogue and a key for tokens."""
    (tmp_path / "checkout" / "pillar").mkdir(parents=True)
    (tmp_path / "checkout" / "pillar" / "site.sls").write_text(SITE)
    (tmp_path / "checkout" / "salt").symlink_to(checkout / "salt")
    found = Paths(tmp_path / "checkout", tmp_path / "configuration", tmp_path / "state")
    Store(found.secrets).write(*tokens.TOKEN_KEY, KEY)
    return found


def proof(minion="new-1", pub=PUB, scope="role=compute", ends=60):
    return tokens.prove(tokens.make_token(KEY, scope, NOW + ends), minion, pub)


def review(paths, keys, minion="new-1", pub=PUB, text=None, code=None):
    return admission.review(paths, keys, minion, pub, text or proof(minion, pub), code, now=NOW)


def entry(paths, minion="new-1"):
    return registry.Registry(paths.nodes).read().get(minion)


def marked(paths):
    folder = paths.state / "reconcile" / "dirty"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_good_proof_makes_a_node(paths):
    keys = Keys(**{"new-1": ("pending", PUB)})
    assert review(paths, keys) == ["compute"]
    assert keys.find("new-1") == ("accepted", PUB)
    assert entry(paths) == {**registry.UNKNOWN, "roles": ["compute"], "enrolled": NOW, "by": "token"}
    assert marked(paths) == ["new-1"]


@pytest.mark.parametrize(
    ("says", "believed"),
    [("0123456789abcdef", "0123456789abcdef"), ("0123456789ABCDEF", None), ("../../x", None), ({}, None), (7, None)],
)
def test_what_a_machine_says_of_its_code(paths, says, believed):
    review(paths, Keys(**{"new-1": ("pending", PUB)}), code=says)
    assert entry(paths)["code"] == believed


def test_once_more_changes_nothing(paths):
    keys = Keys(**{"new-1": ("pending", PUB)})
    review(paths, keys)
    registry.Registry(paths.nodes).update({"new-1": {"swarm_id": "abc"}})
    assert review(paths, keys) == ["compute"]
    assert entry(paths)["swarm_id"] == "abc"


def test_a_machine_that_was_made_anew_is_another_one(paths):
    registry.Registry(paths.nodes).update(
        {"new-1": {"roles": ["compute"], "swarm_id": "abc", "code": "c", "hardware": {}}}
    )
    review(paths, Keys(**{"new-1": ("pending", PUB)}))
    assert (entry(paths)["swarm_id"], entry(paths)["code"], entry(paths)["hardware"]) == (None, None, None)
    assert entry(paths)["roles"] == ["compute"]


def test_a_node_of_the_site_keeps_the_roles_of_the_site(paths):
    assert review(paths, Keys(named=("pending", PUB)), "named") == []
    assert entry(paths, "named")["roles"] == []


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        (("pending", PUB), proof(ends=-1), "its token expired"),
        (("pending", PUB), proof("new-2"), "not made with a token of this core"),
        (("pending", PUB), proof(scope="node=new-2"), "its token is for new-2"),
        (("pending", PUB2), proof(), "another key under this id"),
        (("accepted", PUB2), proof(), "another key under this id"),
        (("rejected", PUB), proof(), "its key is rejected"),
        (None, proof(), "another key under this id"),
    ],
)
def test_what_does_not_hold_changes_nothing_and_is_noted(paths, key, text, says):
    keys = Keys(**{"new-1": key})
    with pytest.raises(Refused, match=says):
        review(paths, keys, text=text)
    assert keys.find("new-1") == key
    assert entry(paths) is None
    assert marked(paths) == []
    (reason,) = admission.Refusals(paths.state / "enrolment.json").read().values()
    assert says in reason


def test_the_head_keeps_its_name(paths):
    with pytest.raises(Refused, match="the head's"):
        review(paths, Keys(head=("pending", PUB)), "head")


def test_salt_is_not_believed_that_it_accepted(paths):
    """Salt reports a key as accepted even if it did not accept it (https://github.com/saltstack/salt/issues/63477)."""
    with pytest.raises(Refused, match="its key was pending when it should have been accepted"):
        review(paths, Keys(accepts=False, **{"new-1": ("pending", PUB)}))
    assert entry(paths) is None


def test_another_key_that_slipped_in_is_thrown_out_again(paths):
    keys = Keys(**{"new-1": ("pending", PUB)})
    keys.accept = lambda minion: keys.keys.update({minion: ("accepted", PUB2)})
    with pytest.raises(Refused):
        review(paths, keys)
    assert keys.find("new-1") == ("rejected", PUB2)


def test_a_mistake_in_the_site_file_leaves_the_key_waiting(paths):
    good = paths.site.read_text()
    paths.site.write_text("vcore: {nodes: {}}")
    keys = Keys(**{"new-1": ("pending", PUB)})
    with pytest.raises(VcoreError):
        review(paths, keys)
    assert entry(paths) is None
    paths.site.write_text(good)
    assert review(paths, keys) == ["compute"]
    assert admission.Refusals(paths.state / "enrolment.json").read() == {}


def test_many_at_once_are_all_let_in(paths):
    names = [f"new-{number}" for number in range(12)]
    keys = Keys(**dict.fromkeys(names, ("pending", PUB)))
    threads = [threading.Thread(target=review, args=(paths, keys, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.Registry(paths.nodes).read().keys() == set(names)
    assert marked(paths) == sorted(names)


# --- the keys that wait ------------------------------------------------------------------------------------------


def test_refusals_are_bounded_and_written_once(tmp_path):
    notes = admission.Refusals(tmp_path / "state" / "enrolment.json")
    for number in range(150):
        notes.note(f"new-{number}", "why")
    assert len(notes.read()) == admission.REMEMBERED
    assert "new-149" in notes.read()
    before = notes.path.stat()
    notes.note("new-149", "why")
    assert notes.path.stat() == before
    notes.path.write_text("damaged")
    assert notes.read() == {}


def test_of_a_thousand_keys_twenty_are_listed_nodes_first(paths, tmp_path):
    folder = tmp_path / "pki" / "minions_pre"
    folder.mkdir(parents=True)
    hostile = ["*", "a,b", "x\nNodeName=evil", "x', foo: [{{ 7*7 }}]", "\x1b[2J", "é" * 70]
    for name in [*hostile, "compute-1", "compute-2", *(f"Flood-{number}" for number in range(1000))]:
        (folder / name).write_text("")
    admission.Refusals(paths.state / "enrolment.json").note("compute-2", "its token expired")
    found = health.waiting(paths, tmp_path / "pki")
    assert found["count"] == 1008
    assert len(found["keys"]) == admission.LISTED
    assert found["keys"][0] == {"id": "compute-2", "reason": "its token expired", "node": False}
    assert found["keys"][1]["reason"] == "it came without a valid proof; if it is yours: salt-key -a compute-1"
    text = json.dumps(found, ensure_ascii=False)
    assert "\n" not in text
    assert all(key["id"].isprintable() and len(key["id"]) <= 63 for key in found["keys"])


def test_a_machine_that_was_made_anew_is_told_apart(paths, tmp_path):
    (tmp_path / "minions_denied").mkdir()
    (tmp_path / "minions_denied" / "compute-1").write_text("")
    reason = "another key has this id; if that machine was reinstalled: salt-key -d compute-1"
    key = {"id": "compute-1", "reason": reason, "node": False}
    assert health.waiting(paths, tmp_path) == {"count": 1, "keys": [key]}


@pytest.mark.parametrize("where", ["minions_pre", "minions_denied"])
def test_a_key_under_the_name_of_a_node_that_is_there_is_a_problem(paths, tmp_path, where):
    for folder in ("minions", where):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "compute-1").write_text("")
    (tmp_path / where / "compute-2").write_text("")
    pillar = {"nodes": {"compute-1": {}, "compute-2": {}}}
    facts = health.facts(pillar, replace(paths, keys=tmp_path), {})
    assert [(key["id"], key["node"]) for key in facts["pending"]["keys"]] == [("compute-1", True), ("compute-2", False)]
    (problem,) = health.problems(facts)
    assert problem.startswith("key of compute-1: a node has this name, and another key with the same name waits: ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x\nNodeName=evil", "x\\nNodeName=evil"),
        ("\x1b[2J", "\\x1b[2J"),
        ("*", "*"),
        ("\udcff", "\\udcff"),
        ("a" * 99, "a" * 62 + "…"),
    ],
)
def test_what_strangers_say_is_shown_in_one_plain_line(text, shown):
    assert health.printable(text) == shown


def test_without_a_master_nothing_waits(paths, tmp_path):
    assert health.waiting(paths, tmp_path / "nowhere") == {"count": 0, "keys": []}


# --- what is offered ---------------------------------------------------------------------------------------------


def test_the_offer_changes_with_what_goes_into_it_only(tmp_path, checkout):
    pki, folder = tmp_path / "pki", tmp_path / "public"
    for made in (pki, folder, tmp_path / "configuration" / "authority"):
        made.mkdir(parents=True)
    paths = Paths(checkout, tmp_path / "configuration", tmp_path / "state", pki)
    pillar = {
        "services": {"enrolment": {"volumes": {"public": {"source": str(folder)}}}},
        "network": {"name": "virtual_core", "subnet": "172.18.0.0/24"},
    }
    offer = admission.Offer(pillar, paths)
    with pytest.raises(VcoreError, match=r"run bootstrap\.sh"):
        offer.changes()
    (pki / "master.pub").write_text(PUB)
    new = {"old": None, "new": "offered"}
    assert offer.changes() == {"ca.crt": new, "virtual-core.tar.gz": new}, "the authority is made in the same run"
    (paths.authority / "ca.crt").write_text("the certificate")
    offer.write()
    assert offer.changes() == {}
    (pki / "master.pub").write_text(PUB2)
    assert offer.changes() == {"virtual-core.tar.gz": {"old": "another one", "new": "offered"}}
