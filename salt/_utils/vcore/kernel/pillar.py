"""From the files of a checkout to the pillar of a node; the result is cached until a file or the network changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..host.network import own_address, read_routes
from . import areas, site
from .documents import SiteError
from .resolve import node_pillar, node_secrets, resolve


@areas.face("resolve")
class Sources(Protocol):
    """An area whose part of the pillar is made from files of its own."""

    def sources(self, paths: Paths) -> Iterable[Path]:
        """Return these files, whether they exist or not."""


@areas.face("resolve")
class Keeps(Protocol):
    """An area whose part of the pillar may change although none of its sources does."""

    def keeps(self, resolved: Mapping[str, Any]) -> bool:
        """Return whether a resolved pillar may be used again, given that its sources have not changed."""


#: The last resolved configuration by checkout, with the state of everything that it was made from; it is cached
#: because a master asks once for each minion.
_kept: dict[Path, tuple[Any, dict[str, Any]]] = {}


def resolved(paths: Paths) -> dict[str, Any]:
    """Return the resolved configuration of this checkout, on this head.

    Raises:
        SiteError: the configuration is not valid.
        VcoreError: the catalogue is broken, or the head's address is not known.
    """
    routes, address = read_routes(), own_address()
    sources = {paths.site, *paths.flavors.glob("*.sls")}
    for area in areas.asked(Sources).values():
        sources |= set(area.sources(paths))
    state = (routes, address, [(path, _stamp(path)) for path in sorted(sources)])
    kept = _kept.get(paths.checkout)
    if kept is None or kept[0] != state or not all(area.keeps(kept[1]) for area in areas.asked(Keeps).values()):
        configuration = site.load(paths, routes=routes, address=address)
        if configuration.site.nodes[configuration.head].address is None and address is None:
            raise VcoreError(
                tr(
                    "{name}: vcore.nodes.{head}.address: is required, because this host has no default route "
                    "that tells its address",
                    name=paths.site.name,
                    head=configuration.head,
                )
            )
        kept = (state, resolve(configuration))
        _kept[paths.checkout] = kept
    return kept[1]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def pillar(paths: Paths, minion: str) -> dict[str, Any]:
    """Return the ``vcore`` pillar of one minion: everything but secrets for the head, what it needs for another node.

    The head reads secrets from its store. The pillar of another node has those that it needs on the host itself in
    ``secrets``, by service and name, as far as they have a value.
    """
    everything = resolved(paths)
    data = node_pillar(everything, minion)
    store, needed = Store(paths.secrets), node_secrets(everything, minion)
    for service, name in needed:
        if store.exists(service, name):
            secrets = data.setdefault("secrets", {}).setdefault(service, {})
            secrets[name] = store.read(service, name).decode()
    root = paths.authority / "ca.crt"
    if data and root.is_file():
        data["authority_certificate"] = root.read_text()
    return data


def head_pillar(paths: Paths) -> dict[str, Any]:
    """Return the ``vcore`` pillar of the head, for code that runs on the master itself."""
    return pillar(paths, resolved(paths)["head"]["name"])


def problems(paths: Paths) -> list[str]:
    """Return every problem of the configuration, one line each; an empty list if it is valid."""
    try:
        resolved(paths)
    except SiteError as error:
        return [str(problem) for problem in error.problems]
    except VcoreError as error:
        return [str(error)]
    return []
