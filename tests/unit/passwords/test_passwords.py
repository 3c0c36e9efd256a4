"""Changing one password in two stores: the order of the steps, the journal, and what an administrator is told.

The stores here are models, so that every step can fail in every way; the functional tests have real ones.
"""

import contextlib
import io
import itertools
import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vcore.base.errors import Invalid
from vcore.file_router import passwords as file_router_passwords
from vcore.passwords import change as passwords_change
from vcore.passwords import journal as passwords_journal
from vcore.passwords.change import Lines, Session, problem
from vcore.passwords.journal import Change, Journal, seal, unseal
from vcore.passwords.stores import Declined, Outcome, Samba, Stop, Unanswered, person_dn

OLD, NEW, NEXT, ONE_TIME = "Before-the-change-1", "Behind-the-change-2", "Another-change-33", "One-time-444444"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Skip waits for the disk, and the 0.1 s that deriving a journal's key takes on purpose; neither is tested here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    real = passwords_journal.hashlib.scrypt
    monkeypatch.setattr(
        passwords_journal.hashlib, "scrypt", lambda secret, **more: real(secret, **(more | {"n": 2, "maxmem": 2**20}))
    )


class Killed(BaseException):
    """The process is killed, as by a power failure."""


class Model:
    """A store with a password; ``faults`` is shared by all stores of a test and says at which call what happens."""

    def __init__(self, name, password, faults):
        self.name, self.password, self.faults = name, password, faults
        self.locked = False

    def accepts(self, password):
        self.faults.at(f"{self.name}.accepts")
        return password == self.password

    def rehearse(self, old, new):
        self.faults.at(f"{self.name}.rehearse")

    def change(self, old, new):
        self.faults.at(f"{self.name}.change")
        if old != self.password:
            raise Declined(Outcome.WRONG, "wrong")
        self.password = new
        self.faults.at(f"{self.name}.changed")


class Kept(Journal):
    """A journal that can be cut off, too."""

    def __init__(self, folder, faults):
        super().__init__(folder)
        self.faults = faults

    def write(self, change):
        self.faults.at("journal.write")
        super().write(change)
        self.faults.at("journal.written")

    def remove(self):
        self.faults.at("journal.remove")
        super().remove()
        self.faults.at("journal.removed")


class Faults:
    """Raises the planned error at the n-th step of a run, and at later steps of the same kind as often as planned."""

    def __init__(self):
        self.steps, self.planned, self.times = [], {}, {}

    def plan(self, step, error, times=1):
        self.planned[step], self.times[step] = error, times

    def at(self, step):
        self.steps.append(step)
        for key in (len(self.steps) - 1, step):
            if self.times.get(key, 0):
                self.times[key] -= 1
                raise self.planned[key]

    def clear(self):
        self.steps, self.planned, self.times = [], {}, {}


class Typed:
    """A stand-in for a person who answers prompts."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def password(self, prompt):
        return self.answers.pop(0)

    def new(self, prompt, check):
        password = self.answers.pop(0)
        if wrong := check(password):
            raise wrong
        return password


class World:
    """Two stores, a journal, and a person."""

    def __init__(self, folder, scheme="tdbsam", samba=OLD):
        self.faults = Faults()
        self.directory = Model("directory", OLD, self.faults)
        self.samba = self.directory if scheme == "ldapsam" else Model("samba", samba, self.faults)
        self.said = []
        self.session = Session(
            scheme, "ada", 10, self.directory, self.samba, Kept(folder, self.faults), self.said.append, pause=0
        )

    def run(self, *answers, boot=False):
        """Return the exit code of one run."""
        try:
            return self.session.run(Typed(*answers), boot=boot).outcome
        except Stop as stop:
            assert str(stop).endswith(".") or "--boot" in str(stop) or "vcore." in str(stop), str(stop)
            return stop.outcome

    def passwords(self):
        return self.directory.password, self.samba.password


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def steps_of_a_change(tmp_path):
    """Return the steps of a change that nothing disturbs."""
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    world = World(folder)
    assert world.run(OLD, NEW) == Outcome.CHANGED
    return world.faults.steps


def test_the_order_of_the_steps(tmp_path):
    steps = [step for step in steps_of_a_change(tmp_path) if "accepts" not in step]
    assert steps == [
        "directory.rehearse",
        "journal.write",
        "journal.written",
        "samba.change",
        "samba.changed",
        "directory.change",
        "directory.changed",
        "journal.remove",
        "journal.removed",
    ]


@pytest.mark.parametrize("remembered", [OLD, NEW])
@pytest.mark.parametrize("asked", [NEW, NEXT])
@pytest.mark.parametrize("error", [Killed(), Unanswered(Outcome.SAMBA_DOWN, "gone.")], ids=["killed", "unanswered"])
def test_a_fault_at_any_step_and_at_any_step_of_the_recovery(tmp_path, error, asked, remembered):
    """After a run that nothing disturbs, both stores have the same password, which is one that was asked for."""
    count, cases = len(steps_of_a_change(tmp_path)), 0
    # -1 stands for an undisturbed recovery. A recovery followed by another change has the most steps.
    seconds = range(-1, count + 4) if (remembered, asked) == (OLD, NEXT) else (-1,)
    for first, second in itertools.product(range(count), seconds):
        folder = tmp_path / f"{first}-{second}"
        folder.mkdir()
        world = World(folder)
        for step, answers in ((first, (OLD, NEW)), (second, (remembered, asked))):
            world.faults.clear()
            if step >= 0:
                # A server that is down is still down when it is asked again.
                world.faults.plan(step, error, times=1)
            with contextlib.suppress(Killed):
                world.run(*answers)
        world.faults.clear()
        # The person types the passwords they know until one works; one of the three is the current one.
        outcomes = [world.run(typed, typed) for typed in (remembered, OLD, NEW, NEXT)]
        assert not world.session.journal.exists(), (first, second, outcomes)
        directory, samba = world.passwords()
        assert directory == samba, (first, second, outcomes)
        assert directory in (OLD, NEW, NEXT)
        cases += 1
    assert cases == count * len(seconds) > 10


@pytest.mark.parametrize("remembered", [OLD, NEW])
@pytest.mark.parametrize("asked", [NEW, NEXT])
def test_a_store_that_refuses_at_any_moment(tmp_path, asked, remembered):
    for number, step in enumerate(("directory.rehearse", "samba.change", "directory.change")):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder)
        world.faults.plan(step, Declined(Outcome.TOO_YOUNG, "too young."), times=9)
        assert world.run(OLD, NEW) == Outcome.TOO_YOUNG
        assert world.passwords() == (OLD, OLD)
        assert not world.session.journal.exists()
        world.faults.clear()
        assert world.run(remembered, asked) == (Outcome.CHANGED if remembered == OLD else Outcome.WRONG)


def test_an_interrupted_change_is_finished_for_who_types_the_new_password(world):
    world.faults.plan("directory.change", Killed())
    with pytest.raises(Killed):
        world.run(OLD, NEW)
    assert world.passwords() == (OLD, NEW)
    assert world.run(NEW) == Outcome.FINISHED
    assert world.passwords() == (NEW, NEW)


def test_an_interrupted_change_is_finished_and_the_asked_one_made_for_who_types_the_old_password(world):
    world.faults.plan("directory.change", Killed())
    with pytest.raises(Killed):
        world.run(OLD, NEW)
    assert world.run(OLD, NEXT) == Outcome.CHANGED
    assert world.passwords() == (NEXT, NEXT)
    assert "finished" in world.said[0]


def test_an_interrupted_change_that_the_directory_refuses_is_undone(world):
    world.faults.plan("directory.change", Killed())
    with pytest.raises(Killed):
        world.run(OLD, NEW)
    world.faults.clear()
    world.faults.plan("directory.change", Declined(Outcome.USED_BEFORE, "used."), times=9)
    assert world.run(NEW) == Outcome.UNDONE
    assert world.passwords() == (OLD, OLD)


def test_what_cannot_be_undone_keeps_the_journal_and_is_finished_later(world):
    """Samba has a history of its own, so it does not take the earlier password back."""
    world.faults.plan("directory.change", Declined(Outcome.LOCKED, "locked."), times=9)
    real = world.samba.change

    def once(old, new):
        if new == OLD:
            raise Declined(Outcome.WEAK, "history.")
        real(old, new)

    world.samba.change = once
    assert world.run(OLD, NEW) == Outcome.SAMBA_REFUSES
    assert world.session.journal.exists()
    world.faults.clear()
    assert world.run(OLD, NEW) == Outcome.CHANGED
    assert world.passwords() == (NEW, NEW)


def test_a_request_that_arrives_late_does_no_harm(world):
    """The directory stops answering; the request takes effect after the recovery has begun."""
    world.faults.plan("directory.change", Unanswered(Outcome.DIRECTORY_DOWN, "gone."), times=9)
    assert world.run(OLD, NEW) == Outcome.DIRECTORY_DOWN
    assert world.session.journal.exists()
    world.faults.clear()
    real, late = world.directory.change, []

    def overtaken(old, new):
        if not late:
            late.append(True)
            real(OLD, NEW)
        real(old, new)

    world.directory.change = overtaken
    assert world.run(NEW) == Outcome.FINISHED
    assert world.passwords() == (NEW, NEW)


@pytest.mark.parametrize("store", ["samba", "directory"])
def test_an_interrupted_change_after_which_somebody_else_set_a_password(world, store):
    world.faults.plan("journal.written", Killed())
    with pytest.raises(Killed):
        world.run(OLD, NEW)
    getattr(world, store).password = "Set-by-somebody-5"
    assert world.run(OLD, NEXT) == Outcome.OUT_OF_STEP
    assert world.session.journal.exists()


@pytest.mark.parametrize("store", ["samba", "directory"])
def test_a_store_that_says_yes_and_changes_nothing(world, store):
    getattr(world, store).change = lambda old, new: None
    assert world.run(OLD, NEW) == Outcome.OUT_OF_STEP
    assert world.session.journal.exists()


def test_the_first_synchronisation(tmp_path):
    world = World(tmp_path, samba=ONE_TIME)
    assert world.run(OLD, NEW) == Outcome.OUT_OF_STEP
    assert world.run(OLD, "not this", NEW, boot=True) == Outcome.WRONG
    world.faults.plan("directory.change", Killed())
    with pytest.raises(Killed):
        world.run(OLD, ONE_TIME, NEW, boot=True)
    assert world.passwords() == (OLD, NEW)
    # Each of the three passwords opens the journal.
    assert all(world.session.journal.open(password) for password in (OLD, ONE_TIME, NEW))
    assert world.run(OLD, ONE_TIME, NEXT, boot=True) == Outcome.CHANGED
    assert world.passwords() == (NEXT, NEXT)


def test_a_first_synchronisation_that_is_undone_gives_the_one_time_password_back(tmp_path):
    world = World(tmp_path, samba=ONE_TIME)
    world.faults.plan("directory.change", Declined(Outcome.USED_BEFORE, "used."), times=9)
    assert world.run(OLD, ONE_TIME, NEW, boot=True) == Outcome.USED_BEFORE
    assert world.passwords() == (OLD, ONE_TIME)


def test_one_store(tmp_path):
    world = World(tmp_path, "ldapsam")
    assert world.run(OLD, NEW, boot=True) == Outcome.USAGE
    assert world.run(OLD, NEW) == Outcome.CHANGED
    assert not any("journal" in step for step in world.faults.steps)
    assert world.run(OLD, NEXT) == Outcome.WRONG
    world.faults.plan("directory.change", Unanswered(Outcome.DIRECTORY_DOWN, "gone."))
    assert world.run(NEW, NEXT) == Outcome.CHANGED, "it answers again in time"
    # The change is made, but its answer is lost.
    world.faults.plan("directory.changed", Unanswered(Outcome.DIRECTORY_DOWN, "gone."))
    assert world.run(NEXT, "Fourth-password-4") == Outcome.CHANGED


def test_one_store_and_a_file_server_that_does_not_answer_or_agree(tmp_path):
    for error, outcome in (
        (Unanswered(Outcome.SAMBA_DOWN, "gone."), Outcome.NOT_PROVEN),
        (Declined(Outcome.LOCKED, "switched off."), Outcome.LOCKED),
        (None, Outcome.SAMBA_REFUSES),
    ):
        world = World(tmp_path, "ldapsam")
        world.session.samba = Model("samba", "another", world.faults)
        if error:
            world.faults.plan("samba.accepts", error, times=9)
        assert world.run(OLD, NEW) == outcome
        assert world.directory.password == NEW


def test_who_knows_the_password_of_a_locked_account_is_told(tmp_path):
    world = World(tmp_path, "ldapsam")
    world.session.samba = Model("samba", OLD, world.faults)
    world.directory.accepts = lambda password: False
    assert world.run(OLD) == Outcome.LOCKED
    assert world.run("guessed") == Outcome.WRONG


def test_a_journal_of_other_passwords_or_a_damaged_one(world):
    """Somebody else has set both passwords since: the journal is useless, and must not be in the way."""
    for content in (seal(Change("a", "b", "c")), b"{", b""):
        world.session.journal.path.write_bytes(content)
        assert world.run("wrong", NEW) == Outcome.WRONG
        assert world.session.journal.exists()
        current = world.directory.password
        assert world.run(current, f"{current}x") == Outcome.CHANGED
        assert not world.session.journal.exists()


def test_a_journal_that_cannot_be_written(world, tmp_path):
    world.session.journal = Journal(tmp_path / "missing")
    assert world.run(OLD, NEW) == Outcome.NO_JOURNAL
    assert world.passwords() == (OLD, OLD)


# --- the journal ----------------------------------------------------------------------------------------------------

text = st.text(min_size=1, max_size=40)


@given(text, text, text, text)
@settings(max_examples=50)
def test_any_of_its_passwords_opens_a_journal_and_nothing_else(directory, samba, new, other):
    change = Change(directory, samba, new)
    sealed = seal(change)
    for password in (directory, samba, new):
        opened = unseal(sealed, password)
        assert (opened.directory, opened.samba, opened.new) == (directory, samba, new)
        assert abs(opened.started - change.started) < 0.01
    if other not in (directory, samba, new):
        assert unseal(sealed, other) is None


@given(st.data())
@settings(max_examples=150)
def test_a_journal_that_was_tampered_with_is_refused(data):
    sealed = seal(Change(OLD, ONE_TIME, NEW))
    if data.draw(st.booleans()):
        changed = sealed[: data.draw(st.integers(0, len(sealed) - 2))]
    else:
        position = data.draw(st.integers(0, len(sealed) - 1))
        changed = sealed[:position] + bytes([data.draw(st.integers(0, 255))]) + sealed[position + 1 :]
    try:
        opened = unseal(changed, OLD)
    except Invalid:
        return
    assert opened is None or (opened.directory, opened.samba, opened.new) == (OLD, ONE_TIME, NEW)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_no_journal_is_unreadable(content):
    with pytest.raises(Invalid):
        unseal(json.dumps(content).encode(), OLD)


def test_a_journal_shows_nothing_and_is_private(tmp_path):
    journal = Journal(tmp_path)
    journal.write(Change(OLD, ONE_TIME, NEW))
    assert journal.path.stat().st_mode & 0o777 == 0o600
    content = journal.path.read_bytes()
    assert not [word for word in (OLD, ONE_TIME, NEW) if word.encode() in content]
    # The file has the same size, whatever the passwords are.
    assert len(seal(Change("a" * 100, ONE_TIME, "b" * 100))) == len(content)
    assert OLD not in repr(Change(OLD, ONE_TIME, NEW))


# --- the person -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "outcome"),
    [
        ("Long-enough-1", None),
        ("Grün und straßentauglich", None),
        (OLD, Outcome.USED_BEFORE),
        ("short", Outcome.WEAK),
        ("a" * 40, Outcome.WEAK),
        ("abcabcabcabc", Outcome.WEAK),
        ("with\ttab-and-more", Outcome.WEAK),
        ("with\0zero-and-more", Outcome.WEAK),
        ("with an emoji \N{GRINNING FACE}", Outcome.WEAK),
        ("half of a character \udc80", Outcome.WEAK),
        (" space before it", Outcome.WEAK),
        ("space behind it ", Outcome.WEAK),
        ("My-name-is-Ada-1", Outcome.WEAK),
        ("0123456789" * 12 + "Abcdefg", None),
        ("0123456789" * 12 + "Abcdefgh", Outcome.WEAK),
        ("ü0123456789" * 11 + "Abcdefgh", Outcome.WEAK),
    ],
)
def test_what_a_password_may_be(password, outcome):
    found = problem(password, minimum=10, login="ada", current=OLD)
    assert (found.outcome if found else None) == outcome
    assert found is None or password not in str(found)


def test_lines():
    def read(data):
        lines = Lines(io.BytesIO(data))
        return lines.password(""), lines.new("", lambda password: None)

    assert read(b"one\ntwo\n") == ("one", "two")
    assert read(b"one\ntwo\ntwo\n") == ("one", "two")
    assert read("straße\r\nzwei".encode()) == ("straße", "zwei")
    with pytest.raises(Stop) as stop:
        read(b"one\ntwo\nthree\n")
    assert stop.value.outcome == Outcome.MISTYPED
    with pytest.raises(UnicodeDecodeError):
        read(b"\xff\n")


def test_settings_of_the_host(tmp_path):
    path = tmp_path / "people.json"
    good = {
        "directory": "ldaps://ldap", "suffix": "dc=a", "group": "people", "file_server": "file-router",
        "password_scheme": "ldapsam", "password_minimum_length": 10,
    }  # fmt: skip
    path.write_text(json.dumps(good))
    assert passwords_change.read_settings(path)["minimum"] == 10
    for broken in ("", "[]", "{}", json.dumps(good | {"password_scheme": "other"})):
        path.write_text(broken)
        with pytest.raises(Stop) as stop:
            passwords_change.read_settings(path)
        assert stop.value.outcome == Outcome.NOT_SET_UP


def test_names_are_data():
    assert person_dn("a,ou=x", "dc=b") == r"uid=a\,ou\=x,ou=people,dc=b"


def test_a_password_that_samba_cannot_be_given_never_reaches_its_clients(tmp_path):
    samba = Samba("nowhere", "ada", configuration=tmp_path / "none")
    for password in ("", "two\nlines", "a\0b", "x" * 128):
        assert samba.accepts(password) is False
        with pytest.raises(Declined) as refused:
            samba.change(password, NEW)
        assert refused.value.outcome == Outcome.WRONG


def test_one_change_at_a_time(tmp_path):
    folder = tmp_path / "state"
    with passwords_change.alone(folder, needed=True):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Stop) as stop, passwords_change.alone(folder, needed=True):
            pass
        assert stop.value.outcome == Outcome.BUSY
    with passwords_change.alone(folder, needed=True):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(Stop) as stop, passwords_change.alone(tmp_path / "file" / "state", needed=True):
        pass
    assert stop.value.outcome == Outcome.NO_JOURNAL
    with passwords_change.alone(tmp_path / "file" / "state", needed=False):
        pass


# --- the administrator ----------------------------------------------------------------------------------------------

HASH = "DA0D67BC54B66E285AFF17598BE3DA20"
SET = 1_795_361_711  # 2026-11-22T15:35:11Z


def entry(**more):
    values = {"pwdChangedTime": "20261122153511Z", "sambaPwdLastSet": str(SET), "sambaNTPassword": HASH} | more
    return {name: [value.encode()] for name, value in values.items() if value is not None}


def test_an_account_among_what_pdbedit_says():
    line = f"u2:10003:{'X' * 32}:{HASH}:[U          ]:LCT-6B030BD7:"
    assert file_router_passwords.read_account(f"a warning\n{line}\n", "u2") == (HASH, 0x6B030BD7)
    assert file_router_passwords.read_account(line, "u") is None
    assert file_router_passwords.read_account("Username not found!\n", "u2") is None


@pytest.mark.parametrize(
    ("kind", "more", "account", "interrupted", "words"),
    [
        ("ldapsam", {}, None, False, "in sync since 2026-11-22T15:35:11Z"),
        ("ldapsam", {"sambaPwdLastSet": str(SET - 2)}, None, False, "in sync since 2026-11-22T15:35:11Z"),
        ("ldapsam", {"sambaPwdLastSet": "0", "pwdReset": "TRUE"}, None, False, "in sync since"),
        ("ldapsam", {"sambaNTPassword": None}, None, False, "without the password operation"),
        ("ldapsam", {"sambaPwdLastSet": str(SET - 600)}, None, False, "without the password operation"),
        (
            "ldapsam",
            {"sambaPwdLastSet": str(SET - 600), "pwdReset": "TRUE"},
            None,
            False,
            "without the password operation",
        ),
        ("ldapsam", {"pwdChangedTime": None}, None, False, "no password"),
        ("tdbsam", {}, (HASH, SET + 60.0), False, "in sync since 2026-11-22T15:36:11Z"),
        ("tdbsam", {}, (HASH.replace("D", "E"), SET + 60.0), False, "Samba's was set later; salt-call"),
        ("tdbsam", {}, (HASH.replace("D", "E"), SET - 60.0), True, "the directory's was set later; ada ends"),
        ("tdbsam", {}, None, False, "no account"),
        ("tdbsam", {"sambaPwdLastSet": "1"}, (HASH, float(SET)), False, "without the password operation"),
    ],
)
def test_whether_two_passwords_agree(kind, more, account, interrupted, words):
    found = file_router_passwords.judge("ada", kind, entry(**more), account, interrupted=interrupted)
    assert words in found["summary"]
    assert found["in_sync"] == found["summary"].startswith("in sync")
    assert (found["since"] is not None) == found["in_sync"]
    assert HASH not in json.dumps(found)


def test_times_are_utc(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert file_router_passwords.judge("ada", "ldapsam", entry(), None)["directory_set"] == "2026-11-22T15:35:11Z"
    finally:
        monkeypatch.undo()
        time.tzset()
