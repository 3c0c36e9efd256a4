"""The secret store of the head: root-only files, one for each secret, each generated once.

No function returns, logs or puts into an exception what a secret holds, except :meth:`Store.read`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import NotFound, VcoreError
from .files import write_atomic
from .messages import tr

#: Letters and digits without the ones that people mix up when they read a password aloud.
PASSWORD_ALPHABET = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI")))
#: The key of the fingerprints: service and name.
FINGERPRINT_KEY = ("store", "fingerprint-key")


def generate(kind: str, length: int) -> bytes:
    """Make a new secret of ``length`` characters (``password``, ``token``) or bytes (``bytes``).

    Raises:
        VcoreError: the kind is ``supplied``; only a person can give such a secret.
    """
    if kind == "password":
        return "".join(secrets.choice(PASSWORD_ALPHABET) for _ in range(length)).encode()
    if kind == "token":
        return secrets.token_hex((length + 1) // 2)[:length].encode()
    if kind == "bytes":
        return secrets.token_bytes(length)
    raise VcoreError(tr("a secret of kind {kind} is not generated, a person supplies it", kind=kind))


class Store:
    """The folder that holds the secrets: ``<folder>/<service>/<name>``, files 0600 in folders 0700."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, service: str, name: str) -> Path:
        """Return where a secret lies, whether it exists or not."""
        return self.folder / service / name

    def exists(self, service: str, name: str) -> bool:
        """Return whether the secret has a value."""
        return self.path(service, name).is_file()

    def read(self, service: str, name: str) -> bytes:
        """Return the secret's value.

        Raises:
            NotFound: it has none yet.
        """
        try:
            return self.path(service, name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                tr(
                    "the secret {service}/{name} has no value yet; apply the states on the head",
                    service=service,
                    name=name,
                )
            ) from None

    def write(self, service: str, name: str, value: bytes) -> None:
        """Give the secret a value, replacing the one that it had."""
        self.ensure_key()
        self._put(service, name, value)

    def ensure_key(self) -> None:
        """Make the key of the fingerprints if there is none."""
        if not self.exists(*FINGERPRINT_KEY):
            self._put(*FINGERPRINT_KEY, secrets.token_bytes(32))

    def _put(self, service: str, name: str, value: bytes) -> None:
        path = self.path(service, name)
        for folder in (self.folder, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        write_atomic(path, value, mode=0o600)

    def difference(self, service: str, name: str, definition: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the stored secret, in words: ``missing``, ``permissions``, or None.

        Raises:
            VcoreError: it is missing and a person has to supply it; the message is the command that asks for it.
        """
        path = self.path(service, name)
        try:
            entries = {path: 0o600, path.parent: 0o700, self.folder: 0o700}
            states = {entry: entry.stat() for entry in entries}
        except FileNotFoundError:
            if definition["kind"] == "supplied":
                raise VcoreError(
                    tr(
                        "the secret {service}/{name} has to be supplied: salt-call vcore_secret.set {service}/{name}",
                        service=service,
                        name=name,
                    )
                ) from None
            return "missing"
        closed = all(
            stat.S_IMODE(states[entry].st_mode) == mode and states[entry].st_uid == os.geteuid()
            for entry, mode in entries.items()
        )
        return None if closed else "permissions"

    def ensure(self, service: str, name: str, definition: Mapping[str, Any]) -> None:
        """Generate the secret if it is missing, and restrict its permissions to root if others could read it.

        Raises:
            VcoreError: as :meth:`difference` does.
        """
        problem = self.difference(service, name, definition)
        self.ensure_key()
        if problem == "missing":
            self.write(service, name, generate(definition["kind"], definition["length"]))
        elif problem == "permissions":
            path = self.path(service, name)
            for entry, mode in ((self.folder, 0o700), (path.parent, 0o700), (path, 0o600)):
                os.chown(entry, os.geteuid(), os.getegid())
                entry.chmod(mode)

    def fingerprint(self, data: bytes) -> str | None:
        """Return twelve hexadecimal digits that change with ``data`` and reveal nothing of it; None if there is no key.

        A plain hash of a weak secret could be guessed from its name in ``docker secret ls``; a hash keyed with a
        value that never leaves this store cannot.
        """
        if not self.exists(*FINGERPRINT_KEY):
            return None
        return hmac.new(self.read(*FINGERPRINT_KEY), data, hashlib.sha256).hexdigest()[:12]


def node_secret(pillar: Mapping[str, Any], store: Store, service: str, name: str) -> str:
    """Return a secret that a node needs on the host itself: from the store on the head, elsewhere from its own pillar.

    Raises:
        NotFound: it has no value yet.
    """
    if "head" in pillar["node"]["roles"]:
        return store.read(service, name).decode()
    try:
        return str(pillar["secrets"][service][name])
    except KeyError:
        raise NotFound(
            tr(
                "the secret {service}/{name} has no value yet, or is not for this node; apply the states on the head",
                service=service,
                name=name,
            )
        ) from None
