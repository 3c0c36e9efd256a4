"""The ``slurm:`` section of the site file: its models and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from ..base.errors import VcoreError
from ..base.messages import tr
from ..host.network import Route
from ..kernel.documents import Document, Problem
from ..kernel.models import AbsolutePath, Model, Size, field
from ..kernel.sections import Section
from ..kernel.site import Configuration
from ..nodes.hostlist import expand
from ..people.settings import AccountName, GroupName
from ..services.settings import chosen
from .names import ACCOUNTING, CONTROLLER, SlurmPart, seconds


def _hostlist(text: str) -> str:
    expand(text)
    return text


Hostlist = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_hostlist)]


PartitionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]


Feature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")]


#: A time limit as SLURM writes it: minutes, hours:minutes:seconds, days-hours:minutes:seconds.
TimeLimit = Annotated[
    str,
    StringConstraints(
        pattern=r"^([0-9]{1,7}|([0-9]{1,4}-)?[0-9]{1,3}:[0-9]{2}(:[0-9]{2})?|[0-9]{1,4}-[0-9]{1,2}|UNLIMITED)$"
    ),
]


def _script(text: str) -> str:
    if not text.startswith("#!/") or "\0" in text:
        raise ValueError(tr("has to be a script: its first line names its interpreter, such as #!/bin/sh"))
    return text if text.endswith("\n") else f"{text}\n"


Script = Annotated[str, StringConstraints(max_length=65536), AfterValidator(_script)]


QosName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]


#: slurmctld's own defaults; larger values are possible as far as its memory goes.
MOST_JOBS, LARGEST_ARRAY = 10_000, 1_001


class Partition(Model):
    """A partition: nodes that jobs are sent to under rules of their own."""

    nodes: list[Hostlist] = field(
        default_factory=list, description="Its nodes, as hostlists; none means all.", example=["compute-[1-8]"]
    )
    default: bool = field(False, description="Whether jobs that name no partition go here.", example=True)
    max_time: TimeLimit = field("7-00:00:00", description="Longest run time of a job, in quotes.", example="1-00:00:00")
    default_time: TimeLimit = field(
        "1:00:00", description="Run time of a job that names none, in quotes.", example="0:30:00"
    )
    groups: list[GroupName] = field(
        default_factory=list, description="Groups whose members may use it; none means everybody.", example=["genomics"]
    )
    priority: int = field(
        1, ge=0, le=65533, description="Jobs of a partition with a higher one start first.", example=10
    )
    max_nodes: int | None = field(
        None, ge=1, le=65533, description="Most nodes that a job may have; none means no limit.", example=4
    )
    qos: QosName | None = field(
        None, description="Quality of service whose limits its jobs have; one of slurm.qos.", example="short"
    )


class Qos(Model):
    """A quality of service: priority, and limits for those who use it. It takes accounting, which keeps them."""

    priority: int = field(0, ge=0, le=65533, description="Jobs with a higher one start first.", example=100)
    max_time: TimeLimit | None = field(None, description="Longest run time of a job, in quotes.", example="4:00:00")
    max_jobs_per_user: int | None = field(
        None, ge=1, le=1_000_000, description="Jobs of a person that run at a time.", example=20
    )
    max_submitted_per_user: int | None = field(
        None, ge=1, le=1_000_000, description="Jobs of a person that wait or run.", example=200
    )
    max_cpus_per_user: int | None = field(
        None, ge=1, le=10_000_000, description="Processors that a person's jobs have at a time.", example=64
    )
    max_gpus_per_user: int | None = field(
        None, ge=0, le=1_000_000, description="GPUs that a person's jobs have at a time.", example=2
    )
    groups: list[GroupName] = field(
        default_factory=list, description="Groups whose members may use it; none means everybody.", example=["genomics"]
    )


class Limits(Model):
    """Limits of the whole queue."""

    jobs: int = field(
        MOST_JOBS, ge=1, le=1_000_000, description="Jobs that the controller keeps at a time.", example=50_000
    )
    array: int = field(
        LARGEST_ARRAY,
        ge=2,
        le=4_000_001,
        description="Tasks of a job array; the greatest index is one less.",
        example=10_001,
    )
    memory_per_node: Size | None = field(
        None, description="Most memory that a job may have on a node; none means all of it.", example="256G"
    )


class Account(Model):
    """An account that jobs are charged to, keyed by its name. It takes accounting, which keeps it."""

    group: GroupName | None = field(
        None,
        description="Group whose members may charge it; by default the one of its own name.",
        example="genomics",
    )
    parent: AccountName | None = field(
        None, description="Account that it is a part of, and shares limits and fair share with.", example="biology"
    )
    fair_share: int = field(
        1,
        ge=0,
        le=1_000_000,
        description="Its share of the cluster, in proportion to the shares of the accounts beside it.",
        example=30,
    )
    max_cpus: int | None = field(
        None, ge=0, le=10_000_000, description="Processors that its jobs have at a time.", example=256
    )
    max_memory: Size | None = field(None, description="Memory that its jobs have at a time.", example="512G")
    max_gpus: int | None = field(None, ge=0, le=1_000_000, description="GPUs that its jobs have at a time.", example=4)
    max_jobs: int | None = field(None, ge=0, le=1_000_000, description="Its jobs that run at a time.", example=100)
    max_submitted: int | None = field(None, ge=0, le=1_000_000, description="Its jobs that wait or run.", example=1000)
    max_jobs_per_user: int | None = field(
        None, ge=0, le=1_000_000, description="A person's jobs in it that run at a time.", example=20
    )
    max_submitted_per_user: int | None = field(
        None, ge=0, le=1_000_000, description="A person's jobs in it that wait or run.", example=200
    )
    max_time: TimeLimit | None = field(
        None, description="Longest run time of its jobs, in quotes.", example="2-00:00:00"
    )


class PortRange(Model):
    """A range of ports."""

    first: int = field(61001, ge=1024, le=65535, description="First port.", example=61001)
    last: int = field(61063, ge=1024, le=65535, description="Last port.", example=61999)


class NodeRule(Model):
    """What the site says of some compute nodes, whether the site file names them or a token enrolled them."""

    features: list[Feature] = field(
        default_factory=list, description="Words that jobs can ask for with --constraint.", example=["ib", "avx512"]
    )
    weight: int | None = field(None, ge=1, le=65533, description="Nodes with a lower one are used first.", example=10)
    memory_reserve: Size | None = field(
        None, description="Memory that jobs do not get; slurm.memory_reserve if left out.", example="4G"
    )


#: Names that sites may use for other schedulers; all of them get the same message.
OTHER_SCHEDULERS = frozenset(
    {
        "cobalt", "condor", "flux", "gridengine", "htcondor", "k8s", "kubernetes", "loadleveler", "lsf", "maui", "moab",
        "nomad", "oar", "oge", "openlava", "openpbs", "pbs", "pbspro", "sge", "soge", "torque", "uge",
    }
)  # fmt: skip


def _mode(value: object) -> object:
    if isinstance(value, str) and value.lower().replace(" ", "").replace("-", "") in OTHER_SCHEDULERS:
        raise ValueError(
            tr(
                "{value} is not supported: the core runs jobs with SLURM only, its own (managed) or one "
                "that the site already has (existing). With none, people, files and the other services "
                "work beside {value}, but the login host, notebooks and Galaxy do not send jobs to it",
                value=value,
            )
        )
    return value


Mode = Annotated[Literal["none", "managed", "existing"], BeforeValidator(_mode)]


class SlurmSettings(Model):
    """The batch queue."""

    mode: Mode = field(
        "none",
        description="none: there is no batch queue; managed: the core runs SLURM; existing: the site has one.",
        example="managed",
    )
    partitions: dict[PartitionName, Partition] = field(
        default_factory=dict,
        description="Partitions by name; without any there is one, main, with all nodes.",
        example={"main": {"default": True}},
    )
    nodes: dict[Hostlist, NodeRule] = field(
        default_factory=dict,
        description="What differs on some nodes, by hostlist; later ones win.",
        example={"compute-[1-4]": {"features": ["bigmem"]}},
    )
    default_memory_per_cpu: Size = field(
        "1G", validate_default=True, description="Memory per processor of a job that names none.", example="4G"
    )
    memory_reserve: Size = field(
        "512M", validate_default=True, description="Memory of each node that jobs do not get.", example="2G"
    )
    cluster: PartitionName = field("core", description="Name of the cluster in SLURM.", example="genomics")
    cgroups: Literal["auto", "on", "off"] = field(
        "auto",
        description="Whether the kernel limits jobs to their memory and processors; auto: if every node can; on: nodes "
        "that cannot are left out.",
        example="on",
    )
    qos: dict[QosName, Qos] = field(
        default_factory=dict,
        description="Qualities of service by name.",
        example={"short": {"max_time": "4:00:00", "priority": 100}},
    )
    accounts: dict[AccountName, Account] = field(
        default_factory=dict,
        description="Accounts that groups charge their jobs to, by name, in addition to everybody's.",
        example={"genomics": {"fair_share": 30}},
    )
    default_account: AccountName | None = field(
        None,
        description="Account that everybody may charge; by default it has the name of accounts.group.",
        example="department",
    )
    limits: Limits = field(default_factory=Limits, description="Limits of the whole queue.")
    prolog: Script | None = field(
        None,
        description="Text of a script, beginning with #!, that root runs on each node before a job; a failure drains "
        "the node.",
        example="#!/bin/sh",
    )
    epilog: Script | None = field(
        None, description="Text of a script that root runs on each node after a job.", example="#!/bin/sh"
    )
    srun_ports: PortRange = field(
        default_factory=PortRange,
        description="Ports on which srun waits for nodes on the login host; outside net.ipv4.ip_local_port_range.",
    )
    configuration: AbsolutePath | None = field(
        None, description="slurm.conf of an existing SLURM, a file on the head.", example="/etc/slurm/slurm.conf"
    )
    key: AbsolutePath | None = field(
        None, description="slurm.key of an existing SLURM, a file on the head.", example="/etc/slurm/slurm.key"
    )


SLURM: Section[SlurmSettings] = Section("slurm", SlurmSettings, description="The batch queue.")

SECTIONS = (SLURM,)


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of the section itself, and of the nodes chosen for services that have to run on the head."""
    slurm, document = SLURM.of(configuration.site), configuration.document
    found = _place_problems(configuration)
    defaults = [name for name, partition in slurm.partitions.items() if partition.default]
    if slurm.partitions and len(defaults) != 1:
        named = f": {', '.join(defaults)}" if defaults else ""
        message = tr("exactly one partition is the default, not {defaults}{named}", defaults=len(defaults), named=named)
        found.append(document.problem(("slurm", "partitions"), message))
    for name, partition in slurm.partitions.items():
        if partition.qos is not None and partition.qos not in slurm.qos:
            message = tr("{qos} is not among slurm.qos", qos=partition.qos)
            found.append(document.problem(("slurm", "partitions", name, "qos"), message))
        short, long = (seconds(limit) for limit in (partition.default_time, partition.max_time))
        if short > long:
            message = tr(
                "{default_time} is longer than max_time, {max_time}",
                default_time=partition.default_time,
                max_time=partition.max_time,
            )
            found.append(document.problem(("slurm", "partitions", name, "default_time"), message))
    found += _account_problems(slurm, document)
    found += _mode_problems(slurm, document)
    if slurm.srun_ports.first > slurm.srun_ports.last:
        found.append(document.problem(("slurm", "srun_ports"), tr("first is greater than last")))
    return found


def _place_problems(configuration: Configuration) -> list[Problem]:
    nodes, found = configuration.site.nodes, []
    for name in (CONTROLLER, ACCOUNTING):
        node = chosen(configuration, name).node
        if node in nodes and "head" not in nodes[node].roles:
            message = tr("{name} runs on the head only, because the head controls it", name=name)
            found.append(configuration.document.problem(("services", name, "node"), message))
    return found


#: Settings that a site's own SLURM has in its own configuration.
THEIRS = (
    "partitions", "accounts", "default_account", "qos", "limits", "default_memory_per_cpu", "cgroups", "cluster",
    "prolog", "epilog",
)  # fmt: skip


#: Settings that name the files of a site's own SLURM.
FILES = ("configuration", "key")


EXAMPLES = {"configuration": "/etc/slurm/slurm.conf", "key": "/etc/slurm/slurm.key"}


def _mode_problems(slurm: SlurmSettings, document: Document) -> list[Problem]:
    found = []
    if slurm.mode == "existing":
        for name in FILES:
            if getattr(slurm, name) is None:
                message = tr(
                    "is required with mode: existing: a file on the head, such as {examples}", examples=EXAMPLES[name]
                )
                found.append(document.problem(("slurm", name), message))
        for name in THEIRS:
            if name in slurm.model_fields_set:
                message = tr(
                    "is for the core's own SLURM (mode: managed); with mode: existing, set it in the site's slurm.conf"
                )
                found.append(document.problem(("slurm", name), message))
    else:
        for name in FILES:
            if getattr(slurm, name) is not None:
                found.append(document.problem(("slurm", name), tr("is for a SLURM that the site has (mode: existing)")))
    return found


def host_problems(configuration: Configuration, routes: Sequence[Route]) -> list[Problem]:
    """Return why the core cannot be a client of the site's own SLURM, from the files of that."""
    slurm, document = SLURM.of(configuration.site), configuration.document
    if slurm.mode != "existing" or slurm.configuration is None or slurm.key is None:
        return []
    from . import existing

    found = []
    for name, check in (
        ("configuration", lambda: existing.facts(existing.flattened(Path(str(slurm.configuration))))),
        ("key", lambda: existing.check_key(Path(str(slurm.key)))),
    ):
        try:
            check()
        except VcoreError as error:
            said = str(error)
            path = str(getattr(slurm, name))
            found.append(document.problem(("slurm", name), said if said.startswith("/") else f"{path}: {said}"))
    return found


def _account_problems(slurm: SlurmSettings, document: Document) -> list[Problem]:
    found = []
    for name, account in slurm.accounts.items():
        location = ("slurm", "accounts", name, "parent")
        above: list[str] = [name]
        while (parent := slurm.accounts[above[-1]].parent) is not None:
            if parent not in slurm.accounts:
                if len(above) == 1:
                    found.append(
                        document.problem(location, tr("no account {parent} below vcore.slurm.accounts", parent=parent))
                    )
                break
            if parent in above:
                if parent == name:
                    found.append(document.problem(location, f"{' is a part of '.join([*above, parent])}"))
                break
            above.append(parent)
        if name == slurm.default_account and account.group is not None:
            message = tr("everybody may charge {name}, which is slurm.default_account", name=name)
            found.append(document.problem(("slurm", "accounts", name, "group"), message))
    return found


def all_partitions(slurm: SlurmPart) -> dict[str, dict[str, Any]]:
    """Return the partitions of a resolved ``slurm`` section by name: the site's or, without any, the default one."""
    return slurm["partitions"] or {"main": Partition(default=True).model_dump(mode="json")}
