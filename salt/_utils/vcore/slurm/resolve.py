"""The batch queue of a resolved site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernel.site import Configuration
from ..services import catalogue, settings
from . import existing, names
from .settings import SLURM

KEYS = ("slurm",)


def resolve(configuration: Configuration, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``slurm``: the section, with two keys that are None where there is no SLURM, or no existing one.

    ``controller`` is what clients are told of the controllers: HOST:PORT, separated by commas. ``existing`` is what the
    files of an existing SLURM say.
    """
    slurm, name = SLURM.of(configuration.site), names.CONTROLLER
    theirs, controller = existing.read(slurm), None
    if theirs is not None:
        controller = ",".join(theirs["controllers"])
    elif settings.enabled(configuration).get(name):
        place = settings.chosen(configuration, name).node or configuration.head
        port = catalogue.of(configuration)[name].ports["slurmctld"].number
        controller = f"{parts['nodes'][place]['address']}:{port}"
    return {"slurm": {**slurm.model_dump(mode="json"), "controller": controller, "existing": theirs}}


def keeps(resolved: Mapping[str, Any]) -> bool:
    """Return whether the result can be kept: not with an existing SLURM, whose files may change at any time."""
    return not resolved["slurm"]["existing"]
