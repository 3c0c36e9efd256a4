"""The site: the administrator's configuration, merged with its flavors and validated once.

``pillar/site.sls`` and the flavors that it names are merged (mappings merge, lists replace, the site wins) and
validated against the model below, to which each area adds its sections (:class:`Settings`).
:mod:`vcore.kernel.resolve` derives everything else from the result. Every problem is one line: file, line, key, what
is wrong, what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import ValidationError

from ..base.messages import tr
from ..base.paths import Paths
from ..host.network import Route, read_routes
from . import areas, models, sentences
from .documents import Document, Problem, SiteError, parse, shown
from .models import DataFolder, DomainName, Model, NodeName, ServiceName
from .sections import Section, extended

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------------------------
# What an administrator may write
# ---------------------------------------------------------------------------------------------------------------


class Identity(Model):
    """Who this core belongs to."""

    name: ServiceName = models.field("vcore", description="Short name of the core.", example="genomics")
    domain: DomainName = models.field(
        "vcore.test",
        description="DNS domain of the core; services answer as <service>.<domain>, certificates carry these names.",
        example="core.example.org",
    )
    organization: str = models.field(
        "Virtual Core",
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f]+$",
        description="Name of the department, as certificates and web pages show it.",
        example="Department of Genomics",
    )


class NodeSettings(Model):
    """One machine of the core, keyed by its minion id."""

    roles: list[Literal["head", "compute"]] = models.field(
        min_length=1, description="What the machine does.", example=["head"]
    )
    address: str | None = models.field(
        None,
        description="IPv4 address by which the other nodes reach it; the head finds its own when this is left out.",
        example="10.0.0.1",
    )


class Site(Model):
    """The ``vcore:`` mapping of pillar/site.sls."""

    site: Identity = models.field(default_factory=Identity, description="Who this core belongs to.")
    base_directory: DataFolder = models.field(
        "/srv/virtual-core/data",
        description="Folder on each node in which the services keep their data.",
        example="/data/virtual-core",
    )
    nodes: dict[NodeName, NodeSettings] = models.field(
        min_length=1, description="The machines, by minion id.", example={"head": {"roles": ["head"]}}
    )
    flavors: list[ServiceName] = models.field(
        default_factory=list, description="Fields of work whose services are switched on.", example=["bioinformatics"]
    )


@areas.face("settings")
class Settings(Protocol):
    """The sections of the site file that an area adds."""

    SECTIONS: Sequence[Section[Any]]


@areas.face("settings")
class Problems(Protocol):
    """An area's checks of a site that fits the model."""

    def problems(self, configuration: Configuration) -> list[Problem]:
        """Return the problems of the area's sections, and of other sections as far as they concern the area."""


@areas.face("settings")
class HostProblems(Protocol):
    """An area's checks of a valid site against this head."""

    def host_problems(self, configuration: Configuration, routes: Sequence[Route]) -> list[Problem]:
        """Return how a valid site conflicts with the head's own files and network (``routes``)."""


@cache
def model() -> type[Site]:
    """Return the model of the whole site file: the kernel's keys and the sections of all areas."""
    return extended(Site, [section for area in areas.asked(Settings).values() for section in area.SECTIONS])


# ---------------------------------------------------------------------------------------------------------------
# Validation
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """A configuration that fits the model: the site with its flavors merged in, and where it comes from.

    ``address`` is the head's IPv4 address for a site that does not set one; None if this host does not know it.
    """

    site: Site
    document: Document
    paths: Paths
    address: str | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def head(self) -> str:
        """The minion id of the head node."""
        return next(name for name, node in self.site.nodes.items() if "head" in node.roles)

    def once(self, make: Callable[[Configuration], T]) -> T:
        """Return ``make(self)``, which is called only once for this configuration."""
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made


def with_flavors(document: Document, folder: Path) -> Document:
    """Merge the site over its flavors, in the order in which it names them: later ones win, the site wins over all.

    Raises:
        SiteError: a flavor does not exist, or is not a valid configuration file.
    """
    names = document.data.get("flavors")
    available = sorted(path.stem for path in folder.glob("*.sls"))
    merged = document
    # Anything but a list of names is skipped here: the model refuses it with a better message.
    for index, name in reversed(list(enumerate(names if isinstance(names, list) else []))):
        if not isinstance(name, str):
            continue
        if name not in available:
            message = tr(
                "no flavor {name}; there are: {available}", name=shown(name), available=", ".join(available) or "none"
            )
            raise SiteError([document.problem(("flavors", index), message)])
        merged = merged.over(parse((folder / f"{name}.sls").read_text(encoding="utf-8"), f"flavors/{name}.sls"))
    return merged


def validate(document: Document, paths: Paths) -> Configuration:
    """Check a site file against the model, its flavors and the catalogue, with nothing but files of the checkout.

    Raises:
        SiteError: there are problems; it has all of them.
        VcoreError: the catalogue itself is broken.
    """
    document = with_flavors(document, paths.flavors)
    try:
        site = model().model_validate(document.data)
    except ValidationError as error:
        raise SiteError(sentences.problems(error, model(), document)) from None
    except RecursionError:
        raise SiteError([Problem(document.source, "", tr("nested too deeply"))]) from None
    configuration = Configuration(site, document, paths)
    found = [problem for area in areas.asked(Problems).values() for problem in area.problems(configuration)]
    if found:
        raise SiteError(found)
    return configuration


def load(
    paths: Paths, *, site_file: Path | None = None, routes: Iterable[Route] | None = None, address: str | None = None
) -> Configuration:
    """Read, merge and validate a site file, with every check that is possible on this host.

    ``site_file`` defaults to the checkout's, ``routes`` to those of this host; ``address`` is the head's IPv4 address
    for a site that does not set one.

    Raises:
        SiteError: there are problems; it has all of them.
        VcoreError: the catalogue itself is broken.
    """
    path = site_file or paths.site
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = tr("does not exist; copy {name}.example to it, or run bootstrap.sh", name=path.name)
        raise SiteError([Problem(str(path), "", remedy)]) from None
    except UnicodeDecodeError:
        raise SiteError([Problem(path.name, "", tr("not valid YAML: it is not UTF-8 text"))]) from None
    configuration = replace(validate(parse(text, path.name), paths), address=address)
    known = list(read_routes() if routes is None else routes)
    found = [
        problem for area in areas.asked(HostProblems).values() for problem in area.host_problems(configuration, known)
    ]
    if found:
        raise SiteError(found)
    return configuration
