"""Docker Swarm, the wanted half: a service of the core as a swarm service, and how two of those differ.

Everything here is pure. :mod:`vcore.swarm.running` and :mod:`vcore.swarm.membership` carry it out.

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
from ..base.names import SERVICE_LABEL

CREDENTIAL_LABEL = "vcore.credential"


ITEM_LABEL = "vcore.item"


SPEC_LABEL = "vcore.spec"


NODE_LABEL = "vcore.node"


ROLE_LABEL = "vcore.role."


#: Of a service: which generation of a service that is rolled it is. Of a node, with the service's name behind a dot:
#: which one it has. See vcore.swarm.rolling.
GENERATION_LABEL = "vcore.generation"


#: Endings of the items that a certificate becomes. A service's own items have no underscore, so none is taken twice.
CERTIFICATE_ITEMS = ("_crt", "_key", "_ca")


AUTHORIZED_KEYS = "authorized_keys"


#: Stands for the hash of what a plan cannot know yet; it equals no hash, so it always shows as a change.
UNKNOWN = "unknown"


SECOND = 1_000_000_000  # nanoseconds, which is what Docker counts in


#: How long a new task has to stay well before its update counts as done.
MONITOR = 5 * SECOND


RESTART_DELAY = 5 * SECOND


#: Docker 25 and later check this often while a service starts (StartInterval), so that a start is noticed soon.
START_INTERVAL = 2 * SECOND


#: Failed tasks after which a service that never ran counts as failed; one or two may have come before their time.
ATTEMPTS = 3


#: Task states that end a task without swarm having asked for it; ``complete`` is exit code 0.
ENDED = ("failed", "rejected", "complete", "orphaned")


@dataclass(frozen=True)
class File:
    """A swarm config or secret of a service, and where the service's container sees it.

    ``data`` is None where a plan does not know it yet.
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
        """The name in swarm: it changes with the content, because swarm's configs and secrets never change."""
        return f"{self.service}-{self.item}-{self.fingerprint}"

    @property
    def labels(self) -> dict[str, str]:
        """What tells later whose it is."""
        return {SERVICE_LABEL: self.service, ITEM_LABEL: self.item}


def content(service: str, item: str, data: bytes) -> bytes:
    """What is hashed for a name: two services may have items of the same name and content, and stay apart."""
    return b"\0".join((service.encode(), item.encode(), data))


def config_fingerprint(service: str, item: str, data: bytes) -> str:
    """Twelve hexadecimal digits for a config's name; a secret's come from ``secrets.Store.fingerprint``."""
    return hashlib.sha256(content(service, item, data)).hexdigest()[:12]


def item_of(service: str, name: str) -> str:
    """The item that a config or secret of swarm holds, from its name."""
    return name.removeprefix(f"{service}-").rsplit("-", 1)[0]


def certificate_of(item: str) -> str | None:
    """The certificate that an item belongs to, or None."""
    for ending in CERTIFICATE_ITEMS:
        if item.endswith(ending):
            return item.removesuffix(ending)
    return None


def check_files(files: Iterable[File]) -> None:
    """Check what Docker asks of configs and secrets, so that a mistake shows before the first one is created.

    Raises:
        VcoreError: a name beyond 64 characters, or content that is empty or beyond 500 kB.
    """
    for file in files:
        if len(file.name) > 64:
            raise VcoreError(
                f"{file.service}: the item name {file.item} is too long, "
                f"{file.name} has more than the 64 characters that Docker allows"
            )
        if file.data is not None and not 0 < len(file.data) <= 500_000:
            raise VcoreError(f"{file.service}: {file.item} has {len(file.data)} bytes, Docker takes from 1 to 500000")


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
    """The ServiceSpec of a resolved service, as ``POST /services/create`` takes it.

    ``credential`` is the fingerprint of what nodes pull the image with: swarm keeps the credential with the service,
    so a new one has to reach it.

    Configs and secrets are named, without the ids that swarm gives them (:func:`with_ids` adds those). The label
    ``vcore.spec`` holds the specification itself, because the daemon adds fields to the one that it keeps.
    """
    name = service["name"]
    pinned = service["mode"] == "replicated"
    health, memory = service["health"], service["memory"]
    container: dict[str, Any] = {
        "Image": image,
        # A global service's tasks share its network alias; each shows the name of its node.
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
    # Docker takes 0 for no limit; so does the daemon when it shows what it has.
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
            # No virtual addresses and no routing mesh: these need IPVS in the kernel, and a pinned service no mesh.
            "Mode": "dnsrr",
            # On the network of its node there is nothing to publish.
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
    # Docker's own default is left out, as the daemon does.
    if volume["propagation"] != "rprivate":
        mount["BindOptions"] = {"Propagation": volume["propagation"]}
    return mount


def _target(file: File) -> dict[str, Any]:
    return {"Name": file.path, "UID": str(file.owner), "GID": str(file.group), "Mode": int(file.mode, 8)}


def with_ids(spec: Mapping[str, Any], config_ids: Mapping[str, str], secret_ids: Mapping[str, str]) -> dict[str, Any]:
    """The specification with swarm's ids beside the names of its configs and secrets."""
    bound: dict[str, Any] = copy.deepcopy(dict(spec))
    container = bound["TaskTemplate"]["ContainerSpec"]
    for reference in container["Configs"]:
        reference["ConfigID"] = config_ids[reference["ConfigName"]]
    for reference in container["Secrets"]:
        reference["SecretID"] = secret_ids[reference["SecretName"]]
    return bound


def recorded_spec(service: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The specification that a service of the daemon was made from; {} if its label is damaged."""
    if service is None:
        return None
    try:
        spec = json.loads(service["Spec"]["Labels"][SPEC_LABEL])
    except (KeyError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def live_spec(service: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The specification that a service of the daemon has now, in the shape of the one that it was made from.

    That is what its label records, with whatever somebody has changed since, by ``docker service scale`` for instance.
    Only what the core sets counts, because the daemon adds fields of its own. {} if the label is damaged.
    """
    recorded = recorded_spec(service)
    if service is None or not recorded:
        return recorded
    live = copy.deepcopy(dict(service["Spec"]))
    task, made_from = live["TaskTemplate"], recorded["TaskTemplate"]
    # Docker before 25 does not know these and drops them.
    container, kept = task["ContainerSpec"], made_from["ContainerSpec"]
    health = container.get("Healthcheck") or {}
    health.setdefault("StartInterval", kept["Healthcheck"].get("StartInterval"))
    if "Privileges" in kept and not _knows_apparmor(container):
        container["Privileges"] = kept["Privileges"]
    # The daemon puts a network's id in the place of its name; an entry of somebody else has no alias.
    for theirs, ours in zip(task.get("Networks") or [], made_from["Networks"], strict=False):
        theirs["Target"] = ours["Target"]
    spec: dict[str, Any] = _in_shape_of(recorded, live)
    # None is set where the site has none, and the daemon adds none.
    if reserved := ((task.get("Resources") or {}).get("Reservations") or {}).get("MemoryBytes"):
        spec["TaskTemplate"]["Resources"]["Reservations"] = {"MemoryBytes": reserved}
    return spec


def _knows_apparmor(container: Mapping[str, Any]) -> bool:
    """Whether the daemon that shows a container's specification can run it without AppArmor: that came with this field,
    which it always shows.
    """
    return "NoNewPrivileges" in (container.get("Privileges") or {})


def is_unconfined(service: Mapping[str, Any]) -> bool:
    """Whether Docker runs a service of the daemon without its AppArmor profile."""
    privileges = service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Privileges") or {}
    return (privileges.get("AppArmor") or {}).get("Mode") == "disabled"


def _in_shape_of(recorded: Any, live: Any) -> Any:
    """``live`` with the fields of ``recorded`` only. The daemon leaves out what is empty, so that equals nothing."""
    if isinstance(recorded, dict):
        fields = live if isinstance(live, dict) else {}
        return {key: _in_shape_of(value, fields.get(key)) for key, value in recorded.items()}
    if isinstance(recorded, list) and recorded and isinstance(recorded[0], dict):
        # An entry that was added is cut to the shape of the others.
        return [_in_shape_of(recorded[min(n, len(recorded) - 1)], entry) for n, entry in enumerate(live or [])]
    return live if live or recorded else recorded


def referenced(spec: Mapping[str, Any] | None) -> set[str]:
    """Names of the configs and secrets that a ServiceSpec mounts."""
    container = ((spec or {}).get("TaskTemplate") or {}).get("ContainerSpec") or {}
    return {reference["ConfigName"] for reference in container.get("Configs") or []} | {
        reference["SecretName"] for reference in container.get("Secrets") or []
    }


# --- generations of a service ------------------------------------------------------------------------------------


def new_generation(spec: Mapping[str, Any], seconds: float) -> str:
    """A name for a generation that begins now."""
    text = f"{seconds:.6f} {json.dumps(spec, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def generation_spec(spec: Mapping[str, Any], generation: str) -> dict[str, Any]:
    """The specification of one generation: a service of its own, on nodes that carry its label."""
    own: dict[str, Any] = copy.deepcopy(dict(spec))
    name = spec["Name"]
    own["Name"] = f"{name}-{generation}"
    own["Labels"][GENERATION_LABEL] = generation
    own["TaskTemplate"]["Placement"]["Constraints"].append(f"node.labels.{GENERATION_LABEL}.{name}=={generation}")
    own["Labels"].pop(SPEC_LABEL, None)
    own["Labels"][SPEC_LABEL] = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return own


def of_no_generation(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """The specification that :func:`generation_spec` made one of; {} if it is damaged."""
    plain: dict[str, Any] = copy.deepcopy(dict(spec or {}))
    if GENERATION_LABEL not in plain.get("Labels", {}):
        return {}
    plain["Name"] = plain["Labels"][SERVICE_LABEL]
    del plain["Labels"][GENERATION_LABEL]
    placement = plain["TaskTemplate"]["Placement"]
    placement["Constraints"] = [entry for entry in placement["Constraints"] if GENERATION_LABEL not in entry]
    return plain


def generations(services: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The services that are rolled, by name: their generations, the newest first."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for service in sorted(services, key=lambda entry: str(entry.get("CreatedAt", "")), reverse=True):
        labels = service["Spec"].get("Labels") or {}
        if GENERATION_LABEL in labels and SERVICE_LABEL in labels:
            found.setdefault(labels[SERVICE_LABEL], {})[labels[GENERATION_LABEL]] = service
    return found


def owner(service: Mapping[str, Any]) -> str:
    """The name of the core's service that a service of the swarm is, or is a generation of."""
    labels = service["Spec"].get("Labels") or {}
    return str(labels[SERVICE_LABEL] if GENERATION_LABEL in labels else service["Spec"]["Name"])


def generation_labels(
    services: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[str, frozenset[str], str]]:
    """What a node that comes to a role is labelled with, by label: the role's label, all generations, and the one that
    it gets: that which most nodes run, so that one which is not tried yet comes by a roll.
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
    """Bytes as a site file writes them: 512M, 2G."""
    for unit, factor in (("T", 1024**4), ("G", 1024**3), ("M", 1024**2), ("K", 1024)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def short_image(reference: str) -> str:
    """``host:5000/ldap:ab12@sha256:…`` as ``ldap:ab12``."""
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
    # The value of one that somebody else has set may be a secret.
    return entry if entry.startswith("VCORE_") else entry.partition("=")[0]


def _file(target: Mapping[str, Any]) -> str:
    return f"{target['Name']} {target['UID']}:{target['GID']} 0{target['Mode']:o}"


_CONTAINER = ("TaskTemplate", "ContainerSpec")


#: What has a word of its own in a change set: the word, where it stands in the specification, how a person reads it.
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


#: What is worth listing of a service that is new; all else of it is new as well.
_WORDS_OF_NEW = ("image", "placement", "ports", "volumes", "memory")


def diff(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    old_configs: Mapping[str, bytes],
    new_configs: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """What changes between two specifications, in people's words; {} exactly where they are the same.

    ``old`` is None for a service that is not there. ``old_configs`` and ``new_configs`` hold the contents of
    configs by their names in swarm, for the unified diff of a changed one. No secret's value is needed or shown.
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
            words = {"old": before, "new": after}  # what differs is in no words
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
    """Remove what stands at ``path`` and return it; None where nothing does."""
    for key in path[:-1]:
        spec = spec.get(key) if isinstance(spec, dict) else None
    return spec.pop(path[-1], None) if isinstance(spec, dict) else None


def _readable(words: Callable[[Any], Any], value: Any) -> Any:
    if value is None:
        return None
    try:
        return words(value)
    except (KeyError, IndexError, TypeError, AttributeError):
        return value  # written by another version of this project: shown as it is


def _diff_files(
    service: str,
    left: dict[str, Any],
    right: dict[str, Any],
    old_configs: Mapping[str, bytes],
    new_configs: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """The part of :func:`diff` on configs, secrets and certificates; takes them out of both specifications."""
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
                    # Where only one of a certificate's files comes or goes, another one says that it changed.
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
    """A unified diff of a config; ``changed`` where it is no text, or one side is not known (or secret)."""
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
    """Nested mappings as one, with dotted keys; empty ones leave nothing."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat


# --- what runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """How far a service has come: ``settled``, ``waiting`` or ``failed``; why; and the task that it is about."""

    state: str
    message: str
    task: Mapping[str, Any] | None = None


def expected_tasks(spec: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> int:
    """How many tasks a service should have on these nodes."""
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


#: What swarm makes a new task for when it changes. A task may stay that meets a new placement as well.
_RESTARTED_FOR = ("ContainerSpec", "Resources", "RestartPolicy", "Networks", "LogDriver")


def is_made_from(task: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """Whether a task was made from a service's task template."""
    return all(task["Spec"].get(key) == template.get(key) for key in _RESTARTED_FOR)


def patience(service: Mapping[str, Any]) -> int:
    """Seconds that an update of a resolved service may take, with the pull of its image and a rollback."""
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
    """Judge a service of the daemon by its tasks.

    ``seen`` are ids of tasks that had ended before the wait began. ``attempt`` is the task template of an update that
    the caller has just sent: the update has failed once another specification is back, and runs.
    A task with a health check is ``running`` only once it is healthy.
    """
    tasks = sorted(tasks, key=lambda task: task["CreatedAt"], reverse=True)
    template = service["Spec"]["TaskTemplate"]
    ended = [task for task in tasks if task["Status"]["State"] in ENDED and task["ID"] not in seen]
    failed = [task for task in ended if is_made_from(task, attempt or template)]
    newest = failed[0] if failed else None
    wanted = [task for task in tasks if task["DesiredState"] in ("ready", "running")]
    running = [task for task in wanted if task["Status"]["State"] == "running" and is_made_from(task, template)]
    complete = len(running) >= expected and len(running) == len(wanted)
    # Every task counts that failed of what the service is made from now, which after a rollback is not the attempt.
    given_up = sum(is_made_from(task, template) for task in ended) >= ATTEMPTS
    update = service.get("UpdateStatus") or {}
    state = update.get("State")
    if attempt is not None and state in ("rollback_completed", "rollback_paused", "paused"):
        if state == "rollback_completed" and not complete and not given_up:
            # Swarm says so before the tasks that it went back to run.
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
    """What swarm says of a task, such as ``task: non-zero exit (1)``."""
    status = task["Status"]
    if status["State"] == "complete":
        return "the container ended by itself (exit code 0)"
    return status.get("Err") or f"{status['State']}: {status.get('Message', '')}".rstrip(": ")
