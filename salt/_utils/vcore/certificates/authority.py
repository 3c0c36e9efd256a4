"""The authority's store on the head: root, leaves and revocation list, plans of their changes, and carrying these out.

It survives a crash at any point: certificate and key of one name lie in a folder of their own below
``.pairs/<name>/``, and the link ``.pairs/<name>/current`` says which folder counts. ``<name>.crt`` and ``<name>.key``
are fixed links through it. A new pair is written in full, then ``current`` is renamed over: one step swaps both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from ..base import locks
from ..base.errors import NotFound, VcoreError
from ..base.files import sync_folder, write_atomic
from ..base.messages import tr
from . import x509
from .x509 import Changes, Leaf, Pair, Policy, Stored

#: Longest time, in seconds, that a run waits for another one that is issuing.
LOCK_TIMEOUT = 60

_LEAF_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}/[a-z][a-z0-9.-]{0,29}")


def _link(path: Path, target: str) -> None:
    """Make ``path`` a link to ``target`` in one step."""
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
    sync_folder(path.parent)


def install_pair(folder: Path, name: str, certificate: bytes, key: bytes) -> None:
    """Put a certificate and its key into the store as ``<name>.crt`` and ``<name>.key``, both in one step."""
    pairs = folder / ".pairs" / name
    for parent in (pairs.parent, pairs):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate_path, key_path = folder / f"{name}.crt", folder / f"{name}.key"
    plain = [path for path in (certificate_path, key_path) if not path.is_symlink()]
    # Plain files, as a backup that followed links restores them, first become links to the same content.
    if plain and certificate_path.exists() and key_path.exists():
        _make_current(pairs, certificate_path.read_bytes(), key_path.read_bytes())
    # If there is nothing yet, these links lead nowhere until the first rename of current fills both.
    for path in plain:
        _link(path, f".pairs/{name}/current/{'key.pem' if path == key_path else 'certificate.pem'}")
    _make_current(pairs, certificate, key)
    remove_superseded(pairs)


def _make_current(pairs: Path, certificate: bytes, key: bytes) -> None:
    pair = Path(tempfile.mkdtemp(dir=pairs, prefix="pair-"))
    write_atomic(pair / "key.pem", key, mode=0o600)
    write_atomic(pair / "certificate.pem", certificate, mode=0o600)
    current = pairs / "current"
    if current.is_dir() and not current.is_symlink():  # from such a backup, too
        shutil.rmtree(current)
    _link(current, pair.name)


def remove_superseded(pairs: Path) -> None:
    """Remove every pair in ``.pairs/<name>`` but the current one: older keys, and what a killed run left."""
    current = pairs / "current"
    if current.exists() and not current.is_symlink():
        return
    keep = {current.name, str(current.readlink())} if current.is_symlink() else set()
    for leftover in pairs.iterdir():
        if leftover.name in keep:
            continue
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)


def _change(reason: str, done: str) -> dict[str, Any]:
    return {"old": None if reason == "missing" else reason, "new": done}


class _Plan(NamedTuple):
    """What to do about the authority: nothing, or ``make``, ``renew`` or ``supply``.

    ``pending`` is the authority that there will be: None if it is yet to be made; if it is renewed, the old one, whose
    name and key stay.
    """

    action: str
    reason: str
    pending: Pair | None


class Authority:
    """The authority's folder on the head: root-only, one writer at a time, complete again after any crash.

    ``ca.crt`` is the issuing certificate with its chain, the root last; ``ca.key`` its key; ``crl.pem`` the revocation
    list; ``index.json`` lists every certificate that it issued and that has not ended yet;
    ``issued/<service>/<name>.crt`` and ``.key`` are the leaves.
    """

    def __init__(self, folder: Path, wanted_ca: Policy, now: datetime | None = None) -> None:
        if not x509.AVAILABLE:
            raise VcoreError(tr("the certificate authority needs M2Crypto, which bootstrap.sh installs on the head"))
        self.folder = folder
        self.policy = wanted_ca
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)

    # Reading.

    @property
    def _index_path(self) -> Path:
        return self.folder / "index.json"

    @property
    def _crl_path(self) -> Path:
        return self.folder / "crl.pem"

    def _index(self) -> dict[str, Any]:
        try:
            index = json.loads(self._index_path.read_bytes())
            return {"certificates": dict(index["certificates"]), "crl": index["crl"]}
        except FileNotFoundError:
            return {"certificates": {}, "crl": None}
        except (ValueError, TypeError, KeyError):
            raise VcoreError(
                tr("{index_path} is damaged: restore it from a backup", index_path=self._index_path)
            ) from None

    def current(self) -> Pair | None:
        """Return the authority in the store, None before it is made.

        Raises:
            VcoreError: it is damaged. A new one would make every certificate untrusted, so that is a person's choice.
        """
        certificate, key = self.folder / "ca.crt", self.folder / "ca.key"
        if not certificate.exists() and not key.exists():
            return None
        try:
            pair = x509.load_pair(certificate.read_bytes(), key.read_bytes())
        except (OSError, ValueError):
            pair = None
        if pair is None or not pair.paired:
            raise VcoreError(
                tr(
                    "the authority in {folder} is damaged, ca.crt and ca.key are no pair: restore both from "
                    "a backup, or remove both to have a new authority, which every node and user then has to "
                    "trust anew",
                    folder=self.folder,
                )
            )
        return pair

    def _supplied_authority(self) -> Pair | None:
        if not self.policy.supplied:
            return None
        pair, problems = x509.read_supplied(*self.policy.supplied, authority=True, now=self.now)
        if pair is None or problems:
            raise VcoreError("; ".join(problems))
        return pair

    def _leaf_files(self, name: str) -> tuple[Path, Path]:
        service, _, item = name.partition("/")
        folder = self.folder / "issued" / service
        return folder / f"{item}.crt", folder / f"{item}.key"

    def leaf(self, name: str) -> Pair | None:
        """Return the stored pair of a leaf, None if there is none that can be read."""
        certificate, key = self._leaf_files(name)
        try:
            return x509.load_pair(certificate.read_bytes(), key.read_bytes())
        except (OSError, ValueError):
            return None

    def _stored(self, pair: Pair | None, authority: Pair | None, index: Mapping[str, Any]) -> Stored | None:
        if pair is None:
            return None
        trusted = (
            authority is not None
            and authority.signed(pair.chain[0])
            and [issuer.as_der() for issuer in pair.chain[1:]] == [issuer.as_der() for issuer in authority.chain[:-1]]
        )
        entry = index["certificates"].get(pair.facts.serial) if trusted else None
        return Stored(pair.facts, pair.paired, trusted, bool(entry and entry["revoked"]))

    # Planning: each of these only reads.

    def _authority_plan(self) -> _Plan:
        current, supplied = self.current(), self._supplied_authority()
        if supplied:
            if current and current.same(supplied):
                return _Plan("", "", current)
            return _Plan("supply", current.facts.subject if current else "missing", supplied)
        difference = x509.authority_difference(self.policy, current.facts if current else None, self.now)
        if difference is None:
            return _Plan("", "", current)
        action, reason = difference
        return _Plan(action, reason, None if action == "make" else current)

    def _loose(self) -> list[Path]:
        """Return the files and folders of the store that are not for root only."""
        found = []
        for path in (self.folder, *self.folder.rglob("*")) if self.folder.exists() else ():
            entry = path.lstat()
            mode = 0o700 if stat.S_ISDIR(entry.st_mode) else 0o600
            closed = stat.S_IMODE(entry.st_mode) == mode and entry.st_uid == os.geteuid()
            if not closed and not stat.S_ISLNK(entry.st_mode):
                found.append(path)
        return sorted(found)

    def plan(self) -> Changes:
        """Return what :meth:`ensure` would change: ``authority``, ``crl`` and ``permissions``, each from old to new.

        Raises:
            VcoreError: the authority that the site supplies, or the one in the store, cannot be used.
        """
        plan = self._authority_plan()
        changes: Changes = {}
        if plan.action:
            done = {"make": "made", "renew": "renewed", "supply": "supplied by the site"}[plan.action]
            changes["authority"] = _change(plan.reason, done)
        reason = self._crl_difference(plan.pending)
        if reason:
            changes["crl"] = _change(reason, "signed")
        loose = self._loose()
        if loose:
            changes["permissions"] = {"old": [str(path) for path in loose], "new": "root only"}
        return changes

    def _crl_difference(self, authority: Pair | None) -> str | None:
        index = self._index()
        digest = hashlib.sha256(self._crl_path.read_bytes()).hexdigest() if self._crl_path.exists() else None
        difference = x509.revocation_list_difference(index, digest, self.now)
        if difference != "missing" and (authority is None or index["crl"]["authority"] != authority.identifier):
            return "of another authority"
        return difference

    def plan_leaves(self, leaves: Iterable[Leaf]) -> Changes:
        """Return what :meth:`issue` would change after :meth:`ensure`: ``{"ldap/tls": {"old": ..., "new": ...}}``.

        Raises:
            VcoreError: a certificate that the site supplies cannot be used.
        """
        authority, index = self._authority_plan().pending, self._index()
        changes: Changes = {}
        for leaf in leaves:
            changes.update(self._leaf_plan(leaf, authority, index)[0])
        return changes

    def _leaf_plan(self, leaf: Leaf, authority: Pair | None, index: Mapping[str, Any]) -> tuple[Changes, Pair | None]:
        pair = self.leaf(leaf.name)
        if leaf.supplied:
            supplied, problems = x509.read_supplied(*leaf.supplied, names=leaf.required_names, now=self.now)
            if supplied is None or problems:
                raise VcoreError(tr("certificate {name}: {problems}", name=leaf.name, problems="; ".join(problems)))
            if pair and pair.same(supplied):
                return {}, None
            old = f"issued by {pair.facts.issuer}" if pair else None
            return {leaf.name: {"old": old, "new": "supplied by the site"}}, supplied
        end = authority.facts.not_after if authority else self.now
        stored = self._stored(pair, authority, index)
        reason = x509.leaf_difference(leaf, stored, renew_before=self.policy.renew_before, end=end, now=self.now)
        if reason is None:
            return {}, None
        return {leaf.name: _change(reason, "issued")}, None

    # Carrying out.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store for writing."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.folder / ".lock"
        busy = f"another run has held {lock} for {LOCK_TIMEOUT} seconds; try again later"
        with locks.exclusive(lock, wait=LOCK_TIMEOUT, busy=busy):
            yield

    def _write_index(self, index: dict[str, Any]) -> None:
        """Write the index without certificates that have ended, since these need no revocation."""
        index["certificates"] = {
            serial: entry
            for serial, entry in sorted(index["certificates"].items())
            if datetime.fromisoformat(entry["expires"]) > self.now
        }
        write_atomic(self._index_path, json.dumps(index, indent=1).encode() + b"\n", mode=0o600)

    def _write_crl(self, authority: Pair) -> None:
        index = self._index()
        serials = x509.revoked_serials(index, authority.identifier)
        # A number taken from the clock grows even after a crash before the last one was noted.
        number = max(int(self.now.timestamp()), (index["crl"] or {}).get("number", 0) + 1)
        data = x509.make_revocation_list(
            authority, {serial: index["certificates"][serial] for serial in serials}, number, self.now
        )
        write_atomic(self._crl_path, data, mode=0o600)
        index["crl"] = {
            "authority": authority.identifier,
            "number": number,
            "serials": serials,
            "sha256": hashlib.sha256(data).hexdigest(),
            "last_update": self.now.isoformat(),
            "next_update": (self.now + x509.REVOCATION_LIST_LIFETIME).isoformat(),
        }
        self._write_index(index)

    def ensure(self) -> Changes:
        """Make, renew or take over the authority and sign the revocation list, as far as needed; return the changes.

        Raises:
            VcoreError: as :meth:`plan` does; or another run holds the store.
        """
        with self._locked():
            changes = self.plan()
            for path in self._loose():
                os.chown(path, os.geteuid(), os.getegid())
                path.chmod(0o700 if path.is_dir() else 0o600)
            # Left by a run that was killed; nobody else writes while the lock is held.
            for leftover in (*self.folder.glob(".index.json.*"), *self.folder.glob(".crl.pem.*")):
                leftover.unlink()
            for pairs in (*self.folder.glob(".pairs/*"), *self.folder.glob("issued/*/.pairs/*")):
                remove_superseded(pairs)
            if "authority" in changes:
                plan = self._authority_plan()
                authority = plan.pending
                if authority is None or plan.action == "renew":
                    authority = x509.make_authority(self.policy, self.now, authority.key if authority else None)
                install_pair(self.folder, "ca", authority.certificate_pem(), authority.key_pem())
            if "crl" in changes:
                self._write_crl(self._required())
            return changes

    def _required(self) -> Pair:
        authority = self.current()
        if authority is None:
            raise VcoreError(tr("there is no certificate authority yet: apply the head's states, which make it"))
        return authority

    def issue(self, leaf: Leaf, *, force: bool = False) -> Changes:
        """Bring one certificate in line with what is wanted, or with ``force`` issue it anew; return the changes.

        Raises:
            VcoreError: as :meth:`plan_leaves` does; or there is no authority yet, or another run holds the store.
        """
        with self._locked():
            authority, index = self._required(), self._index()
            changes, pair = self._leaf_plan(leaf, authority, index)
            if force and not changes and not leaf.supplied:
                changes = {leaf.name: {"old": "renewal asked for", "new": "issued"}}
            if not changes:
                return changes
            if pair is None:
                pair = x509.make_leaf(leaf, authority, self.now)
                # Noted before it exists: what was ever issued can be revoked, even after a crash in between.
                index["certificates"][pair.facts.serial] = {
                    "name": leaf.name,
                    "authority": authority.identifier,
                    "issued": self.now.isoformat(),
                    "expires": pair.facts.not_after.isoformat(),
                    "revoked": None,
                    "reason": None,
                }
                self._write_index(index)
            certificate, _ = self._leaf_files(leaf.name)
            for folder in (self.folder / "issued", certificate.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            install_pair(certificate.parent, certificate.stem, pair.certificate_pem(), pair.key_pem())
            return changes

    def revoke(self, name: str, reason: str = "unspecified") -> list[str]:
        """Revoke the present certificate of a leaf, or one by its serial, and sign a new list; return the serials.

        Raises:
            NotFound: this authority has issued no certificate of that name or serial that is still valid.
            VcoreError: the reason is unknown, or another run holds the store.
        """
        if reason not in x509.REVOCATION_REASONS:
            raise VcoreError(
                tr(
                    "unknown reason {reason}; it is one of {revocation_reasons}",
                    reason=reason,
                    revocation_reasons=", ".join(x509.REVOCATION_REASONS),
                )
            )
        with self._locked():
            authority, index = self._required(), self._index()
            serial = name.lower().replace(":", "").lstrip("0")
            if _LEAF_NAME.fullmatch(name):
                pair = self.leaf(name)
                serial = pair.facts.serial if pair else ""
            entry = index["certificates"].get(serial)
            if entry is None or entry["authority"] != authority.identifier:
                raise NotFound(tr("this authority has issued no certificate {name} that is still valid", name=name))
            if not entry["revoked"]:
                entry.update(revoked=self.now.isoformat(), reason=reason)
                self._write_index(index)
            if self._crl_difference(authority):
                self._write_crl(authority)
            return [serial]

    # Showing.

    def anchor(self) -> bytes | None:
        """Return the root (PEM) that nodes are to trust after :meth:`ensure`; None if it is yet to be made."""
        plan = self._authority_plan()
        return bytes(plan.pending.chain[-1].as_pem()) if plan.pending and plan.action != "renew" else None

    def information(self) -> dict[str, Any]:
        """Return the authority as people see it: subject, validity, key type, fingerprint and where it lies."""
        pair = self._required()
        root = pair.chain[-1]
        return {
            "subject": pair.facts.subject,
            "root": x509.read_facts(root).subject,
            "source": "supplied by the site" if self.policy.supplied else "made here",
            "key_type": pair.facts.key_type,
            "expires": f"{pair.facts.not_after:%Y-%m-%d}",
            "days_left": pair.facts.days_left(self.now),
            "sha256": hashlib.sha256(root.as_der()).hexdigest(),
            "certificate": str(self.folder / "ca.crt"),
        }

    def names(self) -> list[str]:
        """Return every leaf that lies in the store, whether a service still wants it or not."""
        return sorted(
            f"{path.parent.name}/{path.stem}"
            for path in self.folder.glob("issued/*/*.crt")
            if _LEAF_NAME.fullmatch(f"{path.parent.name}/{path.stem}")
        )

    def leaves(self, wanted_leaves: Iterable[Leaf]) -> dict[str, dict[str, Any]]:
        """Return every wanted or stored leaf: names, days left, date of renewal, and its status in one or two words."""
        index, authority = self._index(), self.current()
        by_name = {leaf.name: leaf for leaf in wanted_leaves}
        result: dict[str, dict[str, Any]] = {}
        for name in sorted({*by_name, *self.names()}):
            pair = self.leaf(name)
            stored = self._stored(pair, authority, index)
            if stored is None:
                result[name] = {"status": "not issued"}
                continue
            facts, leaf = stored.facts, by_name.get(name)
            supplied = bool(leaf and leaf.supplied)
            result[name] = {
                "status": self._status(stored, leaf),
                "days_left": facts.days_left(self.now),
                "expires": f"{facts.not_after:%Y-%m-%d}",
                "renewed": "by the site" if supplied else f"{facts.renewal(self.policy.renew_before):%Y-%m-%d}",
                "names": sorted(facts.names),
                "addresses": sorted(facts.addresses),
                "key_type": facts.key_type,
                "issuer": facts.issuer,
                "serial": facts.serial,
            }
        return result

    #: The statuses of a certificate that is fine; all others but ``not issued`` are in :meth:`_status`.
    WELL = frozenset({"valid", "renewal due", "supplied", "unused"})

    def _status(self, stored: Stored, leaf: Leaf | None) -> str:
        facts = stored.facts
        checks: list[tuple[bool, str]] = [
            (not stored.paired, "key does not match"),
            (facts.not_after <= self.now, "expired"),
            (stored.revoked, "revoked"),
            (leaf is None, "unused"),
            (bool(leaf and leaf.supplied), "supplied"),
            (not stored.trusted, "untrusted"),
            (self.now >= facts.renewal(self.policy.renew_before), "renewal due"),
        ]
        return next((status for holds, status in checks if holds), "valid")

    def verify(self, leaf: Leaf) -> list[str]:
        """Return what is wrong with a stored leaf: pair, names, end, or OpenSSL's strict check of chain and revocation.

        For a certificate that the site supplied this is :func:`x509.check_supplied` alone: its root is not ours.
        """
        certificate, key = self._leaf_files(leaf.name)
        if leaf.supplied:
            return x509.check_supplied(certificate, key, names=leaf.required_names, now=self.now)
        problems = x509.check_supplied(certificate, key, names=[*leaf.names, *leaf.addresses], now=self.now)
        pair = self.leaf(leaf.name)
        if pair is None:
            return problems
        crl = self._crl_path.read_bytes() if self._crl_path.exists() else None
        error = x509.verify_chain(pair.chain[0], self._required().chain, crl=crl)
        return problems + ([f"{certificate}: {error}"] if error else [])

    def revocation_list(self) -> dict[str, Any]:
        """Return the revocation list as people see it: where it lies, when it ends, and what it revokes.

        Raises:
            NotFound: there is none yet.
        """
        index = self._index()
        record = index["crl"]
        if not record or not self._crl_path.exists():
            raise NotFound(tr("there is no revocation list yet: apply the head's states, which sign it"))
        end = datetime.fromisoformat(record["next_update"])
        entries = index["certificates"]
        return {
            "path": str(self._crl_path),
            "expires": f"{end:%Y-%m-%d}",
            "days_left": (end - self.now) // timedelta(days=1),
            "revoked": {
                serial: {key: entries[serial][key] for key in ("name", "revoked", "reason")}
                for serial in record["serials"]
                if serial in entries
            },
        }
