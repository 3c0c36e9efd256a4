"""How a configuration that its container proves comes into force, and how a refused one is taken back."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vcore.base import configurations
from vcore.base.errors import NotFound, VcoreError
from vcore.base.paths import Paths
from vcore.swarm import connection, proving

FILES = ("a.conf", "b.conf", "hashes")
OLD = {"a.conf": b"1", "b.conf": b"1", "hashes": b"1"}
NEW = {"a.conf": b"2", "hashes": b"2"}
REFUSED = "it was refused"


class Container:
    """A stand-in for a service's container, which records the commands it gets.

    ``says`` is whether it records itself what it has read; ``refuses`` names the command that fails once, with
    ``error``.
    """

    def __init__(self, folder, says):
        self.place = proving.Place(folder, FILES, ("hashes",))
        self.says, self.there, self.refuses, self.error = says, True, None, VcoreError("no")
        self.asked = []
        self.proven = {}
        probe = None if says else lambda: self.answer("probe")
        self.service = proving.ConfiguredService(self.place, self.find, self.prove, self.reload, probe)

    def find(self):
        if not self.there:
            raise NotFound("none")
        return "id"

    def answer(self, question):
        self.asked.append(question)
        if question == self.refuses:
            self.refuses = None
            raise self.error

    def prove(self, candidate):
        folder = self.place.folder / candidate
        self.proven = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert folder.stat().st_mode & 0o777 == 0o700
        self.answer("prove")

    def reload(self):
        self.answer("reload")
        if self.says:
            self.start()

    def start(self):
        """Serve the configuration in place, as a container does that starts."""
        if self.says:
            (self.place.folder / configurations.APPLIED).write_text(
                f"{configurations.fingerprint(self.place.read())}\n"
            )

    def choose(self):
        """Refuse the configuration in place and take the previous one, as a container that starts does."""
        for path in (self.place.folder / configurations.PREVIOUS).iterdir():
            (self.place.folder / path.name).write_bytes(path.read_bytes())
        (self.place.folder / configurations.REFUSED).write_text("line 3\n")
        self.start()

    def settle(self, wanted):
        return self.service.settle(lambda content: content != wanted, refused=REFUSED)

    def written(self):
        return {
            str(path.relative_to(self.place.folder)): path.read_bytes()
            for path in self.place.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture(params=[True, False], ids=["notes itself", "is probed"])
def container(tmp_path, request):
    return Container(tmp_path, request.param)


@pytest.fixture
def serving(container):
    """Stand in for a container that serves the old configuration."""
    assert container.service.apply(OLD, {})
    container.asked.clear()
    return container


def in_force(content):
    return {**content, configurations.APPLIED: f"{configurations.fingerprint(content)}\n".encode()}


# --- what runs proves -----------------------------------------------------------------------------------------------


def test_what_runs_proves_first_and_reads_then(serving):
    assert serving.service.apply(NEW, OLD)
    assert serving.asked == ["prove", "reload"]
    assert serving.proven == {"a.conf": b"2"}, "secrets are not part of a candidate"
    assert serving.written() == in_force(NEW)
    assert {name: (serving.place.folder / name).stat().st_mode & 0o777 for name in NEW} == {
        "a.conf": 0o644,
        "hashes": 0o600,
    }


@pytest.mark.parametrize("error", [VcoreError("no"), OSError("no")], ids=["refused", "disk"])
@pytest.mark.parametrize(
    ("refuses", "says", "asked"),
    [
        ("prove", "no", ["prove"]),
        ("reload", "no; the old configuration is in place again", ["prove", "reload", "reload"]),
    ],
)
def test_what_is_refused_leaves_the_old_in_force(serving, refuses, says, asked, error):
    serving.refuses, serving.error = refuses, error
    with pytest.raises((VcoreError, OSError), match=f"^{says}$"):
        serving.service.apply(NEW, OLD)
    assert serving.asked == asked
    assert serving.written() == in_force(OLD)
    assert not serving.service.is_unread(OLD)


def test_the_first_one_that_is_refused_leaves_nothing(container):
    container.refuses = "reload"
    with pytest.raises(VcoreError, match="in place again"):
        container.service.apply(NEW, {})
    assert container.asked == ["prove", "reload"]
    assert container.written() == {}


def test_the_reason_is_told_and_not_what_comes_after_it(serving):
    reasons = iter([VcoreError("the reason"), VcoreError("what comes after it")])

    def reload():
        serving.answer("reload")
        raise next(reasons)

    service = proving.ConfiguredService(serving.place, serving.find, serving.prove, reload)
    with pytest.raises(VcoreError, match=r"^the reason; the old configuration is in place again$"):
        service.apply(NEW, OLD)
    assert serving.asked == ["prove", "reload", "reload"]
    assert serving.written() == OLD, "nobody knows whether it is read"


def test_a_change_that_was_cut_off_is_made_up_for(serving):
    serving.place.forget()
    assert serving.service.is_unread(OLD)
    assert serving.service.apply(OLD, OLD)
    assert not serving.service.is_unread(OLD)


def test_nobody_is_asked_while_all_is_in_force(serving):
    def find():
        pytest.fail("Docker is asked")

    service = proving.ConfiguredService(serving.place, find, serving.prove, serving.reload)
    assert not service.is_unread(OLD)


# --- the next container proves --------------------------------------------------------------------------------------


def leave(container, *, replaced=True):
    """Write another configuration for the container that is about to start."""
    old = container.place.read()
    container.there = replaced
    assert not container.service.apply(NEW, old, replaced=lambda: replaced)
    container.there = True


@pytest.mark.parametrize("replaced", [True, False], ids=["is replaced", "none runs"])
def test_where_another_container_is_about_to_come_it_is_that_one_that_proves(serving, replaced):
    for times in range(2):  # an apply that was interrupted before the container started does the same again
        leave(serving, replaced=replaced)
        assert serving.asked == [], times
        previous = serving.place.folder / configurations.PREVIOUS
        assert {path.name: path.read_bytes() for path in previous.iterdir()} == OLD
        assert previous.stat().st_mode & 0o777 == 0o700
        assert (previous / "hashes").stat().st_mode & 0o777 == 0o600
        assert serving.place.read() == NEW
        assert serving.place.applied() is None
    # A container that records what it reads has not recorded this; any other has to be probed first.
    assert serving.service.is_unread(NEW) is serving.says
    serving.start()
    assert serving.settle(NEW) is True
    assert serving.asked == ([] if serving.says else ["probe"])
    assert serving.written() == in_force(NEW)
    assert not serving.service.is_unread(NEW)


def test_what_never_was_in_force_is_nothing_to_go_back_to(serving):
    serving.place.forget()
    leave(serving)
    assert not (serving.place.folder / configurations.PREVIOUS).exists()


def test_what_the_new_container_refuses_fails_with_its_reason(serving):
    leave(serving)
    serving.choose()
    with pytest.raises(VcoreError, match=f"^{REFUSED}: line 3$"):
        serving.settle(NEW)
    assert serving.asked == []
    # When it accepts a configuration later, the refusal ends.
    serving.service.apply(NEW, serving.place.read())
    assert serving.settle(NEW) is True
    assert serving.written() == in_force(NEW)


def test_what_runs_and_is_not_wanted_is_told(serving):
    with pytest.raises(VcoreError, match=r"^the configuration in place is not the wanted one; apply again$"):
        serving.settle(NEW)
    assert serving.settle(OLD) is True
    assert serving.asked == []


def test_where_none_runs_there_is_nothing_to_settle(container):
    container.there = False
    assert container.settle(NEW) is False
    assert not container.service.is_unread(NEW)


def test_one_that_has_not_read_what_is_in_place_reads_it_or_fails(serving):
    leave(serving)
    serving.refuses = "reload" if serving.says else "probe"
    with pytest.raises(VcoreError, match=r"^no$"):
        serving.settle(NEW)
    assert serving.place.applied() is None
    assert serving.settle(NEW) is True
    assert serving.written() == in_force(NEW)


def test_one_that_starts_has_its_time_to_read(tmp_path, monkeypatch):
    container = Container(tmp_path, True)
    leave(container)
    monkeypatch.setattr(proving.time, "sleep", lambda _: container.start())
    assert container.service.settle(lambda content: content != NEW, refused=REFUSED, wait=60) is True
    assert container.asked == []


# --- is it replaced? ------------------------------------------------------------------------------------------------


class FakeSwarm:
    """A stand-in for the head's swarm: which services it has, and whether deploying one would change it."""

    services: tuple = ()
    different = False

    def snapshot(self):
        return connection.Snapshot(active=True, services=dict.fromkeys(self.services))

    def plan(self, wanted):
        assert wanted == "the file router of the site"
        return self


def test_only_the_head_knows_whether_the_container_is_replaced(tmp_path, monkeypatch):
    swarm, paths = FakeSwarm(), Paths(tmp_path, tmp_path, tmp_path)
    core = {"node": {"roles": ["head", "compute"]}}
    monkeypatch.setattr("vcore.swarm.membership.Swarm", lambda: swarm)
    monkeypatch.setattr(
        "vcore.swarm.deployment.wanted", lambda name, **_: {"file-router": "the file router of the site"}[name]
    )
    assert not proving.is_replaced("file-router", core, paths), "a service that is not there yet"
    swarm.services = ("file-router",)
    assert not proving.is_replaced("file-router", core, paths)
    swarm.different = True
    assert proving.is_replaced("file-router", core, paths)
    core["node"]["roles"] = ["compute"]
    assert not proving.is_replaced("file-router", core, paths), "another node asks the one that runs"


# --- what tells configurations apart --------------------------------------------------------------------------------


def test_the_fingerprint_tells_files_apart():
    assert configurations.fingerprint({"a": b"b"}) != configurations.fingerprint({"b": b"a"})
    assert configurations.fingerprint({}) == hashlib.sha256(b"").hexdigest()
    assert json.dumps(configurations.fingerprint({}))


@given(st.dictionaries(st.sampled_from(FILES), st.binary()), st.dictionaries(st.sampled_from(FILES), st.binary()))
def test_what_is_put_is_what_is_read(tmp_path_factory, old, new):
    place = proving.Place(Path(tmp_path_factory.mktemp("place")), FILES)
    place.put(old, {})
    place.put(new, old)
    assert place.read() == new


def test_a_difference_is_a_diff_or_a_word():
    assert proving.text_difference("a", None, b"x") == "new"
    assert proving.text_difference("a", b"x", None) == "gone"
    assert proving.text_difference("a", b"x\n", b"y\n") == "--- a\n+++ a\n@@ -1 +1 @@\n-x\n+y\n"
    assert proving.text_difference("a", b"\xfe", b"\xff") == "changed"
