"""The head's image registry: its users, its content, deleting from it, and collecting its garbage.

The API is the OCI distribution specification's (https://github.com/opencontainers/distribution-spec).
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Literal

from ..base.errors import CommandFailed, Refused, Unreachable, VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..host import containers

#: Kinds of manifests that Docker pushes.
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
#: Seconds that the registry may take to answer.
PATIENCE = 10
CONFIGURATION = "/etc/docker/registry/config.yml"
STORAGE = "/var/lib/registry"


def credentials(paths: Paths, user: Literal["push", "pull"], address: str = "") -> dict[str, str]:
    """Return Docker's authentication data for one of the registry's two users: username, password, server address.

    Raises:
        NotFound: the credential is not generated yet.
    """
    password = Store(paths.secrets).read("registry", user).decode().strip()
    return {"username": user, "password": password, "serveraddress": address}


class Client:
    """A client of the registry, over one TLS connection that is checked against the core's authority."""

    def __init__(self, pillar: Mapping[str, Any], paths: Paths) -> None:
        self.address: str = pillar["registry"]
        self.paths = paths
        certificate = pillar["services"].get("registry", {}).get("certificates", {}).get("tls", {})
        self._supplied = bool(certificate.get("supplied"))
        self._connection: http.client.HTTPSConnection | None = None

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            try:
                context = ssl.create_default_context(cafile=str(self.paths.authority / "ca.crt"))
            except (OSError, ssl.SSLError) as error:
                raise Unreachable(
                    tr("the registry cannot be asked without the core's authority: {error}", error=error)
                ) from None
            if self._supplied:
                context.load_default_certs()
            host, _, port = self.address.partition(":")
            self._connection = http.client.HTTPSConnection(host, int(port or 443), timeout=PATIENCE, context=context)
        return self._connection

    def _ask(self, method: str, path: str, user: Literal["push", "pull"]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send one request; return status, headers and body.

        Raises:
            Unreachable: no answer, or there is no certificate or credential yet to ask with.
            Refused: the stored credential is not accepted, as between a rotation and the update that it waits for.
            VcoreError: an answer that is neither success nor "there is no such thing".
        """
        try:
            given = credentials(self.paths, user)
        except VcoreError as error:
            raise Unreachable(str(error)) from None
        token = base64.b64encode(f"{given['username']}:{given['password']}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Accept": MANIFESTS}
        connection = self._connect()
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._connection = None
            raise Unreachable(
                tr("the registry {address} does not answer: {error}", address=self.address, error=error)
            ) from None
        if answer.status >= 500:
            raise Unreachable(
                tr(
                    "the registry {address} answers with HTTP status {status}",
                    address=self.address,
                    status=answer.status,
                )
            )
        if answer.status >= 400 and answer.status != 404:
            refusal = Refused if answer.status == 401 else VcoreError
            raise refusal(f"the registry {self.address} refuses {method} {path}: HTTP status {answer.status}")
        return answer.status, answer.headers, body

    def digest(self, name: str, tag: str) -> str | None:
        """Return the digest of the manifest that has a tag, or None."""
        status, headers, _ = self._ask("HEAD", f"/v2/{name}/manifests/{tag}", "pull")
        return headers["Docker-Content-Digest"] if status == 200 else None

    def content(self) -> list[tuple[str, str]]:
        """Return everything in the registry, as pairs of image name and tag."""
        found = []
        for name in self._pages("/v2/_catalog?n=500", "repositories"):
            found += [(name, tag) for tag in self._pages(f"/v2/{name}/tags/list?n=500", "tags")]
        return found

    def _pages(self, path: str, key: str) -> list[str]:
        entries: list[str] = []
        while path:
            status, headers, body = self._ask("GET", path, "pull")
            if status == 200:
                entries += json.loads(body).get(key) or []
            # Link: </v2/_catalog?last=x&n=500>; rel="next"
            path = (headers.get("Link") or "").partition("<")[2].partition(">")[0]
        return entries

    def delete(self, name: str, tag: str) -> None:
        """Delete the manifest that has a tag; its layers go with the next garbage collection."""
        digest = self.digest(name, tag)
        if digest:
            self._ask("DELETE", f"/v2/{name}/manifests/{digest}", "push")


def collect_garbage(api: Any, service: str = "registry") -> int:
    """Free the layers that no image uses, in the registry's container on this host; return the bytes that this freed.

    Nothing may be pushed while it runs. The registry keeps no cache of what it stores, so it needs no restart.

    Raises:
        VcoreError: the container does not run on this host.
        CommandFailed: the collection failed.
    """
    running = api.containers(filters={"label": f"com.docker.swarm.service.name={service}", "status": "running"})
    if not running:
        raise VcoreError(tr("the registry does not run on this host, so its garbage cannot be collected"))
    container = running[0]["Id"]
    before = _stored(api, container)
    _execute(api, container, ["docker-registry", "garbage-collect", "--delete-untagged", CONFIGURATION])
    return max(0, before - _stored(api, container))


def _stored(api: Any, container: str) -> int:
    return int(_execute(api, container, ["du", "--summarize", "--bytes", STORAGE]).split()[0])


def _execute(api: Any, container: str, command: list[str]) -> str:
    code, answer = containers.execute(container, command, client=api, user="registry")
    output = answer.decode(errors="replace")
    if code != 0:
        last = "\n".join(output.splitlines()[-20:])
        raise CommandFailed(
            tr("{command} failed in the registry's container:\n{last}", command=" ".join(command), last=last)
        )
    return output
