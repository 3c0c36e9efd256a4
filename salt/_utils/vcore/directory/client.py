"""The LDAP directory: the entries that the core owns in it, how they differ from what is there, and a client.

Attribute values are lists of strings, entries are mappings of attribute names, and a tree is a mapping of DNs in the
order in which its entries can be added. What people and administrators put into the directory beside that is theirs.
"""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ldap
from ldap.controls import SimplePagedResultsControl

from ..base.errors import Invalid, NotFound, Refused, Unreachable, VcoreError
from ..base.files import write_atomic
from ..base.paths import Paths
from ..base.progress import report
from ..base.secrets import Store
from .entries import Attributes, administrator, diff, is_hash, service_accounts, uri, wanted_entries

#: How long :func:`open_administrator` tries again while the service comes up, in seconds.
START_TIME = 60.0


# --- the client -----------------------------------------------------------------------------------------------------


def _reason(error: ldap.LDAPError) -> str:
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    words = [str(details[key]) for key in ("desc", "info") if details.get(key)]
    return ": ".join(words) or type(error).__name__


def _octets(values: Iterable[str]) -> list[bytes]:
    return [value.encode() for value in values]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()


#: Something to do on a connection, begun and not waited for; see :meth:`Directory.run`.
Operation = Callable[[Any], int]


def adding(dn: str, attributes: Mapping[str, Sequence[str]]) -> Operation:
    """Add an entry."""
    return lambda connection: connection.add(
        dn, [(name, _octets(values)) for name, values in attributes.items() if values]
    )


def replacing(dn: str, attributes: Mapping[str, Sequence[str]]) -> Operation:
    """Give attributes of an entry new values; none takes the attribute away."""
    return lambda connection: connection.modify(
        dn, [(ldap.MOD_REPLACE, name, _octets(values)) for name, values in attributes.items()]
    )


def setting_password(dn: str, new: str) -> Operation:
    """Set a password by the password operation (RFC 3062), which the server hashes."""
    return lambda connection: connection.passwd(dn, None, new)


class Directory:
    """One bound connection to a directory.

    Args:
        uri: such as ``ldaps://192.0.2.1:636``; the certificate has to name the host.
        authority: PEM file of the only authority that is trusted.
        dn, password: whom to bind as.
        timeout: seconds for the connection, and twice as many for each operation.

    Raises:
        Unreachable: nothing answers, or its certificate is not to be trusted.
        Refused: the name and password are not accepted.
        VcoreError: anything else that the directory objects to.
    """

    def __init__(self, uri: str, authority: Path, dn: str, password: str, *, timeout: float = 5.0) -> None:
        if not authority.is_file():
            raise Unreachable(f"the authority's certificate {authority} does not exist; apply the states on the head")
        self.uri = uri
        self._connection = ldap.initialize(uri)
        for option, value in (
            (ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3),
            (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_NETWORK_TIMEOUT, timeout),
            (ldap.OPT_TIMEOUT, 2 * timeout),
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
            (ldap.OPT_X_TLS_CACERTFILE, str(authority)),
            # Takes the TLS options above into use, so it comes last.
            (ldap.OPT_X_TLS_NEWCTX, 0),
        ):
            self._connection.set_option(option, value)
        with self._translated():
            self._connection.simple_bind_s(dn, password)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what python-ldap raises into errors that say what to do."""
        try:
            yield
        except (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.TIMEOUT, ldap.UNAVAILABLE, ldap.BUSY) as error:
            raise Unreachable(f"the directory does not answer at {self.uri} ({_reason(error)})") from None
        except ldap.INVALID_CREDENTIALS:
            raise Refused(f"the directory at {self.uri} does not accept this name and password") from None
        except ldap.FILTER_ERROR:
            raise Invalid("the search filter is not valid (RFC 4515), such as (uid=ada)") from None
        except ldap.LDAPError as error:
            raise VcoreError(f"the directory at {self.uri} refuses: {_reason(error)}") from None

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.unbind_s()

    def whoami(self) -> str:
        """The DN that the server knows this connection by (RFC 4532)."""
        with self._translated():
            return str(self._connection.whoami_s()).removeprefix("dn:")

    def read(self, dn: str, attributes: Iterable[str]) -> dict[str, list[bytes]] | None:
        """These attributes of one entry, as they are stored; None if there is no such entry."""
        with self._translated():
            try:
                found = self._connection.search_s(dn, ldap.SCOPE_BASE, "(objectClass=*)", list(attributes))
            except ldap.NO_SUCH_OBJECT:
                return None
        return found[0][1] if found else None

    def search(
        self, base: str, filter_string: str, attributes: Iterable[str] = ("*",), *, page: int = 500
    ) -> Iterator[tuple[str, Attributes]]:
        """The entries below ``base`` that match (RFC 4515), in pages (RFC 2696); hashes are left out."""
        control = SimplePagedResultsControl(True, size=page, cookie="")
        names = list(attributes)
        while True:
            with self._translated():
                try:
                    message = self._connection.search_ext(
                        base, ldap.SCOPE_SUBTREE, filter_string, names, serverctrls=[control]
                    )
                    _, found, _, controls = self._connection.result3(message)
                except ldap.NO_SUCH_OBJECT:
                    return
            for dn, values in found:
                if dn is not None:
                    yield (
                        dn,
                        {
                            name: [_text(value) for value in values[name]]
                            for name in sorted(values)
                            if not is_hash(name)
                        },
                    )
            control.cookie = next((c.cookie for c in controls if c.controlType == control.controlType), "")
            if not control.cookie:
                return

    def add(self, dn: str, attributes: Mapping[str, Sequence[str]]) -> None:
        """Add an entry."""
        with self._translated():
            self._connection.add_s(dn, [(name, _octets(values)) for name, values in attributes.items()])

    def replace(self, dn: str, attributes: Mapping[str, Sequence[str]]) -> None:
        """Give attributes of an entry new values."""
        with self._translated():
            self._connection.modify_s(
                dn, [(ldap.MOD_REPLACE, name, _octets(values)) for name, values in attributes.items()]
            )

    def delete(self, dn: str) -> None:
        """Delete an entry; one that is not there is no error."""
        with self._translated():
            try:
                self._connection.delete_s(dn)
            except ldap.NO_SUCH_OBJECT:
                return

    def change_values(self, dn: str, added: Mapping[str, Sequence[str]], removed: Mapping[str, Sequence[str]]) -> None:
        """Add and remove single values of an entry; the others stay, whoever adds more meanwhile."""
        changes = [
            *((ldap.MOD_DELETE, name, _octets(values)) for name, values in removed.items() if values),
            *((ldap.MOD_ADD, name, _octets(values)) for name, values in added.items() if values),
        ]
        if changes:
            with self._translated():
                self._connection.modify_s(dn, changes)

    def run(
        self, operations: Iterable[tuple[str, Operation]], *, window: int = 8
    ) -> Iterator[tuple[str, VcoreError | None]]:
        """Carry out operations on different entries, up to ``window`` at a time: the directory computes the hash of a
        password on one processor for tens of milliseconds.

        Yields the name of each operation, in order, with the error where the directory refuses it.

        Raises:
            Unreachable: the directory does not answer any more.
        """
        pending: deque[tuple[str, int]] = deque()

        def finished() -> tuple[str, VcoreError | None]:
            name, message = pending.popleft()
            try:
                with self._translated():
                    self._connection.result(message)
            except Unreachable:
                raise
            except VcoreError as error:
                return name, error
            return name, None

        for name, operation in operations:
            with self._translated():
                pending.append((name, operation(self._connection)))
            if len(pending) >= window:
                yield finished()
        while pending:
            yield finished()

    def set_password(self, dn: str, new: str) -> None:
        """Set a password by the password operation (RFC 3062), which the server hashes."""
        with self._translated():
            self._connection.passwd_s(dn, None, new)


def open_administrator(pillar: Mapping[str, Any], paths: Paths, *, wait: float = 0.0) -> Directory:
    """Connect as the administrator, with the stored password; try again for ``wait`` seconds while nothing answers.

    Raises:
        NotFound: the administrator's password or the authority was not made yet.
        Unreachable, Refused: as :class:`Directory` does.
    """
    password = Store(paths.secrets).read("ldap", "admin-password").decode()
    end = time.monotonic() + wait
    reported = False
    while True:
        try:
            return Directory(uri(pillar), paths.authority / "ca.crt", administrator(pillar), password)
        except Unreachable:
            if time.monotonic() >= end:
                raise
            if not reported:
                report(paths, "directory", "waiting for it to answer")
                reported = True
            time.sleep(0.5)


@contextmanager
def remedies() -> Iterator[None]:
    """Say what to do about a directory that does not answer, or does not let us in."""
    try:
        yield
    except Unreachable as error:
        raise VcoreError(f"{error}; see docker service ps ldap and docker service logs ldap.") from None
    except Refused as error:
        raise VcoreError(
            f"{error}; the running service has another administrator's password than the secret store."
        ) from None


def open_for_state(pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Directory | str | None:
    """Connect for a state. A plan does without where the directory is not up: None stands for one that was never
    there, words say why there is nothing to compare with now.

    Raises:
        Unreachable, Refused, NotFound: as :func:`open_administrator` does.
    """
    try:
        return open_administrator(pillar, paths, wait=0 if test else START_TIME)
    except (Unreachable, NotFound) as error:
        if not test:
            raise
        if has_been_up(pillar, paths):
            return f"Its data exist, but {error}: its entries are compared when it runs."
        return None
    except Refused:
        from ..swarm import running

        if not (test and running.mounts_another("ldap", "admin-password", paths)):
            raise
        return "The administrator's password is rotated in this run: its entries are compared when it runs."


# --- plan and apply -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What bringing the core's entries into place changes.

    ``entries`` is what :func:`diff` says; ``passwords`` are the existing service accounts whose password is not the
    stored one, with the name of the secret; ``verified`` is what there is to remember of those whose password is.
    """

    entries: dict[str, dict[str, Any]]
    passwords: dict[str, str]
    verified: dict[str, str]

    def changes(self) -> dict[str, dict[str, Any]]:
        """The plan as a state returns it; passwords are mentioned and not shown."""
        changes = dict(self.entries)
        for dn, secret in self.passwords.items():
            before = changes.get(dn, {"old": {}, "new": {}})
            changes[dn] = {
                "old": {**before["old"], "userPassword": "another one"},
                "new": {**before["new"], "userPassword": f"the secret ldap/{secret}"},
            }
        return changes


def plan(pillar: Mapping[str, Any], paths: Paths, directory: Directory | None) -> Plan:
    """Compare the directory with what is wanted; ``None`` stands for one that has no entry yet.

    Whether a service account still has its stored password is told without a bind for each (a bind costs a whole
    argon2 computation, 30 to 160 ms): the state folder keeps a keyed fingerprint of secret and stored hash together
    from the last time that a bind succeeded, and the hash has a new salt whenever a password is set. Only where the
    two have parted, or nothing is remembered, a bind decides.
    """
    wanted, accounts, store = wanted_entries(pillar), service_accounts(pillar), Store(paths.secrets)
    if directory is None:
        return Plan(diff({}, wanted), {}, {})
    current: dict[str, Attributes | None] = {}
    passwords: dict[str, str] = {}
    verified: dict[str, str] = {}
    remembered = _read_memory(paths)
    for dn, attributes in wanted.items():
        entry = directory.read(dn, [*attributes, *(["userPassword"] if dn in accounts else [])])
        hashes = (entry or {}).pop("userPassword", [])
        current[dn] = None if entry is None else {name: [_text(v) for v in values] for name, values in entry.items()}
        if dn not in accounts or entry is None:
            continue
        if not store.exists("ldap", accounts[dn]):
            # It is generated before this is applied, so it cannot be the one that the account has.
            passwords[dn] = accounts[dn]
            continue
        secret = store.read("ldap", accounts[dn])
        fingerprint = _fingerprint(store, secret, hashes)
        known = fingerprint is not None and remembered.get(dn) == fingerprint
        if not known and not _accepts(pillar, paths, dn, secret):
            passwords[dn] = accounts[dn]
        elif fingerprint is not None:
            verified[dn] = fingerprint
    return Plan(diff(current, wanted), passwords, verified)


def apply(pillar: Mapping[str, Any], paths: Paths, directory: Directory, planned: Plan) -> None:
    """Carry a plan out, parents first; killed in between, the next plan holds what is left."""
    accounts, store = service_accounts(pillar), Store(paths.secrets)
    for dn, change in planned.entries.items():
        if change["old"] is None:
            attributes = dict(change["new"])
            if dn in accounts:
                attributes["userPassword"] = [store.read("ldap", accounts[dn]).decode()]
            directory.add(dn, attributes)
        else:
            directory.replace(dn, change["new"])
    for dn, secret in planned.passwords.items():
        directory.set_password(dn, store.read("ldap", secret).decode())
    verified = dict(planned.verified)
    for dn in accounts.keys() - verified.keys():
        stored = directory.read(dn, ["userPassword"]) or {}
        fingerprint = _fingerprint(store, store.read("ldap", accounts[dn]), stored.get("userPassword", []))
        if fingerprint is not None:
            verified[dn] = fingerprint
    if verified != _read_memory(paths):
        paths.state.mkdir(parents=True, exist_ok=True)
        write_atomic(_memory(paths), json.dumps(verified, indent=2).encode(), mode=0o600)


def has_been_up(pillar: Mapping[str, Any], paths: Paths) -> bool:
    """Whether there is a directory with entries somewhere, even if it does not answer now.

    Its volume tells, if it is on this node, and otherwise what an earlier :func:`apply` left in the state folder.
    """
    volume = Path(pillar["services"]["ldap"]["volumes"]["data"]["source"])
    return (volume / "data.mdb").exists() or _memory(paths).exists()


def _accepts(pillar: Mapping[str, Any], paths: Paths, dn: str, password: bytes) -> bool:
    try:
        Directory(uri(pillar), paths.authority / "ca.crt", dn, password.decode()).close()
    except Refused:
        return False
    return True


def _fingerprint(store: Store, secret: bytes, hashes: Iterable[bytes]) -> str | None:
    return store.fingerprint(b"\0".join([secret, *hashes]))


def _memory(paths: Paths) -> Path:
    return paths.state / "directory.json"


def _read_memory(paths: Paths) -> dict[str, str]:
    try:
        return dict(json.loads(_memory(paths).read_text()))
    except (FileNotFoundError, ValueError):
        return {}
