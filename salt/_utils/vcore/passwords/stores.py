"""The two stores of a person's password, the directory and Samba, as that person uses them.

Standard library and python-ldap only: this runs in the image ``people``, with no rights but the person's.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import ldap
import ldap.dn
from ldap.controls import ValueLessRequestControl
from ldap.controls.ppolicy import PasswordPolicyControl

from ..base.errors import Refused, Unreachable, VcoreError

AUTHORITY = Path("/etc/virtual-core/authority.pem")
SAMBA_CONFIGURATION = Path("/usr/lib/virtual-core/salt/smb-client.conf")

#: Seconds that a server may take to answer.
PATIENCE = 10.0
#: Bytes of a password that Samba's clients read; the limit of both schemes.
MAXIMUM_LENGTH = 127


class Outcome(IntEnum):
    """How a run ended: the exit code of the command."""

    CHANGED = 0
    USAGE = 2
    WRONG = 10
    WEAK = 11
    USED_BEFORE = 12
    TOO_YOUNG = 13
    LOCKED = 14
    EXPIRED = 15
    OUT_OF_STEP = 16
    NOT_ALLOWED = 17
    MISTYPED = 18
    BUSY = 19
    DIRECTORY_DOWN = 20
    SAMBA_DOWN = 21
    SAMBA_REFUSES = 22
    NOT_PROVEN = 23
    NO_JOURNAL = 24
    UNDONE = 30
    FINISHED = 31
    NOT_SET_UP = 40
    LEFT = 130


class Stop(VcoreError):
    """The end of a run that changed nothing more, with its exit code; the message is for the person."""

    def __init__(self, outcome: Outcome, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome = outcome


class Declined(Stop, Refused):
    """A store answered, and holds what it held before."""


class Unanswered(Stop, Unreachable):
    """A store did not answer: what was asked of it may or may not have happened, or may still happen."""


class Store(Protocol):
    """A server that keeps a person's password."""

    def accepts(self, password: str) -> bool:
        """Log in. Raises Unanswered, or Declined where the password is right and the login is not allowed."""

    def change(self, old: str, new: str) -> None:
        """Change the password, knowing the old one. Raises Declined (WRONG: the old one is not), Unanswered."""


class RehearsingStore(Store, Protocol):
    """A store that can rehearse a change: say whether it would refuse it."""

    def rehearse(self, old: str, new: str) -> None:
        """Raise what :meth:`change` would, and change nothing."""


# --- the directory --------------------------------------------------------------------------------------------------

#: Errors of the password policy (draft-behera-ldap-password-policy, 6.2) when a new password is refused.
_POLICY = {
    3: (Outcome.NOT_ALLOWED, "The directory does not let you change your password; ask an administrator."),
    5: (Outcome.WEAK, "The directory refuses the new password: it is too weak."),
    6: (Outcome.WEAK, "The directory refuses the new password: it is too short."),
    7: (Outcome.TOO_YOUNG, "The directory refuses: your password was changed too recently."),
    8: (Outcome.USED_BEFORE, "The directory refuses the new password: you had it before."),
    9: (Outcome.WEAK, "The directory refuses the new password: it is too long."),
}
_EXPIRED = 0
_LOCKED = 1
_DOWN = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.TIMEOUT, ldap.UNAVAILABLE, ldap.BUSY, ldap.LOCAL_ERROR)


WRONG = "The directory does not accept the current password."
#: The LDAP No-Op control: slapd checks a change in every way, and leaves the last step out.
_NO_OPERATION, _NOTHING_DONE = "1.3.6.1.4.1.4203.666.5.2", 16654


class Directory:
    """The directory, as one person uses it. Each call makes a connection of its own: an old one may have been cut.

    Args:
        uri: such as ``ldaps://ldap``; the certificate has to name the host.
        dn: the person's.
        authority: PEM file of the only authority that is trusted.
        patience: seconds for the connection and for each operation.
    """

    def __init__(self, uri: str, dn: str, *, authority: Path = AUTHORITY, patience: float = PATIENCE) -> None:
        self.uri, self.dn, self.authority, self.patience = uri, dn, authority, patience

    def accepts(self, password: str) -> bool:
        """Return whether the person can bind with this password."""
        with self._answering():
            connection = self._connect()
            try:
                return self._bind(connection, password)
            finally:
                _close(connection)

    def rehearse(self, old: str, new: str) -> None:
        """Raise what :meth:`change` would, by the directory's whole policy, earlier passwords included.

        Nothing is changed. A directory that cannot rehearse is taken to agree.

        Raises:
            Declined, Unanswered: as :meth:`change` does.
        """
        controls = [PasswordPolicyControl(), ValueLessRequestControl(_NO_OPERATION, criticality=True)]
        modification = [(ldap.MOD_REPLACE, "userPassword", [new.encode()])]
        with self._answering():
            connection = self._connect()
            try:
                if not self._bind(connection, old):
                    raise Declined(Outcome.WRONG, WRONG)
                connection.result3(connection.modify_ext(self.dn, modification, controls), timeout=self.patience)
            except (*_DOWN, ldap.UNAVAILABLE_CRITICAL_EXTENSION) as error:
                if isinstance(error, _DOWN):
                    raise
            except ldap.LDAPError as error:
                if _details(error).get("result") != _NOTHING_DONE:
                    raise self._refusal(error) from None
            finally:
                _close(connection)

    def change(self, old: str, new: str) -> None:
        """Change the password by the operation of RFC 3062, which updates Samba's hash in the directory as well."""
        with self._answering():
            connection = self._connect()
            try:
                if not self._bind(connection, old):
                    raise Declined(Outcome.WRONG, WRONG)
                message = connection.passwd(self.dn, old, new, [PasswordPolicyControl()])
                connection.result3(message, timeout=self.patience)
            except _DOWN:
                raise
            except ldap.LDAPError as error:
                raise self._refusal(error) from None
            finally:
                _close(connection)

    def ask(self) -> None:
        """Have the directory answer, whatever it says. Raises Unanswered."""
        with suppress(Declined), self._answering():
            connection = self._connect()
            try:
                connection.result3(connection.simple_bind("", ""), timeout=self.patience)
            finally:
                _close(connection)

    def _connect(self) -> Any:
        connection = ldap.initialize(self.uri)
        for option, value in (
            (ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3),
            (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_NETWORK_TIMEOUT, self.patience / 2),
            (ldap.OPT_TIMEOUT, self.patience),
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
            (ldap.OPT_X_TLS_CACERTFILE, str(self.authority)),
            # Puts the TLS options above into effect, so it comes last.
            (ldap.OPT_X_TLS_NEWCTX, 0),
        ):
            connection.set_option(option, value)
        return connection

    def _bind(self, connection: Any, password: str) -> bool:
        # A bind without a password is anonymous, and other directories than the core's accept it.
        if not password or "\0" in password:
            return False
        message = connection.simple_bind(self.dn, password, [PasswordPolicyControl()])
        try:
            connection.result3(message, timeout=self.patience)
        except ldap.INVALID_CREDENTIALS as error:
            code = _policy_error(error)
            if code == _EXPIRED:
                raise Declined(
                    Outcome.EXPIRED, "Your password has expired; an administrator has to reset it."
                ) from None
            if code == _LOCKED:
                raise Declined(Outcome.LOCKED, LOCKED) from None
            return False
        return True

    def _refusal(self, error: ldap.LDAPError) -> Declined:
        code = _policy_error(error)
        if code in _POLICY:
            return Declined(*_POLICY[code])
        details = _details(error)
        if isinstance(error, ldap.UNWILLING_TO_PERFORM) and "old password" in str(details.get("info", "")):
            return Declined(Outcome.WRONG, WRONG)
        words = ": ".join(str(details[key]) for key in ("desc", "info") if details.get(key))
        return Declined(Outcome.NOT_ALLOWED, f"The directory refuses: {words or type(error).__name__}.")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except _DOWN:
            raise Unanswered(Outcome.DIRECTORY_DOWN, f"The directory does not answer at {self.uri}.") from None
        except ldap.LDAPError as error:
            raise Declined(Outcome.NOT_ALLOWED, f"The directory refuses: {type(error).__name__}.") from None


def _details(error: ldap.LDAPError) -> Mapping[str, Any]:
    return error.args[0] if error.args and isinstance(error.args[0], dict) else {}


def _policy_error(error: ldap.LDAPError) -> int | None:
    """Return the password policy's own error that came with an error of LDAP, or None."""
    for kind, _, value in _details(error).get("ctrls") or ():
        if kind == PasswordPolicyControl.controlType and value:
            control = PasswordPolicyControl()
            with suppress(Exception):  # a server may send what the draft does not allow
                control.decodeControlValue(value)
            return control.error
    return None


def _close(connection: Any) -> None:
    with suppress(ldap.LDAPError):
        connection.unbind_s()


def person_dn(login: str, suffix: str) -> str:
    """Return the DN of a person."""
    return f"uid={ldap.dn.escape_dn_chars(login)},ou=people,{suffix}"


# --- Samba ----------------------------------------------------------------------------------------------------------

LOCKED = "Your account is locked after too many wrong passwords; wait, or ask an administrator."
_WRONG_STATUS = {"LOGON_FAILURE", "WRONG_PASSWORD", "NO_SUCH_USER"}
#: The password is right, and the account cannot log in.
_CLOSED_STATUS = {
    "ACCOUNT_LOCKED_OUT": (Outcome.LOCKED, LOCKED),
    "ACCOUNT_DISABLED": (Outcome.LOCKED, "Your account on the file server is switched off; ask an administrator."),
    "ACCOUNT_EXPIRED": (Outcome.EXPIRED, "Your account on the file server has expired; ask an administrator."),
    "PASSWORD_EXPIRED": (Outcome.EXPIRED, "Your password on the file server has expired; ask an administrator."),
    "PASSWORD_MUST_CHANGE": (Outcome.EXPIRED, "Your password on the file server has expired; ask an administrator."),
}
_RULE = "The file server refuses the new password by a rule of its own."
_RULE_STATUS = {
    "PASSWORD_RESTRICTION": (Outcome.WEAK, _RULE),
    "ILL_FORMED_PASSWORD": (Outcome.WEAK, _RULE),
    "PWD_TOO_SHORT": (Outcome.WEAK, _RULE),
    "PWD_HISTORY_CONFLICT": (Outcome.USED_BEFORE, "The file server refuses the new password: you had it before."),
    "PWD_TOO_RECENT": (Outcome.TOO_YOUNG, "The file server refuses: your password was changed too recently."),
    "ACCOUNT_RESTRICTION": (
        Outcome.TOO_YOUNG,
        "The file server refuses: your password was changed too recently.",
    ),
    "ACCESS_DENIED": (Outcome.NOT_ALLOWED, "The file server does not let you change your password."),
}


class Samba:
    """The file server, as one person uses it, by Samba's own clients, which get passwords through pipes only.

    Args:
        server: its name.
        login: the person's.
        configuration: of the clients, smb.conf(5).
        patience: seconds for each call.
    """

    def __init__(
        self, server: str, login: str, *, configuration: Path = SAMBA_CONFIGURATION, patience: float = PATIENCE
    ) -> None:
        self.server, self.login, self.configuration, self.patience = server, login, configuration, patience

    def accepts(self, password: str) -> bool:
        """Return whether the person can open a session with this password."""
        if not _fits(password):
            return False
        status = self._run(["smbclient", f"//{self.server}/IPC$", *self._options(), "-c", "exit"], b"", password)
        if status in _WRONG_STATUS:
            return False
        self._raise(status, _CLOSED_STATUS)
        return True

    def change(self, old: str, new: str) -> None:
        """Change the password over the file server's own protocol.

        ``SamrChangePasswordUser3`` inside an encrypted session takes 0.1 s. smbpasswd prefers a newer call, whose
        5,000 to 1,000,000 rounds of PBKDF2 (MS-SAMR 3.1.5.10.4) take up to 2 s here: so it is only used for the rare
        password that cannot be quoted for rpcclient.
        """
        if not _fits(old):
            raise Declined(Outcome.WRONG, "The file server does not accept the current password.")
        if '"' in old + new:
            command = ["smbpasswd", "-c", str(self.configuration), "-s", "-r", self.server, "-U", self.login]
            status = self._run(command, f"{old}\n{new}\n{new}\n".encode())
        else:
            line = f'chgpasswd3 "{self.login}" "{old}" "{new}"\n'
            status = self._run(["rpcclient", self.server, *self._options()], line.encode(), old)
        if status in _WRONG_STATUS:
            raise Declined(Outcome.WRONG, "The file server does not accept the current password.")
        self._raise(status, {**_CLOSED_STATUS, **_RULE_STATUS})

    def _options(self) -> list[str]:
        protection = ["--client-protection=encrypt", "--use-kerberos=off"]
        return [f"--configfile={self.configuration}", f"--user={self.login}", *protection]

    def _raise(self, status: str, known: Mapping[str, tuple[Outcome, str]]) -> None:
        if status in known:
            raise Declined(*known[status])
        if status:
            raise Unanswered(Outcome.SAMBA_DOWN, f"The file server {self.server} does not answer ({status}).")

    def _run(self, command: list[str], data: bytes, password: str | None = None) -> str:
        """Run a client; return the NT status that it failed with, or an empty string."""
        # So that the clients leave no cache of names in the home.
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "XDG_CACHE_HOME": "/nonexistent"}
        pipe: tuple[int, ...] = ()
        if password is not None:
            reading, writing = os.pipe()
            # The client reads it twice. A pipe holds 64 KiB, so that writing does not wait for the reader.
            os.write(writing, f"{password}\n{password}\n".encode())
            os.close(writing)
            pipe, environment["PASSWD_FD"] = (reading,), str(reading)
        try:
            done = subprocess.run(
                command,
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=pipe,
                env=environment,
                timeout=self.patience,
                # A signal from the terminal must not reach the client in the middle of a change.
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "TIMEOUT"
        except OSError as error:
            raise Stop(Outcome.NOT_SET_UP, f"{command[0]} cannot be run on this host: {error.strerror}.") from None
        finally:
            for descriptor in pipe:
                os.close(descriptor)
        found = re.findall(rb"NT_STATUS_([A-Z_]+)", done.stdout)
        if found:
            return str(found[-1].decode())
        if b"password update rule has been violated" in done.stdout:
            return "PASSWORD_RESTRICTION"
        return f"exit code {done.returncode}" if done.returncode else ""


def _fits(password: str) -> bool:
    """Return whether Samba's clients can take this password at all."""
    return bool(password) and not set("\0\r\n") & set(password) and len(password.encode()) <= MAXIMUM_LENGTH
