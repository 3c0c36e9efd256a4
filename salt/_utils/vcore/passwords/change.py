"""One password for the directory and Samba: a person changes it in both, or in neither.

Runs as the person, on any host whose image is made from ``people``: it knows only the passwords that are typed, and
needs no rights but the person's. There are two schemes. With ``ldapsam`` Samba keeps its hashes in the directory, and
one operation there changes both. With ``tdbsam`` Samba has a store of its own; a :class:`Session` changes one after
the other in an order that can be undone, with a :class:`Journal` that lets the next run finish or undo what was
interrupted.

Standard library, python-ldap and, for the journal, cryptography: that image has none of the core's other libraries.
"""

from __future__ import annotations

import ctypes
import fcntl
import getpass
import json
import os
import pwd
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..base.errors import Invalid
from ..base.messages import tr
from .journal import Change, Journal
from .stores import (
    LOCKED,
    MAXIMUM_LENGTH,
    Declined,
    Directory,
    Outcome,
    RehearsingStore,
    Samba,
    Stop,
    Store,
    Unanswered,
    person_dn,
)

SETTINGS = Path("/etc/virtual-core/people.json")
COMMAND = "salt-call vcore.sync_password"

NOTHING = "Nothing is changed."
#: The least number of different characters in a password.
DIFFERENT_CHARACTERS = 5


@dataclass(frozen=True)
class Result:
    """What the person is told."""

    outcome: Outcome
    sentence: str


# --- what a password may be -----------------------------------------------------------------------------------------


def problem(password: str, *, minimum: int, login: str, current: str) -> Stop | None:
    """Return what is wrong with a new password, as far as that can be told without asking a server."""
    if password == current:
        return Stop(Outcome.USED_BEFORE, "The new password is the one that you have. Nothing is changed.")
    if not password.isprintable() or any(ord(character) > 0xFFFF for character in password):
        # Samba's hash, which the directory computes, takes 16 bits of each character.
        return _weak("it holds a character that cannot be typed everywhere")
    if len(password) < minimum:
        return _weak(f"it needs at least {minimum} characters")
    if len(password.encode()) > MAXIMUM_LENGTH:
        return _weak(f"it may have at most {MAXIMUM_LENGTH} bytes")
    if password != password.strip():
        return _weak("it begins or ends with a space")
    if len(set(password)) < DIFFERENT_CHARACTERS:
        return _weak(f"it needs at least {DIFFERENT_CHARACTERS} different characters")
    if login.casefold() in password.casefold():
        return _weak("it contains your login name")
    return None


def _weak(reason: str) -> Stop:
    return Stop(Outcome.WEAK, f"The new password is too weak: {reason}. Nothing is changed.")


# --- changing it ----------------------------------------------------------------------------------------------------


class Wanted(Protocol):
    """Where the passwords come from."""

    def password(self, prompt: str) -> str:
        """Return a password that is in use."""

    def new(self, prompt: str, check: Callable[[str], Stop | None]) -> str:
        """Return a new password, typed twice and checked. Raises Stop."""


def _nothing(text: str) -> None:
    """Say nothing."""


@dataclass
class Session:
    """One run for one person, over clients of the two stores.

    ``say`` gets messages on the way; ``pause`` is the time in seconds after which a server that did not answer is
    asked again.
    """

    scheme: str
    login: str
    minimum: int
    directory: RehearsingStore
    samba: Store
    journal: Journal
    say: Callable[[str], None] = _nothing
    pause: float = 1.0

    def run(self, ask: Wanted, *, boot: bool = False) -> Result:
        """Ask for the passwords and change them. Raises Stop."""
        if self.scheme == "ldapsam":
            if boot:
                raise Stop(
                    Outcome.USAGE,
                    "--boot is not needed here: the file server takes its passwords from the directory. "
                    f"Run {COMMAND}.",
                )
            return self._run_one(ask)
        return self._run_two(ask, boot)

    # One store: Samba's hash is in the directory.

    def _run_one(self, ask: Wanted) -> Result:
        current = ask.password("Current password: ")
        with _untouched():
            if not self.directory.accepts(current):
                raise self._wrong(current)
        new = self._ask_new(ask, current)
        with _undisturbed():
            self._change_one(current, new)
            accepted, problem = self._prove_samba(new)
        if problem:
            raise Stop(
                Outcome.NOT_PROVEN,
                f"Your password is changed. The file server takes it from the directory, but could not be tried: "
                f"{problem}",
            )
        if not accepted:
            raise Stop(
                Outcome.SAMBA_REFUSES,
                "Your password is changed in the directory, and the file server does not accept it; "
                "tell an administrator (vcore.password_check).",
            )
        return Result(Outcome.CHANGED, _CHANGED)

    def _change_one(self, current: str, new: str) -> None:
        for last in (False, True):
            try:
                self.directory.change(current, new)
                break
            except Declined as refusal:
                # Of a second attempt: the first one arrived after all.
                if last and self.directory.accepts(new):
                    break
                raise Declined(refusal.outcome, f"{refusal} Nothing is changed.") from None
            except Unanswered as silence:
                if last:
                    raise Unanswered(
                        silence.outcome,
                        f"{silence} Whether the change reached it cannot be told: later, try the new password first, "
                        "then the earlier one.",
                    ) from None
                time.sleep(self.pause)
        if not self.directory.accepts(new):
            raise Stop(
                Outcome.OUT_OF_STEP, "The directory took the new password and does not accept it; ask an administrator."
            )

    def _prove_samba(self, new: str) -> tuple[bool, Stop | None]:
        try:
            return self.samba.accepts(new), None
        except Unanswered as silence:
            return False, silence
        except Declined as refusal:
            raise Declined(refusal.outcome, f"Your password is changed in the directory. {refusal}") from None

    # Two stores.

    def _run_two(self, ask: Wanted, boot: bool) -> Result:
        current = ask.password("Current password: " if not boot else "Password of the directory: ")
        one_time = ask.password("One-time password of the file server: ") if boot else current
        interrupted, finished = self._interrupted(current), None
        if interrupted:
            ended = self._recover(interrupted, current)
            if isinstance(ended, Result):
                return ended
            current, one_time = ended.directory, ended.samba
            finished = ended.new if ended.new == current else None
        else:
            with _untouched():
                self._verify(current, one_time, boot)
            if self.journal.exists():
                # Both stores accept what was typed: whatever change the journal holds, it is no longer open.
                self.journal.remove()
        new = self._ask_new(ask, current, allowed=finished)
        if new == finished:
            return Result(Outcome.CHANGED, _CHANGED)
        with _undisturbed():
            # Before anything is changed: Samba, which is changed first, may have a history that refuses the earlier
            # password when the directory refuses the new one.
            with _untouched():
                self.directory.rehearse(current, new)
            refusal = self.change_both(Change(current, one_time, new))
        if refusal:
            raise Declined(refusal.outcome, f"{refusal} Nothing is changed.")
        return Result(Outcome.CHANGED, _CHANGED)

    def _verify(self, current: str, one_time: str, boot: bool) -> None:
        """Raise Stop unless both stores accept what was typed."""
        on_directory, on_samba = _both(lambda: self.directory.accepts(current), lambda: self.samba.accepts(one_time))
        if on_directory and on_samba:
            return
        if not on_directory:
            if self.journal.exists():
                raise Stop(
                    Outcome.WRONG,
                    "The password is wrong. A change of yours was interrupted: type the password from before it, or "
                    "the one that you chose then.",
                )
            raise self._wrong(current) if boot or not on_samba else Stop(Outcome.LOCKED, _LOCKED_OR_CHANGED)
        if boot:
            raise Stop(
                Outcome.WRONG,
                "The file server does not accept its one-time password. Nothing is changed; ask for a new one.",
            )
        raise Stop(
            Outcome.OUT_OF_STEP,
            "The directory accepts this password and the file server does not. Nothing is changed. With a one-time "
            f"password of the file server, which an administrator gives you: {COMMAND} --boot",
        )

    def _interrupted(self, current: str) -> Change | None:
        if not self.journal.exists():
            return None
        try:
            return self.journal.open(current)
        except Invalid:
            return None

    def _recover(self, change: Change, typed: str) -> Result | Change:
        """Finish or undo an interrupted change; return a Result, which ends the run, or what is current now."""
        begun = time.strftime("%d %B, %H:%M", time.localtime(change.started))
        with _undisturbed():
            refusal = self.settle(change)
        if refusal is None:
            sentence = f"The change of your password from {begun} was interrupted, and is finished now"
            if typed == change.new:
                return Result(Outcome.FINISHED, f"{sentence}: the password that you just typed holds everywhere.")
            self.say(tr("{sentence}: the password that you chose then is the current one.", sentence=sentence))
            return replace(change, directory=change.new, samba=change.new)
        sentence = f"The change of your password from {begun} was interrupted, and is undone now. {refusal}"
        if typed == change.new:
            return Result(Outcome.UNDONE, f"{sentence} Your password is the one from before it.")
        self.say(tr("{sentence} The password that you just typed is the current one.", sentence=sentence))
        return change

    def change_both(self, change: Change) -> Declined | None:
        """Change both stores; returns why not if they are as before. Raises Stop, the journal being kept.

        Samba is changed first: it lets the person restore the earlier password, which the directory's history forbids.
        """
        self.journal.write(change)
        return self.settle(change, fresh=True)

    def settle(self, change: Change, *, fresh: bool = False) -> Declined | None:
        """Bring both stores to the new password or, where one refuses it for good, back to the earlier ones.

        Return that refusal, or None. Finishing is always tried first, even if nothing seems to have happened yet: a
        request that a server has not answered may still reach it, and does no harm if it has been repeated.
        """
        for last in (False, True):
            try:
                refusal = self._forward(change, fresh)
                if refusal:
                    self._back(change, refusal)
                self.journal.remove()
                return refusal
            except (Declined, Unanswered) as problem:
                if last or isinstance(problem, Declined):
                    raise Stop(problem.outcome, f"{problem} {_BEGUN}") from None
            fresh = False
            time.sleep(self.pause)
        raise AssertionError("the second attempt ends above")

    def _forward(self, change: Change, fresh: bool) -> Declined | None:
        on_directory, on_samba = (False, False) if fresh else self._accept(change.new)
        if not on_samba:
            try:
                self.samba.change(change.samba, change.new)
            except Declined as refusal:
                if refusal.outcome == Outcome.WRONG:
                    if not self.samba.accepts(change.new):
                        raise Stop(Outcome.OUT_OF_STEP, _NEITHER.format("file server")) from None
                elif on_directory:
                    raise Stop(Outcome.SAMBA_REFUSES, f"{refusal} {_STUCK}") from None
                else:
                    return refusal
        if not on_directory:
            try:
                self.directory.change(change.directory, change.new)
            except Declined as refusal:
                if refusal.outcome != Outcome.WRONG:
                    return refusal
                if not self.directory.accepts(change.new):
                    raise Stop(Outcome.OUT_OF_STEP, _NEITHER.format("directory")) from None
        if not all(self._accept(change.new)):
            raise Stop(Outcome.OUT_OF_STEP, _STUCK)
        return None

    def _back(self, change: Change, refusal: Declined) -> None:
        try:
            if not self.samba.accepts(change.samba):
                self.samba.change(change.new, change.samba)
        except Declined as second:
            raise Stop(Outcome.SAMBA_REFUSES, f"{refusal} {second} {_STUCK}") from None
        on_directory, on_samba = _both(
            lambda: self.directory.accepts(change.directory), lambda: self.samba.accepts(change.samba)
        )
        if not (on_directory and on_samba):
            raise Stop(Outcome.OUT_OF_STEP, f"{refusal} {_STUCK}")

    def _accept(self, password: str) -> tuple[bool, bool]:
        return _both(lambda: self.directory.accepts(password), lambda: self.samba.accepts(password))

    # Both schemes.

    def _ask_new(self, ask: Wanted, current: str, allowed: str | None = None) -> str:
        def check(password: str) -> Stop | None:
            if password == allowed:
                return None
            return problem(password, minimum=self.minimum, login=self.login, current=current)

        return ask.new(f"New password (at least {self.minimum} characters): ", check)

    def _wrong(self, current: str) -> Stop:
        """Return why the directory does not accept the current password.

        The directory does not say whether a password is wrong or the account is locked, so that a lock tells a guesser
        nothing. Whoever knows the password, as the file server confirms, may know of the lock.
        """
        try:
            if self.scheme == "ldapsam" and self.samba.accepts(current):
                return Stop(Outcome.LOCKED, f"{LOCKED} Nothing is changed.")
        except Stop:
            pass
        return Stop(
            Outcome.WRONG,
            "The current password is wrong, or the account is locked after too many wrong ones. Nothing is changed.",
        )


_CHANGED = "Your password is changed. The new one was tried with the directory and the file server; both accept it."
_BEGUN = (
    f"Your change has begun but is not finished: run {COMMAND} again later, with the earlier or the new password as "
    "the current one. Until then one of them may work here and the other there."
)
_STUCK = "The directory and the file server differ; tell an administrator (vcore.password_check)."
_NEITHER = (
    "The {} accepts neither the password from before the change nor the new one: the account is locked, or its "
    "password was set by somebody else meanwhile. Ask an administrator."
)
_LOCKED_OR_CHANGED = (
    "The file server accepts this password and the directory does not: the account is locked there after too many "
    "wrong passwords, or its password was set anew. Nothing is changed; wait, or ask an administrator."
)


def _both(first: Callable[[], bool], second: Callable[[], bool]) -> tuple[bool, bool]:
    """Ask both stores at once. Raises what the first one raises, or else the second."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        other = pool.submit(second)
        return first(), other.result()


@contextmanager
def _untouched() -> Iterator[None]:
    """Make every Stop that is raised inside say that nothing is changed."""
    try:
        yield
    except Stop as stop:
        if NOTHING in str(stop):
            raise
        raise Stop(stop.outcome, f"{stop} {NOTHING}") from None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C and no lost connection end a change half-way; only SIGKILL and a power cut still do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in held}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# --- the person -----------------------------------------------------------------------------------------------------


class Terminal:
    """Asks at the terminal, without echo."""

    TRIES = 3

    def password(self, prompt: str) -> str:
        """Return a password that is in use."""
        return getpass.getpass(prompt)

    def new(self, prompt: str, check: Callable[[str], Stop | None]) -> str:
        """Return a new password; whoever mistypes it may try again."""
        tries = self.TRIES
        while True:
            password = getpass.getpass(prompt)
            wrong = check(password)
            if wrong is None:
                if getpass.getpass("New password again: ") == password:
                    return password
                wrong = _mistyped()
            tries -= 1
            if not tries:
                raise wrong
            print(wrong, file=sys.stderr)


class Lines:
    """Reads a line for each password.

    They are the current one, with --boot the one-time one, the new one and, if there is one more line, the new one
    again.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def password(self, prompt: str) -> str:
        """Return a password that is in use."""
        return self._line() or ""

    def new(self, prompt: str, check: Callable[[str], Stop | None]) -> str:
        """Return a new password."""
        password, again = self._line() or "", self._line()
        if wrong := check(password):
            raise wrong
        if again is not None and again != password:
            raise _mistyped()
        return password

    def _line(self) -> str | None:
        line = self._stream.readline(4096)
        return line.decode().rstrip("\r\n") if line else None


def _mistyped() -> Stop:
    return Stop(Outcome.MISTYPED, "The two new passwords differ. Nothing is changed.")


def read_settings(path: Path = SETTINGS) -> dict[str, Any]:
    """Return the site's settings for people on this host.

    Raises:
        Stop: it cannot be read.
    """
    try:
        settings = json.loads(path.read_text())
        scheme, minimum = settings["password_scheme"], int(settings["password_minimum_length"])
        if scheme not in ("ldapsam", "tdbsam"):
            raise ValueError
        return {
            **{name: str(settings[name]) for name in ("directory", "suffix", "file_server")},
            "scheme": scheme,
            "minimum": minimum,
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise Stop(Outcome.NOT_SET_UP, f"This host is not set up for passwords: {path} cannot be used.") from None


def shield() -> None:
    """Leave no core dump, and let no other program of the person read this one's memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):
        prctl_set_dumpable = 4
        ctypes.CDLL(None).prctl(prctl_set_dumpable, 0, 0, 0, 0)


@contextmanager
def alone(folder: Path, *, needed: bool) -> Iterator[None]:
    """Hold the lock that allows one change of a person's password at a time.

    If nothing has to be kept in the home (not ``needed``), a home that cannot be used does no harm: the directory
    itself lets only the first of two changes through, since each has to know the password before it.

    Raises:
        Stop: another change is going on, or the folder cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if not needed:
            yield
            return
        raise Stop(
            Outcome.NO_JOURNAL, f"Nothing is changed: {folder} in your home cannot be used ({error.strerror})."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Stop(Outcome.BUSY, "Another change of your password is going on. Nothing is changed.") from None
        yield
    finally:
        os.close(descriptor)


def unknown(directory: str) -> Stop:
    """Return why the host does not know the person who runs this; ask the directory for that."""
    try:
        Directory(directory, "").ask()
    except Stop as silence:
        return Stop(silence.outcome, f"{silence} {NOTHING}")
    return Stop(Outcome.NOT_SET_UP, f"Your account is not known on this host. {NOTHING}")


def sync_password(boot: bool = False) -> Result:
    """Change the password of whoever runs this, asking at the terminal or reading lines from standard input."""
    try:
        shield()
        settings = read_settings()
        try:
            account = pwd.getpwuid(os.getuid())
        except KeyError:
            raise unknown(settings["directory"]) from None
        folder = Path(account.pw_dir, ".local", "state", "virtual-core")
        session = Session(
            scheme=settings["scheme"],
            login=account.pw_name,
            minimum=settings["minimum"],
            directory=Directory(settings["directory"], person_dn(account.pw_name, settings["suffix"])),
            samba=Samba(settings["file_server"], account.pw_name),
            journal=Journal(folder),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        ask = Terminal() if sys.stdin.isatty() else Lines(sys.stdin.buffer)
        with alone(folder, needed=settings["scheme"] == "tdbsam"):
            return session.run(ask, boot=boot)
    except Stop as stop:
        return Result(stop.outcome, str(stop))
    except UnicodeError:
        return Result(Outcome.USAGE, "What was typed is not text in UTF-8. Nothing is changed.")
    except (KeyboardInterrupt, EOFError):
        return Result(Outcome.LEFT, "Left. Nothing is changed.")
    except Exception as error:  # a person is never shown a traceback, and its values may be passwords
        return Result(
            Outcome.NOT_SET_UP, f"Something unexpected went wrong ({type(error).__name__}); ask an administrator."
        )
