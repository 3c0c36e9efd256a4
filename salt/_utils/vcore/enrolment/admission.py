"""The head's side of enrolment: the files for new machines, the review of their proofs, and the record of refusals.

Everything that such a minion says about itself, including its id, is untrusted until its proof is verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import Refused, VcoreError
from ..base.files import write_atomic
from ..base.locks import exclusive
from ..base.messages import tr
from ..base.names import NODE_NAME
from ..base.paths import Paths
from ..base.secrets import Store
from ..kernel import pillar as kernel_pillar
from ..nodes import decisions
from ..nodes.registry import UNKNOWN, Registry
from . import bundle as enrolment_bundle
from . import tokens

#: Seconds that one review waits for another.
PATIENCE = 30


#: How many refusals, the newest ones, are remembered; anybody can cause one.
REMEMBERED = 100


#: What a minion may send as the version of its code: a fingerprint of :func:`vcore.nodes.code.code`.
CODE = re.compile(r"[0-9a-f]{16}")


#: How many pending keys vcore.status lists.
LISTED = 20


# ---------------------------------------------------------------------------------------------------------------
# The files for new machines
# ---------------------------------------------------------------------------------------------------------------


class Offer:
    """The files that the enrolment service gives to everybody, and the folder from which it does."""

    def __init__(self, pillar: Mapping[str, Any], paths: Paths) -> None:
        self.folder = Path(pillar["services"]["enrolment"]["volumes"]["public"]["source"])
        self.networks = {key: value for key, value in pillar["network"].items() if key.endswith("subnet")}
        self.root = paths.authority / "ca.crt"
        self.checkout, self.key = paths.checkout, paths.keys / "master.pub"

    def files(self) -> dict[str, bytes | None]:
        """Return the files' content by name; None for the certificate of an authority that does not exist yet.

        Raises:
            VcoreError: the checkout is incomplete, or the master has no key.
        """
        try:
            finger = tokens.fingerprint(self.key.read_text())
        except FileNotFoundError:
            raise VcoreError(
                tr("{key} is missing; run bootstrap.sh, which makes the master's key", key=self.key)
            ) from None
        bundle = enrolment_bundle.bundle(self.checkout, {"master_finger": finger, **self.networks})
        authority = self.root.read_bytes() if self.root.is_file() else None
        return {enrolment_bundle.AUTHORITY: authority, enrolment_bundle.BUNDLE: bundle}

    def changes(self) -> dict[str, Any]:
        """Return the changes that :meth:`write` makes."""
        found = {}
        for name, data in self.files().items():
            old = (self.folder / name).read_bytes() if (self.folder / name).is_file() else None
            if data is None or data != old:
                found[name] = {"old": None if old is None else "another one", "new": "offered"}
        return found

    def write(self) -> None:
        """Bring the files up to date."""
        for name, data in self.files().items():
            if data is not None:
                write_atomic(self.folder / name, data, mode=0o644)


# ---------------------------------------------------------------------------------------------------------------
# The review of a proof
# ---------------------------------------------------------------------------------------------------------------


class Keys(Protocol):
    """The keys of Salt's master."""

    def find(self, minion: str) -> tuple[str, str] | None:
        """Return state (``pending``, ``accepted``, ``rejected``) and public key of a minion; None if it has no key."""

    def accept(self, minion: str) -> None:
        """Accept the pending key of exactly this minion."""

    def reject(self, minion: str) -> None:
        """Reject a key that was accepted."""


def review(
    paths: Paths,
    keys: Keys,
    minion: str,
    public_key: str,
    proof: str,
    code: object = None,
    *,
    now: float,
) -> list[str]:
    """Admit a minion with a valid proof, tell the reconciler, and return the roles that it was granted.

    ``code`` is the version of its modules as the minion states it; if it is missing or not the head's, the reconciler
    sends the modules. ``now`` is in seconds since 1970.

    A repeated review changes nothing. The node is registered before its key is accepted, so that an interrupted review
    is completed when the minion asks again.

    Raises:
        Refused: the proof is not valid, or the node may not have this name; the reason is kept for vcore.status.
        VcoreError: the review is not possible, because of a mistake in the site file for instance.
    """
    notes = Refusals(paths.state / "enrolment.json")
    try:
        # Before anything reads files that grow with the number of keys.
        claim = tokens.verify(Store(paths.secrets).read(*tokens.TOKEN_KEY), proof, minion, public_key, now=now)
        with exclusive(_folder(paths) / ".enrolment.lock", wait=PATIENCE, busy=tr("another minion is being looked at")):
            known = code if isinstance(code, str) and CODE.fullmatch(code) else None
            roles = _let_in(paths, keys, claim, minion, public_key, known, now)
    except VcoreError as error:
        if isinstance(minion, str) and NODE_NAME.fullmatch(minion):
            notes.note(minion, str(error))
        raise
    notes.forget(minion)
    decisions.mark(paths, [minion])
    return roles


def _let_in(
    paths: Paths, keys: Keys, claim: tokens.Claim, minion: str, public_key: str, code: str | None, now: float
) -> list[str]:
    registry = Registry(paths.nodes)
    entry = registry.read().get(minion)
    roles = tokens.granted(kernel_pillar.resolved(paths), entry, claim, minion)
    body = tokens.body(public_key)
    state, known = keys.find(minion) or ("gone", "")
    if not known or tokens.body(known) != body:
        raise Refused(tr("the head has another key under this id"))
    if state == "accepted":
        return list(entry["roles"]) if entry else roles
    if state != "pending":
        raise Refused(tr("its key is {state}", state=state))
    # A machine that had this name before is another one now, so nothing of its entry is kept.
    registry.update({minion: {**UNKNOWN, "roles": roles, "enrolled": int(now), "by": "token", "code": code}})
    keys.accept(minion)
    # Salt may report success without having accepted the key (https://github.com/saltstack/salt/issues/63477).
    state, known = keys.find(minion) or ("gone", "")
    if state == "accepted" and tokens.body(known) == body:
        return roles
    if state == "accepted":
        keys.reject(minion)
    if entry is None:
        registry.remove([minion])
    raise Refused(tr("its key was {state} when it should have been accepted; it can try again", state=state))


def _folder(paths: Paths) -> Path:
    paths.state.mkdir(parents=True, exist_ok=True)
    return paths.state


# ---------------------------------------------------------------------------------------------------------------
# The record of refusals
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusals:
    """Why minions were refused, the newest last."""

    path: Path

    def read(self) -> dict[str, str]:
        """Return the reasons by minion."""
        try:
            return {str(name): str(reason) for name, reason in json.loads(self.path.read_text()).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}  # the record is not needed and will be written again

    def note(self, minion: str, reason: str) -> None:
        """Record a reason; a repeated one is not written again, since minions ask every few seconds."""
        if self.read().get(minion) != reason:
            self._change({minion: reason})

    def forget(self, minion: str) -> None:
        """Delete the reason for a minion, which was admitted."""
        if minion in self.read():
            self._change({minion: None})

    def _change(self, changes: dict[str, str | None]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(
            self.path.with_name(f".{self.path.name}.lock"), wait=PATIENCE, busy=tr("{path} is in use", path=self.path)
        ):
            kept = {name: reason for name, reason in self.read().items() if name not in changes}
            kept |= {name: reason for name, reason in changes.items() if reason is not None}
            newest = dict(list(kept.items())[-REMEMBERED:])
            write_atomic(self.path, json.dumps(newest, indent=1).encode(), mode=0o600)
