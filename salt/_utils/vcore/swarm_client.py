"""Docker Swarm, the half that does it: reads what runs, and carries out what :mod:`vcore.swarm` wants.

It talks to the daemon that ``DOCKER_HOST`` names, by default the one of this machine. Nothing here asks a public
registry for anything.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import requests

from . import images, progress, registry, swarm, templates
from .docker_client import connect, docker_errors
from .errors import NotFound, VcoreError
from .paths import Paths
from .secrets import Store

#: Seconds for which a snapshot of the swarm serves the next state of the same run.
SNAPSHOT_AGE = 5.0
#: Seconds to wait for a daemon that has just started to take part in its swarm again.
LEADER_WAIT = 30.0
#: Tasks that swarm keeps for each slot, as many as Docker does by itself. When an update is rolled back, swarm makes
#: further tasks for the slot at once: with two, the failed one, its container and its log would be gone within a second
#: of its failure, before anything could read them.
TASK_HISTORY = 5
LOG_LINES = 15

GATEWAY_BRIDGE = "docker_gwbridge"
#: The label of the core's overlay network.
NETWORK_LABEL = "vcore.network"
#: Where root's keys stand in a container; its sshd runs only where they do.
AUTHORIZED_KEYS = "/etc/virtual-core/authorized_keys"


# --- what is wanted ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A service as it should be: its ServiceSpec, and the files that swarm hands to it."""

    spec: dict[str, Any]
    files: tuple[swarm.File, ...]

    @property
    def configs(self) -> dict[str, bytes | None]:
        """Contents of the configs, by their names in swarm."""
        return {file.name: file.data for file in self.files if not file.secret}


def wanted(name: str, *, pillar: Mapping[str, Any], paths: Paths, plan: bool = False) -> Wanted:
    """The service ``name`` as the resolved pillar, the authority, the secret store and the built images make it.

    With ``plan``, what earlier states of the same run would make does not have to exist: the tag of an image follows
    from its sources, and a file that is missing or due for renewal is unknown, which shows as new or changed.

    Raises:
        VcoreError: a template is wrong, or something that has to exist does not.
    """
    service = pillar["services"].get(name)
    if service is None or "image" not in service:
        raise VcoreError(f"the site has no service {name} on this node; see salt-run vcore.show")
    if not plan:
        Store(paths.secrets).ensure_key()  # a service may have a certificate, and no secret that has made it
    files = tuple(_files(service, pillar, paths, _Source(service, pillar, paths, plan)))
    swarm.check_files(files)
    spec = swarm.service_spec(
        service,
        pillar=pillar,
        image=images.reference(service["image"]["name"], pillar, paths, built=not plan),
        configs=[file for file in files if not file.secret],
        secrets=[file for file in files if file.secret],
        credential=_credential(service, paths),
    )
    return Wanted(spec, files)


def _credential(service: Mapping[str, Any], paths: Paths) -> str | None:
    """The fingerprint of the credential that nodes pull the image with; None for an image that is local."""
    store = Store(paths.secrets)
    if not service["image"]["push"] or not store.exists("registry", "pull"):
        return None
    return store.fingerprint(store.read("registry", "pull"))


def mounts_another(service: str, item: str, paths: Paths) -> bool:
    """Whether a service that runs has another value of its secret ``item`` than the store: it was rotated.

    Raises:
        NotFound: the store has none.
        VcoreError: this machine manages no swarm.
    """
    store = Store(paths.secrets)
    fingerprint = store.fingerprint(swarm.content(service, item, store.read(service, item)))
    running = Swarm().snapshot().services.get(service, {}).get("Spec")
    mounted = {name for name in swarm.referenced(running) if swarm.item_of(service, name) == item}
    return bool(mounted) and f"{service}-{item}-{fingerprint}" not in mounted


class _Source:
    """Reads what a service is given, and knows what a plan cannot read because it will be made anew."""

    def __init__(self, service: Mapping[str, Any], pillar: Mapping[str, Any], paths: Paths, plan: bool) -> None:
        self.plan = plan
        self.anew: set[Path] = set()
        if plan and service["certificates"]:
            from . import pki  # only a plan needs these, and they take a while to load
            from .authority import Authority

            authority = Authority(paths.authority, pki.policy(pillar))
            if "authority" in authority.plan():
                self.anew.add(paths.authority / "ca.crt")
            leaves = [pki.wanted(pillar, f"{service['name']}/{item}") for item in service["certificates"]]
            for name in authority.plan_leaves(leaves):
                self.anew |= {paths.authority / "issued" / f"{name}{ending}" for ending in (".crt", ".key")}

    def read(self, path: Path) -> bytes | None:
        """The content of a file; None where a plan does not know it.

        Raises:
            NotFound: the file is missing, and this is no plan.
        """
        if path in self.anew or (self.plan and not path.exists()):
            return None
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path} does not exist yet; apply the states on the head") from None


def _files(
    service: Mapping[str, Any], pillar: Mapping[str, Any], paths: Paths, source: _Source
) -> Iterator[swarm.File]:
    """Everything that swarm hands to the service: rendered configs, root's keys, certificates, secrets."""
    name, store, root = service["name"], Store(paths.secrets), paths.authority / "ca.crt"

    def file(
        item: str, data: bytes | None, *, secret: bool, path: str, mode: str, owner: int, group: int
    ) -> swarm.File:
        if data is None:
            fingerprint = swarm.UNKNOWN
        elif secret:
            fingerprint = store.fingerprint(swarm.content(name, item, data)) or swarm.UNKNOWN
        else:
            fingerprint = swarm.config_fingerprint(name, item, data)
        return swarm.File(name, item, secret, path, owner, group, mode, fingerprint, data)

    def mount(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: entry[key] for key in ("path", "owner", "group", "mode")}

    if service["configs"]:
        names = templates.context(service, pillar, root.read_text() if root.exists() else "")
        for item, config in service["configs"].items():
            data = templates.render(paths.services / name / "files", config["template"], names)
            yield file(item, data, secret=False, **mount(config))
    if pillar["authorized_keys"]:
        keys = "".join(f"{key}\n" for key in pillar["authorized_keys"]).encode()
        yield file(swarm.AUTHORIZED_KEYS, keys, secret=False, path=AUTHORIZED_KEYS, owner=0, group=0, mode="0444")
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
            yield file(item, source.read(store.path(entry["service"] or name, item)), secret=True, **mount(entry))


# --- what is there -----------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class ServicePlan:
    """What :meth:`Swarm.apply` has to do for one service; nothing when ``changes`` is empty."""

    wanted: Wanted
    current: Mapping[str, Any] | None
    changes: dict[str, Any]
    different: bool


class Swarm:
    """One Docker daemon in swarm mode, as the core uses it."""

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

    # --- the swarm itself ----------------------------------------------------------------------------------------

    def swarm_changes(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`initialise` does; {} where this machine manages a swarm already, whoever made it.

        Raises:
            VcoreError: it is a worker of another swarm, a network of Docker is in the way, or the site moves the
                networks of a swarm that runs.
        """
        with docker_errors():
            network = pillar["network"]
            bridge = self._network(GATEWAY_BRIDGE)
            if self._state()["LocalNodeState"] == "active":
                for key, subnets in (
                    ("bridge_subnet", _subnets(bridge)),
                    ("ingress_subnet", _subnets(self._network("ingress"))),
                ):
                    if subnets and network[key] not in subnets:
                        remedy = "put the old value back"
                        if foreign := self.foreign():
                            remedy += f", since others use this swarm, too ({', '.join(foreign)})"
                        else:
                            remedy += (
                                ", or take the core off with bootstrap.sh --uninstall, which keeps its data, "
                                "and bring it back with bootstrap.sh"
                            )
                        raise VcoreError(
                            f"network.{key} is {network[key]}, but the swarm that runs has {', '.join(subnets)}; "
                            f"a running swarm cannot be moved: {remedy}"
                        )
                return {}
            for key in ("bridge_subnet", "ingress_subnet"):
                self._check_free(network[key], f"network.{key}", exclude=(GATEWAY_BRIDGE, "ingress"))
            changes = {
                "swarm": {"old": None, "new": f"manager at {pillar['node']['address']}"},
                "ingress": {"old": None, "new": network["ingress_subnet"]},
            }
            if _subnets(bridge) != [network["bridge_subnet"]]:
                if bridge and bridge["Containers"]:
                    raise VcoreError(
                        f"the network {GATEWAY_BRIDGE} has {', '.join(_subnets(bridge))} and is in use; stop its "
                        f"containers and remove it (docker network rm {GATEWAY_BRIDGE}), then apply again"
                    )
                before = ", ".join(_subnets(bridge)) or None
                changes[GATEWAY_BRIDGE] = {"old": before, "new": network["bridge_subnet"]}
            return changes

    def initialise(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Make this machine the manager of a new swarm, with every network where the site wants it."""
        network, address = pillar["network"], pillar["node"]["address"]
        ingress = ipaddress.ip_network(network["ingress_subnet"])
        with docker_errors():
            if GATEWAY_BRIDGE in changes:
                self.create_gateway_bridge(network["bridge_subnet"])
            self.api.init_swarm(
                advertise_addr=address,
                # Other networks of this host have no business with the swarm's management port.
                listen_addr=f"[{address}]:2377" if ":" in address else f"{address}:2377",
                data_path_addr=address,
                # The ingress network takes all of it; the core's own overlay names its subnet.
                default_addr_pool=[str(ingress)],
                subnet_size=ingress.prefixlen,
                swarm_spec=self.api.create_swarm_spec(task_history_retention_limit=TASK_HISTORY),
            )
        self.changed()

    def foreign(self) -> list[str]:
        """Services, configs and secrets of this swarm that are not the core's, such as ``service web``."""
        snapshot = self.snapshot()
        kinds = (
            ("service", snapshot.services.values()),
            ("config", snapshot.configs),
            ("secret", snapshot.secrets),
        )
        return [
            f"{kind} {entry['Spec']['Name']}" for kind, entries in kinds for entry in entries if not _is_core(entry)
        ]

    def leave_changes(self) -> dict[str, Any]:
        """What :meth:`leave` does: the core's services, the swarm and its bridge go; {} where there are none.

        A swarm with something in it that is not the core's stays: of it go the core's services, its overlay network
        and its labels of nodes.

        Raises:
            VcoreError: other nodes are in the swarm, which would be left without a manager.
        """
        with docker_errors():
            snapshot = self.snapshot()
            if self.foreign():
                changes = self.absent_changes(keep=())
                changes |= {network["Name"]: {"old": "network", "new": None} for network in self._own_networks()}
                for node in snapshot.nodes:
                    if labels := _core_labels(node):
                        hostname = node["Description"]["Hostname"]
                        changes[f"labels of {hostname}"] = {"old": labels, "new": None}
                return changes
            others = [node["Description"]["Hostname"] for node in snapshot.nodes if not node.get("ManagerStatus")]
            if others:
                raise VcoreError(
                    f"the swarm still has other nodes: {', '.join(others)}; let them leave first, "
                    "each with docker swarm leave, then docker node rm on this one"
                )
            changes = self.absent_changes(keep=())
            if snapshot.active:
                changes["swarm"] = {"old": "manager", "new": None}
            if self._network(GATEWAY_BRIDGE):
                changes[GATEWAY_BRIDGE] = {"old": "bridge", "new": None}
            return changes

    def leave(self, changes: Mapping[str, Any]) -> None:
        """Remove the core's services, end the swarm with its networks, configs and secrets; data stays.

        A swarm that has to stay loses what :meth:`leave_changes` says.
        """
        self.remove(set(self.absent_changes(keep=())))
        with docker_errors():
            if "swarm" not in changes:
                for network in self._own_networks():
                    if network["Name"] in changes:
                        self._remove_network(network["Id"])
                for node in self.snapshot().nodes:
                    if f"labels of {node['Description']['Hostname']}" in changes:
                        self._set_labels(node, dict.fromkeys(_core_labels(node)))
            if "swarm" in changes:
                self.api.leave_swarm(force=True)
                self.changed()
            if GATEWAY_BRIDGE in changes and self._network(GATEWAY_BRIDGE):
                self.api.remove_network(GATEWAY_BRIDGE)

    def _own_networks(self) -> list[dict[str, Any]]:
        """The core's overlay, by its label; not where a service of somebody else is on it."""
        taken = {
            attached["Target"]
            for service in self.snapshot().services.values()
            if not _is_core(service)
            for attached in service["Spec"]["TaskTemplate"].get("Networks") or []
        }
        found = self.api.networks(filters={"label": NETWORK_LABEL})
        return [network for network in found if not {network["Id"], network["Name"]} & taken]

    def _remove_network(self, name: str) -> None:
        """Remove a network, and wait until it is gone."""
        self.api.remove_network(name)
        deadline = time.monotonic() + 15
        while self._network(name) and time.monotonic() < deadline:
            time.sleep(0.2)

    def create_gateway_bridge(self, subnet: str) -> None:
        """Create the bridge that overlay containers reach the outside by, before swarm does it where it likes.

        Swarm's own choice is the next free one of Docker's pools, 172.18.0.0/16, which holds the core's overlay.
        A node needs it before it joins, too.
        """
        with docker_errors():
            if self._network(GATEWAY_BRIDGE):
                self.api.remove_network(GATEWAY_BRIDGE)
            self.api.create_network(
                GATEWAY_BRIDGE,
                driver="bridge",
                options={
                    "com.docker.network.bridge.name": GATEWAY_BRIDGE,
                    "com.docker.network.bridge.enable_icc": "false",
                    "com.docker.network.bridge.enable_ip_masquerade": "true",
                },
                ipam={"Driver": "default", "Config": [{"Subnet": subnet}]},
            )

    def _network(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self.api.inspect_network(name))
        except docker.errors.NotFound:
            return None

    def _check_free(self, subnet: str, key: str, exclude: Collection[str]) -> None:
        wanted = ipaddress.ip_network(subnet)
        for network in self.api.networks():
            if network["Name"] in exclude:
                continue
            for taken in _subnets(network):
                if wanted.version == ipaddress.ip_network(taken).version and wanted.overlaps(
                    ipaddress.ip_network(taken)
                ):
                    remedy = f"remove that network (docker network rm {network['Name']})"
                    if network["Name"] == "bridge":
                        remedy = "move it (bip in /etc/docker/daemon.json, then restart Docker)"
                    raise VcoreError(
                        f"{key} {subnet} overlaps Docker's network {network['Name']} ({taken}); {remedy} "
                        f"or set vcore.{key} in the site file"
                    )

    def network_changes(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`create_network` does: the core's overlay, new or made again because nothing uses it yet.

        Raises:
            VcoreError: a network of its name is in use and another one, or its subnet is taken.
        """
        name, subnet = pillar["network"]["name"], pillar["network"]["subnet"]
        want = {"driver": "overlay", "attachable": True, "subnet": subnet}
        with docker_errors():
            network = self._network(name)
            self._check_free(subnet, "network.subnet", exclude=(name,))
            if network is None:
                return {"network": {"old": None, "new": f"{name} {subnet}"}}
            have = {
                "driver": network["Driver"],
                "attachable": network["Attachable"],
                "subnet": ", ".join(_subnets(network)),
            }
            changes = {key: {"old": have[key], "new": want[key]} for key in want if have[key] != want[key]}
            users = [container["Name"] for container in (network["Containers"] or {}).values()]
            users = [user for user in users if user != f"{name}-endpoint"]
            if network["Scope"] == "swarm":
                users += [
                    service
                    for service, data in self.snapshot().services.items()
                    if any(
                        attached["Target"] in (network["Id"], name)
                        for attached in data["Spec"]["TaskTemplate"].get("Networks") or []
                    )
                ]
            if changes and users:
                differences = "; ".join(f"{key} {words['old']}, not {words['new']}" for key, words in changes.items())
                raise VcoreError(
                    f"the network {name} is another one ({differences}) and in use by {', '.join(sorted(set(users)))}; "
                    f"remove these and the network (docker network rm {name}), or set vcore.network in the site file"
                )
            return changes

    def create_network(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Create the core's overlay; an unused one with other settings goes first."""
        name, subnet = pillar["network"]["name"], pillar["network"]["subnet"]
        with docker_errors():
            if "network" not in changes:
                self._remove_network(name)
            self.api.create_network(
                name,
                driver="overlay",
                labels={NETWORK_LABEL: name},
                attachable=True,
                scope="swarm",
                ipam={"Driver": "default", "Config": [{"Subnet": subnet}]},
            )
        self.changed()

    def label_changes(self, pillar: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any]:
        """Labels that nodes of the core lack or have too many: ``{<node>: {<label>: {old, new}}}``.

        ``names`` are minion ids, None is every node that the pillar knows. A node that has not joined is left out;
        this one counts as joined, because a plan may come before the swarm.
        """
        own = pillar["node"]
        known = {**pillar.get("nodes", {}), own["name"]: own}
        members = self._members(own["name"])
        changes: dict[str, Any] = {}
        for name in sorted(known if names is None else names):
            if name not in known:
                raise VcoreError(f"the site has no node {name}")
            if name not in members and name != own["name"]:
                continue
            have = _core_labels(members.get(name))
            want = {swarm.NODE_LABEL: name} | {f"{swarm.ROLE_LABEL}{role}": "true" for role in known[name]["roles"]}
            labels = {
                label: {"old": have.get(label), "new": want.get(label)}
                for label in sorted(have.keys() | want.keys())
                if have.get(label) != want.get(label)
            }
            if labels:
                changes[name] = labels
        return changes

    def label(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Set and remove labels as :meth:`label_changes` says; labels of other people stay."""
        members = self._members(pillar["node"]["name"])
        with docker_errors():
            for name, labels in changes.items():
                self._set_labels(members[name], {label: words["new"] for label, words in labels.items()})

    def _set_labels(self, node: Mapping[str, Any], labels: Mapping[str, str | None]) -> None:
        """Give a node labels, and take off those that are None."""
        spec = dict(node["Spec"])
        merged = {**(spec.get("Labels") or {}), **labels}
        spec["Labels"] = {label: value for label, value in merged.items() if value is not None}
        self.api.update_node(node["ID"], node["Version"]["Index"], spec)
        self.changed()

    def _members(self, own: str) -> dict[str, Any]:
        """Nodes of the swarm by minion id: this one by its id, others by host name, the ready one of several."""
        snapshot = self.snapshot()
        if not snapshot.active:
            return {}
        members = {
            node["Description"]["Hostname"]: node
            for node in sorted(snapshot.nodes, key=lambda node: (node["Status"]["State"] == "ready", node["CreatedAt"]))
        }
        with docker_errors():
            own_id = self._state()["NodeID"]
        return {
            **{name: node for name, node in members.items() if node["ID"] != own_id},
            own: next(node for node in snapshot.nodes if node["ID"] == own_id),
        }

    # --- services ------------------------------------------------------------------------------------------------

    def plan(self, want: Wanted) -> ServicePlan:
        """How a service differs from what runs.

        The changes are those of its specification, and ``service`` where it is new or does not run well just now.

        Raises:
            VcoreError: somebody else's service has the name.
        """
        snapshot, name = self.snapshot(), want.spec["Name"]
        current = snapshot.services.get(name)
        if current is not None and swarm.SERVICE_LABEL not in (current["Spec"].get("Labels") or {}):
            raise VcoreError(
                f"a service {name} runs in this swarm that Virtual Core did not create; "
                f"remove it (docker service rm {name}) or switch {name} off in the site file"
            )
        old_configs = {
            config["Spec"]["Name"]: base64.b64decode(config["Spec"].get("Data") or "") for config in snapshot.configs
        }
        difference = swarm.diff(swarm.live_spec(current), want.spec, old_configs, want.configs)
        changes: dict[str, Any] = {}
        if current is None:
            changes["service"] = {"old": None, "new": "running"}
        else:
            expected = swarm.expected_tasks(want.spec, snapshot.nodes)
            if swarm.verdict(current, snapshot.tasks_of(current), expected).state != "settled":
                changes["service"] = {"old": "not running", "new": "running"}
        return ServicePlan(want, current, {**changes, **difference}, bool(difference))

    def apply(self, plan: ServicePlan, *, paths: Paths, authorization: str | None, timeout: float) -> None:
        """Create or update the service and wait until it runs well; then remove what it does not need any more.

        ``authorization`` is the value of X-Registry-Auth (:func:`registry_authorization`), ``timeout`` in seconds.

        Raises:
            VcoreError: it does not come to run well; swarm has then gone back to the previous specification if
                there was one. The message holds the last lines of the failed container's log.
        """
        name = plan.wanted.spec["Name"]
        if not self.snapshot().active:
            raise VcoreError("this machine is in no swarm yet; apply vcore_swarm.initialised first")

        def tell(message: str) -> None:
            progress.report(paths, f"service {name}", message)

        seen = {task["ID"] for task in self.snapshot().tasks if task["Status"]["State"] in swarm.ENDED}
        with docker_errors():
            if plan.different:
                tell("is created" if plan.current is None else "is updated")
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
        """The specification with the ids of its configs and secrets; those that do not exist are created."""
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
        return swarm.with_ids(want.spec, ids[False], ids[True])

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
            # Swarm forgets all but the last tasks that failed; they count all the same.
            ended |= {task["ID"]: task for task in tasks if task["Status"]["State"] in swarm.ENDED}
            tasks += [task for key, task in ended.items() if key not in {task["ID"] for task in tasks}]
            expected = swarm.expected_tasks(service["Spec"], self.api.nodes())
            verdict = swarm.verdict(service, tasks, expected, seen=seen, attempt=attempt)
            elapsed = time.monotonic() - began
            if verdict.task and verdict.task["ID"] != failed_task:
                # Read at once: swarm soon removes the container of a task that failed.
                failed_task = verdict.task["ID"]
                details = self._details(verdict.task, plan.wanted)
            # Swarm takes a moment to notice an update; before that, what it says is about the one before.
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
            what += ", which runs" if swarm.verdict(service, tasks, expected).state == "settled" else ""
        elif updating and update == "rollback_paused":
            what += "; going back to the specification before failed as well"
        raise VcoreError(f"{what}. Mend the cause and apply again.{details}")

    def _details(self, task: Mapping[str, Any], want: Wanted) -> str:
        """The last lines of a failed task's log, and what its health check said; nothing of a secret in them."""
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
        """Remove configs and secrets of a service that neither it nor its previous specification refers to."""
        snapshot = self.snapshot()
        service = snapshot.services.get(name) or {}
        keep = swarm.referenced(service.get("Spec")) | swarm.referenced(service.get("PreviousSpec"))
        self._remove_files(snapshot, lambda labels, file: labels[swarm.SERVICE_LABEL] == name and file not in keep)

    def _remove_files(self, snapshot: Snapshot, superfluous: Callable[[Mapping[str, str], str], bool]) -> None:
        with docker_errors():
            for entries, remove in (
                (snapshot.configs, self.api.remove_config),
                (snapshot.secrets, self.api.remove_secret),
            ):
                for entry in entries:
                    labels = entry["Spec"].get("Labels") or {}
                    if swarm.SERVICE_LABEL in labels and superfluous(labels, entry["Spec"]["Name"]):
                        remove(entry["ID"])
                        self.changed()

    def absent_changes(self, keep: Collection[str]) -> dict[str, Any]:
        """Services of the core, by label, that are not in ``keep``, and what is left of such."""
        snapshot = self.snapshot()
        changes: dict[str, Any] = {}
        for entry in (*snapshot.configs, *snapshot.secrets):
            owner = (entry["Spec"].get("Labels") or {}).get(swarm.SERVICE_LABEL)
            if owner and owner not in keep:
                changes[owner] = {"old": "configs and secrets", "new": None}
        for name, service in snapshot.services.items():
            if swarm.SERVICE_LABEL in (service["Spec"].get("Labels") or {}) and name not in keep:
                image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
                changes[name] = {"old": swarm.short_image(image), "new": None}
        return changes

    def remove(self, names: Collection[str], *, timeout: float = 120) -> None:
        """Remove services with their configs and secrets, and wait until their containers are gone; data stays.

        Raises:
            VcoreError: a container is still there after ``timeout`` seconds.
        """
        with docker_errors():
            services = self.snapshot().services
            identifiers = [service["ID"] for name, service in services.items() if name in names and _is_core(service)]
            for identifier in identifiers:
                self.api.remove_service(identifier)
                self.changed()
            self._remove_files(self.snapshot(), lambda labels, _: labels[swarm.SERVICE_LABEL] in names)
            deadline = time.monotonic() + timeout
            while left := [
                container["Names"][0].lstrip("/")
                for identifier in identifiers
                for container in self.api.containers(
                    all=True, filters={"label": f"com.docker.swarm.service.id={identifier}"}
                )
            ]:
                if time.monotonic() > deadline:
                    raise VcoreError(f"containers of removed services still run: {', '.join(left)}; see docker ps")
                time.sleep(0.3)

    # --- status --------------------------------------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """Nodes and services of the swarm, with a fixed number of requests; :func:`overview` says the shape."""
        self.changed()
        snapshot = self.snapshot()
        with docker_errors():
            containers = self.api.containers(filters={"label": "com.docker.swarm.task.id"}) if snapshot.active else []
        unhealthy = {
            container["Labels"]["com.docker.swarm.task.id"]
            for container in containers
            if "(unhealthy)" in container["Status"]
        }
        return {
            "swarm": "active" if snapshot.active else "inactive",
            "nodes": sorted((_node_overview(node) for node in snapshot.nodes), key=lambda node: node["name"]),
            "services": {
                name: _service_overview(service, snapshot, unhealthy)
                for name, service in sorted(snapshot.services.items())
                if swarm.SERVICE_LABEL in (service["Spec"].get("Labels") or {})
            },
        }


def overview() -> dict[str, Any]:
    """Nodes and services of the swarm that this machine manages.

    ``{swarm: active|inactive, nodes: [{name, hostname, roles, state, availability, leader, engine}], services:
    {<name>: {image, desired, running, healthy, since, state, message}}}``. ``image`` is ``name:tag``; ``since`` the
    time (RFC 3339, UTC) since which its newest task runs, or None; ``state`` is ``settled``, ``waiting`` or
    ``failed``. A task that runs on another node counts as healthy: swarm ends an unhealthy one at once.

    Raises:
        VcoreError: no Docker daemon answers, or this machine is only a worker.
    """
    return Swarm().overview()


def _node_overview(node: Mapping[str, Any]) -> dict[str, Any]:
    labels = _core_labels(node)
    prefix = swarm.ROLE_LABEL
    return {
        "name": labels.get(swarm.NODE_LABEL, node["Description"]["Hostname"]),
        "hostname": node["Description"]["Hostname"],
        "roles": sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix)),
        "state": node["Status"]["State"],
        "availability": node["Spec"]["Availability"],
        "leader": bool((node.get("ManagerStatus") or {}).get("Leader")),
        "engine": node["Description"]["Engine"]["EngineVersion"],
    }


def _service_overview(service: Mapping[str, Any], snapshot: Snapshot, unhealthy: Collection[str]) -> dict[str, Any]:
    tasks = snapshot.tasks_of(service)
    desired = swarm.expected_tasks(swarm.recorded_spec(service) or service["Spec"], snapshot.nodes)
    running = [task for task in tasks if task["DesiredState"] == task["Status"]["State"] == "running"]
    verdict = swarm.verdict(service, tasks, desired)
    return {
        "image": swarm.short_image(service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]),
        "desired": desired,
        "running": len(running),
        "healthy": sum(task["ID"] not in unhealthy for task in running),
        "since": max((task["Status"]["Timestamp"] for task in running), default=None),
        "state": verdict.state,
        "message": verdict.message,
    }


def registry_authorization(image: str, pillar: Mapping[str, Any], paths: Paths) -> str | None:
    """X-Registry-Auth for an image of the core's registry that nodes have to pull; None for one that is local.

    Source: Docker Engine API, "Authentication": base64url of a JSON object.
    """
    if "@" not in image or not image.startswith(f"{pillar['registry']}/"):
        return None
    credentials = registry.credentials(paths, "pull", pillar["registry"])
    return base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()


def _is_core(entry: Mapping[str, Any]) -> bool:
    """Whether a service, config or secret of the swarm is the core's."""
    return swarm.SERVICE_LABEL in (entry["Spec"].get("Labels") or {})


def _core_labels(node: Mapping[str, Any] | None) -> dict[str, str]:
    labels = (node or {"Spec": {}})["Spec"].get("Labels") or {}
    return {
        label: value
        for label, value in labels.items()
        if label == swarm.NODE_LABEL or label.startswith(swarm.ROLE_LABEL)
    }


def _subnets(network: Mapping[str, Any] | None) -> list[str]:
    configuration: Iterable[Mapping[str, Any]] = ((network or {}).get("IPAM") or {}).get("Config") or []
    return [entry["Subnet"] for entry in configuration if entry.get("Subnet")]
