"""The site: what the administrator writes, merged with the catalogue, checked once, and resolved for each node.

The flow is one way. ``pillar/site.sls`` and the flavors that it names are merged (mappings merge, lists replace,
the site wins), validated against the models below and the catalogue, and resolved into plain data. The external
pillar hands each minion its part. Every problem is one line: file, line, key, what is wrong, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..certificates.settings import AuthoritySettings
from ..file_router import settings as file_router_settings
from ..file_router.settings import Instrument, Share, ShareName, _archive_problems
from ..file_router.settings import Route as FileRoute
from ..host.network import Route, read_routes
from ..images.settings import BuildSettings
from ..nodes.settings import NodeSettings, _node_problems
from ..people import settings as people_settings
from ..people.settings import AccountName, AccountSettings, Group, Person
from ..services import catalogue as services_catalogue
from ..services.catalogue import Catalogue
from ..services.settings import ServiceSettings, _enabled, _service_problems
from ..slurm import settings as slurm_settings
from ..slurm.settings import SlurmSettings
from ..storage import settings as storage_settings
from ..storage.settings import StorageSettings
from ..swarm.settings import NetworkSettings, _key_problems, _network_problems, host_problems
from .documents import Document, Problem, SiteError, parse, shown
from .models import (
    DataFolder,
    DomainName,
    Model,
    NodeName,
    ServiceName,
    field,
)
from .sentences import _problems

# ---------------------------------------------------------------------------------------------------------------
# What an administrator may write
# ---------------------------------------------------------------------------------------------------------------


class Identity(Model):
    """Who this core belongs to."""

    name: ServiceName = field("vcore", description="Short name of the core.", example="genomics")
    domain: DomainName = field(
        "vcore.test",
        description="DNS domain of the core; services answer as <service>.<domain>, certificates carry these names.",
        example="core.example.org",
    )
    organization: str = field(
        "Virtual Core",
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f]+$",
        description="Name of the department, as certificates and web pages show it.",
        example="Department of Genomics",
    )


class Site(Model):
    """The ``vcore:`` mapping of pillar/site.sls."""

    site: Identity = field(default_factory=Identity, description="Who this core belongs to.")
    base_directory: DataFolder = field(
        "/srv/virtual-core/data",
        description="Folder on each node that the services keep their data in.",
        example="/data/virtual-core",
    )
    network: NetworkSettings = field(default_factory=NetworkSettings, description="The core's networks.")
    nodes: dict[NodeName, NodeSettings] = field(
        min_length=1, description="The machines, by minion id.", example={"head": {"roles": ["head"]}}
    )
    flavors: list[ServiceName] = field(
        default_factory=list, description="Fields of work whose services are switched on.", example=["bioinformatics"]
    )
    services: dict[ServiceName, ServiceSettings] = field(
        default_factory=dict, description="What differs from the catalogue, by service."
    )
    accounts: AccountSettings = field(default_factory=AccountSettings, description="What all accounts share.")
    groups: dict[AccountName, Group] = field(
        default_factory=dict, description="Groups that the site file keeps; more can be in the directory."
    )
    people: dict[AccountName, Person] = field(
        default_factory=dict, description="People whom the site file keeps; more can be in the directory."
    )
    shares: dict[ShareName, Share] = field(
        default_factory=dict, description="What the file router serves, beside the homes."
    )
    routes: dict[ShareName, FileRoute] = field(
        default_factory=dict, description="Files of other file servers that appear in the file router's data."
    )
    instruments: dict[AccountName, Instrument] = field(
        default_factory=dict, description="Machines that write their data to a share, and can do nothing else."
    )
    slurm: SlurmSettings = field(default_factory=SlurmSettings, description="The batch queue.")
    storage: StorageSettings = field(
        default_factory=StorageSettings, description="Where the nodes have homes and shared data from."
    )
    authorized_keys: list[str] = field(
        default_factory=list,
        description="Public ssh keys of the administrators who may log in to the containers as root; none, no sshd.",
        example=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampl ada"],
    )
    build: BuildSettings = field(default_factory=BuildSettings, description="Where image builds get software from.")
    certificate_authority: AuthoritySettings = field(
        default_factory=AuthoritySettings, description="The certificate authority."
    )


# ---------------------------------------------------------------------------------------------------------------
# Validation
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """A valid configuration: the site with its flavors merged in, and the catalogue that it speaks of."""

    site: Site
    catalogue: Catalogue
    enabled: dict[str, bool]

    @property
    def head(self) -> str:
        """The minion id of the head node."""
        return next(name for name, node in self.site.nodes.items() if "head" in node.roles)


def with_flavors(document: Document, folder: Path) -> Document:
    """The site laid over its flavors, in the order that it names them: later ones win, the site wins over all.

    Raises:
        SiteError: a flavor does not exist, or is no configuration.
    """
    names = document.data.get("flavors")
    available = sorted(path.stem for path in folder.glob("*.sls"))
    merged = document
    # What is no list of names the model will refuse in better words.
    for index, name in reversed(list(enumerate(names if isinstance(names, list) else []))):
        if not isinstance(name, str):
            continue
        if name not in available:
            message = f"no flavor {shown(name)}; there are: {', '.join(available) or 'none'}"
            raise SiteError([document.problem(("flavors", index), message)])
        merged = merged.over(parse((folder / f"{name}.sls").read_text(encoding="utf-8"), f"flavors/{name}.sls"))
    return merged


def validate(document: Document, catalogue: Catalogue, flavors: Path) -> Configuration:
    """Check a site file against the models, its flavors and the catalogue; touches nothing but the flavor files.

    Raises:
        SiteError: with every problem that was found.
    """
    document = with_flavors(document, flavors)
    try:
        site = Site.model_validate(document.data)
    except ValidationError as error:
        raise SiteError(_problems(error, Site, document)) from None
    except RecursionError:
        raise SiteError([Problem(document.source, "", "nested too deeply")]) from None
    enabled = {name: _enabled(site, catalogue, name) for name in catalogue}
    problems = [
        *_node_problems(site, document),
        *_network_problems(site, document),
        *_service_problems(site, catalogue, enabled, document),
        *_key_problems(site, document),
        *people_settings.problems(site.accounts, site.people, site.groups, document),
        *file_router_settings.problems(
            site.shares,
            site.routes,
            site.instruments,
            site.people,
            enabled.get(file_router_settings.SERVICE, False),
            document,
        ),
        *slurm_settings.problems(site.slurm, site.groups, document),
        *storage_settings.problems(site.storage, site.base_directory, document),
        *_archive_problems(site, document),
    ]
    if problems:
        raise SiteError(problems)
    return Configuration(site, catalogue, enabled)


# ---------------------------------------------------------------------------------------------------------------
# What only the head can tell
# ---------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------
# The whole way, for those who have a checkout
# ---------------------------------------------------------------------------------------------------------------


def load(
    site_file: Path, *, services: Path, flavors: Path, routes: Iterable[Route] | None = None
) -> tuple[Configuration, Document]:
    """Read, merge and validate a site file with everything that can be checked on this host.

    Raises:
        SiteError: with every problem that was found.
        VcoreError: the catalogue itself is broken.
    """
    source = site_file.name
    try:
        text = site_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = f"does not exist; copy {site_file.name}.example to it, or run bootstrap.sh"
        raise SiteError([Problem(str(site_file), "", remedy)]) from None
    except UnicodeDecodeError:
        raise SiteError([Problem(source, "", "not valid YAML: it is not UTF-8 text")]) from None
    document = parse(text, source)
    configuration = validate(document, services_catalogue.load(services), flavors)
    problems = host_problems(configuration, document, read_routes() if routes is None else routes)
    if problems:
        raise SiteError(problems)
    return configuration, document
