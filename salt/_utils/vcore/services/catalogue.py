"""The catalogue: the project's knowledge of each service, read from ``services/<name>/service.yaml``.

The models below define that file. Everything else follows from it: images, certificates, secrets, configs, volumes, the
swarm specification, status, documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import yaml
from pydantic import Field, StringConstraints, ValidationError, create_model, model_validator

from ..base.errors import NotFound, VcoreError
from ..base.messages import tr
from ..kernel import areas, resolve, site
from ..kernel.models import AbsolutePath, ItemName, Mode, Model, ServiceName, Size, field
from ..kernel.sections import Section, extended
from ..kernel.site import Configuration


@areas.face("keys")
class Keys(Protocol):
    """Keys of service.yaml that an area adds, each at its place, such as ``volumes.*.shared``."""

    KEYS: Sequence[Section[Any]]


@areas.face("keys")
class Derived(Protocol):
    """Defaults of settings that are derived from the site's domain."""

    #: By the name that ``derived:`` uses: the function from domain to value, and its description in the reference.
    DERIVED: Mapping[str, tuple[Callable[[str], str], str]]


@areas.face("traits")
class Traits(Protocol):
    """What services can be given by naming it in ``uses``, by that name."""

    TRAITS: Mapping[str, Trait]


@dataclasses.dataclass(frozen=True)
class Trait:
    """Entries that services which name it in ``uses`` have as if their service.yaml said so.

    They are written as in that file. The templates of its configs lie in ``salt/states/areas/<area>/files``, of the
    area that offers it. ``uses`` are traits without which it is of no use.
    """

    uses: Sequence[str] = ()
    configs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


#: The keys of service.yaml that a trait has entries of.
TRAIT_KEYS = ("configs", "secrets", "volumes")


#: Types that a setting of a service can have, as service.yaml names them.
SETTING_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "size": Size,
    "strings": list[str],
}


class Image(Model):
    """The container image that a service runs."""

    name: ServiceName = field(description="Folder below images/ that it is built from.", example="ldap")
    push: bool = field(
        True,
        description="Whether it goes through the registry; only images that the registry itself needs do not.",
        example=False,
    )


class Port(Model):
    """A port that a service publishes on its node (host mode)."""

    number: int = field(ge=1, le=65535, description="Port on the node.", example=636)
    last: int | None = field(
        None,
        ge=1,
        le=65535,
        description="Last port of a range, whose ports are the same in the container.",
        example=61063,
    )
    target: int | None = field(None, ge=1, le=65535, description="Port in the container, if it differs.", example=8443)
    protocol: Literal["tcp", "udp"] = field("tcp", description="Transport protocol.", example="udp")
    audience: Literal["node", "core", "site"] = field(
        description="Who should be able to reach it: its own node, the nodes of the core, or everybody at the site.",
        example="site",
    )
    description: str = field("", description="What the port is for.", example="LDAP over TLS.")

    @model_validator(mode="after")
    def _consistent(self) -> Port:
        if self.last is not None and (self.last < self.number or self.target is not None):
            raise ValueError(tr("last has to be at least number, and cannot be combined with target"))
        return self


class Volume(Model):
    """A directory below the base directory in which a service keeps its data."""

    path: AbsolutePath = field(description="Path in the container.", example="/var/lib/ldap")
    owner: int = field(
        0, ge=0, description="Numeric user id of the owner; images give their users fixed ids.", example=911
    )
    group: int = field(0, ge=0, description="Numeric group id.", example=911)
    mode: Mode = field("0750", description="Mode of the directory.", example="0700")
    backup: bool = field(True, description="Whether backups include it.", example=False)
    propagation: Literal["rprivate", "rslave"] = field(
        "rprivate",
        description="rslave: mounts that the node makes below it later appear in the container, too.",
        example="rslave",
    )


class Certificate(Model):
    """A leaf certificate of the site's authority, mounted into the service."""

    names: list[str] = field(
        default_factory=list,
        description="Additional DNS names; the names of the service and its node are always included.",
        example=["www.example.org"],
    )
    lifetime: int = field(
        397, ge=1, le=825, unit="days", description="How long a new certificate is valid.", example=90
    )
    key_type: Literal["ec-p256", "rsa-3072"] = field(
        "ec-p256", description="Type of its key; RSA for clients without elliptic curves.", example="rsa-3072"
    )
    client: bool = field(False, description="Whether the service also uses it as a client certificate.", example=True)
    certificate: AbsolutePath = field(
        description="Path of the certificate with its chain, in the container.",
        example="/etc/ldap/tls/certificate.pem",
    )
    key: AbsolutePath = field(description="Path of the private key, in the container.", example="/etc/ldap/tls/key.pem")
    authority: AbsolutePath | None = field(
        None,
        description="Path of the authority's root certificate, if wanted.",
        example="/etc/ldap/tls/authority.pem",
    )
    owner: int = field(0, ge=0, description="Numeric user id that owns the key file.", example=911)
    group: int = field(0, ge=0, description="Numeric group id of the key file.", example=911)
    key_mode: Mode = field("0400", description="Mode of the key file.", example="0440")


class Secret(Model):
    """A secret that is generated once or entered by a person, and mounted into the service."""

    service: ServiceName | None = field(
        None, description="Other service that owns the secret of this name; by default this one.", example="ldap"
    )
    kind: Literal["password", "token", "bytes", "supplied"] = field(
        "password",
        description="password: letters and digits; token: hexadecimal; bytes: raw; supplied: entered by a person.",
        example="token",
    )
    length: int = field(
        32, ge=16, le=4096, description="Characters of a password or token, or bytes of a raw secret.", example=64
    )
    path: AbsolutePath | None = field(
        None,
        description="Path in the container; without one, the secret stays on the head.",
        example="/run/secrets/admin-password",
    )
    owner: int = field(0, ge=0, description="Numeric user id that owns the file.", example=911)
    group: int = field(0, ge=0, description="Numeric group id of the file.", example=911)
    mode: Mode = field("0400", description="Mode of the file.", example="0440")
    description: str = field("", description="What the secret is for.", example="Password of the directory's root DN.")


class Config(Model):
    """A configuration file rendered from a template in ``files/``."""

    template: str = field(
        description="File below the service's files/ folder.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example="config.ldif.j2",
    )
    area: str | None = field(
        None,
        description="Area below whose files/ folder, in salt/states/areas, the template lies instead.",
        example="people",
    )
    path: AbsolutePath = field(description="Where the container sees it.", example="/etc/virtual-core/config.ldif")
    owner: int = field(0, ge=0, description="Numeric user id that owns the file.", example=911)
    group: int = field(0, ge=0, description="Numeric group id of the file.", example=911)
    mode: Mode = field("0444", description="Mode of the file.", example="0440")


class Health(Model):
    """Limits of the health check that tells swarm whether a task works: /sbin/server_health.sh of the base image."""

    interval: int = field(10, ge=1, unit="seconds", description="Time between two checks.", example=30)
    timeout: int = field(10, ge=1, unit="seconds", description="Time that a check may take.", example=20)
    retries: int = field(3, ge=1, description="Failures in a row before the task counts as unhealthy.", example=5)
    start_period: int = field(
        60, ge=0, unit="seconds", description="Time that the service may take to start.", example=120
    )


class Memory(Model):
    """Memory that the service may use, and memory that is reserved for it."""

    limit: Size | None = field(
        description="Memory limit; a container that exceeds it is killed. null: no limit, because what runs in the "
        "container has limits of its own.",
        unit="bytes",
        example="1G",
    )
    reservation: Size | None = field(None, description="Memory that is reserved for it on its node.", example="256M")


class Setting(Model):
    """One setting of a service that a site or a flavor may change."""

    description: str = field(
        min_length=1, description="What it does, in one sentence.", example="Shortest password that people may choose."
    )
    type: Literal["string", "integer", "boolean", "size", "strings"] = field(
        description="Type of its value.", example="integer"
    )
    default: Any = field(None, description="Value if nobody sets it; if left out, there is none.", example=10)
    derived: str | None = field(
        None,
        description="How the value is derived from the site's domain if nobody sets it.",
        example="directory_suffix",
    )
    unit: str | None = field(None, description="Unit of its value.", example="characters")
    example: Any = field(None, description="A value, for the documentation and the wizard.", example=12)
    choices: list[Any] | None = field(
        None, description="The only values that are allowed.", example=["none", "stats", "acl"]
    )
    minimum: int | None = field(None, description="Smallest allowed number, or size in bytes.", example=8)
    maximum: int | None = field(None, description="Largest allowed number, or size in bytes.", example=128)
    pattern: str | None = field(
        None, description="Regular expression that a string has to match.", example="^dc=[a-z0-9-]+(,dc=[a-z0-9-]+)*$"
    )
    advanced: bool = field(
        False, description="Whether the wizard hides it unless asked for advanced settings.", example=True
    )

    def annotation(self) -> Any:
        """Return the type with which pydantic validates a value of this setting."""
        kind: Any = Literal[tuple(self.choices)] if self.choices else SETTING_TYPES[self.type]
        if self.type == "string" and self.pattern and not self.choices:
            kind = Annotated[kind, StringConstraints(pattern=self.pattern)]
        if self.minimum is not None or self.maximum is not None:
            kind = Annotated[kind, Field(ge=self.minimum, le=self.maximum)]
        return kind if self.default is not None else kind | None


class Service(Model):
    """One service of the catalogue: the whole of service.yaml."""

    title: str = field(description="Name for people.", example="LDAP directory")
    description: str = field(
        "", description="What it is for, in one sentence.", example="OpenLDAP with the people and groups of the core."
    )
    enabled: bool = field(True, description="Whether it runs unless a site or flavor says otherwise.", example=False)
    when: dict[str, list[str]] = field(
        default_factory=dict,
        description="Runs only in these modes of sections of the site; replaces `enabled`.",
        example={"slurm": ["managed"]},
    )
    image: Image = field(description="The image that it runs.")
    requires: list[ServiceName] = field(
        default_factory=list,
        description="Services that must be on and start first; not needed where their `when` excludes the mode.",
        example=["registry"],
    )
    after: list[ServiceName] = field(
        default_factory=list,
        description="Services that start first if they are on; it can do without them.",
        example=["slurm-accounting"],
    )
    uses: list[str] = field(
        default_factory=list,
        description="Traits: `configs`, `secrets` and `volumes` that an area offers to every service which needs them; "
        "the service's own entry of the same name wins.",
        example=["people"],
    )
    mode: Literal["replicated", "global"] = field(
        "replicated", description="replicated: one task, on one node; global: one on each node.", example="global"
    )
    placement: Literal["head", "compute"] = field(
        "head", description="Role of the nodes that a global service runs on.", example="compute"
    )
    update: Literal["start-first", "stop-first"] = field(
        "stop-first", description="stop-first for what owns data or a host port.", example="start-first"
    )
    rolled: bool = field(
        False,
        description="Whether salt-run vcore.roll_compute updates a global service node by node, instead of "
        "state.apply, which would end what runs in its containers.",
        example=True,
    )
    network: Literal["overlay", "host"] = field(
        "overlay",
        description="overlay: the services' network, with its ports published; host: the network of its node.",
        example="host",
    )
    ports: dict[ItemName, Port] = field(default_factory=dict, description="Ports that it publishes, by name.")
    volumes: dict[ItemName, Volume] = field(
        default_factory=dict, description="Directories for its data: <base_directory>/<service>/<volume>."
    )
    certificates: dict[ItemName, Certificate] = field(
        default_factory=dict, description="Certificates that it gets, by name."
    )
    secrets: dict[ItemName, Secret] = field(default_factory=dict, description="Secrets that it needs, by name.")
    configs: dict[ItemName, Config] = field(
        default_factory=dict, description="Configuration files that it gets, by name."
    )
    capabilities: list[str] = field(
        default_factory=list,
        description="Linux capabilities beyond Docker's default set.",
        example=["SYS_ADMIN"],
    )
    apparmor: bool = field(
        True,
        description="Whether Docker's AppArmor profile confines its containers on nodes with AppArmor. Docker before "
        "25 always applies it.",
        example=False,
    )
    sysctls: dict[Annotated[str, StringConstraints(pattern=r"^(net|fs|kernel)\.[a-z0-9_.]+$")], str] = field(
        default_factory=dict,
        description="Kernel parameters (sysctl(8)) of its containers that differ from Docker's defaults.",
        example={"net.ipv4.ip_unprivileged_port_start": "1024"},
    )
    health: Health = field(default_factory=Health, description="Limits of the health check.")
    memory: Memory = field(description="Memory limits.")
    stop_grace: int = field(20, ge=1, unit="seconds", description="Time between SIGTERM and SIGKILL.", example=60)
    node_states: bool = field(
        False,
        description="Whether services/<service>/node.sls is applied on each node that it runs on.",
        example=True,
    )
    sections: list[str] = field(
        default_factory=list,
        description="Additional parts of the pillar that the nodes which it runs on can see.",
        example=["shares"],
    )
    settings: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Setting] = field(
        default_factory=dict, description="Settings that a site may change, by name."
    )
    wizard: list[str] = field(
        default_factory=list,
        description="Settings that the wizard for the first configuration asks for.",
        example=["suffix"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Service:
        unknown = sorted(set(self.wizard) - set(self.settings))
        if unknown:
            raise ValueError(tr("wizard names settings that do not exist: {unknown}", unknown=", ".join(unknown)))
        self.settings_model().model_validate({})
        if self.rolled and self.mode != "global":
            raise ValueError(tr("rolled requires mode: global"))
        return self

    def settings_model(self) -> type[Model]:
        """Return the model that validates this service's settings and fills in their defaults."""
        fields: dict[str, Any] = {
            name: (
                setting.annotation(),
                field(
                    setting.default,
                    description=setting.description,
                    unit=setting.unit,
                    example=setting.example,
                    validate_default=True,
                ),
            )
            for name, setting in self.settings.items()
        }
        return create_model("Settings", __base__=Model, **fields)


Catalogue = dict[str, Service]


@cache
def model() -> type[Service]:
    """Return the model of service.yaml: the keys above and those that areas add."""
    return extended(Service, [section for area in areas.asked(Keys).values() for section in area.KEYS])


@cache
def derived() -> dict[str, tuple[Callable[[str], str], str]]:
    """Return everything that ``derived:`` of a setting can name, as :attr:`Derived.DERIVED` has it."""
    return {name: how for area in areas.asked(Derived).values() for name, how in area.DERIVED.items()}


@cache
def traits() -> dict[str, Trait]:
    """Return all that ``uses`` can name; each config says in which area its template lies."""
    return {
        name: dataclasses.replace(
            trait, configs={item: {"area": area, **config} for item, config in trait.configs.items()}
        )
        for area, module in areas.asked(Traits).items()
        for name, trait in module.TRAITS.items()
    }


def load(services: Path) -> Catalogue:
    """Read every ``service.yaml`` below ``services``, by service name, with what its traits give it.

    Raises:
        VcoreError: a file is not valid; the message names file and key.
    """
    catalogue = _read(services)
    for name, service in catalogue.items():
        for key, problem in (*_unknown_names(service), *_foreign_secrets(name, service, catalogue)):
            raise VcoreError(tr("{name}/service.yaml: {key}: {problem}", name=name, key=key, problem=problem))
    return catalogue


def of(configuration: Configuration) -> Catalogue:
    """Return the catalogue of a configuration's checkout; it is read once."""
    return configuration.once(_of)


def _of(configuration: Configuration) -> Catalogue:
    return load(configuration.paths.services)


def _unknown_names(service: Service) -> list[tuple[str, str]]:
    """Return the key and the problem of each mode, pillar part and derivation that a service names and nobody has."""
    found = []
    for section, modes in service.when.items():
        known = _modes(section)
        if not known:
            found.append((f"when.{section}", "the site file has no section of this name that has a mode"))
        found += [(f"when.{section}", f"there is no mode {mode}; there are: {', '.join(known)}")
                  for mode in modes if known and mode not in known]  # fmt: skip
    found += [(f"configs.{item}.area", f"there is no area {config.area}; there are: {', '.join(sorted(areas.names()))}")
              for item, config in service.configs.items() if config.area not in (None, *areas.names())]  # fmt: skip
    parts = [key for area in areas.asked(resolve.Part).values() for key in area.KEYS]
    found += [("sections", f"the pillar has no part {name}") for name in service.sections if name not in parts]
    for name, setting in service.settings.items():
        if setting.derived is not None and setting.derived not in derived():
            found.append(
                (f"settings.{name}.derived", f"nothing is called {setting.derived}; there are: {', '.join(derived())}")
            )
    return found


def _modes(section: str) -> tuple[str, ...]:
    """Return the allowed values of ``mode`` in a section of the site file; none if the section has no mode."""
    known = site.model().model_fields.get(section)
    kind = known.annotation if known else None
    mode = kind.model_fields.get("mode") if isinstance(kind, type) and issubclass(kind, Model) else None
    return get_args(mode.annotation) if mode else ()


def _foreign_secrets(name: str, service: Service, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Return the key and the problem of each secret of another service that a service names and cannot have."""
    found = []
    for secret, entry in service.secrets.items():
        other = entry.service
        if other is None:
            continue
        # The owner's secrets exist in time only if the owner comes first.
        if other not in service.requires and not (other in catalogue and name in catalogue[other].after):
            found.append((f"secrets.{secret}.service", f"{other} is not among `requires`"))
        elif other not in catalogue or secret not in catalogue[other].secrets:
            found.append((f"secrets.{secret}.service", f"{other} has no secret {secret}"))
    return found


def _read(services: Path) -> Catalogue:
    catalogue: Catalogue = {}
    for path in sorted(services.glob("*/service.yaml")):
        try:
            written = yaml.safe_load(path.read_text())
            service = model().model_validate(written)
            catalogue[path.parent.name] = model().model_validate(_with_traits(written, service.uses))
        except NotFound as error:
            raise VcoreError(tr("{name}/service.yaml: uses: {error}", name=path.parent.name, error=error)) from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise VcoreError(
                tr("{name}/service.yaml: {key}: {msg}", name=path.parent.name, key=key, msg=first["msg"])
            ) from None
        except yaml.YAMLError as error:
            raise VcoreError(
                tr("{name}/service.yaml: not valid YAML: {error}", name=path.parent.name, error=error)
            ) from None
    return catalogue


def _with_traits(written: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what is written of a service with the entries of its traits, over which its own win."""
    together = dict(written)
    for key in TRAIT_KEYS:
        together[key] = {}
        for trait in _all_used(names):
            together[key] |= getattr(trait, key)
        together[key] |= written.get(key, {})
    return together


def _all_used(names: Sequence[str]) -> list[Trait]:
    """Return the traits of these names and those that they use, each behind the ones that it uses.

    Raises:
        NotFound: one of them does not exist.
    """
    order: dict[str, Trait] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        if name not in traits():
            raise NotFound(
                tr("there is no trait {name}; there are: {traits}", name=name, traits=", ".join(sorted(traits())))
            )
        seen.add(name)
        for used in traits()[name].uses:
            visit(used)
        order[name] = traits()[name]

    for name in names:
        visit(name)
    return list(order.values())
