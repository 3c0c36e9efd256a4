"""The batch queue of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from . import names


def _slurm(
    configuration: Configuration, nodes: Mapping[str, Any], own_slurm: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The batch queue, with what its clients are told of its controllers (``controller``, HOST:PORT with commas between
    several) and what a site's own says (``existing``); None each where there is none.
    """
    site, name = configuration.site, names.CONTROLLER
    controller = None
    if own_slurm is not None:
        controller = ",".join(own_slurm["controllers"])
    elif configuration.enabled.get(name):
        place = site.services[name].node if name in site.services else None
        port = configuration.catalogue[name].ports["slurmctld"].number
        controller = f"{nodes[place or configuration.head]['address']}:{port}"
    return {**site.slurm.model_dump(mode="json"), "controller": controller, "existing": own_slurm}
