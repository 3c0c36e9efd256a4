"""Sites for tests: from the text of a site file to Salt's pillar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcore.base.paths import Paths
from vcore.host.network import Route
from vcore.kernel import resolve, site
from vcore.nodes.registry import Registry

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = Paths(checkout=CHECKOUT)


@dataclass(frozen=True)
class Elsewhere(Paths):
    """The folders of a core whose catalogue and flavors may be outside its checkout."""

    services: Path = OURS.services  # type: ignore[misc]
    flavors: Path = OURS.flavors  # type: ignore[misc]


def resolved(
    folder: Path,
    text: str,
    *,
    services: Path | None = None,
    head_address: str = "10.0.0.1",
    enrolled: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a site file into ``folder`` and resolve it, on a head with this address that has no other network.

    Flavors are the checkout's, and so is the catalogue unless ``services`` is another one.
    """
    return resolve.resolve(load(folder, text, services=services, head_address=head_address, enrolled=enrolled))


def load(
    folder: Path,
    text: str,
    *,
    services: Path | None = None,
    flavors: Path | None = None,
    head_address: str | None = None,
    routes: Iterable[Route] = (),
    enrolled: dict[str, Any] | None = None,
) -> site.Configuration:
    """Write a site file into ``folder`` and return its configuration; arguments are as for :func:`resolved`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.sls").write_text(text, encoding="utf-8")
    paths = Elsewhere(
        checkout=CHECKOUT,
        configuration=folder,
        state=folder,
        services=services or OURS.services,
        flavors=flavors or OURS.flavors,
    )
    paths.nodes.unlink(missing_ok=True)
    if enrolled:
        Registry(paths.nodes).update(enrolled)
    return site.load(paths, site_file=folder / "site.sls", routes=routes, address=head_address)


def pillar(folder: Path, text: str, minion: str = "head") -> dict[str, Any]:
    """Return ``__pillar__["vcore"]`` of a node of the site."""
    return resolve.node_pillar(resolved(folder, text), minion)
