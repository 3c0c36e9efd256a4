"""The wanted state of Docker Swarm: a service of the core as a swarm service, and the differences between two of them.

All functions are pure; :mod:`vcore.swarm.running` and :mod:`vcore.swarm.membership` carry out what they say.

Sources: the Docker Engine API reference, ``POST /services/create`` (ServiceSpec) and ``GET /tasks`` (Task states).
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import SERVICE_LABEL

CREDENTIAL_LABEL = "vcore.credential"


ITEM_LABEL = "vcore.item"


SPEC_LABEL = "vcore.spec"


NODE_LABEL = "vcore.node"


ROLE_LABEL = "vcore.role."


#: Label of a swarm service: the generation of the rolled service that it is. Followed by a dot and the service's name,
#: label of a node: the generation that it runs. See vcore.swarm.rolling.
GENERATION_LABEL = "vcore.generation"


#: Endings of the items of a certificate. The names of a service's own items have no underscore, so there is no clash.
CERTIFICATE_ITEMS = ("_crt", "_key", "_ca")


AUTHORIZED_KEYS = "authorized_keys"


#: Stands for the hash of content that a plan cannot know yet; it equals no hash, so it always shows as a change.
UNKNOWN = "unknown"


SECOND = 1_000_000_000  # nanoseconds, Docker's unit of time


#: How long a new task has to run well before its update counts as done.
MONITOR = 5 * SECOND


RESTART_DELAY = 5 * SECOND


#: Interval of health checks while a service starts (StartInterval, Docker 25 and later), to notice a start soon.
START_INTERVAL = 2 * SECOND


#: Failed tasks after which a service that never ran counts as failed; one or two may have started too early.
ATTEMPTS = 3


#: States of tasks that have ended without a request from swarm; ``complete`` is exit code 0.
ENDED = ("failed", "rejected", "complete", "orphaned")


@dataclass(frozen=True)
class File:
    """A swarm config or secret of a service, and its place in the service's container.

    ``data`` is None if a plan cannot know it yet.
    """

    service: str
    item: str
    secret: bool
    path: str
    owner: int
    group: int
    mode: str
    fingerprint: str
    data: bytes | None = field(repr=False)

    @property
    def name(self) -> str:
        """The name in swarm, which changes with the content because swarm's configs and secrets are immutable."""
        return f"{self.service}-{self.item}-{self.fingerprint}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels that name the owner."""
        return {SERVICE_LABEL: self.service, ITEM_LABEL: self.item}


def content(service: str, item: str, data: bytes) -> bytes:
    """Return the bytes to hash for a name; they differ between services whose items have the same name and content."""
    return b"\0".join((service.encode(), item.encode(), data))


def config_fingerprint(service: str, item: str, data: bytes) -> str:
    """Return twelve hexadecimal digits for a config's name; a secret's come from ``secrets.Store.fingerprint``."""
    return hashlib.sha256(content(service, item, data)).hexdigest()[:12]


def item_of(service: str, name: str) -> str:
    """Return the item that a config or secret of swarm holds, from its name."""
    return name.removeprefix(f"{service}-").rsplit("-", 1)[0]


def certificate_of(item: str) -> str | None:
    """Return the certificate that an item belongs to, or None."""
    for ending in CERTIFICATE_ITEMS:
        if item.endswith(ending):
            return item.removesuffix(ending)
    return None


def check_files(files: Iterable[File]) -> None:
    """Check Docker's limits on configs and secrets, so that a mistake shows before the first one is created.

    Raises:
        VcoreError: a name is longer than 64 characters, or content is empty or larger than 500 kB.
    """
    for file in files:
        if len(file.name) > 64:
            raise VcoreError(
                tr(
                    "{service}: the item name {item} is too long, {name} has more than the 64 characters "
                    "that Docker allows",
                    service=file.service,
                    item=file.item,
                    name=file.name,
                )
            )
        if file.data is not None and not 0 < len(file.data) <= 500_000:
            raise VcoreError(
                tr(
                    "{service}: {item} has {data} bytes, Docker takes from 1 to 500000",
                    service=file.service,
                    item=file.item,
                    data=len(file.data),
                )
            )


# --- the specification -------------------------------------------------------------------------------------------


def service_spec(
    service: Mapping[str, Any],
    *,
    pillar: Mapping[str, Any],
    image: str,
    configs: Sequence[File],
    secrets: Sequence[File],
    credential: str | None = None,
) -> dict[str, Any]:
    """Return the ServiceSpec of a resolved service, as ``POST /services/create`` takes it.

    ``credential`` is the fingerprint of the credential with which nodes pull the image: swarm stores the credential
    with the service, so a new one is a change of the service.

    Configs and secrets have names but not the ids that swarm gives them (:func:`with_ids` adds those). The label
    ``vcore.spec`` has the specification itself, because the daemon adds fields to its own copy.
    """
    name = service["name"]
    pinned = service["mode"] == "replicated"
    health, memory = service["health"], service["memory"]
    container: dict[str, Any] = {
        "Image": image,
        # The tasks of a global service share its network alias; each has the name of its node.
        "Hostname": name if pinned else "{{.Node.Hostname}}",
        "Env": [f"VCORE_SERVICE={name}"],
        "Init": False,  # the image brings tini
        "StopGracePeriod": service["stop_grace"] * SECOND,
        "Healthcheck": {
            "Test": ["CMD", "/sbin/server_health.sh"],
            "Interval": health["interval"] * SECOND,
            "Timeout": health["timeout"] * SECOND,
            "Retries": health["retries"],
            "StartPeriod": health["start_period"] * SECOND,
            "StartInterval": min(health["interval"] * SECOND, START_INTERVAL),
        },
        "Mounts": [_mount(volume) for _, volume in sorted(service["volumes"].items())],
        "Configs": [
            {"ConfigName": file.name, "File": _target(file)} for file in sorted(configs, key=lambda file: file.item)
        ],
        "Secrets": [
            {"SecretName": file.name, "File": _target(file)} for file in sorted(secrets, key=lambda file: file.item)
        ],
        "CapabilityAdd": sorted(f"CAP_{capability.removeprefix('CAP_')}" for capability in service["capabilities"]),
    }
    if not service["apparmor"]:
        container["Privileges"] = {"AppArmor": {"Mode": "disabled"}}
    if service["sysctls"]:
        container["Sysctls"] = dict(service["sysctls"])
    # 0 is Docker's value for no limit, in requests and in answers.
    resources: dict[str, Any] = {"Limits": {"MemoryBytes": memory["limit"] or 0}}
    if memory.get("reservation"):
        resources["Reservations"] = {"MemoryBytes": memory["reservation"]}
    constraint = f"node.labels.{NODE_LABEL}=={service['node']}"
    if not pinned:
        constraint = f"node.labels.{ROLE_LABEL}{service['placement']}==true"
    update = {"Parallelism": 1, "Monitor": MONITOR, "MaxFailureRatio": 0, "Order": service["update"]}
    spec: dict[str, Any] = {
        "Name": name,
        "Labels": {SERVICE_LABEL: name},
        "Mode": {"Replicated": {"Replicas": 1}} if pinned else {"Global": {}},
        "TaskTemplate": {
            "ContainerSpec": container,
            "Resources": resources,
            "Placement": {"Constraints": [constraint]},
            "RestartPolicy": {"Condition": "any", "Delay": RESTART_DELAY, "MaxAttempts": 0},
            "Networks": [
                {"Target": "host"}
                if service["network"] == "host"
                else {"Target": pillar["network"]["name"], "Aliases": [name]}
            ],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "3"}},
        },
        "UpdateConfig": update | {"FailureAction": "rollback"},
        "RollbackConfig": update | {"FailureAction": "pause"},
        "EndpointSpec": {
            # No virtual addresses and no routing mesh: these need IPVS in the kernel, and pinned services need no mesh.
            "Mode": "dnsrr",
            # A service on the network of its node has no ports to publish.
            "Ports": []
            if service["network"] == "host"
            else [
                {
                    "Protocol": port["protocol"],
                    "TargetPort": port["target"] or number,
                    "PublishedPort": number,
                    "PublishMode": "host",
                }
                for _, port in sorted(service["ports"].items())
                for number in range(port["number"], (port["last"] or port["number"]) + 1)
            ],
        },
    }
    if credential:
        spec["Labels"][CREDENTIAL_LABEL] = credential
    spec["Labels"][SPEC_LABEL] = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return spec


def _mount(volume: Mapping[str, Any]) -> dict[str, Any]:
    mount = {"Type": "bind", "Source": volume["source"], "Target": volume["path"]}
    # Leave Docker's own default out, as the daemon does.
    if volume["propagation"] != "rprivate":
        mount["BindOptions"] = {"Propagation": volume["propagation"]}
    return mount


def _target(file: File) -> dict[str, Any]:
    return {"Name": file.path, "UID": str(file.owner), "GID": str(file.group), "Mode": int(file.mode, 8)}


def with_ids(spec: Mapping[str, Any], config_ids: Mapping[str, str], secret_ids: Mapping[str, str]) -> dict[str, Any]:
    """Return the specification with swarm's ids added to the names of its configs and secrets."""
    bound: dict[str, Any] = copy.deepcopy(dict(spec))
    container = bound["TaskTemplate"]["ContainerSpec"]
    for reference in container["Configs"]:
        reference["ConfigID"] = config_ids[reference["ConfigName"]]
    for reference in container["Secrets"]:
        reference["SecretID"] = secret_ids[reference["SecretName"]]
    return bound


def recorded_spec(service: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the specification from which the daemon's service was made; {} if its label is damaged."""
    if service is None:
        return None
    try:
        spec = json.loads(service["Spec"]["Labels"][SPEC_LABEL])
    except (KeyError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def live_spec(service: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the current specification of the daemon's service, in the shape of the one from which it was made.

    That is the one that its label records, with everything that somebody has changed since, by ``docker service scale``
    for instance. Only fields that the core sets count, because the daemon adds its own. {} if the label is damaged.
    """
    recorded = recorded_spec(service)
    if service is None or not recorded:
        return recorded
    live = copy.deepcopy(dict(service["Spec"]))
    task, made_from = live["TaskTemplate"], recorded["TaskTemplate"]
    # Docker before 25 does not know these fields and drops them.
    container, kept = task["ContainerSpec"], made_from["ContainerSpec"]
    health = container.get("Healthcheck") or {}
    health.setdefault("StartInterval", kept["Healthcheck"].get("StartInterval"))
    if "Privileges" in kept and not _knows_apparmor(container):
        container["Privileges"] = kept["Privileges"]
    # The daemon replaces a network's name by its id; entries that somebody else added have no counterpart.
    for theirs, ours in zip(task.get("Networks") or [], made_from["Networks"], strict=False):
        theirs["Target"] = ours["Target"]
    spec: dict[str, Any] = _in_shape_of(recorded, live)
    # The recorded specification lacks this field if the site reserves nothing; the daemon does not add it either.
    if reserved := ((task.get("Resources") or {}).get("Reservations") or {}).get("MemoryBytes"):
        spec["TaskTemplate"]["Resources"]["Reservations"] = {"MemoryBytes": reserved}
    return spec


def _knows_apparmor(container: Mapping[str, Any]) -> bool:
    """Return whether the daemon that shows this container specification can run containers without AppArmor.

    That ability came with the field looked for here, which such daemons always show.
    """
    return "NoNewPrivileges" in (container.get("Privileges") or {})


def is_unconfined(service: Mapping[str, Any]) -> bool:
    """Return whether the daemon's service runs without Docker's AppArmor profile."""
    privileges = service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Privileges") or {}
    return (privileges.get("AppArmor") or {}).get("Mode") == "disabled"


def _in_shape_of(recorded: Any, live: Any) -> Any:
    """Return ``live`` with the fields of ``recorded`` only; empty values equal missing ones, which the daemon omits."""
    if isinstance(recorded, dict):
        fields = live if isinstance(live, dict) else {}
        return {key: _in_shape_of(value, fields.get(key)) for key, value in recorded.items()}
    if isinstance(recorded, list) and recorded and isinstance(recorded[0], dict):
        # An added entry gets the shape of the last one.
        return [_in_shape_of(recorded[min(n, len(recorded) - 1)], entry) for n, entry in enumerate(live or [])]
    return live if live or recorded else recorded


def referenced(spec: Mapping[str, Any] | None) -> set[str]:
    """Return the names of the configs and secrets that a ServiceSpec mounts."""
    container = ((spec or {}).get("TaskTemplate") or {}).get("ContainerSpec") or {}
    return {reference["ConfigName"] for reference in container.get("Configs") or []} | {
        reference["SecretName"] for reference in container.get("Secrets") or []
    }


# --- generations of a service ------------------------------------------------------------------------------------


def new_generation(spec: Mapping[str, Any], seconds: float) -> str:
    """Return a name for a generation that begins now."""
    text = f"{seconds:.6f} {json.dumps(spec, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def generation_spec(spec: Mapping[str, Any], generation: str) -> dict[str, Any]:
    """Return the specification of one generation: a service of its own, on nodes that carry its label."""
    own: dict[str, Any] = copy.deepcopy(dict(spec))
    name = spec["Name"]
    own["Name"] = f"{name}-{generation}"
    own["Labels"][GENERATION_LABEL] = generation
    own["TaskTemplate"]["Placement"]["Constraints"].append(f"node.labels.{GENERATION_LABEL}.{name}=={generation}")
    own["Labels"].pop(SPEC_LABEL, None)
    own["Labels"][SPEC_LABEL] = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return own


def of_no_generation(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the specification from which :func:`generation_spec` made this one; {} if it is damaged."""
    plain: dict[str, Any] = copy.deepcopy(dict(spec or {}))
    if GENERATION_LABEL not in plain.get("Labels", {}):
        return {}
    plain["Name"] = plain["Labels"][SERVICE_LABEL]
    del plain["Labels"][GENERATION_LABEL]
    placement = plain["TaskTemplate"]["Placement"]
    placement["Constraints"] = [entry for entry in placement["Constraints"] if GENERATION_LABEL not in entry]
    return plain


def generations(services: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return the generations of each rolled service, the newest first: ``{<name>: {<generation>: <service>}}``."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for service in sorted(services, key=lambda entry: str(entry.get("CreatedAt", "")), reverse=True):
        labels = service["Spec"].get("Labels") or {}
        if GENERATION_LABEL in labels and SERVICE_LABEL in labels:
            found.setdefault(labels[SERVICE_LABEL], {})[labels[GENERATION_LABEL]] = service
    return found


def owner(service: Mapping[str, Any]) -> str:
    """Return the name of the core's service to which a swarm service belongs, as the only one or as a generation."""
    labels = service["Spec"].get("Labels") or {}
    return str(labels[SERVICE_LABEL] if GENERATION_LABEL in labels else service["Spec"]["Name"])


def generation_labels(
    services: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[str, frozenset[str], str]]:
    """Return the generation labels for nodes of a role: ``{<label>: (<role's label>, <all generations>, <default>)}``.

    A new node gets the default, the generation that most nodes run, so that an untried one only comes by a roll.
    """
    found = {}
    everybody = [node["Spec"].get("Labels") or {} for node in nodes]
    for name, of_it in generations(services).items():
        label = f"{GENERATION_LABEL}.{name}"
        count = {key: sum(labels.get(label) == key for labels in everybody) for key in of_it}
        newest = next(iter(of_it.values()))["Spec"]["TaskTemplate"]["Placement"]["Constraints"]
        role = newest[0].removeprefix("node.labels.").split("==")[0]
        found[label] = (role, frozenset(of_it), max(count, key=lambda key: count[key]))
    return found


# --- the difference ----------------------------------------------------------------------------------------------


def size(value: int) -> str:
    """Return a number of bytes as a site file writes it: 512M, 2G."""
    for unit, factor in (("T", 1024**4), ("G", 1024**3), ("M", 1024**2), ("K", 1024)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def short_image(reference: str) -> str:
    """Return name and tag of an image: ``ldap:ab12`` for ``host:5000/ldap:ab12@sha256:…``."""
    return reference.split("@")[0].rsplit("/", 1)[-1]


def _seconds(value: int) -> str:
    return f"{value / SECOND:g} s"


def _port(port: Mapping[str, Any]) -> str:
    target = "" if port["TargetPort"] == port["PublishedPort"] else f" to {port['TargetPort']}"
    return f"{port['PublishedPort']}/{port['Protocol']}{target}"


def _health(health: Mapping[str, Any]) -> str:
    return (
        f"every {_seconds(health['Interval'])}, timeout {_seconds(health['Timeout'])}, "
        f"{health['Retries']} retries, start period {_seconds(health['StartPeriod'])}"
    )


def _memory(resources: Mapping[str, Any]) -> str:
    limit = resources["Limits"]["MemoryBytes"]
    words = f"limit {size(limit)}" if limit else "no limit"
    if "Reservations" in resources:
        words += f", reservation {size(resources['Reservations']['MemoryBytes'])}"
    return words


def _mode(mode: Mapping[str, Any]) -> str:
    if "Replicated" not in mode:
        return "global"
    tasks = mode["Replicated"]["Replicas"]
    return "replicated" if tasks == 1 else f"replicated, {tasks} tasks"


def _variable(entry: str) -> str:
    # The value of a variable that somebody else has set may be a secret.
    return entry if entry.startswith("VCORE_") else entry.partition("=")[0]


def _file(target: Mapping[str, Any]) -> str:
    return f"{target['Name']} {target['UID']}:{target['GID']} 0{target['Mode']:o}"


_CONTAINER = ("TaskTemplate", "ContainerSpec")


#: Fields with a name of their own in a change set: the name, the place in the specification, and the readable form.
_WORDS: tuple[tuple[str, tuple[str, ...], Callable[[Any], Any]], ...] = (
    ("image", (*_CONTAINER, "Image"), short_image),
    ("placement", ("TaskTemplate", "Placement"), lambda value: value["Constraints"][0].removeprefix("node.labels.")),
    ("mode", ("Mode",), _mode),
    ("environment", (*_CONTAINER, "Env"), lambda value: sorted(_variable(entry) for entry in value)),
    ("ports", ("EndpointSpec", "Ports"), lambda value: [_port(port) for port in value]),
    ("volumes", (*_CONTAINER, "Mounts"), lambda value: [f"{mount['Source']} at {mount['Target']}" for mount in value]),
    ("memory", ("TaskTemplate", "Resources"), _memory),
    ("capabilities", (*_CONTAINER, "CapabilityAdd"), list),
    ("apparmor", (*_CONTAINER, "Privileges"), lambda value: value["AppArmor"]["Mode"]),
    ("sysctls", (*_CONTAINER, "Sysctls"), dict),
    ("health", (*_CONTAINER, "Healthcheck"), _health),
    ("stop_grace", (*_CONTAINER, "StopGracePeriod"), _seconds),
    ("registry credential", ("Labels", CREDENTIAL_LABEL), str),
    ("network", ("TaskTemplate", "Networks"), lambda value: [network["Target"] for network in value]),
)


#: The fields that are listed for a new service, of which everything is new.
_WORDS_OF_NEW = ("image", "placement", "ports", "volumes", "memory")


def diff(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    old_configs: Mapping[str, bytes],
    new_configs: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """Return the changes between two specifications in readable form; {} exactly if they are the same.

    ``old`` is None for a service that does not exist. ``old_configs`` and ``new_configs`` have the contents of configs
    by their names in swarm, for the unified diff of a changed one. No value of a secret is needed or shown.
    """
    service = new["Name"]
    left, right = copy.deepcopy(dict(old or {})), copy.deepcopy(dict(new))
    for spec in (left, right):
        spec.get("Labels", {}).pop(SPEC_LABEL, None)
    changes: dict[str, Any] = {}
    for word, path, readable in _WORDS:
        before, after = _take(left, path), _take(right, path)
        if before == after or (old is None and word not in _WORDS_OF_NEW) or (old is None and not after):
            continue
        words = {"old": _readable(readable, before), "new": _readable(readable, after)}
        if words["old"] == words["new"] and word == "image":
            words["new"] += " (built again)"
        elif words["old"] == words["new"]:
            words = {"old": before, "new": after}  # the readable form does not show the difference
        changes[word] = words
    changes |= _diff_files(service, left, right, old_configs, new_configs)
    if old is not None:
        rest = {
            key: {"old": _flat(left).get(key), "new": _flat(right).get(key)}
            for key in sorted(_flat(left).keys() | _flat(right).keys())
            if _flat(left).get(key) != _flat(right).get(key)
        }
        if rest:
            changes["specification"] = rest
    return changes


def _take(spec: Any, path: Sequence[str]) -> Any:
    """Remove the value at ``path`` and return it; None if there is none."""
    for key in path[:-1]:
        spec = spec.get(key) if isinstance(spec, dict) else None
    return spec.pop(path[-1], None) if isinstance(spec, dict) else None


def _readable(words: Callable[[Any], Any], value: Any) -> Any:
    if value is None:
        return None
    try:
        return words(value)
    except (KeyError, IndexError, TypeError, AttributeError):
        return value  # written by another version of this project; shown as it is


def _diff_files(
    service: str,
    left: dict[str, Any],
    right: dict[str, Any],
    old_configs: Mapping[str, bytes],
    new_configs: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """Return the changes of configs, secrets and certificates for :func:`diff`, and remove them from both sides."""
    changes: dict[str, dict[str, Any]] = {"configs": {}, "secrets": {}, "certificates": {}, "files": {}}
    for word, kind, key in (("configs", "Configs", "ConfigName"), ("secrets", "Secrets", "SecretName")):
        before, after = (
            {item_of(service, reference[key]): reference for reference in _take(spec, (*_CONTAINER, kind)) or []}
            for spec in (left, right)
        )
        for item in sorted(before.keys() | after.keys()):
            old, new = before.get(item), after.get(item)
            certificate = certificate_of(item)
            if old is None or new is None:
                what = "new" if old is None else "removed"
                if certificate is not None:
                    # If only one of a certificate's files comes or goes, another file may say that it changed.
                    changes["certificates"].setdefault(certificate, what)
                else:
                    changes[word][item] = what
                continue
            if old[key] != new[key]:
                if certificate is not None:
                    changes["certificates"][certificate] = "changed"
                else:
                    changes[word][item] = _text_diff(item, old_configs.get(old[key]), new_configs.get(new[key]))
            if old["File"] != new["File"]:
                changes["files"][item] = {"old": _file(old["File"]), "new": _file(new["File"])}
    return {word: items for word, items in changes.items() if items}


def _text_diff(item: str, old: bytes | None, new: bytes | None) -> str:
    """Return a unified diff of a config; ``changed`` if it is not text, or one side is unknown or secret."""
    if old is None or new is None:
        return "changed"
    try:
        before, after = (text.decode().splitlines(keepends=True) for text in (old, new))
    except UnicodeDecodeError:
        return "changed"
    lines = [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, item, item)
    ]
    return "".join(lines) or "changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted keys; empty mappings vanish."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat


# --- what runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """The state of a service: ``settled``, ``waiting`` or ``failed``; the reason; and the task that caused it."""

    state: str
    message: str
    task: Mapping[str, Any] | None = None


def expected_tasks(spec: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> int:
    """Return how many tasks a service should have on these nodes."""
    if "Global" not in spec["Mode"]:
        return int(spec["Mode"]["Replicated"]["Replicas"])
    wanted = [
        constraint.removeprefix("node.labels.").split("==")
        for constraint in spec["TaskTemplate"]["Placement"]["Constraints"]
    ]
    return sum(
        node["Status"]["State"] == "ready"
        and node["Spec"]["Availability"] == "active"
        and all((node["Spec"].get("Labels") or {}).get(key) == value for key, value in wanted)
        for node in nodes
    )


#: Fields whose change makes swarm create new tasks. A task that also fits a new placement may stay.
_RESTARTED_FOR = ("ContainerSpec", "Resources", "RestartPolicy", "Networks", "LogDriver")


def is_made_from(task: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """Return whether a task was made from a service's task template."""
    return all(task["Spec"].get(key) == template.get(key) for key in _RESTARTED_FOR)


def patience(service: Mapping[str, Any]) -> int:
    """Return how many seconds an update of a resolved service may take, including image pull and rollback."""
    health = service["health"]
    start = health["start_period"] + (health["retries"] + 1) * (health["interval"] + health["timeout"])
    return int(300 + 2 * (start + service["stop_grace"] + (MONITOR + RESTART_DELAY) // SECOND))


def verdict(
    service: Mapping[str, Any],
    tasks: Iterable[Mapping[str, Any]],
    expected: int,
    *,
    seen: Collection[str] = (),
    attempt: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge the daemon's service by its tasks.

    ``seen`` are the ids of tasks that had ended before the wait began. ``attempt`` is the task template of an update
    that the caller has just sent: the update has failed once another specification is back and runs. A task with a
    health check is ``running`` only once it is healthy.
    """
    tasks = sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)
    template = service["Spec"]["TaskTemplate"]
    ended = [task for task in tasks if task["Status"]["State"] in ENDED and task["ID"] not in seen]
    failed = [task for task in ended if is_made_from(task, attempt or template)]
    newest = failed[0] if failed else None
    wanted = [task for task in tasks if task["DesiredState"] in ("ready", "running")]
    running = [task for task in wanted if task["Status"]["State"] == "running" and is_made_from(task, template)]
    complete = len(running) >= expected and len(running) == len(wanted)
    # Failed tasks of the current template count, which is not the attempt's after a rollback.
    given_up = sum(is_made_from(task, template) for task in ended) >= ATTEMPTS
    update = service.get("UpdateStatus") or {}
    state = update.get("State")
    if attempt is not None and state in ("rollback_completed", "rollback_paused", "paused"):
        if state == "rollback_completed" and not complete and not given_up:
            # Swarm reports this before the tasks of the previous specification run.
            return Verdict("waiting", "swarm goes back to the previous specification", newest)
        return Verdict("failed", _reason(newest) if newest else update.get("Message") or state, newest)
    if state == "rollback_started":
        return Verdict("waiting", "swarm goes back to the previous specification", newest)
    if state == "updating":
        return Verdict("waiting", _reason(tasks[0]) if tasks else "swarm makes the first task", newest)
    if complete:
        return Verdict("settled", f"{len(running)} of {expected} running")
    if given_up:
        return Verdict("failed", _reason(failed[0]), newest)
    waiting = next((task for task in wanted if task not in running), None)
    return Verdict("waiting", _reason(waiting) if waiting else f"{len(running)} of {expected} running", newest)


def _reason(task: Mapping[str, Any]) -> str:
    """Return swarm's message on a task, such as ``task: non-zero exit (1)``."""
    status = task["Status"]
    if status["State"] == "complete":
        return "the container ended by itself (exit code 0)"
    return status.get("Err") or f"{status['State']}: {status.get('Message', '')}".rstrip(": ")
