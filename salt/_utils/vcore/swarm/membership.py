"""Carries out changes to the swarm itself: creating, joining and leaving it, its networks, the labels of its nodes.

It also returns the overview of the swarm. Services are in :mod:`vcore.swarm.running`; what is wanted is in
:mod:`vcore.swarm.specification` and :mod:`vcore.swarm.deployment`.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import docker

from ..base.errors import VcoreError
from ..base.files import write_atomic
from ..base.messages import tr
from ..base.names import JOIN_TOKEN
from ..base.paths import Paths
from ..base.secrets import Store, node_secret
from ..host.docker_client import docker_errors
from ..host.network import own_address
from . import specification
from .connection import LEADER_WAIT, Snapshot
from .running import Services, is_core

#: Tasks that swarm keeps for each slot; Docker's own default. When an update is rolled back, swarm makes more tasks for
#: the slot at once: with a limit of two, a failed task would be gone with its container and log within a second, before
#: anything could read them.
TASK_HISTORY = 5
#: How often setting labels is tried on a node that swarm changes at the same time.
LABEL_TRIES = 5
GATEWAY_BRIDGE = "docker_gwbridge"
#: The network namespace of the routing mesh, which Docker lists among the containers of the bridge.
INGRESS_SANDBOX = "ingress-sbox"
MANAGER_PORT = 2377
#: File in which a node that joined through the core notes its id in the swarm.
MEMBERSHIP = "swarm-node"
#: The old value in the changes of a worker that its swarm no longer knows.
FORGOTTEN = "a worker that the head has taken out"
#: The label of the core's overlay network.
NETWORK_LABEL = "vcore.network"


def _is_given(paths: Paths, identity: str) -> bool:
    """Return whether this machine joined the swarm through the core, as the node ``identity``."""
    record = paths.state / MEMBERSHIP
    return record.is_file() and record.read_text().strip() == identity


class Swarm(Services):
    """One Docker daemon in swarm mode, as the core uses it."""

    # --- the swarm itself ----------------------------------------------------------------------------------------

    def swarm_changes(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes that :meth:`initialise` makes; {} if this machine already manages any swarm.

        Raises:
            VcoreError: this machine is a worker of another swarm, a Docker network is in the way, or the site changes
                the subnets of a running swarm.
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
                        remedy = tr("put the old value back")
                        if foreign := self.foreign():
                            remedy += tr(", because others use this swarm, too ({foreign})", foreign=", ".join(foreign))
                        else:
                            remedy += tr(
                                ", or take the core off with bootstrap.sh --uninstall, which keeps its data, and bring "
                                "it back with bootstrap.sh"
                            )
                        raise VcoreError(
                            tr(
                                "network.{key} is {network}, but the swarm that runs has {subnets}; a running swarm "
                                "cannot be moved: {remedy}",
                                key=key,
                                network=network[key],
                                subnets=", ".join(subnets),
                                remedy=remedy,
                            )
                        )
                return {}
            for key in ("bridge_subnet", "ingress_subnet"):
                self._check_free(network[key], f"network.{key}", exclude=(GATEWAY_BRIDGE, "ingress"))
            changes = {
                "swarm": {"old": None, "new": f"manager at {pillar['node']['address']}"},
                "ingress": {"old": None, "new": network["ingress_subnet"]},
            }
            return {**changes, **self._bridge_changes(bridge, network["bridge_subnet"])}

    def _bridge_changes(self, bridge: Mapping[str, Any] | None, subnet: str) -> dict[str, Any]:
        """Return the changes to swarm's gateway bridge that have to precede creating or joining a swarm.

        A daemon that takes long to leave a swarm sometimes starts the routing mesh again as it does, and with it makes
        the bridge anew. Outside a swarm nothing uses the mesh, so it does not count.

        Raises:
            VcoreError: it has another subnet and is in use.
        """
        if _subnets(bridge) == [subnet]:
            return {}
        if bridge and set(bridge["Containers"]) - {INGRESS_SANDBOX}:
            raise VcoreError(
                tr(
                    "the network {gateway_bridge} has {subnets} and is in use; stop its containers and "
                    "remove it (docker network rm {gateway_bridge}), then apply again",
                    gateway_bridge=GATEWAY_BRIDGE,
                    subnets=", ".join(_subnets(bridge)),
                )
            )
        return {GATEWAY_BRIDGE: {"old": ", ".join(_subnets(bridge)) or None, "new": subnet}}

    def initialise(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Make this machine the manager of a new swarm whose networks have the subnets that the site wants."""
        network, address = pillar["network"], pillar["node"]["address"]
        ingress = ipaddress.ip_network(network["ingress_subnet"])
        with docker_errors():
            if GATEWAY_BRIDGE in changes:
                self.create_gateway_bridge(network["bridge_subnet"])
            self.api.init_swarm(
                advertise_addr=address,
                # Do not open the swarm's management port to the other networks of this host.
                listen_addr=f"[{address}]:2377" if ":" in address else f"{address}:2377",
                data_path_addr=address,
                # The ingress network takes the whole pool; the core's own overlay names its subnet itself.
                default_addr_pool=[str(ingress)],
                subnet_size=ingress.prefixlen,
                swarm_spec=self.api.create_swarm_spec(task_history_retention_limit=TASK_HISTORY),
            )
        self.changed()

    # --- joining it from another machine ---------------------------------------------------------------------------

    def join_changes(self, pillar: Mapping[str, Any], paths: Paths) -> dict[str, Any]:
        """Return the changes that :meth:`join` makes; {} if this machine is a worker of the head's swarm already.

        A worker that the head removed without its knowledge still considers itself a member, or keeps asking to be let
        in. If the head has seen that its swarm lacks this node (``forgotten``), and the node joined through the core,
        it leaves and joins anew. It never leaves a swarm that it joined outside the core.

        Raises:
            VcoreError: it is in another swarm, a Docker network is in the way, or there is no join token.
        """
        head = pillar["head"]["address"]
        with docker_errors():
            identity = self.api.info()["Swarm"]["NodeID"]
            if identity == pillar["node"]["forgotten"] and _is_given(paths, identity):
                return {"swarm": {"old": FORGOTTEN, "new": f"worker of {head}"}}
            state = self._settled_state()
            if state["LocalNodeState"] == "active":
                managers = sorted(manager["Addr"] for manager in state.get("RemoteManagers") or [])
                if not state["ControlAvailable"] and f"{head}:{MANAGER_PORT}" in managers:
                    return {}
                whose = "manages a swarm of its own" if state["ControlAvailable"] else "is in another swarm"
                raise VcoreError(
                    tr(
                        "this machine {whose} (managers: {managers}), and should be in that of the head, {head}; "
                        "if nothing needs it: docker swarm leave, on a manager with --force, then apply again",
                        whose=whose,
                        managers=", ".join(managers),
                        head=head,
                    )
                )
            node_secret(pillar, Store(paths.secrets), *JOIN_TOKEN)
            network, bridge = pillar["network"], self._network(GATEWAY_BRIDGE)
            self._check_free(network["bridge_subnet"], "network.bridge_subnet", exclude=(GATEWAY_BRIDGE, "ingress"))
            return {
                "swarm": {"old": None, "new": f"worker of {head}"},
                **self._bridge_changes(bridge, network["bridge_subnet"]),
            }

    def join(self, pillar: Mapping[str, Any], paths: Paths, changes: Mapping[str, Any]) -> None:
        """Make this machine a worker of the head's swarm, and note that it joined through the core.

        Raises:
            VcoreError: the manager refuses it.
        """
        head = pillar["head"]["address"]
        token = node_secret(pillar, Store(paths.secrets), *JOIN_TOKEN)
        address = pillar["node"]["address"] or own_address(head)
        with docker_errors():
            if changes["swarm"]["old"] == FORGOTTEN:
                self.api.leave_swarm(force=True)
            if GATEWAY_BRIDGE in changes:
                self.create_gateway_bridge(pillar["network"]["bridge_subnet"])
            self.api.join_swarm(
                [f"{head}:{MANAGER_PORT}"],
                token,
                # Do not open the swarm's port to the other networks of this host.
                listen_addr=f"{address}:{MANAGER_PORT}",
                advertise_addr=address,
                data_path_addr=address,
            )
            node = self._settled_state()["NodeID"]
        paths.state.mkdir(parents=True, exist_ok=True)
        write_atomic(paths.state / MEMBERSHIP, f"{node}\n".encode())
        self.changed()

    def part_changes(self, paths: Paths) -> dict[str, Any] | str:
        """Return the changes of :meth:`part`, by which this worker leaves the core's swarm; or why it stays."""
        record = paths.state / MEMBERSHIP
        with docker_errors():
            state = self._settled_state()
            if state["LocalNodeState"] == "active":
                if not _is_given(paths, state["NodeID"]):
                    return "This machine joined its swarm outside Virtual Core; leaving it alone."
                return {
                    "swarm": {"old": "worker", "new": None},
                    **({GATEWAY_BRIDGE: {"old": "bridge", "new": None}} if self._network(GATEWAY_BRIDGE) else {}),
                }
            return {"record": {"old": str(record), "new": None}} if record.is_file() else {}

    def part(self, paths: Paths, changes: Mapping[str, Any]) -> None:
        """Leave the swarm, and remove the bridge that it needs on this machine."""
        with docker_errors():
            if "swarm" in changes:
                self.api.leave_swarm(force=True)
                self.changed()
            if GATEWAY_BRIDGE in changes:
                self._remove_gateway_bridge()
        (paths.state / MEMBERSHIP).unlink(missing_ok=True)

    def _settled_state(self) -> dict[str, Any]:
        """Return the daemon's state in any swarm (``Swarm`` of ``docker info``), once it is active or inactive.

        Raises:
            VcoreError: its swarm is locked or broken.
        """
        deadline = time.monotonic() + LEADER_WAIT
        while True:
            state: dict[str, Any] = self.api.info()["Swarm"]
            if state["LocalNodeState"] in ("active", "inactive"):
                return state
            if state["LocalNodeState"] != "pending" or time.monotonic() > deadline:
                reason = state.get("Error") or "no reason given"
                raise VcoreError(
                    tr(
                        "the swarm of this machine is {localnodestate}: {reason}; see docker info, and docker "
                        "swarm leave --force",
                        localnodestate=state["LocalNodeState"],
                        reason=reason,
                    )
                )
            time.sleep(0.5)

    def join_token_changes(self, store: Store) -> dict[str, Any]:
        """Return the changes that :meth:`keep_join_token` makes; {} if the store has the swarm's current join token."""
        stored = store.exists(*JOIN_TOKEN)
        with docker_errors():
            if self._state()["LocalNodeState"] == "active" and stored and store.read(*JOIN_TOKEN) == self._join_token():
                return {}
        return {"join token": {"old": "another one" if stored else None, "new": "stored"}}

    def keep_join_token(self, store: Store) -> None:
        """Store this swarm's join token, for the pillars of nodes that have not joined yet."""
        with docker_errors():
            store.write(*JOIN_TOKEN, self._join_token())

    def rotate_join_token(self, store: Store) -> None:
        """Have swarm make a new join token for workers, and store it.

        Raises:
            VcoreError: this machine manages no swarm.
        """
        with docker_errors():
            if self._state()["LocalNodeState"] != "active":
                raise VcoreError(tr("this machine manages no swarm; apply the states on the head"))
            swarm_now = self.api.inspect_swarm()
            self.api.update_swarm(swarm_now["Version"]["Index"], swarm_now["Spec"], rotate_worker_token=True)
        self.keep_join_token(store)

    def _join_token(self) -> bytes:
        return str(self.api.inspect_swarm()["JoinTokens"]["Worker"]).encode()

    def foreign(self) -> list[str]:
        """Return the services, configs and secrets of this swarm that are not the core's, such as ``service web``."""
        snapshot = self.snapshot()
        kinds = (
            ("service", snapshot.services.values()),
            ("config", snapshot.configs),
            ("secret", snapshot.secrets),
        )
        return [f"{kind} {entry['Spec']['Name']}" for kind, entries in kinds for entry in entries if not is_core(entry)]

    def leave_changes(self) -> dict[str, Any]:
        """Return the changes of :meth:`leave`, which removes the core's services, the swarm and its bridge.

        A swarm that also serves others stays: only the core's services, its overlay network and its node labels are
        removed from it.

        Raises:
            VcoreError: the swarm has other nodes, which would be left without a manager.
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
                    tr(
                        "the swarm still has other nodes: {others}; let them leave first, each with docker swarm "
                        "leave, then docker node rm on this one",
                        others=", ".join(others),
                    )
                )
            changes = self.absent_changes(keep=())
            if snapshot.active:
                changes["swarm"] = {"old": "manager", "new": None}
            if self._network(GATEWAY_BRIDGE):
                changes[GATEWAY_BRIDGE] = {"old": "bridge", "new": None}
            return changes

    def leave(self, changes: Mapping[str, Any]) -> None:
        """Remove the core's services, and end the swarm with its networks, configs and secrets; data stays.

        A swarm that has to stay loses only what :meth:`leave_changes` lists.
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
            if GATEWAY_BRIDGE in changes:
                self._remove_gateway_bridge()

    def _own_networks(self) -> list[dict[str, Any]]:
        """Return the networks with the core's label, except those that somebody else's service uses."""
        taken = {
            attached["Target"]
            for service in self.snapshot().services.values()
            if not is_core(service)
            for attached in service["Spec"]["TaskTemplate"].get("Networks") or []
        }
        found = self.api.networks(filters={"label": NETWORK_LABEL})
        return [network for network in found if not {network["Id"], network["Name"]} & taken]

    def _remove_network(self, name: str) -> None:
        """Remove a network, and wait up to 15 seconds until it is gone."""
        self.api.remove_network(name)
        deadline = time.monotonic() + 15
        while self._network(name) and time.monotonic() < deadline:
            time.sleep(0.2)

    def create_gateway_bridge(self, subnet: str) -> None:
        """Create the bridge by which overlay containers reach the outside, before swarm creates it with another subnet.

        Swarm would take the next free one of Docker's pools, 172.18.0.0/16, which contains the core's overlay. A node
        needs the bridge before it joins, too.
        """
        with docker_errors():
            self._remove_gateway_bridge()
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

    def _remove_gateway_bridge(self) -> None:
        """Remove swarm's gateway bridge if there is one, with the routing mesh that Docker may have left on it."""
        if bridge := self._network(GATEWAY_BRIDGE):
            if left_over := bridge["Containers"].get(INGRESS_SANDBOX):
                self.api.disconnect_container_from_network(left_over["Name"], GATEWAY_BRIDGE, force=True)
            self.api.remove_network(GATEWAY_BRIDGE)

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
                    remedy = tr("remove that network (docker network rm {name})", name=network["Name"])
                    if network["Name"] == "bridge":
                        remedy = tr("move it (bip in /etc/docker/daemon.json, then restart Docker)")
                    raise VcoreError(
                        tr(
                            "{key} {subnet} overlaps Docker's network {name} ({taken}); {remedy} or set vcore.{key} "
                            "in the site file",
                            key=key,
                            subnet=subnet,
                            name=network["Name"],
                            taken=taken,
                            remedy=remedy,
                        )
                    )

    def network_changes(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes of :meth:`create_network`, which makes the core's overlay, or makes an unused one again.

        Raises:
            VcoreError: a network of this name has other settings and is in use, or the subnet is taken.
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
                    tr(
                        "the network {name} has other settings ({differences}) and is in use by {users}; remove "
                        "these and the network (docker network rm {name}), or set vcore.network in the site file",
                        name=name,
                        differences=differences,
                        users=", ".join(sorted(set(users))),
                    )
                )
            return changes

    def create_network(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Create the core's overlay; an unused one with other settings is removed first."""
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
        """Return the labels of the core that nodes lack or should not have: ``{<node>: {<label>: {old, new}}}``.

        ``names`` are minion ids; None stands for every node in the pillar. The registry says which node of the swarm is
        which (``swarm_id``, confirmed by this manager). A node whose hardware is not registered is left out, since
        SLURM has no place yet for what would run there. This node counts as joined, because a plan may precede the
        swarm.

        Raises:
            VcoreError: the site does not have a node of ``names``.
        """
        own = pillar["node"]
        known = {**pillar.get("nodes", {}), own["name"]: own}
        members = self._members(pillar)
        snapshot = self.snapshot()
        rolled = specification.generation_labels(snapshot.services.values(), snapshot.nodes)
        changes: dict[str, Any] = {}
        for name in sorted(known if names is None else names):
            if name not in known:
                raise VcoreError(tr("the site has no node {name}", name=name))
            if name != own["name"] and (name not in members or not known[name].get("hardware")):
                continue
            have = _core_labels(members.get(name))
            want = {specification.NODE_LABEL: name} | {
                f"{specification.ROLE_LABEL}{role}": "true" for role in known[name]["roles"]
            }
            for label, (role, there, usual) in rolled.items():
                if role in want:
                    want[label] = have[label] if have.get(label) in there else usual
            labels = {
                label: {"old": have.get(label), "new": want.get(label)}
                for label in sorted(have.keys() | want.keys())
                if have.get(label) != want.get(label)
            }
            if labels:
                changes[name] = labels
        return changes

    def label(self, pillar: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Set and remove labels as :meth:`label_changes` says; labels that are not the core's stay."""
        members = self._members(pillar)
        with docker_errors():
            for name, labels in changes.items():
                self._set_labels(members[name], {label: words["new"] for label, words in labels.items()})

    def _set_labels(self, node: Mapping[str, Any], labels: Mapping[str, str | None]) -> None:
        """Set labels of a node, and remove those that are None.

        Swarm itself changes a node whenever its state changes, and then refuses an update that is based on what was
        read before, so the update is tried again.
        """
        for left in reversed(range(LABEL_TRIES)):
            spec = dict(node["Spec"])
            merged = {**(spec.get("Labels") or {}), **labels}
            spec["Labels"] = {label: value for label, value in merged.items() if value is not None}
            try:
                self.api.update_node(node["ID"], node["Version"]["Index"], spec)
                break
            except docker.errors.APIError as error:
                if not left or "out of sequence" not in str(error.explanation):
                    raise
                node = self.api.inspect_node(node["ID"])
        self.changed()

    def _members(self, pillar: Mapping[str, Any]) -> dict[str, Any]:
        """Return the swarm's nodes by minion id: this one by its own id, others by the ids in the registry."""
        own_id, members = self.members()
        found = {
            name: members[node["swarm_id"]]
            for name, node in pillar.get("nodes", {}).items()
            if node.get("swarm_id") in members and node["swarm_id"] != own_id
        }
        return {**found, pillar["node"]["name"]: members[own_id]} if own_id else {}

    def members(self) -> tuple[str, dict[str, Any]]:
        """Return this manager's own id, and the nodes of its swarm by id; both empty if there is no swarm."""
        snapshot = self.snapshot()
        if not snapshot.active:
            return "", {}
        with docker_errors():
            own_id = str(self._state()["NodeID"])
        return own_id, {node["ID"]: node for node in snapshot.nodes}

    def runs_unconfined(self, name: str) -> bool:
        """Return whether Docker runs a service, in all of its generations, without its AppArmor profile."""
        found = _by_owner(self.snapshot()).get(name, [])
        return bool(found) and all(specification.is_unconfined(service) for service in found)

    def remove_members(self, identities: Iterable[str]) -> set[str]:
        """Remove nodes that have left or died from the swarm, and return the ids that were in it.

        Raises:
            VcoreError: one of them is this manager; nothing was changed.
        """
        own_id, members = self.members()
        present = {identity for identity in identities if identity in members}
        if own_id in present:
            raise VcoreError(tr("the head cannot be removed from its own swarm"))
        for identity in present:
            with docker_errors():
                self.api.remove_node(identity, force=True)
        self.changed()
        return present

    # --- status --------------------------------------------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """Return the swarm's nodes and services as :func:`overview` does, with a fixed number of requests."""
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
                name: _together([_service_overview(service, snapshot, unhealthy) for service in services])
                for name, services in _by_owner(snapshot).items()
            },
            "rolls": rolls(snapshot),
        }


def overview() -> dict[str, Any]:
    """Return the nodes and services of the swarm that this machine manages.

    ``{swarm: active|inactive, nodes: [{id, name, hostname, roles, state, availability, leader, engine}], services:
    {<name>: {image, desired, running, healthy, since, state, message}}, rolls: {<name>: [<node>]}}``. ``image`` is
    ``name:tag``; ``since`` is the time (RFC 3339, UTC) since which its newest task runs, or None; ``state`` is
    ``settled``, ``waiting`` or ``failed``. A task that runs on another node counts as healthy, because swarm ends
    unhealthy ones at once.

    Raises:
        VcoreError: no Docker daemon answers, or this machine is only a worker.
    """
    return Swarm().overview()


def rolls(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return for each service that is updated node by node the nodes that do not run the newest generation."""
    found = {}
    for name, generations in specification.generations(snapshot.services.values()).items():
        newest = next(iter(generations))
        nodes = {
            labels.get(specification.NODE_LABEL, ""): labels.get(f"{specification.GENERATION_LABEL}.{name}")
            for node in snapshot.nodes
            for labels in [node["Spec"].get("Labels") or {}]
        }
        found[name] = sorted(node for node, key in nodes.items() if key in generations and key != newest)
    return found


def _node_overview(node: Mapping[str, Any]) -> dict[str, Any]:
    labels = _core_labels(node)
    prefix = specification.ROLE_LABEL
    return {
        "id": node["ID"],
        "name": labels.get(specification.NODE_LABEL, node["Description"]["Hostname"]),
        "hostname": node["Description"]["Hostname"],
        "roles": sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix)),
        "state": node["Status"]["State"],
        "availability": node["Spec"]["Availability"],
        "leader": bool((node.get("ManagerStatus") or {}).get("Leader")),
        "engine": node["Description"]["Engine"]["EngineVersion"],
    }


def _by_owner(snapshot: Snapshot) -> dict[str, list[Mapping[str, Any]]]:
    """Return the core's services by name, each with all of its generations, the newest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for service in sorted(snapshot.services.values(), key=lambda entry: str(entry.get("CreatedAt")), reverse=True):
        if is_core(service):
            found.setdefault(specification.owner(service), []).append(service)
    return dict(sorted(found.items()))


def _together(generations: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the overviews of a service's generations: sums, the worst state, and the newest one's image."""
    worst = next((one for word in ("failed", "waiting") for one in generations if one["state"] == word), generations[0])
    return {
        **worst,
        "image": generations[0]["image"],
        **{key: sum(one[key] for one in generations) for key in ("desired", "running", "healthy")},
        "since": max((one["since"] for one in generations if one["since"]), default=None),
    }


def _service_overview(service: Mapping[str, Any], snapshot: Snapshot, unhealthy: Collection[str]) -> dict[str, Any]:
    tasks = snapshot.tasks_of(service)
    desired = specification.expected_tasks(specification.recorded_spec(service) or service["Spec"], snapshot.nodes)
    running = [task for task in tasks if task["DesiredState"] == task["Status"]["State"] == "running"]
    verdict = specification.verdict(service, tasks, desired)
    return {
        "image": specification.short_image(service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]),
        "desired": desired,
        "running": len(running),
        "healthy": sum(task["ID"] not in unhealthy for task in running),
        "since": max((task["Status"]["Timestamp"] for task in running), default=None),
        "state": verdict.state,
        "message": verdict.message,
    }


def _core_labels(node: Mapping[str, Any] | None) -> dict[str, str]:
    labels = (node or {"Spec": {}})["Spec"].get("Labels") or {}
    return {
        label: value
        for label, value in labels.items()
        if label == specification.NODE_LABEL
        or label.startswith((specification.ROLE_LABEL, f"{specification.GENERATION_LABEL}."))
    }


def _subnets(network: Mapping[str, Any] | None) -> list[str]:
    configuration: Iterable[Mapping[str, Any]] = ((network or {}).get("IPAM") or {}).get("Config") or []
    return [entry["Subnet"] for entry in configuration if entry.get("Subnet")]
