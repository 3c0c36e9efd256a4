"""The catalogue: what the project knows of each service, read from ``services/<name>/service.yaml``.

The models below are the reference of that file. From them the code derives everything else: images,
certificates, secrets, configs, volumes, the swarm specification, status, documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, create_model, model_validator

from .errors import VcoreError
from .models import AbsolutePath, ItemName, Mode, Model, ServiceName, Size, field

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

    name: ServiceName = field(description="Folder below images/ that it is built from.")
    push: bool = field(
        True, description="Whether it goes through the registry; only what the registry itself needs does not."
    )


class Port(Model):
    """A port that a service publishes on its node (host mode)."""

    number: int = field(ge=1, le=65535, description="Port on the node.")
    target: int | None = field(None, ge=1, le=65535, description="Port in the container, if it is another one.")
    protocol: Literal["tcp", "udp"] = "tcp"
    audience: Literal["node", "core", "site"] = field(description="Who may reach it.")
    description: str = ""


class Volume(Model):
    """A directory below the base directory that a service keeps its data in."""

    path: AbsolutePath = field(description="Where the container sees it.")
    owner: int = field(0, ge=0, description="Numeric user id of the owner; images give their users fixed ids.")
    group: int = field(0, ge=0, description="Numeric group id.")
    mode: Mode = "0750"
    backup: bool = field(True, description="Whether a backup takes it.")


class Certificate(Model):
    """A leaf certificate of the site's authority, mounted into the service."""

    names: list[str] = field(
        default_factory=list, description="Further DNS names; the service's and its node's names are always there."
    )
    lifetime: int = field(397, ge=1, le=825, unit="days", description="How long a new certificate is valid.")
    certificate: AbsolutePath = field(description="Path of the certificate with its chain, in the container.")
    key: AbsolutePath = field(description="Path of the private key, in the container.")
    authority: AbsolutePath | None = field(None, description="Path of the authority's root certificate, if wanted.")
    owner: int = field(0, ge=0, description="Numeric user id that owns the key file.")
    group: int = field(0, ge=0, description="Numeric group id of the key file.")
    key_mode: Mode = "0400"


class Secret(Model):
    """A secret that is generated once, or typed in by a person, and mounted into the service."""

    kind: Literal["password", "token", "bytes", "supplied"] = field(
        "password",
        description="password: letters and digits; token: hexadecimal; bytes: raw; supplied: asked of a person.",
    )
    length: int = field(32, ge=16, le=4096, description="Characters of a password or token, bytes of a raw secret.")
    path: AbsolutePath | None = field(None, description="Where the container sees it; left out, it stays on the head.")
    owner: int = field(0, ge=0)
    group: int = field(0, ge=0)
    mode: Mode = "0400"
    description: str = ""


class Config(Model):
    """A configuration file rendered from a template in ``files/``."""

    template: str = field(
        description="File below the service's files/ folder.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    path: AbsolutePath = field(description="Where the container sees it.")
    owner: int = field(0, ge=0)
    group: int = field(0, ge=0)
    mode: Mode = "0444"


class Database(Model):
    """A database that the service needs, with the role that owns it."""

    name: ItemName
    role: ItemName


class Health(Model):
    """How swarm learns that a task works: /sbin/server_health.sh of the base image, with these limits."""

    interval: int = field(10, ge=1, unit="seconds", description="Time between two checks.")
    timeout: int = field(10, ge=1, unit="seconds", description="Time that one check may take.")
    retries: int = field(3, ge=1, description="Failures in a row before the task counts as unhealthy.")
    start_period: int = field(60, ge=0, unit="seconds", description="Time that the service has to come up.")


class Memory(Model):
    """What the service may use, and what is kept free for it."""

    limit: Size
    reservation: Size | None = None


class Setting(Model):
    """One setting of a service that a site or a flavor may change."""

    description: str
    type: Literal["string", "integer", "boolean", "size", "strings"]
    default: Any = None
    derived: Literal["directory_suffix"] | None = field(
        None, description="How the value follows from the site's domain when nobody sets it."
    )
    unit: str | None = None
    example: Any = None
    choices: list[Any] | None = None
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    advanced: bool = False

    def annotation(self) -> Any:
        """The Python type that validates a value of this setting."""
        kind: Any = Literal[tuple(self.choices)] if self.choices else SETTING_TYPES[self.type]
        if self.type == "string" and self.pattern and not self.choices:
            kind = Annotated[kind, StringConstraints(pattern=self.pattern)]
        if self.minimum is not None or self.maximum is not None:
            kind = Annotated[kind, Field(ge=self.minimum, le=self.maximum)]
        return kind if self.default is not None else kind | None


class Service(Model):
    """One service of the catalogue: the whole of service.yaml."""

    title: str
    description: str = ""
    enabled: bool = field(True, description="Whether it runs unless a site or flavor says otherwise.")
    image: Image
    requires: list[ServiceName] = field(default_factory=list, description="Services that must be on too.")
    mode: Literal["replicated", "global"] = field("replicated", description="One task on one node, or one a node.")
    placement: Literal["head", "compute"] = field("head", description="Role of the nodes that it runs on.")
    update: Literal["start-first", "stop-first"] = field(
        "stop-first", description="stop-first for what owns data or a host port."
    )
    ports: dict[ItemName, Port] = field(default_factory=dict)
    volumes: dict[ItemName, Volume] = field(default_factory=dict)
    certificates: dict[ItemName, Certificate] = field(default_factory=dict)
    secrets: dict[ItemName, Secret] = field(default_factory=dict)
    configs: dict[ItemName, Config] = field(default_factory=dict)
    databases: list[Database] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list, description="Linux capabilities beyond Docker's default set.")
    health: Health = field(default_factory=Health)
    memory: Memory
    stop_grace: int = field(20, ge=1, unit="seconds", description="Time between SIGTERM and SIGKILL.")
    checks: str | None = field(
        None, pattern=r"^[a-z_]+$", description="Module of the brain whose check() vcore.doctor runs for this service."
    )
    monitoring: list[str] = field(default_factory=list, description="What the monitoring service watches here.")
    settings: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Setting] = field(
        default_factory=dict
    )
    wizard: list[str] = field(default_factory=list, description="Settings that the first-configuration wizard asks.")

    @model_validator(mode="after")
    def _consistent(self) -> Service:
        unknown = sorted(set(self.wizard) - set(self.settings))
        if unknown:
            raise ValueError(f"wizard names settings that do not exist: {', '.join(unknown)}")
        self.settings_model().model_validate({})
        return self

    def settings_model(self) -> type[Model]:
        """A model that validates this service's settings and fills in their defaults."""
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


def load(services: Path) -> Catalogue:
    """Read every ``service.yaml`` below ``services``, by service name.

    Raises:
        VcoreError: a file that is not a valid service; the message names file and key.
    """
    catalogue: Catalogue = {}
    for path in sorted(services.glob("*/service.yaml")):
        try:
            catalogue[path.parent.name] = Service.model_validate(yaml.safe_load(path.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise VcoreError(f"{path.parent.name}/service.yaml: {key}: {first['msg']}") from None
        except yaml.YAMLError as error:
            raise VcoreError(f"{path.parent.name}/service.yaml: not valid YAML: {error}") from None
    return catalogue
