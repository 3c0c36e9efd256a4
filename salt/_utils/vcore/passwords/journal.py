"""The journal of a password's change, for the next run: a file in the person's home, sealed by the passwords.

Standard library and cryptography only: this runs in the image ``people``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import Invalid
from ..base.files import sync_folder, write_atomic
from ..base.messages import tr
from .stores import Outcome, Stop


@dataclass(frozen=True, repr=False)
class Change:
    """The passwords before and after a change; ``samba`` and ``directory`` differ in the first synchronisation only."""

    directory: str
    samba: str
    new: str
    started: float = field(default_factory=time.time)


class Journal:
    """What a change was about to do, for the next run: sealed, so that any one of its passwords opens it.

    A random key seals the change (AES-GCM). That key is sealed once for each password, under a key that scrypt derives
    from the password: whoever finds the file and knows none of the passwords learns none.
    """

    VERSION = 1

    def __init__(self, folder: Path) -> None:
        self.path = folder / "password-change"

    def exists(self) -> bool:
        """Return whether there is a journal: a change was interrupted."""
        return self.path.exists()

    def write(self, change: Change) -> None:
        """Seal a change and write it to disk.

        Raises:
            Stop: it cannot be written, so nothing may be changed.
        """
        try:
            write_atomic(self.path, seal(change), mode=0o600)
        except OSError as error:
            raise Stop(
                Outcome.NO_JOURNAL, f"Nothing is changed: {self.path} cannot be written ({error.strerror})."
            ) from None

    def open(self, password: str) -> Change | None:
        """Return the change, or None if ``password`` is not one of its passwords.

        Raises:
            Invalid: the file is damaged.
        """
        try:
            return unseal(self.path.read_bytes(), password)
        except OSError as error:
            raise Invalid(str(error)) from None

    def remove(self) -> None:
        """Forget the change, which is finished or undone."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def seal(change: Change) -> bytes:
    """Return the bytes of a journal."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    started = f"{change.started:.3f}"
    key, associated = AESGCM.generate_key(256), f"{Journal.VERSION} {started}".encode()
    plain = json.dumps([change.directory, change.samba, change.new]).encode()
    # Padded, so that the length of a password does not show either.
    plain = plain.ljust(-(-len(plain) // 512) * 512)

    def slot(password: str) -> list[str]:
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        return [_text(salt), _text(nonce), _text(AESGCM(_derive(password, salt)).encrypt(nonce, key, associated))]

    with ThreadPoolExecutor() as pool:
        slots = list(pool.map(slot, dict.fromkeys((change.directory, change.samba, change.new))))
    nonce = secrets.token_bytes(12)
    sealed = {
        "version": Journal.VERSION,
        "started": started,
        "slots": slots,
        "nonce": _text(nonce),
        "change": _text(AESGCM(key).encrypt(nonce, plain, associated)),
    }
    return json.dumps(sealed, indent=1).encode() + b"\n"


def unseal(data: bytes, password: str) -> Change | None:
    """Return the change in a journal, or None if ``password`` is not one of its passwords.

    Raises:
        Invalid: it is not a journal, or was tampered with.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        content = json.loads(data)
        version, started = content["version"], content["started"]
        associated = f"{version} {started}".encode()
        slots = [[base64.b64decode(part, validate=True) for part in slot] for slot in content["slots"]]
        nonce, sealed = (base64.b64decode(content[name], validate=True) for name in ("nonce", "change"))
        if version != Journal.VERSION or not 1 <= len(slots) <= 3 or any(len(slot) != 3 for slot in slots):
            raise ValueError(tr("not a journal"))
        key = None
        for salt, slot_nonce, wrapped in slots:
            with suppress(InvalidTag):
                key = AESGCM(_derive(password, salt)).decrypt(slot_nonce, wrapped, associated)
                break
        if key is None:
            return None
        directory, samba, new = json.loads(AESGCM(key).decrypt(nonce, sealed, associated))
        return Change(directory, samba, new, float(started))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidTag):
        raise Invalid(tr("the journal is damaged")) from None


def _derive(password: str, salt: bytes) -> bytes:
    """Return a key derived from a password; each guess costs 0.1 s and 32 MiB."""
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
