"""The hash of the code that a node's Salt has."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: The kinds of Salt's modules that nodes get, by the names of their folders: ``salt/_<kind>`` of the checkout. The
#: bundle brings them, so that the head need not send them one by one to a machine that has just started.
KINDS = ("grains", "modules", "output", "returners", "states", "utils")


def code(root: Path, prefix: str = "_") -> str:
    """Return a fingerprint, of 16 hexadecimal digits, of the modules that a node gets.

    ``root`` is ``salt`` of a checkout or, with an empty ``prefix``, the folder in which a minion keeps its modules.
    """
    digest = hashlib.sha256()
    for kind in KINDS:
        for path in sorted((root / f"{prefix}{kind}").rglob("*.py")):
            content = path.read_bytes()
            name = path.relative_to(root).as_posix().removeprefix(prefix)
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
