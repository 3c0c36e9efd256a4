"""A client of the LDAP directory, and the plans that bring the core's own entries into it.

An entry maps attribute names to lists of strings; a tree maps DNs to entries, in an order in which they can be added.
Everything else that people and administrators put into the directory is left alone.
"""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ldap
from ldap.controls import SimplePagedResultsControl

from ..base.errors import Invalid, NotFound, Postponed, Refused, Unreachable, VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.paths import Paths
from ..base.progress import report
from ..base.secrets import Store
from .entries import Attributes, administrator, diff, is_hash, service_accounts, uri, wanted_entries

#: How long :func:`open_administrator` keeps trying while the service starts, in seconds.
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


#: Starts an asynchronous operation on a connection and returns its message id; see :meth:`Directory.run`.
Operation = Callable[[Any], int]


def adding(dn: str, attributes: Mapping[str, Sequence[str]]) -> Operation:
    """Return the operation that adds an entry; attributes without values are left out."""
    return lambda connection: connection.add(
        dn, [(name, _octets(values)) for name, values in attributes.items() if values]
    )


def replacing(dn: str, attributes: Mapping[str, Sequence[str]]) -> Operation:
    """Return the operation that replaces values of attributes; an empty list removes the attribute."""
    return lambda connection: connection.modify(
        dn, [(ldap.MOD_REPLACE, name, _octets(values)) for name, values in attributes.items()]
    )


def setting_password(dn: str, new: str) -> Operation:
    """Return the operation that sets a password (RFC 3062), which the server hashes."""
    return lambda connection: connection.passwd(dn, None, new)


class Directory:
    """One bound connection to a directory.

    Args:
        uri: address such as ``ldaps://192.0.2.1:636``; the certificate has to name the host.
        authority: PEM file of the only authority that is trusted.
        dn, password: the account to bind as.
        timeout: seconds for connecting; each operation may take twice as long.

    Raises:
        Unreachable: nothing answers, or its certificate is not trusted.
        Refused: the name and password are not accepted.
        VcoreError: the directory refuses for another reason.
    """

    def __init__(self, uri: str, authority: Path, dn: str, password: str, *, timeout: float = 5.0) -> None:
        if not authority.is_file():
            raise Unreachable(
                tr(
                    "the authority's certificate {authority} does not exist; apply the states on the head",
                    authority=authority,
                )
            )
        self.uri = uri
        self._connection = ldap.initialize(uri)
        for option, value in (
            (ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3),
            (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_NETWORK_TIMEOUT, timeout),
            (ldap.OPT_TIMEOUT, 2 * timeout),
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
            (ldap.OPT_X_TLS_CACERTFILE, str(authority)),
            # Has to come last: it activates the TLS options above.
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
            raise Unreachable(
                tr("the directory does not answer at {uri} ({reason})", uri=self.uri, reason=_reason(error))
            ) from None
        except ldap.INVALID_CREDENTIALS:
            raise Refused(tr("the directory at {uri} does not accept this name and password", uri=self.uri)) from None
        except ldap.FILTER_ERROR:
            raise Invalid(tr("the search filter is not valid (RFC 4515), such as (uid=ada)")) from None
        except ldap.LDAPError as error:
            raise VcoreError(
                tr("the directory at {uri} refuses: {reason}", uri=self.uri, reason=_reason(error))
            ) from None

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.unbind_s()

    def whoami(self) -> str:
        """Return the DN as which the server knows this connection (RFC 4532)."""
        with self._translated():
            return str(self._connection.whoami_s()).removeprefix("dn:")

    def read(self, dn: str, attributes: Iterable[str]) -> dict[str, list[bytes]] | None:
        """Return these attributes of one entry as stored, in octets; None if there is no such entry."""
        with self._translated():
            try:
                found = self._connection.search_s(dn, ldap.SCOPE_BASE, "(objectClass=*)", list(attributes))
            except ldap.NO_SUCH_OBJECT:
                return None
        return found[0][1] if found else None

    def search(
        self, base: str, filter_string: str, attributes: Iterable[str] = ("*",), *, page: int = 500
    ) -> Iterator[tuple[str, Attributes]]:
        """Yield the entries below ``base`` that match (RFC 4515), without hashes, read in pages (RFC 2696)."""
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
        """Replace the values of attributes of an entry."""
        with self._translated():
            self._connection.modify_s(
                dn, [(ldap.MOD_REPLACE, name, _octets(values)) for name, values in attributes.items()]
            )

    def delete(self, dn: str) -> None:
        """Delete an entry, if it exists."""
        with self._translated():
            try:
                self._connection.delete_s(dn)
            except ldap.NO_SUCH_OBJECT:
                return

    def change_values(self, dn: str, added: Mapping[str, Sequence[str]], removed: Mapping[str, Sequence[str]]) -> None:
        """Add and remove single values of attributes; other values stay, also those that others add meanwhile."""
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
        """Carry out operations on different entries, up to ``window`` at a time.

        They run in parallel because the directory computes each password hash on one processor for tens of
        milliseconds. Yields the name of each operation, in order, with the error if the directory refuses it.

        Raises:
            Unreachable: the directory no longer answers.
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
        """Set a password (RFC 3062), which the server hashes."""
        with self._translated():
            self._connection.passwd_s(dn, None, new)


def open_administrator(pillar: Mapping[str, Any], paths: Paths, *, wait: float = 0.0) -> Directory:
    """Connect as the administrator with the stored password; keep trying for ``wait`` seconds while nothing answers.

    Raises:
        NotFound: the administrator's password does not exist yet.
        Unreachable, Refused: as for :class:`Directory`.
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
                report(paths, "directory", tr("waiting for it to answer"))
                reported = True
            time.sleep(0.5)


@contextmanager
def remedies() -> Iterator[None]:
    """Add what to do to the errors of a directory that does not answer or refuses the administrator.

    Raises:
        VcoreError: the body raised Unreachable or Refused.
    """
    try:
        yield
    except Unreachable as error:
        raise VcoreError(tr("{error}; see docker service ps ldap and docker service logs ldap.", error=error)) from None
    except Refused as error:
        raise VcoreError(
            tr("{error}; the running service has another administrator password than the secret store.", error=error)
        ) from None


@contextmanager
def connected_for_state(pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Iterator[Directory | None]:
    """Connect as :func:`open_for_state` does while the body runs; errors of the directory say what to do."""
    with remedies():
        opened = open_for_state(pillar, paths, test=test)
        with opened or nullcontext():
            yield opened


def open_for_state(pillar: Mapping[str, Any], paths: Paths, *, test: bool) -> Directory | None:
    """Connect for a state; a plan does without a directory that is not up.

    Returns:
        The connection; in a plan, None for a directory that never existed.

    Raises:
        Postponed: in a plan: entries cannot be compared now.
        Unreachable, Refused, NotFound: as for :func:`open_administrator`.
    """
    try:
        return open_administrator(pillar, paths, wait=0 if test else START_TIME)
    except (Unreachable, NotFound) as error:
        if not test:
            raise
        if has_been_up(pillar, paths):
            raise Postponed(
                tr("The directory has data, but {error}: its entries are compared when it runs.", error=error)
            ) from None
        return None
    except Refused:
        from ..swarm import running

        if not (test and running.mounts_another("ldap", "admin-password", paths)):
            raise
        raise Postponed(
            tr("The administrator's password is rotated in this run: its entries are compared when it runs.")
        ) from None


# --- plan and apply -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The changes that bring the core's entries into place.

    ``entries`` are those of :func:`diff`; ``passwords`` maps existing service accounts whose password differs from the
    stored one to the name of their secret; ``verified`` maps the others to the fingerprint to remember (:func:`plan`).
    """

    entries: dict[str, dict[str, Any]]
    passwords: dict[str, str]
    verified: dict[str, str]

    def changes(self) -> dict[str, dict[str, Any]]:
        """Return the plan as the changes of a state, which mention passwords without showing them."""
        changes = dict(self.entries)
        for dn, secret in self.passwords.items():
            before = changes.get(dn, {"old": {}, "new": {}})
            changes[dn] = {
                "old": {**before["old"], "userPassword": "another one"},
                "new": {**before["new"], "userPassword": f"the secret ldap/{secret}"},
            }
        return changes


def plan(pillar: Mapping[str, Any], paths: Paths, directory: Directory | None) -> Plan:
    """Compare the directory with what is wanted; None stands for a directory without entries.

    A bind for each service account, to see whether it still has its stored password, would cost an argon2 computation
    of 30 to 160 ms. Instead the state folder keeps a keyed fingerprint of the secret and the stored hash from the last
    successful bind; the hash has a new salt whenever a password is set. A bind decides only if that fingerprint differs
    or is missing.
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
            # The secret will be generated before this is applied, so it cannot be the account's current password.
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
    """Carry out a plan, parents first; after an interruption, the next plan has the rest."""
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
    """Return whether a directory with entries exists, even if it does not answer now.

    Its volume tells if it is on this node, otherwise the file that an earlier :func:`apply` left in the state folder.
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
