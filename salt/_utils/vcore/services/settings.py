"""Services in the site file: the model, and checks against the catalogue."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from ..base.messages import tr
from ..kernel.documents import Location, Problem
from ..kernel.models import (
    Model,
    NodeName,
    ServiceName,
    Size,
    field,
)
from ..kernel.sections import Section
from ..kernel.sentences import problems as sentences
from ..kernel.site import Configuration
from . import catalogue as catalogue_module
from .catalogue import Catalogue


class MemorySettings(Model):
    """Memory of a service, where the catalogue's figures do not fit."""

    limit: Size | None = field(None, description="Memory limit; a container that exceeds it is killed.", example="2G")
    reservation: Size | None = field(None, description="Memory that is reserved for it on its node.", example="256M")


class ServiceSettings(Model):
    """The site's configuration of one service; the keys of ``settings`` depend on the service."""

    enabled: bool | None = field(
        None, description="Whether it runs; by default as the catalogue or a flavor says.", example=False
    )
    node: NodeName | None = field(None, description="Node that it runs on; by default the head.", example="head")
    memory: MemorySettings = field(default_factory=MemorySettings, description="Memory limits.")
    settings: dict[str, Any] = field(
        default_factory=dict, description="Settings of this service; see the list of services."
    )


SERVICES: Section[dict[str, ServiceSettings]] = Section(
    "services", dict[ServiceName, ServiceSettings], description="Changes to the catalogue, by service."
)

SECTIONS = (SERVICES,)


def chosen(configuration: Configuration, name: str) -> ServiceSettings:
    """Return the site's configuration of a service; an empty one if it has none."""
    return SERVICES.of(configuration.site).get(name, ServiceSettings())


def enabled(configuration: Configuration) -> dict[str, bool]:
    """Return for each service of the catalogue whether it is on, in the catalogue's order."""
    return configuration.once(_enabled)


def _enabled(configuration: Configuration) -> dict[str, bool]:
    catalogue = catalogue_module.of(configuration)

    def is_on(name: str) -> bool:
        said = chosen(configuration, name).enabled
        if said is not None:
            return said
        return fits(configuration, name) if catalogue[name].when else catalogue[name].enabled

    return {name: is_on(name) for name in catalogue}


def fits(configuration: Configuration, name: str) -> bool:
    """Return whether a service runs in the site's modes, as one without ``when`` always does."""
    catalogue = catalogue_module.of(configuration)
    when = catalogue[name].when if name in catalogue else {}
    return all(getattr(configuration.site, section).mode in modes for section, modes in when.items())


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of the services that the site configures, and of those that are on without what they need."""
    catalogue, document = catalogue_module.of(configuration), configuration.document
    found = []
    for name, said in SERVICES.of(configuration.site).items():
        location: Location = ("services", name)
        if name not in catalogue:
            near = difflib.get_close_matches(name, list(catalogue), n=1)
            hint = (
                tr("; did you mean {near}?", near=near[0])
                if near
                else tr("; there are: {catalogue}", catalogue=", ".join(catalogue))
            )
            found.append(document.problem(location, tr("unknown service") + hint))
            continue
        if said.node is not None:
            found.extend(_place_problems(configuration, name, said.node))
        model = catalogue[name].settings_model()
        try:
            model.model_validate(said.settings)
        except ValidationError as error:
            found.extend(sentences(error, model, document, (*location, "settings")))
    return found + _missing(configuration, catalogue)


def _missing(configuration: Configuration, catalogue: Catalogue) -> list[Problem]:
    """Return a problem for each service that is off although others require it."""
    on, found = enabled(configuration), []
    needed: dict[str, list[str]] = {}
    for name, service in catalogue.items():
        owners = {secret.service for secret in service.secrets.values() if secret.service is not None}
        for required in sorted({*service.requires, *owners}):
            if on[name] and not on.get(required, False) and fits(configuration, required):
                needed.setdefault(required, []).append(name)
    for required, names in needed.items():
        which, off = tr("service {names} requires", names=names[0]), names[0]
        if len(names) > 1:
            which, off = tr("services {names} require", names=", ".join(names)), "them"
        message = tr(
            "the {which} {required}; switch {required} on, or {off} off", which=which, required=required, off=off
        )
        found.append(configuration.document.problem(("services", required, "enabled"), message))
    return found


def _place_problems(configuration: Configuration, name: str, node: str) -> list[Problem]:
    """Return the problems of the node that the site chose for a service."""
    nodes, document = configuration.site.nodes, configuration.document
    location: Location = ("services", name, "node")
    if node not in nodes:
        return [document.problem(location, tr("no node {node} below vcore.nodes", node=node))]
    if "head" in nodes[node].roles:
        return []
    if not catalogue_module.of(configuration)[name].image.push:
        return [document.problem(location, tr("{name} runs on the head only: its image is in no registry", name=name))]
    if nodes[node].address is None:
        message = tr("is required, since the service {name} runs there", name=name)
        return [document.problem(("nodes", node, "address"), message)]
    return []
