"""Sites of tests: from the text of a site file to what Salt's pillar holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vcore.base.paths import Paths
from vcore.kernel import resolve, site
from vcore.slurm import existing

CHECKOUT = Path(__file__).resolve().parents[2]


def resolved(
    folder: Path,
    text: str,
    *,
    services: Path | None = None,
    head_address: str = "10.0.0.1",
    enrolled: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a site file into ``folder``; what follows from it, on a head of this address that has no other network.

    Flavors are the checkout's; so is the catalogue, unless ``services`` is another one.
    """
    path = folder / "site.sls"
    path.write_text(text, encoding="utf-8")
    ours = Paths(checkout=CHECKOUT)
    configuration, _ = site.load(path, services=services or ours.services, flavors=ours.flavors, routes=[])
    own_slurm = existing.read(configuration.site.slurm.model_dump(mode="json"))
    return resolve.resolve(configuration, head_address=head_address, enrolled=enrolled, own_slurm=own_slurm)


def pillar(folder: Path, text: str, minion: str = "head") -> dict[str, Any]:
    """``__pillar__["vcore"]`` of a node of the site."""
    return resolve.node_pillar(resolved(folder, text), minion)
