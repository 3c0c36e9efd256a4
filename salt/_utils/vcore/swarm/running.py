"""Services on the swarm: compares them with what runs, creates, updates and removes them, and waits for them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import docker

from ..base import names as base_names
from ..base import progress
from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..host.docker_client import docker_errors
from . import specification
from .connection import Connection, Snapshot
from .deployment import Wanted

LOG_LINES = 15


@dataclass(frozen=True)
class ServicePlan:
    """What :meth:`Services.apply` has to do for one service; nothing if ``changes`` is empty."""

    wanted: Wanted
    current: Mapping[str, Any] | None
    changes: dict[str, Any]
    different: bool


class Services(Connection):
    """The services of the core on one swarm."""

    def plan(self, want: Wanted) -> ServicePlan:
        """Compare a service with what runs.

        The changes are those of its specification, and ``service`` if it is new or does not run well at the moment.

        Raises:
            VcoreError: a service of this name is not the core's.
        """
        snapshot, name = self.snapshot(), want.spec["Name"]
        current = snapshot.services.get(name)
        if current is not None and base_names.SERVICE_LABEL not in (current["Spec"].get("Labels") or {}):
            raise VcoreError(
                tr(
                    "a service {name} runs in this swarm that Virtual Core did not create; remove it (docker "
                    "service rm {name}) or switch {name} off in the site file",
                    name=name,
                )
            )
        old_configs = {
            config["Spec"]["Name"]: base64.b64decode(config["Spec"].get("Data") or "") for config in snapshot.configs
        }
        difference = specification.diff(specification.live_spec(current), want.spec, old_configs, want.configs)
        changes: dict[str, Any] = {}
        if current is None:
            changes["service"] = {"old": None, "new": "running"}
        else:
            expected = specification.expected_tasks(want.spec, snapshot.nodes)
            if specification.verdict(current, snapshot.tasks_of(current), expected).state != "settled":
                changes["service"] = {"old": "not running", "new": "running"}
        return ServicePlan(want, current, {**changes, **difference}, bool(difference))

    def apply(self, plan: ServicePlan, *, paths: Paths, authorization: str | None, timeout: float) -> None:
        """Create or update the service, wait until it runs well, and remove configs and secrets that it needs no more.

        ``authorization`` is the value of X-Registry-Auth (:func:`vcore.swarm.deployment.registry_authorization`),
        ``timeout`` is in seconds.

        Raises:
            VcoreError: it does not run well; swarm has gone back to the previous specification if there was one. The
                message has the last lines of the failed container's log.
        """
        name = plan.wanted.spec["Name"]
        if not self.snapshot().active:
            raise VcoreError(tr("this machine is in no swarm yet; apply vcore_swarm.initialised first"))

        def tell(message: str) -> None:
            progress.report(paths, f"service {name}", message)

        seen = {task["ID"] for task in self.snapshot().tasks if task["Status"]["State"] in specification.ENDED}
        with docker_errors():
            if plan.different:
                tell(tr("is created") if plan.current is None else tr("is updated"))
                spec = self._bound(plan.wanted)
                if plan.current is None:
                    identifier = self._send("/services/create", spec, authorization)["ID"]
                else:
                    identifier = plan.current["ID"]
                    version = self.api.inspect_service(identifier)["Version"]["Index"]
                    self._send(f"/services/{identifier}/update", spec, authorization, version=version)
            else:
                assert plan.current is not None
                identifier = plan.current["ID"]
            self.changed()
            self._wait(plan, identifier, seen, timeout, tell)
        self.prune(name)

    def _bound(self, want: Wanted) -> dict[str, Any]:
        """Create the missing configs and secrets, and return the specification with the ids of all of them."""
        snapshot = self.snapshot()
        ids = {
            kind: {entry["Spec"]["Name"]: entry["ID"] for entry in entries}
            for kind, entries in ((False, snapshot.configs), (True, snapshot.secrets))
        }
        for file in want.files:
            if file.name not in ids[file.secret]:
                assert file.data is not None
                create = self.api.create_secret if file.secret else self.api.create_config
                ids[file.secret][file.name] = create(file.name, file.data, labels=file.labels)["ID"]
                self.changed()
        return specification.with_ids(want.spec, ids[False], ids[True])

    def _wait(
        self, plan: ServicePlan, identifier: str, seen: Collection[str], timeout: float, tell: Callable[[str], None]
    ) -> None:
        name, updating = plan.wanted.spec["Name"], plan.different and plan.current is not None
        attempt = self.api.inspect_service(identifier)["Spec"]["TaskTemplate"] if updating else None
        began, said, failed_task, details = time.monotonic(), "", "", ""
        ended: dict[str, Any] = {}
        while True:
            service = self.api.inspect_service(identifier)
            tasks = self.api.tasks(filters={"service": identifier})
            # Swarm forgets all but the last failed tasks, but they still count.
            ended |= {task["ID"]: task for task in tasks if task["Status"]["State"] in specification.ENDED}
            tasks += [task for key, task in ended.items() if key not in {task["ID"] for task in tasks}]
            expected = specification.expected_tasks(service["Spec"], self.api.nodes())
            verdict = specification.verdict(service, tasks, expected, seen=seen, attempt=attempt)
            elapsed = time.monotonic() - began
            if verdict.task and verdict.task["ID"] != failed_task:
                # Read the log at once: swarm soon removes the container of a failed task.
                failed_task = verdict.task["ID"]
                details = self._details(verdict.task, plan.wanted)
            # Swarm takes a moment to notice an update; until then, its state is about the one before.
            if verdict.state == "settled" and (not updating or elapsed > 1):
                return
            if verdict.state == "failed" or elapsed > timeout:
                break
            if verdict.message != said:
                said = verdict.message
                tell(said)
            time.sleep(0.3 if elapsed < 10 else 1)
        what = f"the service {name} does not run well: {verdict.message}"
        if verdict.state != "failed":
            what = f"the service {name} does not run well after {timeout:g} seconds: {verdict.message}"
        update = (service.get("UpdateStatus") or {}).get("State")
        if updating and update == "rollback_completed":
            what += "; swarm went back to the specification before"
            what += ", which runs" if specification.verdict(service, tasks, expected).state == "settled" else ""
        elif updating and update == "rollback_paused":
            what += "; going back to the specification before failed as well"
        raise VcoreError(tr("{what}. Fix the cause and apply again.{details}", what=what, details=details))

    def _details(self, task: Mapping[str, Any], want: Wanted) -> str:
        """Return the last lines of a failed task's log, and its health check's output, with secrets replaced."""
        container = (task["Status"].get("ContainerStatus") or {}).get("ContainerID")
        if not container:
            return ""
        try:
            lines = self.api.logs(container, tail=LOG_LINES).decode(errors="replace")
            checks = (self.api.inspect_container(container)["State"].get("Health") or {}).get("Log") or []
        except docker.errors.APIError:
            return ""  # on another node, or gone already
        said = checks[-1]["Output"].strip()[-1000:] if checks else ""
        text = f"\nIts log:\n{lines.strip()[-4000:]}" if lines.strip() else ""
        text += f"\nIts health check said:\n{said}" if said else ""
        for file in want.files:
            if file.secret and file.data and file.data.strip():
                text = text.replace(file.data.decode(errors="replace").strip(), "(secret)")
        return text

    def prune(self, name: str) -> None:
        """Remove the configs and secrets of a service to which neither it nor its previous specification refers."""
        snapshot = self.snapshot()
        keep: set[str] = set()
        for service in snapshot.services.values():
            if specification.owner(service) == name:
                keep |= specification.referenced(service.get("Spec")) | specification.referenced(
                    service.get("PreviousSpec")
                )
        self._remove_files(snapshot, lambda labels, file: labels[base_names.SERVICE_LABEL] == name and file not in keep)

    def _remove_files(self, snapshot: Snapshot, superfluous: Callable[[Mapping[str, str], str], bool]) -> None:
        with docker_errors():
            for entries, remove in (
                (snapshot.configs, self.api.remove_config),
                (snapshot.secrets, self.api.remove_secret),
            ):
                for entry in entries:
                    labels = entry["Spec"].get("Labels") or {}
                    if base_names.SERVICE_LABEL in labels and superfluous(labels, entry["Spec"]["Name"]):
                        remove(entry["ID"])
                        self.changed()

    def absent_changes(self, keep: Collection[str]) -> dict[str, Any]:
        """Return the changes that remove the core's services, by label, except those in ``keep``, and their remains."""
        snapshot = self.snapshot()
        changes: dict[str, Any] = {}
        for entry in (*snapshot.configs, *snapshot.secrets):
            owner = (entry["Spec"].get("Labels") or {}).get(base_names.SERVICE_LABEL)
            if owner and owner not in keep:
                changes[owner] = {"old": "configs and secrets", "new": None}
        for service in snapshot.services.values():
            if (
                base_names.SERVICE_LABEL in (service["Spec"].get("Labels") or {})
                and specification.owner(service) not in keep
            ):
                image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
                changes[specification.owner(service)] = {"old": specification.short_image(image), "new": None}
        return changes

    def remove(self, names: Collection[str], *, timeout: float = 120) -> None:
        """Remove services with their configs and secrets, and wait until their containers have ended; data stays.

        Raises:
            VcoreError: a container is still there after ``timeout`` seconds.
        """
        with docker_errors():
            services = self.snapshot().services
            identifiers = [
                service["ID"]
                for service in services.values()
                if specification.owner(service) in names and is_core(service)
            ]
            for identifier in identifiers:
                self.api.remove_service(identifier)
                self.changed()
            self._remove_files(self.snapshot(), lambda labels, _: labels[base_names.SERVICE_LABEL] in names)
            deadline = time.monotonic() + timeout
            while left := [
                container["Names"][0].lstrip("/")
                for identifier in identifiers
                for container in self.api.containers(
                    all=True, filters={"label": f"com.docker.swarm.service.id={identifier}"}
                )
            ]:
                if time.monotonic() > deadline:
                    raise VcoreError(
                        tr("containers of removed services still run: {left}; see docker ps", left=", ".join(left))
                    )
                time.sleep(0.3)


def is_core(entry: Mapping[str, Any]) -> bool:
    """Return whether a service, config or secret of the swarm belongs to the core."""
    return base_names.SERVICE_LABEL in (entry["Spec"].get("Labels") or {})


def mounts_another(service: str, item: str, paths: Paths) -> bool:
    """Return whether a running service has another value of its secret ``item`` than the store, after a rotation.

    Raises:
        NotFound: the store has no such secret.
        VcoreError: this machine manages no swarm.
    """
    store = Store(paths.secrets)
    fingerprint = store.fingerprint(specification.content(service, item, store.read(service, item)))
    running = Services().snapshot().services.get(service, {}).get("Spec")
    mounted = {name for name in specification.referenced(running) if specification.item_of(service, name) == item}
    return bool(mounted) and f"{service}-{item}-{fingerprint}" not in mounted
