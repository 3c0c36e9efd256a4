"""A service as it should be on the swarm: its specification, and the files that swarm gives to its containers.

:mod:`vcore.swarm.specification` makes the specification. This module reads its inputs: the resolved pillar, the
rendered configs, the authority, the secret store and the records of built images.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import NotFound, VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..images import builder, registry
from ..kernel import areas
from ..services import templates
from ..services.placement import ServicePart
from . import specification

#: Path of root's ssh keys in a container; its sshd runs only if the file is there.
AUTHORIZED_KEYS = "/etc/virtual-core/authorized_keys"


@areas.face("service")
class Contents(Protocol):
    """The content of configs that an area adds to services without a template."""

    def content(self, entry: Mapping[str, Any]) -> bytes | None:
        """Return the content of a resolved config; None if it is not this area's."""


@dataclass(frozen=True)
class Wanted:
    """A service as it should be: its ServiceSpec, and the files that swarm gives to it."""

    spec: dict[str, Any]
    files: tuple[specification.File, ...]

    @property
    def configs(self) -> dict[str, bytes | None]:
        """Contents of the configs, by their names in swarm."""
        return {file.name: file.data for file in self.files if not file.secret}


def wanted(name: str, *, pillar: Mapping[str, Any], paths: Paths, plan: bool = False) -> Wanted:
    """Return the service ``name`` as it follows from the pillar, the authority, the secret store and the built images.

    With ``plan``, things that earlier states of the same run would make need not exist: the tag of an image follows
    from its sources, and a file that is missing or due for renewal is unknown, so that it shows as new or changed.

    Raises:
        VcoreError: a template has an error, or something that has to exist does not.
    """
    service = pillar["services"].get(name)
    if service is None or "image" not in service:
        raise VcoreError(tr("the site has no service {name} on this node; see salt-run vcore.show", name=name))
    if not plan:
        Store(paths.secrets).ensure_key()  # nothing else makes it for a service with a certificate but no secrets
    files = tuple(_files(service, pillar, paths, _Source(service, pillar, paths, plan)))
    specification.check_files(files)
    spec = specification.service_spec(
        service,
        pillar=pillar,
        image=builder.reference(service["image"]["name"], pillar, paths, built=not plan),
        configs=[file for file in files if not file.secret],
        secrets=[file for file in files if file.secret],
        credential=_credential(service, paths),
    )
    return Wanted(spec, files)


def _credential(service: ServicePart, paths: Paths) -> str | None:
    """The fingerprint of the credential that nodes pull the image with; None for an image that is local."""
    store = Store(paths.secrets)
    if not service["image"]["push"] or not store.exists("registry", "pull"):
        return None
    return store.fingerprint(store.read("registry", "pull"))


class _Source:
    """Reads the files of a service; in a plan, files that applying would make anew count as unknown."""

    def __init__(self, service: ServicePart, pillar: Mapping[str, Any], paths: Paths, plan: bool) -> None:
        self.plan = plan
        self.anew: set[Path] = set()
        if plan and service["certificates"]:
            from ..certificates import x509  # only plans need these modules, which load slowly
            from ..certificates.authority import Authority

            authority = Authority(paths.authority, x509.policy(pillar))
            if "authority" in authority.plan():
                self.anew.add(paths.authority / "ca.crt")
            leaves = [x509.wanted(pillar, f"{service['name']}/{item}") for item in service["certificates"]]
            for name in authority.plan_leaves(leaves):
                self.anew |= {paths.authority / "issued" / f"{name}{ending}" for ending in (".crt", ".key")}

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file; None if a plan cannot know it yet.

        Raises:
            NotFound: the file is missing, and this is no plan.
        """
        if path in self.anew or (self.plan and not path.exists()):
            return None
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(tr("{path} does not exist yet; apply the states on the head", path=path)) from None


def _files(
    service: ServicePart, pillar: Mapping[str, Any], paths: Paths, source: _Source
) -> Iterator[specification.File]:
    """Yield the files that swarm gives to the service: rendered configs, root's ssh keys, certificates, secrets."""
    name, store, root = service["name"], Store(paths.secrets), paths.authority / "ca.crt"

    def file(
        item: str, data: bytes | None, *, secret: bool, path: str, mode: str, owner: int, group: int
    ) -> specification.File:
        if data is None:
            fingerprint = specification.UNKNOWN
        elif secret:
            fingerprint = store.fingerprint(specification.content(name, item, data)) or specification.UNKNOWN
        else:
            fingerprint = specification.config_fingerprint(name, item, data)
        return specification.File(name, item, secret, path, owner, group, mode, fingerprint, data)

    def mount(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: entry[key] for key in ("path", "owner", "group", "mode")}

    if service["configs"]:
        names = templates.context(service, pillar, root.read_text() if root.exists() else "")
        for item, config in service["configs"].items():
            given = (area.content(config) for area in areas.asked(Contents).values())
            data = next((content for content in given if content is not None), None)
            if data is None:
                data = templates.render(templates.folder(name, config, paths), config["template"], names)
            yield file(item, data, secret=False, **mount(config))
    # On the network of its node, root's sshd would need the same port as the node's own.
    if pillar["authorized_keys"] and service["network"] != "host":
        keys = "".join(f"{key}\n" for key in pillar["authorized_keys"]).encode()
        yield file(
            specification.AUTHORIZED_KEYS, keys, secret=False, path=AUTHORIZED_KEYS, owner=0, group=0, mode="0444"
        )
    for item, entry in service["certificates"].items():
        rights = {"owner": entry["owner"], "group": entry["group"]}
        leaf = paths.authority / "issued" / name
        certificate, key = source.read(leaf / f"{item}.crt"), source.read(leaf / f"{item}.key")
        yield file(f"{item}_crt", certificate, secret=False, path=entry["certificate"], mode="0444", **rights)
        yield file(f"{item}_key", key, secret=True, path=entry["key"], mode=entry["key_mode"], **rights)
        if entry["authority"]:
            yield file(f"{item}_ca", source.read(root), secret=False, path=entry["authority"], mode="0444", **rights)
    for item, entry in service["secrets"].items():
        if entry["path"]:
            # A key that the site brings itself is not in the store.
            place = Path(entry["file"]) if "file" in entry else store.path(entry["service"] or name, item)
            yield file(item, source.read(place), secret=True, **mount(entry))


def registry_authorization(image: str, pillar: Mapping[str, Any], paths: Paths) -> str | None:
    """Return X-Registry-Auth for an image that nodes pull from the core's registry; None for a local image.

    Source: Docker Engine API, "Authentication": base64url of a JSON object.
    """
    if "@" not in image or not image.startswith(f"{pillar['registry']}/"):
        return None
    credentials = registry.credentials(paths, "pull", pillar["registry"])
    return base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
