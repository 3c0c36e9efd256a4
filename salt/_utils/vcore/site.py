"""The site: what the administrator writes, merged with the catalogue, checked once, and resolved for each node.

The flow is one way. ``pillar/site.sls`` and the flavors that it names are merged (mappings merge, lists replace,
the site wins), validated against the models below and the catalogue, and resolved into plain data. The external
pillar hands each minion its part. Every problem is one line: file, line, key, what is wrong, what to do.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from . import catalogue as catalogue_module
from . import partitions as partitions_module
from . import people as people_module
from . import shares as shares_module
from . import storage_settings as storage_module
from .catalogue import Catalogue
from .documents import Document, Location, Problem, SiteError, parse, shown, unknown_key
from .host import BRIDGE_INTERFACE, Route, read_routes
from .models import AbsolutePath, DataFolder, DomainName, DownloadAddress, Model, NodeName, ServiceName, Size, field
from .names import within_one_another
from .partitions import SlurmSettings
from .people import SSH_KEY, AccountName, AccountSettings, Group, GroupName, Person
from .shares import Instrument, Share, ShareName
from .shares import Route as FileRoute
from .storage_settings import StorageSettings

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


class NetworkSettings(Model):
    """The core's networks; none may overlap a network that the head already has a route to."""

    name: ServiceName | Literal["virtual_core"] = field(
        "virtual_core", description="Name of the overlay network that the services share.", example="genomics"
    )
    subnet: str = field("172.18.0.0/24", description="IPv4 network of the overlay.", example="10.99.0.0/24")
    bridge_subnet: str = field(
        "172.18.1.0/24",
        description="IPv4 network of the bridge through which containers reach the outside.",
        example="10.99.1.0/24",
    )
    ingress_subnet: str = field(
        "172.18.2.0/24",
        description="IPv4 network that swarm keeps for itself; no service of the core uses it.",
        example="10.99.2.0/24",
    )


#: The settings above that name a network.
SUBNETS = ("subnet", "bridge_subnet", "ingress_subnet")


class LoginSettings(Model):
    """Logins of the core's people on a node itself, outside of containers."""

    groups: list[GroupName] = field(
        default_factory=list, description="Groups whose members may log in; none means everybody.", example=["genomics"]
    )


class NodeSettings(Model):
    """One machine of the core, keyed by its minion id."""

    roles: list[Literal["head", "compute"]] = field(
        min_length=1, description="What the machine does.", example=["head"]
    )
    address: str | None = field(
        None,
        description="IPv4 address by which the other nodes reach it; the head finds its own when this is left out.",
        example="10.0.0.1",
    )
    logins: LoginSettings | None = field(
        None,
        description="Lets people of the core log in on this machine; without it nobody of them can.",
        example={"groups": ["genomics"]},
    )


class MemorySettings(Model):
    """Memory of a service, where the catalogue's figure does not fit."""

    limit: Size | None = field(None, description="More than this ends the service's container.", example="2G")
    reservation: Size | None = field(None, description="What is kept free for it on its node.", example="256M")


class SuppliedCertificate(Model):
    """A certificate that the site brings."""

    certificate: AbsolutePath = field(
        description="PEM file on the head, the chain behind the certificate.", example="/etc/ssl/site/ldap.pem"
    )
    key: AbsolutePath = field(
        description="PEM file of its unencrypted private key, on the head, readable by root only.",
        example="/etc/ssl/private/ldap.key",
    )


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


class BuildSettings(Model):
    """Where image builds get their software from; what is left out is picked up from the head itself."""

    source: str = field(
        "mmdebstrap",
        min_length=1,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
        description="mmdebstrap makes the base image from Debian packages; anything else is an image to pull instead.",
        example="registry.example.org/debian:13",
    )
    mirror: DownloadAddress | None = field(
        None, description="Debian mirror.", example="http://debian.example.org/debian"
    )
    python_index: DownloadAddress | None = field(
        None, description="Index of Python packages, instead of PyPI.", example="https://pypi.example.org/simple"
    )
    proxy: DownloadAddress | None = field(None, description="HTTP proxy.", example="http://proxy.example.org:3128")
    ca_bundle: AbsolutePath | None = field(
        None, description="PEM file of the authorities that downloads are checked against.", example="/etc/ssl/site.pem"
    )
    refresh: str = field(
        "",
        pattern=r"^[A-Za-z0-9.-]*$",
        description="Change it, to a date say, and every image is rebuilt with the packages of that day.",
        example="2026-11-22",
    )


class AuthoritySettings(Model):
    """The certificate authority of the core."""

    certificate: AbsolutePath | None = field(
        None,
        description="PEM file of an authority that the site brings, with the chain up to its root.",
        example="/etc/ssl/site/authority.pem",
    )
    key: AbsolutePath | None = field(
        None,
        description="PEM file of its unencrypted private key, readable by root only.",
        example="/etc/ssl/private/authority.key",
    )
    lifetime: int = field(
        3650, ge=365, le=7300, unit="days", description="Validity of an authority made here.", example=7300
    )
    renew_before: int = field(
        30,
        ge=1,
        le=180,
        unit="days",
        description="Service certificates are renewed at least this long before they end.",
        example=60,
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


def _known_keys(model: type[Model], location: Location) -> list[str]:
    """The keys that the mapping at ``location`` of a model may have."""
    kind: Any = model
    for part in location:
        if isinstance(kind, type) and issubclass(kind, Model):
            kind = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        else:
            arguments = [a for a in typing.get_args(kind) if a is not type(None)]
            kind = arguments[-1] if arguments else None
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Model) else []


#: pydantic's messages that say more than an administrator wants, by error type.
MESSAGES = {
    "missing": "is required",
    "int_type": "has to be a whole number",
    "bool_type": "has to be true or false",
    "string_type": "has to be text (put it in quotes)",
    "list_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "model_attributes_type": "has to be a mapping",
}


#: How pydantic begins its other messages, and how ours do.
PHRASES = {
    r"Value error, ": "",
    r"Input should be greater than or equal to ": "has to be at least ",
    r"Input should be less than or equal to ": "has to be at most ",
    r"Input should be ": "has to be ",
    r"(String|List|Dictionary) should have ": "has to have ",
    r"String should match pattern ": "has to match ",
    r" after validation, not \d+": "",
}


def _plain(message: str) -> str:
    for pattern, phrase in PHRASES.items():
        message = re.sub(pattern, phrase, message)
    return message


def _problems(error: ValidationError, model: type[Model], document: Document, prefix: Location = ()) -> list[Problem]:
    """Turn pydantic's errors into lines that name the key and the remedy."""
    found: dict[Location, Problem] = {}
    for entry in error.errors(include_url=False):
        inner = entry["loc"]
        if inner[-1] == "[key]" and not document.has((*prefix, *inner)):
            inner = inner[:-1]  # pydantic's mark for what is wrong with a key itself
        location = (*prefix, *inner)
        if entry["type"] == "extra_forbidden":
            message = unknown_key(str(location[-1]), _known_keys(model, inner[:-1]))
        elif entry["type"] in MESSAGES:
            message = MESSAGES[entry["type"]]
        else:
            message = _plain(entry["msg"])
        quotable = not isinstance(entry["input"], dict | list) and "@" not in str(entry["input"])
        if quotable and entry["type"] not in ("missing", "extra_forbidden"):
            message += f", not {shown(entry['input'])}"
        # A union reports one error for each of its members; the first is the one that was most likely meant.
        found.setdefault(location, document.problem(location, message))
    return list(found.values())


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
        *people_module.problems(site.accounts, site.people, site.groups, document),
        *shares_module.problems(
            site.shares,
            site.routes,
            site.instruments,
            site.people,
            enabled.get(shares_module.SERVICE, False),
            document,
        ),
        *partitions_module.problems(site.slurm, site.groups, document),
        *storage_module.problems(site.storage, site.base_directory, document),
        *_archive_problems(site, document),
    ]
    if problems:
        raise SiteError(problems)
    return Configuration(site, catalogue, enabled)


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


def _node_problems(site: Site, document: Document) -> list[Problem]:
    problems = []
    heads = [name for name, node in site.nodes.items() if "head" in node.roles]
    if len(heads) != 1:
        message = f"exactly one node has the role head, not {len(heads)}" + (f": {', '.join(heads)}" if heads else "")
        problems.append(document.problem(("nodes",), message))
    seen: dict[str, str] = {}
    for name, node in site.nodes.items():
        if len(set(node.roles)) < len(node.roles):
            problems.append(document.problem(("nodes", name, "roles"), "names a role twice"))
        for index, group in enumerate(node.logins.groups if node.logins else ()):
            if group == site.accounts.group:
                message = f"everybody is in {group}, which lists no members: leave groups empty to let everybody in"
                problems.append(document.problem(("nodes", name, "logins", "groups", index), message))
        location = ("nodes", name, "address")
        if node.address is None:
            continue
        try:
            address = str(ipaddress.IPv4Address(node.address))
        except ValueError:
            problems.append(document.problem(location, f"has to be an IPv4 address, not {shown(node.address)}"))
            continue
        if address in seen:
            problems.append(document.problem(location, f"{address} is the address of {seen[address]} already"))
        seen[address] = name
    return problems


def _archive_problems(site: Site, document: Document) -> list[Problem]:
    """Archives of homes hold everything that their owners had: no share and no route may have them among its files."""
    data = f"{site.storage.path or f'{site.base_directory}/{shares_module.SERVICE}'}/data"
    archive = str(site.accounts.archive or f"{data}/archive")
    sections: dict[str, Mapping[str, Share | FileRoute]] = {"shares": site.shares, "routes": site.routes}
    return [
        document.problem((section, name), "homes of removed people are archived in its folder; see accounts.archive")
        for section, entries in sections.items()
        for name, entry in entries.items()
        if within_one_another(f"{data}/{entry.path or name}", archive)
    ]


def _network_problems(site: Site, document: Document) -> list[Problem]:
    problems = []
    networks: dict[str, ipaddress.IPv4Network] = {}
    for setting in SUBNETS:
        location = ("network", setting)
        value = getattr(site.network, setting)
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError as error:
            problems.append(document.problem(location, f"has to be an IPv4 network such as 172.18.0.0/24: {error}"))
            continue
        if network.prefixlen > 28:
            problems.append(document.problem(location, f"{network} is too small; a /28 is the least"))
        for other, taken in networks.items():
            if network.overlaps(taken):
                problems.append(document.problem(location, f"{network} overlaps {other}, which is {taken}"))
        networks[setting] = network
    return problems


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
    if name in (partitions_module.CONTROLLER, partitions_module.ACCOUNTING):
        return [document.problem(location, f"{name} runs on the head only, which asks and tells it")]
    if not catalogue[name].image.push:
        return [document.problem(location, f"{name} runs on the head only: its image is in no registry")]
    if site.nodes[node].address is None:
        message = f"is required, since the service {name} runs there"
        return [document.problem(("nodes", node, "address"), message)]
    return []


def _key_problems(site: Site, document: Document) -> list[Problem]:
    return [
        document.problem(("authorized_keys", index), "has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'")
        for index, key in enumerate(site.authorized_keys)
        if not SSH_KEY.fullmatch(key)
    ]


# ---------------------------------------------------------------------------------------------------------------
# What only the head can tell
# ---------------------------------------------------------------------------------------------------------------


def host_problems(configuration: Configuration, document: Document, routes: Iterable[Route]) -> list[Problem]:
    """What the head's own network and files say against a configuration that is valid in itself."""
    site = configuration.site
    problems = []
    routes = list(routes)
    for setting in SUBNETS:
        network = ipaddress.IPv4Network(getattr(site.network, setting))
        for route in routes:
            if route.network.overlaps(network) and route.interface != BRIDGE_INTERFACE:
                message = f"{network} overlaps {route.network}, which this host reaches by {route.interface}"
                problems.append(document.problem(("network", setting), message))
                break
    if site.build.ca_bundle and not Path(site.build.ca_bundle).is_file():
        problems.append(document.problem(("build", "ca_bundle"), f"{site.build.ca_bundle} does not exist"))
    problems.extend(_certificate_problems(configuration, document))
    problems.extend(partitions_module.host_problems(site.slurm, document))
    return problems


def _certificate_problems(configuration: Configuration, document: Document) -> list[Problem]:
    """Check the certificates that the site brings, where it brings any (reading X.509 costs an import)."""
    site = configuration.site
    authority = site.certificate_authority
    supplied: list[tuple[Location, str, str, bool, list[str] | None]] = []
    if (authority.certificate is None) != (authority.key is None):
        missing = "key" if authority.key is None else "certificate"
        return [document.problem(("certificate_authority",), f"certificate and key go together; {missing} is missing")]
    if authority.certificate and authority.key:
        supplied.append((("certificate_authority",), authority.certificate, authority.key, True, None))
    for name, service in site.services.items():
        for item, pair in service.certificates.items():
            location: Location = ("services", name, "certificates", item)
            names = [f"{name}.{site.site.domain}"]
            supplied.append((location, pair.certificate, pair.key, False, names))
    if not supplied:
        return []
    from . import pki

    return [
        document.problem(location, message)
        for location, certificate, private_key, is_authority, names in supplied
        for message in pki.check_supplied(Path(certificate), Path(private_key), names=names, authority=is_authority)
    ]


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
    configuration = validate(document, catalogue_module.load(services), flavors)
    problems = host_problems(configuration, document, read_routes() if routes is None else routes)
    if problems:
        raise SiteError(problems)
    return configuration, document
