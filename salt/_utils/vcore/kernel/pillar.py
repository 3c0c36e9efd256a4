"""The whole way from the files of a checkout to the pillar of a node, with the result kept while nothing changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import VcoreError
from ..base.paths import Paths
from ..base.secrets import Store
from ..host.network import own_address, read_routes
from . import areas, site
from .documents import SiteError
from .resolve import node_pillar, node_secrets, resolve


@areas.face("resolve")
class Sources(Protocol):
    """Files of an area that the pillar is made of."""

    def sources(self, paths: Paths) -> Iterable[Path]:
        """Return them, whether they exist or not."""


@areas.face("resolve")
class Keeps(Protocol):
    """An area whose part of the pillar may have changed although none of its sources has."""

    def keeps(self, resolved: Mapping[str, Any]) -> bool:
        """Return whether a resolved pillar may be used again while its sources are what they were."""


#: The last resolution, with the state of everything that it was made from. A master asks once for each minion.
_kept: dict[Path, tuple[Any, dict[str, Any]]] = {}


def resolved(paths: Paths) -> dict[str, Any]:
    """Return the resolved configuration of this checkout, on this head.

    Raises:
        SiteError: the configuration cannot be used.
        VcoreError: the catalogue is broken, or the head has no address.
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
                f"{paths.site.name}: vcore.nodes.{configuration.head}.address: is required, "
                "since this host has no default route to tell its address from"
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
    """Return the ``vcore`` pillar of one minion: the head's holds everything but secrets, another's what it needs.

    The head reads secrets from its store. Those that another node needs on the host itself are in its ``secrets``, by
    service and name, as far as they have a value.
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
    """Return the ``vcore`` pillar of the head, for what runs on the master itself."""
    return pillar(paths, resolved(paths)["head"]["name"])


def problems(paths: Paths) -> list[str]:
    """Return every problem of the configuration, one line each; none when it can be used."""
    try:
        resolved(paths)
    except SiteError as error:
        return [str(problem) for problem in error.problems]
    except VcoreError as error:
        return [str(error)]
    return []
