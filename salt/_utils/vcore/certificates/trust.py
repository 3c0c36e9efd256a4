"""Trust in the root, on every node: files for the system's trust store and for Docker. Standard library only."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import quoted, tr
from .x509 import Changes, pem_certificates


@dataclass(frozen=True)
class TrustStore:
    """How a distribution keeps its trusted roots: update-ca-certificates(8), update-ca-trust(8)."""

    anchors: Path
    bundle: Path
    command: tuple[str, ...]


#: By Salt's grain ``os_family``.
TRUST_STORES = {
    "Debian": TrustStore(
        Path("/usr/local/share/ca-certificates"),
        Path("/etc/ssl/certs/ca-certificates.crt"),
        ("update-ca-certificates",),
    ),
    "RedHat": TrustStore(
        Path("/etc/pki/ca-trust/source/anchors"),
        Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
        ("update-ca-trust", "extract"),
    ),
}


def root_of(chain: bytes) -> bytes:
    """Return the root of a PEM chain, its last certificate.

    Raises:
        VcoreError: there is no certificate in it.
    """
    blocks = pem_certificates(chain)
    if not blocks:
        raise VcoreError(tr("the authority's certificate is not PEM; apply the head's states, which make it"))
    return blocks[-1]


def trust_files(os_family: str, registry: str | None) -> tuple[TrustStore, tuple[Path, ...]]:
    """Return the node's trust store, and the files in it and in Docker's folder that hold the root.

    Raises:
        VcoreError: the distribution is unknown, or ``registry`` is not host:port.
    """
    if os_family not in TRUST_STORES:
        raise VcoreError(
            tr(
                "no trust store is known for {os_family}; there are: {trust_stores}",
                os_family=os_family,
                trust_stores=", ".join(TRUST_STORES),
            )
        )
    if registry is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?", registry):
        raise VcoreError(tr("{registry} is not a registry, host:port", registry=quoted(registry)))
    store = TRUST_STORES[os_family]
    files = [store.anchors / "virtual-core.crt"]
    if registry:
        files.append(Path("/etc/docker/certs.d") / registry / "ca.crt")
    return store, tuple(files)


def known_registry(folder: Path = Path("/etc/docker/certs.d")) -> str | None:
    """Return the core's registry whose root this node's Docker has, or None: for a node that has lost its pillar."""
    return next((path.parent.name for path in sorted(folder.glob("registry.*:5000/ca.crt"))), None)


def trust_difference(root: bytes | None, store: TrustStore, files: Iterable[Path]) -> Changes:
    """Return what to change so that a node trusts ``root``; None is a root yet to be made, which differs from any."""
    changes: Changes = {}
    for path in files:
        present = path.read_bytes() if path.is_file() else None
        if present is None or present != root:
            changes[str(path)] = {"old": None if present is None else "another certificate", "new": "installed"}
    # The bundle is read as well: a run may have been killed between the file and the command.
    bundle = store.bundle.read_bytes() if store.bundle.is_file() else b""
    if root is None or root.strip() not in bundle:
        changes[str(store.bundle)] = {"old": "without the root", "new": "with the root"}
    return changes


def trust(root: bytes, store: TrustStore, changes: Changes, run: Callable[[tuple[str, ...]], None]) -> None:
    """Carry out what :func:`trust_difference` found; ``run`` runs the distribution's command or raises."""
    for name in changes:
        path = Path(name)
        if path != store.bundle:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(path, root, mode=0o644)
    if str(store.bundle) in changes:
        run(store.command)
        if trust_difference(root, store, ()):
            raise VcoreError(
                tr(
                    "{command} ran, and {bundle} still lacks the root; see what it prints",
                    command=store.command[0],
                    bundle=store.bundle,
                )
            )


def distrust_difference(store: TrustStore, files: Iterable[Path]) -> Changes:
    """Return what to change so that a node no longer trusts this core's root; what others have put beside it stays."""
    present = {path: path.read_bytes() for path in files if path.is_file()}
    changes: Changes = {str(path): {"old": "installed", "new": None} for path in present}
    bundle = store.bundle.read_bytes() if store.bundle.is_file() else b""
    # The bundle is read as well: a run may have been killed before the command, when only Docker's file was left.
    if any(path.parent == store.anchors or content.strip() in bundle for path, content in present.items()):
        changes[str(store.bundle)] = {"old": "with the root", "new": "without the root"}
    return changes


def distrust(store: TrustStore, changes: Changes, run: Callable[[tuple[str, ...]], None]) -> None:
    """Carry out what :func:`distrust_difference` found; ``run`` runs the distribution's command or raises.

    Docker's file goes last: while it is there, the next run knows which root to look for.
    """
    files = [Path(name) for name in changes if Path(name) != store.bundle]
    for path in files:
        if path.parent == store.anchors:
            path.unlink()
    if str(store.bundle) in changes:
        run(store.command)
    for path in files:
        if path.parent != store.anchors:
            path.unlink()
            with contextlib.suppress(OSError):  # not empty: others have put something there
                path.parent.rmdir()
