"""How a new machine proves that an administrator of the core wants it: tokens, proofs, and what it joins by.

A *token* is made on the head and typed on the new machine. It says what it is good for, until when, and ends in an
HMAC that only the head can make. The machine never sends it: it sends a *proof*, the same words with an HMAC over its
id and public key, whose key is the token's. Whoever overhears a proof can use it for that very key and id only, and
whoever lacks the token cannot make another.

Standard library only: new machines run this package, see :mod:`vcore.enrolment.__main__`.
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
from ..base.names import NODE_NAME

VERSION = "vc1"


#: The secret that all tokens are made with: service and name.
TOKEN_KEY = ("enrolment", "token-key")


#: Bytes of that key.
KEY_LENGTH = 32


#: The grain that carries a proof, and the one beside it that says which code the machine has.
GRAIN, CODE_GRAIN = "vcore_enrol", "vcore_code"


#: The role that a token grants; a node has no other one but by the site file.
ROLE = "compute"


#: What a token can be good for.
SCOPE = re.compile(rf"node={NODE_NAME.pattern}|role={ROLE}")


#: Tokens and proofs: version, scope, end (seconds since 1970), nonce, HMAC.
FORM = re.compile(rf"{VERSION}\.({SCOPE.pattern})\.([1-9][0-9]{{0,11}})\.([0-9a-f]{{16}})\.([0-9a-f]{{64}})")


#: Of a public key that is longer, nobody wants to hear.
LONGEST_KEY = 4096


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


#: The longest that a token may live, in seconds.
LONGEST = 7 * 86400


@dataclass(frozen=True)
class Claim:
    """A token or a proof, taken apart: nothing of it is proven yet."""

    scope: str
    expiry: int
    nonce: str
    mac: str = ""

    @property
    def signed(self) -> bytes:
        """What a token's HMAC covers."""
        return f"{self.scope}\n{self.expiry}\n{self.nonce}".encode()

    def __str__(self) -> str:
        return f"{VERSION}.{self.scope}.{self.expiry}.{self.nonce}.{self.mac}"


def parse(text: object) -> Claim:
    """Take a token or a proof apart.

    Raises:
        Refused: it is neither.
    """
    found = FORM.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if not found:
        raise Refused("this is no token of a core")
    scope, expiry, nonce, mac = found.groups()
    return Claim(scope, int(expiry), nonce, mac)


def well_formed(minion: object, public_key: object, proof: object) -> bool:
    """Whether it is worth the while to look closer; cheap, since anybody can ask as often as they like."""
    return (
        isinstance(minion, str)
        and NODE_NAME.fullmatch(minion) is not None
        and isinstance(public_key, str)
        and len(public_key) <= LONGEST_KEY
        and isinstance(proof, str)
        and FORM.fullmatch(proof) is not None
    )


def seconds(ttl: object) -> int:
    """How long a token is to live, in seconds: of words such as ``30m``, ``1h``, ``2d``.

    Raises:
        VcoreError: no such word, or more than seven days.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(ttl), re.ASCII)
    length = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < length <= LONGEST:
        raise VcoreError(f"ttl={str(ttl)[:20]!r}: say how long the token lives, such as 30m, 1h or 2d, at most 7d")
    return length


def scope_of(node: object = None, role: object = None) -> str:
    """What a token is good for: one node by name, or any new node, which gets a role.

    Raises:
        VcoreError: a name that no node can have, another role, or both.
    """
    if node is not None and role is not None:
        raise VcoreError("say node= or role=, not both: a token is for one name, or for any new node")
    if node is None:
        if role not in (None, ROLE):
            raise VcoreError(f"role={str(role)[:40]!r}: a token grants the role {ROLE}, the site file others")
        return f"role={ROLE}"
    if not isinstance(node, str) or not NODE_NAME.fullmatch(node):
        raise VcoreError(f"node={str(node)[:70]!r} is no name for a node (a-z, 0-9, -, a letter first)")
    return f"node={node}"


def make_token(key: bytes, scope: str, expiry: int, nonce: str | None = None) -> str:
    """A token that is good for ``scope`` until ``expiry``, in seconds since 1970."""
    claim = Claim(scope, expiry, nonce or secrets.token_hex(8))
    return str(replace(claim, mac=_token_mac(key, claim).hex()))


def prove(token: str, minion: str, public_key: str) -> str:
    """The proof that the machine which holds ``public_key`` was given ``token``, under the name ``minion``.

    Raises:
        Refused: no token, or no public key.
    """
    claim = parse(token)
    return str(replace(claim, mac=_proof_mac(bytes.fromhex(claim.mac), claim, minion, public_key)))


def genuine(key: bytes, proof: object, minion: object, public_key: object) -> bool:
    """Whether a proof is of a token of this core, for this id and key, whatever its end; it costs no look at a file."""
    if not well_formed(minion, public_key, proof):
        return False
    try:
        claim = parse(proof)
        return hmac.compare_digest(claim.mac, _proof_mac(_token_mac(key, claim), claim, str(minion), str(public_key)))
    except Refused:
        return False


def verify(key: bytes, proof: object, minion: object, public_key: object, *, now: float) -> Claim:
    """What a proof claims, once it holds: made of a token of this core that has not ended, for this id and key.

    Raises:
        Refused: it does not hold.
    """
    if not isinstance(minion, str) or not NODE_NAME.fullmatch(minion):
        raise Refused("its id is no name for a node")
    if not isinstance(public_key, str) or len(public_key) > LONGEST_KEY:
        raise Refused("its public key is none")
    claim = parse(proof)
    body(public_key)
    if not genuine(key, proof, minion, public_key):
        raise Refused("its proof is not of a token of this core, or of another id or key")
    # Behind the HMAC: what an unproven claim says of itself is nothing to go by.
    if claim.expiry <= now:
        raise Refused(f"its token ended at {moment(claim.expiry)}")
    if claim.scope.startswith("node=") and claim.scope != f"node={minion}":
        raise Refused(f"its token is for {claim.scope.removeprefix('node=')}")
    return claim


def _token_mac(key: bytes, claim: Claim) -> bytes:
    return hmac.digest(key, claim.signed, "sha256")


def _proof_mac(token: bytes, claim: Claim, minion: str, public_key: str) -> str:
    message = f"{minion}\n{claim.expiry}\n{body(public_key)}".encode(errors="backslashreplace")
    return hmac.digest(token, message, "sha256").hex()


def body(pem: str) -> str:
    """The base64 of a PEM block in one line, however its lines end.

    Raises:
        Refused: it is no PEM block.
    """
    lines = [line.strip() for line in pem.strip().splitlines()]
    inner = "".join(lines[1:-1])
    if len(lines) < 3 or not lines[0].startswith("-----BEGIN ") or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", inner):
        raise Refused("its public key is none")
    return inner


def fingerprint(pem: str) -> str:
    """The fingerprint of a public key as Salt shows and pins it: SHA-256 of its inner lines, in pairs of digits.

    Raises:
        Refused: it is no PEM block.
    """
    body(pem)
    inner = "".join(f"{line.strip()}\n" for line in pem.strip().splitlines()[1:-1])
    return hashlib.sha256(inner.encode()).digest().hex(":")


def moment(expiry: float) -> str:
    """A time in seconds since 1970, in words."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expiry))


# ---------------------------------------------------------------------------------------------------------------
# What a new machine fetches, and the line that does it
# ---------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------
# On the head: what a proof that holds may have
# ---------------------------------------------------------------------------------------------------------------


def granted(resolved: Mapping[str, Any], entry: Mapping[str, Any] | None, claim: Claim, minion: str) -> list[str]:
    """The roles that a node gets by a proof that holds; none where the site file names the node, whose word counts.

    ``entry`` is what the registry has of a node of that name.

    A token for any new node is good for a plain compute node only: the name of a node that the site has more in store
    for needs a token for that name.

    Raises:
        Refused: it may not have this name.
    """
    if minion == resolved["head"]["name"]:
        raise Refused("its id is the head's")
    node = resolved["nodes"].get(minion)
    if node and node.get("retiring"):
        raise Refused("a node of its id is being taken out; wait until that has ended")
    if claim.scope == f"role={ROLE}" and node:
        more = [f"the role {role}" for role in node["roles"] if role != ROLE]
        more += [f"the service {name}" for name, service in resolved["services"].items() if service["node"] == minion]
        if more:
            remedy = f"make a token for it: salt-run vcore.enrol_token node={minion}"
            raise Refused(f"the site gives {minion} {', '.join(more)}; {remedy}")
    return [ROLE] if node is None or (entry and entry["roles"]) else []


# ---------------------------------------------------------------------------------------------------------------
# On a new machine
# ---------------------------------------------------------------------------------------------------------------
