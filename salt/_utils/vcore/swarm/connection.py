"""The connection to a Docker daemon in swarm mode, and what the swarm holds at one moment.

It talks to the daemon that ``DOCKER_HOST`` names, by default the one of this machine. Nothing here asks a public
registry for anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import docker
import requests

from ..base.errors import VcoreError
from ..host.docker_client import connect, docker_errors

#: Seconds for which a snapshot of the swarm serves the next state of the same run.
SNAPSHOT_AGE = 5.0
#: Seconds to wait for a daemon that has just started to take part in its swarm again.
LEADER_WAIT = 30.0


@dataclass(frozen=True)
class Snapshot:
    """What the swarm holds at one moment, each kind listed once; empty where this machine is in no swarm."""

    active: bool = False
    services: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Any, ...] = ()
    nodes: tuple[Any, ...] = ()
    configs: tuple[Any, ...] = ()
    secrets: tuple[Any, ...] = ()
    taken: float = 0.0

    def tasks_of(self, service: Mapping[str, Any]) -> list[Any]:
        """The tasks of one service."""
        return [task for task in self.tasks if task.get("ServiceID") == service["ID"]]


class Connection:
    """One Docker daemon in swarm mode."""

    def __init__(self) -> None:
        self.api = connect()
        self._snapshot: Snapshot | None = None

    def changed(self) -> None:
        """Forget what was read, because something has been written."""
        self._snapshot = None

    def snapshot(self) -> Snapshot:
        """What the swarm holds, at most five seconds old and never older than this client's last write.

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
                    raise VcoreError(f"this machine does not manage its swarm: {error.explanation}") from None
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
        """The daemon's place in a swarm, once it knows it.

        Raises:
            VcoreError: it belongs to somebody else's swarm, or its swarm is locked or broken.
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
                    f"this machine is a worker in another swarm, managed by {managers}; "
                    "if that one is not needed, leave it first: docker swarm leave"
                )
            if local != "pending" or time.monotonic() > deadline:
                raise VcoreError(
                    f"the swarm of this machine is {local}: {state.get('Error') or 'no reason given'}; "
                    "see docker info, and docker swarm unlock or docker swarm leave --force"
                )
            time.sleep(1)

    def _send(self, path: str, spec: Mapping[str, Any], authorization: str | None, **parameters: Any) -> dict[str, Any]:
        """POST a ServiceSpec as it is: docker-py's own functions take a part of it only."""
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
