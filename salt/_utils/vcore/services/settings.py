"""What a site may write about services, and whether the catalogue allows it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..certificates.settings import SuppliedCertificate
from ..kernel.documents import Document, Location, Problem, unknown_key
from ..kernel.models import (
    Model,
    NodeName,
    Size,
    field,
)
from ..kernel.sentences import _problems
from ..slurm import names as slurm_names
from .catalogue import Catalogue

if TYPE_CHECKING:
    from ..kernel.site import Site


class MemorySettings(Model):
    """Memory of a service, where the catalogue's figure does not fit."""

    limit: Size | None = field(None, description="More than this ends the service's container.", example="2G")
    reservation: Size | None = field(None, description="What is kept free for it on its node.", example="256M")


class ServiceSettings(Model):
    """What a site says of one service; the keys of ``settings`` are each service's own."""

    enabled: bool | None = field(
        None, description="Whether it runs; by default what the catalogue or a flavor says.", example=False
    )
    node: NodeName | None = field(None, description="Node that it runs on; by default the head.", example="head")
    memory: MemorySettings = field(default_factory=MemorySettings, description="Memory limits.")
    certificates: dict[str, SuppliedCertificate] = field(
        default_factory=dict, description="Certificates that the site brings, by the name that the service gives them."
    )
    settings: dict[str, Any] = field(
        default_factory=dict, description="Settings of this service; each service has its own."
    )


def _enabled(site: Site, catalogue: Catalogue, name: str) -> bool:
    chosen = site.services[name].enabled if name in site.services else None
    if chosen is not None:
        return chosen
    if catalogue[name].when:
        return fits(site, catalogue, name)
    return catalogue[name].enabled


def fits(site: Site, catalogue: Catalogue, name: str) -> bool:
    """Whether the site's modes are those that a service runs in; for a service that names none, they always are."""
    when = catalogue[name].when if name in catalogue else {}
    return all(getattr(site, section).mode in modes for section, modes in when.items())


def _service_problems(
    site: Site, catalogue: Catalogue, enabled: Mapping[str, bool], document: Document
) -> list[Problem]:
    problems = []
    for name, chosen in site.services.items():
        location: Location = ("services", name)
        if name not in catalogue:
            near = difflib.get_close_matches(name, list(catalogue), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(catalogue)}"
            problems.append(document.problem(location, "unknown service" + hint))
            continue
        if chosen.node is not None:
            problems.extend(_place_problems(name, chosen.node, site, catalogue, document))
        for certificate in chosen.certificates:
            if certificate not in catalogue[name].certificates:
                message = unknown_key(certificate, catalogue[name].certificates)
                problems.append(document.problem((*location, "certificates", certificate), message))
        model = catalogue[name].settings_model()
        try:
            model.model_validate(chosen.settings)
        except ValidationError as error:
            problems.extend(_problems(error, model, document, (*location, "settings")))
    needed: dict[str, list[str]] = {}
    for name, service in catalogue.items():
        owners = {secret.service for secret in service.secrets.values() if secret.service is not None}
        for required in sorted({*service.requires, *owners}):
            if enabled[name] and not enabled.get(required, False) and fits(site, catalogue, required):
                needed.setdefault(required, []).append(name)
    for required, names in needed.items():
        which, off = f"service {names[0]} requires", names[0]
        if len(names) > 1:
            which, off = f"services {', '.join(names)} require", "them"
        message = f"the {which} {required}; switch {required} on, or {off} off"
        problems.append(document.problem(("services", required, "enabled"), message))
    return problems


def _place_problems(name: str, node: str, site: Site, catalogue: Catalogue, document: Document) -> list[Problem]:
    """What is wrong with the node that a service is put on."""
    location: Location = ("services", name, "node")
    if node not in site.nodes:
        return [document.problem(location, f"no node {node} below vcore.nodes")]
    if "head" in site.nodes[node].roles:
        return []
    if name in (slurm_names.CONTROLLER, slurm_names.ACCOUNTING):
        return [document.problem(location, f"{name} runs on the head only, which asks and tells it")]
    if not catalogue[name].image.push:
        return [document.problem(location, f"{name} runs on the head only: its image is in no registry")]
    if site.nodes[node].address is None:
        message = f"is required, since the service {name} runs there"
        return [document.problem(("nodes", node, "address"), message)]
    return []
