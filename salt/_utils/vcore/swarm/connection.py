"""The connection to a Docker daemon in swarm mode, and snapshots of the swarm.

It uses the daemon that ``DOCKER_HOST`` names, by default this machine's. Nothing here contacts a public registry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import docker
import requests

from ..base.errors import VcoreError
from ..base.messages import tr
from ..host.docker_client import connect, docker_errors

#: Seconds for which the next states of a run may use the same snapshot of the swarm.
SNAPSHOT_AGE = 5.0
#: Seconds that a daemon which has just started gets to take part in its swarm again.
LEADER_WAIT = 30.0


@dataclass(frozen=True)
class Snapshot:
    """What the swarm holds at one moment, each kind listed once; empty if this machine is in no swarm."""

    active: bool = False
    services: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Any, ...] = ()
    nodes: tuple[Any, ...] = ()
    configs: tuple[Any, ...] = ()
    secrets: tuple[Any, ...] = ()
    taken: float = 0.0

    def tasks_of(self, service: Mapping[str, Any]) -> list[Any]:
        """Return the tasks of one service."""
        return [task for task in self.tasks if task.get("ServiceID") == service["ID"]]


class Connection:
    """One Docker daemon in swarm mode."""

    def __init__(self) -> None:
        self.api = connect()
        self._snapshot: Snapshot | None = None

    def changed(self) -> None:
        """Discard the snapshot, because something has been written."""
        self._snapshot = None

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the swarm, at most five seconds old and never older than this client's last write.

        Raises:
            VcoreError: this machine is only a worker of a swarm, or its swarm has no leader.
        """
        if self._snapshot is None or time.monotonic() - self._snapshot.taken > SNAPSHOT_AGE:
            with docker_errors():
                self._snapshot = self._read()
        return self._snapshot

    def _read(self) -> Snapshot:
        deadline = time.monotonic() + LEADER_WAIT
        while True:
            try:
                services = self.api.services()
                break
            except docker.errors.APIError as error:
                if error.status_code != 503:
                    raise
                state = self._state()
                if state["LocalNodeState"] == "inactive":
                    return Snapshot(taken=time.monotonic())
                if time.monotonic() > deadline:
                    raise VcoreError(
                        tr("this machine does not manage its swarm: {explanation}", explanation=error.explanation)
                    ) from None
                time.sleep(1)
        return Snapshot(
            active=True,
            services={service["Spec"]["Name"]: service for service in services},
            tasks=tuple(self.api.tasks()),
            nodes=tuple(self.api.nodes()),
            configs=tuple(self.api.configs()),
            secrets=tuple(self.api.secrets()),
            taken=time.monotonic(),
        )

    def _state(self) -> dict[str, Any]:
        """Return the daemon's state in a swarm (``Swarm`` of ``docker info``), once it is known.

        Raises:
            VcoreError: the daemon is a worker in another swarm, or its swarm is locked or broken.
        """
        deadline = time.monotonic() + LEADER_WAIT
        while True:
            state: dict[str, Any] = self.api.info()["Swarm"]
            local = state["LocalNodeState"]
            if local == "inactive" or (local == "active" and state["ControlAvailable"]):
                return state
            if local == "active":
                managers = ", ".join(manager["Addr"] for manager in state.get("RemoteManagers") or [])
                raise VcoreError(
                    tr(
                        "this machine is a worker in another swarm, managed by {managers}; if nothing needs that "
                        "swarm, leave it first: docker swarm leave",
                        managers=managers,
                    )
                )
            if local != "pending" or time.monotonic() > deadline:
                raise VcoreError(
                    tr(
                        "the swarm of this machine is {local}: {get}; see docker info, and docker swarm unlock "
                        "or docker swarm leave --force",
                        local=local,
                        get=state.get("Error") or "no reason given",
                    )
                )
            time.sleep(1)

    def _send(self, path: str, spec: Mapping[str, Any], authorization: str | None, **parameters: Any) -> dict[str, Any]:
        """POST a ServiceSpec unchanged, because docker-py's own functions support only a part of it."""
        response = self.api.post(
            f"{self.api.base_url}/v{self.api.api_version}{path}",
            json=spec,
            params=parameters,
            headers={"X-Registry-Auth": authorization} if authorization else {},
            timeout=self.api.timeout,
        )
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            raise docker.errors.create_api_error_from_http_exception(error) from None
        return dict(response.json())
