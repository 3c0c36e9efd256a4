"""Tokens and proofs, by which a new machine shows that an administrator of the core wants it.

A *token* is made on the head and entered on the new machine. It says what it is valid for and until when, and ends in
an HMAC that only the head can make. The machine never sends the token. It sends a *proof*: the same content with an
HMAC over its id and public key, keyed with the token's HMAC. An intercepted proof is only valid for this id and key,
and nobody can make another one without the token.

Standard library only, because new machines run this package, see :mod:`vcore.enrolment.__main__`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import Refused, VcoreError
from ..base.messages import quoted, tr
from ..base.names import NODE_NAME

VERSION = "vc1"


#: The secret with which all tokens are made: service and name.
TOKEN_KEY = ("enrolment", "token-key")


#: Bytes of that key.
KEY_LENGTH = 32


#: The grain with a proof, and the one with the version of the machine's modules.
GRAIN, CODE_GRAIN = "vcore_enrol", "vcore_code"


#: The role that a token grants; only the site file gives a node other roles.
ROLE = "compute"


#: The possible scopes of a token.
SCOPE = re.compile(rf"node={NODE_NAME.pattern}|role={ROLE}")


#: The form of tokens and proofs: version, scope, expiry (seconds since 1970), nonce, HMAC.
FORM = re.compile(rf"{VERSION}\.({SCOPE.pattern})\.([1-9][0-9]{{0,11}})\.([0-9a-f]{{16}})\.([0-9a-f]{{64}})")


#: The longest public key that is accepted, in characters.
LONGEST_KEY = 4096


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


#: The longest lifetime of a token, in seconds.
LONGEST = 7 * 86400


@dataclass(frozen=True)
class Claim:
    """A parsed token or proof; nothing of it is verified yet."""

    scope: str
    expiry: int
    nonce: str
    mac: str = ""

    @property
    def signed(self) -> bytes:
        """The bytes that a token's HMAC covers."""
        return f"{self.scope}\n{self.expiry}\n{self.nonce}".encode()

    def __str__(self) -> str:
        return f"{VERSION}.{self.scope}.{self.expiry}.{self.nonce}.{self.mac}"


def parse(text: object) -> Claim:
    """Parse a token or a proof.

    Raises:
        Refused: the text is neither.
    """
    found = FORM.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if not found:
        raise Refused(tr("this is not an enrolment token"))
    scope, expiry, nonce, mac = found.groups()
    return Claim(scope, int(expiry), nonce, mac)


def well_formed(minion: object, public_key: object, proof: object) -> bool:
    """Return whether id, key and proof have the right form; cheap, because anybody can ask as often as they like."""
    return (
        isinstance(minion, str)
        and NODE_NAME.fullmatch(minion) is not None
        and isinstance(public_key, str)
        and len(public_key) <= LONGEST_KEY
        and isinstance(proof, str)
        and FORM.fullmatch(proof) is not None
    )


def seconds(ttl: object) -> int:
    """Convert the lifetime of a token, such as ``30m``, ``1h`` or ``2d``, to seconds.

    Raises:
        VcoreError: it has another form, or is more than seven days.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(ttl), re.ASCII)
    length = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < length <= LONGEST:
        raise VcoreError(
            tr("ttl={ttl}: say how long the token lives, such as 30m, 1h or 2d, at most 7d", ttl=quoted(ttl))
        )
    return length


def scope_of(node: object = None, role: object = None) -> str:
    """Return the scope of a token: one node by name, or any new node, which gets a role.

    Raises:
        VcoreError: the name is not valid, the role is another one, or both are given.
    """
    if node is not None and role is not None:
        raise VcoreError(tr("give node= or role=, not both: a token is for one name, or for any new node"))
    if node is None:
        if role not in (None, ROLE):
            raise VcoreError(
                tr(
                    "role={role}: a token grants only the role {role_2}; the site file others",
                    role=quoted(role),
                    role_2=ROLE,
                )
            )
        return f"role={ROLE}"
    if not isinstance(node, str) or not NODE_NAME.fullmatch(node):
        raise VcoreError(tr("node={node} is no name for a node (a-z, 0-9, -, a letter first)", node=quoted(node)))
    return f"node={node}"


def make_token(key: bytes, scope: str, expiry: int, nonce: str | None = None) -> str:
    """Return a token that is valid for ``scope`` until ``expiry`` (seconds since 1970)."""
    claim = Claim(scope, expiry, nonce or secrets.token_hex(8))
    return str(replace(claim, mac=_token_mac(key, claim).hex()))


def prove(token: str, minion: str, public_key: str) -> str:
    """Return the proof that the machine named ``minion`` with ``public_key`` was given ``token``.

    Raises:
        Refused: the token or the public key is not one.
    """
    claim = parse(token)
    return str(replace(claim, mac=_proof_mac(bytes.fromhex(claim.mac), claim, minion, public_key)))


def genuine(key: bytes, proof: object, minion: object, public_key: object) -> bool:
    """Return whether a proof was made with a token of this core for this id and key, even if it has expired.

    It reads no file.
    """
    if not well_formed(minion, public_key, proof):
        return False
    try:
        claim = parse(proof)
        return hmac.compare_digest(claim.mac, _proof_mac(_token_mac(key, claim), claim, str(minion), str(public_key)))
    except Refused:
        return False


def verify(key: bytes, proof: object, minion: object, public_key: object, *, now: float) -> Claim:
    """Return the claim of a proof after verifying it: made for this id and key, with a token of this core in force.

    Raises:
        Refused: it is not valid; the message says why.
    """
    if not isinstance(minion, str) or not NODE_NAME.fullmatch(minion):
        raise Refused(tr("its id is no name for a node"))
    if not isinstance(public_key, str) or len(public_key) > LONGEST_KEY:
        raise Refused(tr("its public key is not valid"))
    claim = parse(proof)
    body(public_key)
    if not genuine(key, proof, minion, public_key):
        raise Refused(tr("its proof was not made with a token of this core, or is for another id or key"))
    # After the HMAC, because the content of an unverified claim means nothing.
    if claim.expiry <= now:
        raise Refused(tr("its token expired at {moment}", moment=moment(claim.expiry)))
    if claim.scope.startswith("node=") and claim.scope != f"node={minion}":
        raise Refused(tr("its token is for {removeprefix}", removeprefix=claim.scope.removeprefix("node=")))
    return claim


def _token_mac(key: bytes, claim: Claim) -> bytes:
    return hmac.digest(key, claim.signed, "sha256")


def _proof_mac(token: bytes, claim: Claim, minion: str, public_key: str) -> str:
    message = f"{minion}\n{claim.expiry}\n{body(public_key)}".encode(errors="backslashreplace")
    return hmac.digest(token, message, "sha256").hex()


def body(pem: str) -> str:
    """Return the base64 content of a PEM block as one line, whatever its line endings.

    Raises:
        Refused: the text is not a PEM block.
    """
    lines = [line.strip() for line in pem.strip().splitlines()]
    inner = "".join(lines[1:-1])
    if len(lines) < 3 or not lines[0].startswith("-----BEGIN ") or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", inner):
        raise Refused(tr("its public key is not valid"))
    return inner


def fingerprint(pem: str) -> str:
    """Return the fingerprint of a public key as Salt shows and pins it: SHA-256 of its inner lines, in pairs of digits.

    Raises:
        Refused: the text is not a PEM block.
    """
    body(pem)
    inner = "".join(f"{line.strip()}\n" for line in pem.strip().splitlines()[1:-1])
    return hashlib.sha256(inner.encode()).digest().hex(":")


def moment(expiry: float) -> str:
    """Return a time in seconds since 1970 as text, such as ``2025-01-31 12:00:00 UTC``."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expiry))


# ---------------------------------------------------------------------------------------------------------------
# On the head: what a valid proof grants
# ---------------------------------------------------------------------------------------------------------------


def granted(resolved: Mapping[str, Any], entry: Mapping[str, Any] | None, claim: Claim, minion: str) -> list[str]:
    """Return the roles that a valid proof gives a node; none if the site file names the node, because it decides then.

    ``entry`` is the registry's entry of this name, if any.

    A token for any new node is only valid for a plain compute node: a node to which the site gives more needs a token
    for its name.

    Raises:
        Refused: the node may not have this name.
    """
    if minion == resolved["head"]["name"]:
        raise Refused(tr("its id is the head's"))
    node = resolved["nodes"].get(minion)
    if node and node.get("retiring"):
        raise Refused(tr("a node with its id is being retired; wait until that has ended"))
    if claim.scope == f"role={ROLE}" and node:
        more = [f"the role {role}" for role in node["roles"] if role != ROLE]
        more += [f"the service {name}" for name, service in resolved["services"].items() if service["node"] == minion]
        if more:
            remedy = tr("make a token for it: salt-run vcore.enrol_token node={minion}", minion=minion)
            raise Refused(
                tr("the site gives {minion} {more}; {remedy}", minion=minion, more=", ".join(more), remedy=remedy)
            )
    return [ROLE] if node is None or (entry and entry["roles"]) else []
