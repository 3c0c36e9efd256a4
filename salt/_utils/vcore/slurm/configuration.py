"""SLURM's configuration, as text out of the resolved pillar: everything here is pure.

:mod:`vcore.slurm.controller` brings it into place. What a node said of itself is in here only through
:mod:`vcore.nodes.hardware`, which is asked again before a line is written; what the site says was checked when it was
resolved. Whatever is still not what SLURM takes as one word is an error here, and never a line.

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
from ..base.names import NODE_NAME
from ..nodes import hardware
from ..nodes import hostlist as nodes_hostlist
from . import accounting
from . import names as slurm_names
from . import settings as slurm_settings

#: Nodes of SLURM by name, as :func:`compute_nodes` makes them.
Nodes = Mapping[str, Mapping[str, Any]]

CONTROLLER, COMPUTE = slurm_names.CONTROLLER, slurm_names.COMPUTE
#: Ports of the daemons, which are on the network of their nodes.
CONTROLLER_PORT, NODE_PORT = 6817, 6818
#: What the controller keeps on its volume; and a line for each job that ended.
STATE, COMPLETIONS = "/var/lib/slurm/slurmctld", "/var/lib/slurm/completions"
#: Below this part of a node's memory, RealMemory does not go for what the site reserves.
LEAST_SHARE = 0.5
#: Steps of RealMemory, so that another kernel, which keeps a little more for itself, is no other node.
MEMORY_STEP = 64
MIB = 1024**2

#: Nothing that ends a value, a line, or begins a comment.
WORD = re.compile(r"[A-Za-z0-9_.:/@%+,\[\]-]+")


def word(value: object) -> str:
    """A value as it stands in a file of SLURM's; what is not one word, or would be more than that, is an error."""
    text = str(value)
    if not WORD.fullmatch(text):
        raise VcoreError(f"SLURM cannot take {ascii(text)[:80]} for a value")
    return text


def line(*values: tuple[str, object]) -> str:
    """One line of ``Key=value``; a value of None is left out."""
    return " ".join(f"{key}={word(value)}" for key, value in values if value is not None)


# --- nodes ----------------------------------------------------------------------------------------------------------


def compute_nodes(pillar: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes that SLURM gets, by name, in the order of their numbers: those whose hardware and address are known.

    Each with ``address``, ``hardware`` and what the site's rules say of it (``features``, ``weight``,
    ``memory_reserve``). What a node says that cannot be is as if it said nothing; :func:`left_out` says why.
    """
    return _sorted_nodes(pillar)[0]


def _known(pillar: Mapping[str, Any], nodes: Nodes | None) -> Nodes:
    """The nodes, where the caller has not worked them out already."""
    return compute_nodes(pillar) if nodes is None else nodes


def left_out(pillar: Mapping[str, Any]) -> dict[str, str]:
    """Why a compute node of the core is not one of SLURM's, by its name."""
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
    """What the site says of nodes, by name; later ones win, value by value."""
    rules: dict[str, dict[str, Any]] = {}
    for names, rule in nodes.items():
        for name in nodes_hostlist.expand(names):
            said = {key: value for key, value in rule.items() if value not in (None, [])}
            rules[name] = {**rules.get(name, {}), **said}
    return rules


def _node(name: str, node: Mapping[str, Any], rule: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if not NODE_NAME.fullmatch(name):
        raise VcoreError("this is no name for a node (a-z, 0-9, -, a letter first)")
    if not node["address"]:
        raise VcoreError("its address is not known: it has not joined the swarm, and the site names none")
    if not node["hardware"]:
        # One that is being retired keeps its line for as long as it has jobs.
        raise VcoreError("it is being retired" if node.get("retiring") else "its hardware is not known yet")
    facts = hardware.validate(node["hardware"])
    if settings["cgroups"] == "on" and facts["cgroups"] != "v2":
        raise VcoreError("its kernel cannot hold jobs to their memory (no cgroup v2), and slurm.cgroups is on")
    try:
        address = str(ipaddress.IPv4Address(node["address"]))
    except ValueError:
        raise VcoreError(f"{ascii(node['address'])[:60]} is no IPv4 address") from None
    return {
        "address": address,
        "hardware": facts,
        "features": list(rule.get("features", [])),
        "weight": rule.get("weight"),
        "memory_reserve": rule.get("memory_reserve", settings["memory_reserve"]),
    }


def real_memory(memory_mib: int, reserve: int) -> int:
    """MiB that jobs may have of a node with ``memory_mib``; ``reserve`` bytes are kept for the node itself.

    It stays safely below what slurmd finds: a node that has less than its line says is drained.
    """
    kept = max(math.ceil(reserve / MIB), math.ceil(memory_mib / 50))
    usable = max(memory_mib - kept, int(memory_mib * LEAST_SHARE))
    return max(usable // MEMORY_STEP * MEMORY_STEP, 1)


def nodes_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """The file that slurm.conf includes: a line for each node."""
    lines = []
    for name, node in _known(pillar, nodes).items():
        facts = node["hardware"]
        lines.append(
            line(
                ("NodeName", name),
                # Always: a name that cannot be resolved stalls slurmctld for minutes.
                ("NodeAddr", node["address"]),
                ("Sockets", facts["sockets"]),
                ("CoresPerSocket", facts["cores_per_socket"]),
                ("ThreadsPerCore", facts["threads_per_core"]),
                ("RealMemory", real_memory(facts["memory_mib"], node["memory_reserve"])),
                # Half of it for everybody else who writes there; the least that slurmd has to find.
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
    """Which devices the GPUs of each node are, and those of parts of GPUs."""
    lines = []
    for name, node in _known(pillar, nodes).items():
        for gpu in node["hardware"]["gpus"]:
            files = gpu["mig"]["files"] if gpu["mig"] else [gpu["file"]]
            key = "MultipleFiles" if len(files) > 1 else "File"
            lines.append(line(("NodeName", name), ("Name", "gpu"), ("Type", _gpu_kind(gpu)), (key, ",".join(files))))
    return "".join(f"{text}\n" for text in [HEADER, *lines])


# --- the cluster ----------------------------------------------------------------------------------------------------


def limits_by_kernel(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> bool:
    """Whether the kernels of the nodes hold jobs to their memory: one answer for the cluster, as for its nodes'
    configuration. By itself it is yes where every node can.
    """
    wanted = pillar["slurm"]["cgroups"]
    if wanted != "auto":
        return bool(wanted == "on")
    found = _known(pillar, nodes).values()
    return bool(found) and all(node["hardware"]["cgroups"] == "v2" for node in found)


def cgroup_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """How slurmd uses the kernel's control groups."""
    lines = ["CgroupPlugin=disabled"]
    if limits_by_kernel(pillar, nodes):
        lines = [
            "CgroupPlugin=cgroup/v2",
            # slurmd's container has no systemd; its own group is led here when it starts.
            "CgroupMountpoint=/run/virtual-core/cgroup",
            "IgnoreSystemd=yes",
            "ConstrainCores=yes",
            "ConstrainRAMSpace=yes",
            "ConstrainSwapSpace=yes",
            "AllowedSwapSpace=0",
        ]
    return "".join(f"{text}\n" for text in [HEADER, *lines])


def slurm_conf(pillar: Mapping[str, Any], nodes: Nodes | None = None) -> str:
    """The main file; nodes that have no configuration of their own get it, and what it includes, of the controller."""
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
            # People are known where they log in; a daemon that knows none of them runs their jobs all the same.
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
            # Where the kernel does not hold jobs to their memory, slurmd looks after it.
            ("JobAcctGatherFrequency", 10),
            ("JobAcctGatherParams", None if kernel else "OverMemoryKill,UsePss"),
            # The login host's limits for a session are not a job's.
            ("PropagateResourceLimits", "NONE"),
            ("LaunchParameters", "use_interactive_step"),
            ("TmpFS", "/tmp"),
        ],
        [
            ("SelectType", "select/cons_tres"),
            ("SelectTypeParameters", "CR_Core_Memory"),
            ("GresTypes", "gpu"),
            # Without it, a job that names no memory takes all of a node.
            ("DefMemPerCPU", max(settings["default_memory_per_cpu"] // MIB, 1)),
            ("MaxMemPerNode", max(limits["memory_per_node"] // MIB, 1) if limits["memory_per_node"] else None),
            ("MaxJobCount", limits["jobs"]),
            ("MaxArraySize", limits["array"]),
            ("EnforcePartLimits", "ALL"),
            ("GroupUpdateTime", 60),
        ],
        [
            # A node that was away comes back by itself; one that was drained stays so.
            ("ReturnToService", 2),
            ("SlurmdTimeout", 300),
            ("MessageTimeout", 30),
            ("HealthCheckProgram", "/usr/lib/virtual-core/node-health"),
            ("HealthCheckInterval", 30),
            ("HealthCheckNodeState", "ANY"),
            # A step on every node of a job, from its first moment: by it pam_slurm_adopt lets people in by ssh.
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
    # Relative, or the nodes do not get it.
    lines += ["", "include nodes.conf", ""]
    lines += [_partition(pillar, name, entry, nodes) for name, entry in slurm_settings.all_partitions(settings).items()]
    return "".join(f"{text}\n" for text in lines)


def _accounting(pillar: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    """Where it is noted what ran: a line for each job, in a file on the controller's volume."""
    completions = [("JobCompType", "jobcomp/filetxt"), ("JobCompLoc", f"{COMPLETIONS}/jobs.log")]
    return [*completions, *accounting.slurm_conf_lines(pillar)]


def _partition(pillar: Mapping[str, Any], name: str, entry: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    members: object = "ALL"
    if entry["nodes"]:
        wanted = {member for names in entry["nodes"] for member in nodes_hostlist.expand(names)}
        # Those that are not there yet come when they are: slurmctld does not start with a node that it does not know.
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
    """The files of /etc/slurm on the controller, by name.

    Raises:
        VcoreError: a value that SLURM cannot take.
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
