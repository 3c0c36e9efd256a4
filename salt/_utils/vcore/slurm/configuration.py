"""SLURM's configuration as text, from the resolved pillar. Everything here is pure.

:mod:`vcore.slurm.controller` brings it into place. Facts that a node reports are validated again by
:mod:`vcore.nodes.hardware` before they are written; the site's settings were checked when the site was resolved. A
value that would still not be one word to SLURM raises an error and is never written.

Sources: slurm.conf(5), gres.conf(5), cgroup.conf(5) of SLURM 24.11.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import hostlist

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.names import NODE_NAME
from ..nodes import hardware
from ..nodes import hostlist as nodes_hostlist
from . import accounting
from . import names as slurm_names
from . import settings as slurm_settings

#: Nodes of SLURM by name, as :func:`compute_nodes` makes them.
Nodes = Mapping[str, Mapping[str, Any]]

CONTROLLER, COMPUTE = slurm_names.CONTROLLER, slurm_names.COMPUTE
#: Ports of the daemons, on the network of their nodes.
CONTROLLER_PORT, NODE_PORT = 6817, 6818
#: Where the controller keeps its state, and the log with a line for each job that ended; both are on its volume.
STATE, COMPLETIONS = "/var/lib/slurm/slurmctld", "/var/lib/slurm/completions"
#: The part of a node's memory that jobs keep, however much the site reserves.
LEAST_SHARE = 0.5
#: RealMemory is rounded down to this many MiB, so that a kernel that needs slightly more memory changes nothing.
MEMORY_STEP = 64
MIB = 1024**2

#: Values without characters that end a value or a line, or begin a comment.
WORD = re.compile(r"[A-Za-z0-9_.:/@%+,\[\]-]+")


def word(value: object) -> str:
    """Return a value as text for a file of SLURM's.

    Raises:
        VcoreError: SLURM would not read it as one word.
    """
    text = str(value)
    if not WORD.fullmatch(text):
        raise VcoreError(tr("SLURM does not accept {text} as a value", text=ascii(text)[:80]))
    return text


def line(*values: tuple[str, object]) -> str:
    """Return one line of ``Key=value`` pairs; values of None are left out."""
    return " ".join(f"{key}={word(value)}" for key, value in values if value is not None)


# --- nodes ----------------------------------------------------------------------------------------------------------


def compute_nodes(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the nodes whose hardware and address are known, which SLURM gets, by name in the order of their numbers.

    Each has ``address``, ``hardware`` and what the site's rules give it: ``features``, ``weight`` and
    ``memory_reserve`` (bytes). Nodes with impossible hardware facts are left out; :func:`left_out` says why.
    """
    return _sorted_nodes(pillar)[0]


def _known(pillar: Mapping[str, Any], nodes: Nodes | None) -> Nodes:
    """Return ``nodes``, or work them out where the caller has not."""
    return compute_nodes(pillar) if nodes is None else nodes


def left_out(pillar: Mapping[str, Any]) -> dict[str, str]:
    """Return why compute nodes of the core are not among SLURM's nodes, by name."""
    return _sorted_nodes(pillar)[1]


def _sorted_nodes(pillar: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    settings = pillar["slurm"]
    rules = _rules(settings["nodes"])
    found: dict[str, dict[str, Any]] = {}
    why: dict[str, str] = {}
    for name in sorted(pillar["nodes"], key=_order):
        node = pillar["nodes"][name]
        if "compute" not in node["roles"]:
            continue
        try:
            found[name] = _node(name, node, rules.get(name, {}), settings)
        except VcoreError as error:
            why[name] = str(error)
    return found, why


def _order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _rules(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the site's rules for each node by name; later rules win, value by value."""
    rules: dict[str, dict[str, Any]] = {}
    for names, rule in nodes.items():
        for name in nodes_hostlist.expand(names):
            said = {key: value for key, value in rule.items() if value not in (None, [])}
            rules[name] = {**rules.get(name, {}), **said}
    return rules


def _node(name: str, node: Mapping[str, Any], rule: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if not NODE_NAME.fullmatch(name):
        raise VcoreError(tr("this is no name for a node (a-z, 0-9, -, a letter first)"))
    if not node["address"]:
        raise VcoreError(tr("its address is not known: it has not joined the swarm, and the site names none"))
    if not node["hardware"]:
        # A node that is being retired keeps its hardware, and so its line, while it has jobs.
        raise VcoreError(tr("it is being retired") if node.get("retiring") else tr("its hardware is not known yet"))
    facts = hardware.validate(node["hardware"])
    if settings["cgroups"] == "on" and facts["cgroups"] != "v2":
        raise VcoreError(tr("its kernel cannot limit jobs' memory (no cgroup v2), and slurm.cgroups is on"))
    try:
        address = str(ipaddress.IPv4Address(node["address"]))
    except ValueError:
        raise VcoreError(tr("{address} is no IPv4 address", address=ascii(node["address"])[:60])) from None
    return {
        "address": address,
        "hardware": facts,
        "features": list(rule.get("features", [])),
        "weight": rule.get("weight"),
        "memory_reserve": rule.get("memory_reserve", settings["memory_reserve"]),
    }


def real_memory(memory_mib: int, reserve: int) -> int:
    """Return the MiB of a node with ``memory_mib`` that jobs may have; ``reserve`` bytes are kept for the node itself.

    The result stays safely below what slurmd finds, because SLURM drains a node that has less than its line says.
    """
    kept = max(math.ceil(reserve / MIB), math.ceil(memory_mib / 50))
    usable = max(memory_mib - kept, int(memory_mib * LEAST_SHARE))
    return max(usable // MEMORY_STEP * MEMORY_STEP, 1)


def nodes_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """Return nodes.conf, which slurm.conf includes: a line for each node."""
    lines = []
    for name, node in _known(pillar, nodes).items():
        facts = node["hardware"]
        lines.append(
            line(
                ("NodeName", name),
                # Always given, because a name that cannot be resolved stalls slurmctld for minutes.
                ("NodeAddr", node["address"]),
                ("Sockets", facts["sockets"]),
                ("CoresPerSocket", facts["cores_per_socket"]),
                ("ThreadsPerCore", facts["threads_per_core"]),
                ("RealMemory", real_memory(facts["memory_mib"], node["memory_reserve"])),
                # Half, because others write there, too: slurmd must never find less than this.
                ("TmpDisk", facts["scratch_mib"] // 2 // 1024 * 1024 or None),
                ("Gres", ",".join(f"gpu:{kind}:{count}" for kind, count in _gpu_counts(facts)) or None),
                ("Feature", ",".join(dict.fromkeys(node["features"])) or None),
                ("Weight", node["weight"]),
                ("State", "UNKNOWN"),
            )
        )
    return "".join(f"{text}\n" for text in [HEADER, *lines])


def _gpu_kind(gpu: Mapping[str, Any]) -> str:
    return str(gpu["mig"]["profile"] if gpu["mig"] else gpu["type"])


def _gpu_counts(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    kinds = [_gpu_kind(gpu) for gpu in facts["gpus"]]
    return [(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]


def gres_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """Return gres.conf: the devices of each node's GPUs and of parts of GPUs."""
    lines = []
    for name, node in _known(pillar, nodes).items():
        for gpu in node["hardware"]["gpus"]:
            files = gpu["mig"]["files"] if gpu["mig"] else [gpu["file"]]
            key = "MultipleFiles" if len(files) > 1 else "File"
            lines.append(line(("NodeName", name), ("Name", "gpu"), ("Type", _gpu_kind(gpu)), (key, ",".join(files))))
    return "".join(f"{text}\n" for text in [HEADER, *lines])


# --- the cluster ----------------------------------------------------------------------------------------------------


def limits_by_kernel(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> bool:
    """Return whether the nodes' kernels limit jobs' memory.

    It is one answer for the whole cluster, because all nodes share a configuration. With ``auto`` it is True where
    every node can.
    """
    wanted = pillar["slurm"]["cgroups"]
    if wanted != "auto":
        return bool(wanted == "on")
    found = _known(pillar, nodes).values()
    return bool(found) and all(node["hardware"]["cgroups"] == "v2" for node in found)


def cgroup_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """Return cgroup.conf: how slurmd uses the kernel's control groups."""
    lines = ["CgroupPlugin=disabled"]
    if limits_by_kernel(pillar, nodes):
        lines = [
            "CgroupPlugin=cgroup/v2",
            # slurmd's container has no systemd; at its start its own control group is mounted here.
            "CgroupMountpoint=/run/virtual-core/cgroup",
            "IgnoreSystemd=yes",
            "ConstrainCores=yes",
            "ConstrainRAMSpace=yes",
            "ConstrainSwapSpace=yes",
            "AllowedSwapSpace=0",
        ]
    return "".join(f"{text}\n" for text in [HEADER, *lines])


def slurm_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """Return slurm.conf, which nodes fetch from the controller together with the files that it includes."""
    settings, nodes = pillar["slurm"], _known(pillar, nodes)
    limits, ports, kernel = settings["limits"], settings["srun_ports"], limits_by_kernel(pillar, nodes)
    sections = [
        [
            ("ClusterName", settings["cluster"]),
            ("SlurmctldPort", CONTROLLER_PORT),
            ("SlurmdPort", NODE_PORT),
            ("SlurmUser", "slurm"),
            ("SlurmctldParameters", "enable_configless"),
            ("AuthType", "auth/slurm"),
            ("CredType", "cred/slurm"),
            # The login host knows people; this lets a daemon that does not know them run their jobs all the same.
            ("AuthInfo", "use_client_ids"),
            ("DisableRootJobs", "YES"),
            ("StateSaveLocation", STATE),
            ("SlurmdSpoolDir", "/var/spool/slurmd"),
            ("SlurmctldPidFile", "/run/slurmctld/slurmctld.pid"),
            ("SlurmdPidFile", "/run/slurmd.pid"),
            ("SlurmctldLogFile", "/run/slurmctld/log"),
            ("MailProg", "/usr/bin/true"),
            ("MpiDefault", "none"),
            ("SrunPortRange", f"{ports['first']}-{ports['last']}"),
        ],
        [
            ("ProctrackType", "proctrack/cgroup" if kernel else "proctrack/linuxproc"),
            ("TaskPlugin", "task/cgroup,task/affinity" if kernel else "task/affinity"),
            ("JobAcctGatherType", "jobacct_gather/cgroup" if kernel else "jobacct_gather/linux"),
            # Where the kernel does not limit jobs' memory, slurmd does.
            ("JobAcctGatherFrequency", 10),
            ("JobAcctGatherParams", None if kernel else "OverMemoryKill,UsePss"),
            # A login session's limits must not apply to jobs.
            ("PropagateResourceLimits", "NONE"),
            ("LaunchParameters", "use_interactive_step"),
            ("TmpFS", "/tmp"),
        ],
        [
            ("SelectType", "select/cons_tres"),
            ("SelectTypeParameters", "CR_Core_Memory"),
            ("GresTypes", "gpu"),
            # Without it, a job that names no memory gets all of a node's.
            ("DefMemPerCPU", max(settings["default_memory_per_cpu"] // MIB, 1)),
            ("MaxMemPerNode", max(limits["memory_per_node"] // MIB, 1) if limits["memory_per_node"] else None),
            ("MaxJobCount", limits["jobs"]),
            ("MaxArraySize", limits["array"]),
            ("EnforcePartLimits", "ALL"),
            ("GroupUpdateTime", 60),
        ],
        [
            # A node that was unreachable returns by itself; a drained one stays drained.
            ("ReturnToService", 2),
            ("SlurmdTimeout", 300),
            ("MessageTimeout", 30),
            ("HealthCheckProgram", "/usr/lib/virtual-core/node-health"),
            ("HealthCheckInterval", 30),
            ("HealthCheckNodeState", "ANY"),
            # Creates a step on every node at the start of a job: pam_slurm_adopt needs it to let people in by ssh.
            ("PrologFlags", "Contain"),
            ("Prolog", PROLOG if settings["prolog"] else None),
            ("Epilog", EPILOG if settings["epilog"] else None),
        ],
        [*_accounting(pillar)],
    ]
    controller = word(pillar["nodes"][pillar["services"][CONTROLLER]["node"]]["address"])
    lines = [HEADER, f"SlurmctldHost={CONTROLLER}({controller})"]
    for section in sections:
        lines += ["", *(line((key, value)) for key, value in section if value is not None)]
    # The path is relative, or the nodes would not get the file.
    lines += ["", "include nodes.conf", ""]
    lines += [_partition(pillar, name, entry, nodes) for name, entry in slurm_settings.all_partitions(settings).items()]
    return "".join(f"{text}\n" for text in lines)


def _accounting(pillar: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    """Return the settings that record jobs: a line for each in a file on the controller's volume, and accounting's."""
    completions = [("JobCompType", "jobcomp/filetxt"), ("JobCompLoc", f"{COMPLETIONS}/jobs.log")]
    return [*completions, *accounting.slurm_conf_lines(pillar)]


def _partition(pillar: Mapping[str, Any], name: str, entry: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    members: object = "ALL"
    if entry["nodes"]:
        wanted = {member for names in entry["nodes"] for member in nodes_hostlist.expand(names)}
        # Nodes that have not joined are left out until they have: slurmctld does not start if a node is unknown.
        there = [member for member in nodes if member in wanted]
        members = hostlist.collect_hostlist(there) if there else None
    accounted = slurm_names.ACCOUNTING in pillar["services"]
    return line(
        ("PartitionName", name),
        ("Nodes", members),
        ("Default", "YES" if entry["default"] else "NO"),
        ("MaxTime", entry["max_time"]),
        ("DefaultTime", entry["default_time"]),
        ("MaxNodes", entry.get("max_nodes")),
        ("PriorityTier", entry["priority"]),
        ("AllowGroups", ",".join(entry["groups"]) or None),
        ("QOS", entry.get("qos") if accounted else None),
        ("State", "UP"),
    )


HEADER = "# Written by Virtual Core: it follows from the site file and from what the nodes are; changes here are lost."
PROLOG, EPILOG = "prolog.sh", "epilog.sh"


def files(pillar: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of the files of the controller's /etc/slurm, by name.

    Raises:
        VcoreError: SLURM does not accept a value.
    """
    settings, nodes = pillar["slurm"], compute_nodes(pillar)
    texts = {
        "slurm.conf": slurm_conf(pillar, nodes),
        "nodes.conf": nodes_conf(pillar, nodes),
        "gres.conf": gres_conf(pillar, nodes),
        "cgroup.conf": cgroup_conf(pillar, nodes),
    }
    for name, script in ((PROLOG, settings["prolog"]), (EPILOG, settings["epilog"])):
        if script:
            texts[name] = script
    return {name: text.encode() for name, text in texts.items()}
