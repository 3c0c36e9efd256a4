"""Accounting of the batch queue: which accounts, people and qualities of service slurmdbd is to have, how that differs
from what it has, and the commands that close the gap.

Everything here is pure. What people may charge follows from the directory and from ``slurm.accounts`` and
``slurm.qos`` of the site; :mod:`vcore.slurm.sacctmgr` asks sacctmgr and has it carry out the plan.

Nothing is ever deleted: people who may no longer charge an account cannot submit jobs to it (MaxSubmitJobs=0), and
everything that was ever charged stays. What administrators made with sacctmgr themselves is left alone: the core marks
its own accounts by their organization.

Source: sacctmgr(1) and slurm.conf(5) of SLURM 24.11.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import tr
from ..people.settings import ACCOUNT_NAME
from . import names as slurm_names

SERVICE = slurm_names.ACCOUNTING
#: The mark of the core's own accounts and qualities of service.
OURS = "virtual-core"
#: What slurmdbd calls GPUs, once a slurmctld has registered them.
GPU = frozenset({"gres/gpu"})
#: What SLURM makes by itself: the account above all others, and everybody's quality of service.
ROOT, NORMAL = "root", "normal"
#: The most names in one command: far below the kernel's limit for an argument.
CHUNK = 1000
MIB = 1024**2

#: SLURM's names for the settings of an account, and of a quality of service; a resource follows its list's name after
#: a dot.
ACCOUNT_LIMITS = {
    "max_cpus": "GrpTRES.cpu",
    "max_memory": "GrpTRES.mem",
    "max_gpus": "GrpTRES.gres/gpu",
    "max_jobs": "GrpJobs",
    "max_submitted": "GrpSubmitJobs",
    "max_jobs_per_user": "MaxJobs",
    "max_submitted_per_user": "MaxSubmitJobs",
    "max_time": "MaxWallDurationPerJob",
}
QOS_LIMITS = {
    "max_time": "MaxWallDurationPerJob",
    "max_jobs_per_user": "MaxJobsPerUser",
    "max_submitted_per_user": "MaxSubmitJobsPerUser",
    "max_cpus_per_user": "MaxTRESPerUser.cpu",
    "max_gpus_per_user": "MaxTRESPerUser.gres/gpu",
}
#: The columns asked of sacctmgr, in order, each with the setting that changes it (None: nothing does).
ASSOCIATION_COLUMNS = {
    "Account": None,
    "User": None,
    "ParentName": "Parent",
    "Fairshare": "Fairshare",
    "GrpTRES": "GrpTRES",
    "GrpJobs": "GrpJobs",
    "GrpSubmit": "GrpSubmitJobs",
    "MaxJobs": "MaxJobs",
    "MaxSubmit": "MaxSubmitJobs",
    "MaxWall": "MaxWallDurationPerJob",
    "QOS": "QOS",
}
QOS_COLUMNS = {
    "Name": None,
    "Description": None,
    "Priority": "Priority",
    "MaxWall": "MaxWallDurationPerJob",
    "MaxJobsPU": "MaxJobsPerUser",
    "MaxSubmitPU": "MaxSubmitJobsPerUser",
    "MaxTRESPU": "MaxTRESPerUser",
}
TIMES = {"MaxWallDurationPerJob"}
RESOURCES = {"GrpTRES": ("cpu", "mem", "gres/gpu"), "MaxTRESPerUser": ("cpu", "gres/gpu")}

#: Settings by SLURM's names; those without a limit are missing.
Settings = dict[str, Any]


# --- slurm.conf -----------------------------------------------------------------------------------------------------


def slurm_conf_lines(pillar: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return slurm.conf's keys and values for accounting and priorities; none where accounting is off."""
    service = pillar["services"].get(SERVICE)
    if service is None:
        return []
    settings = service["settings"]
    return [
        ("AccountingStorageType", "accounting_storage/slurmdbd"),
        # The node's address, because slurmctld runs on its node's network and cannot resolve names of the overlay.
        ("AccountingStorageHost", pillar["nodes"][service["node"]]["address"]),
        ("AccountingStoragePort", service["ports"]["slurmdbd"]["number"]),
        ("AccountingStorageEnforce", "associations,limits,qos" if settings["enforce"] else None),
        # Without it, accounts and qualities of service cannot have GPU limits.
        ("AccountingStorageTRES", "gres/gpu"),
        ("PriorityType", "priority/multifactor"),
        ("PriorityDecayHalfLife", f"{settings['half_life']}-0"),
        ("PriorityMaxAge", "7-0"),
        # Quality of service outweighs fair share, which outweighs a job's age; each factor is between 0 and 1.
        ("PriorityWeightQOS", 1_000_000),
        ("PriorityWeightFairshare", 100_000),
        ("PriorityWeightAge", 10_000),
    ]


def cluster(pillar: Mapping[str, Any]) -> str:
    """Return the name of the cluster in slurm.conf and slurmdbd."""
    return str(pillar["slurm"]["cluster"])


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """The directory's people, which of them are locked, and the members of each group."""

    names: frozenset[str] = frozenset()
    locked: frozenset[str] = frozenset()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What slurmdbd is to have.

    ``accounts`` and ``qos`` are settings by name. ``members`` are the people who may charge each account. ``everybody``
    are the qualities of service that all people have, ``extra`` those of people who have a different set.
    """

    cluster: str
    default: str
    accounts: dict[str, Settings]
    qos: dict[str, Settings]
    everybody: frozenset[str]
    members: dict[str, frozenset[str]]
    extra: dict[str, frozenset[str]]


def default_account(pillar: Mapping[str, Any]) -> str:
    """Return the name of the account that everybody may charge."""
    return str(pillar["slurm"]["default_account"] or pillar["accounts"]["group"])


def wanted(pillar: Mapping[str, Any], people: People) -> Wanted:
    """Return what slurmdbd is to have, from the site and the directory.

    Raises:
        VcoreError: the directory has a name that the core would not give, and SLURM may not take.
    """
    slurm, everybody_group = pillar["slurm"], pillar["accounts"]["group"]
    for name in (*people.names, *people.groups):
        if not ACCOUNT_NAME.fullmatch(name):
            raise VcoreError(
                tr(
                    "the directory has the name {name}, which SLURM might not accept; rename it there",
                    name=ascii(name)[:60],
                )
            )
    active = people.names - people.locked
    default = default_account(pillar)
    accounts = {default: dict[str, Any](), **slurm["accounts"]}
    members = {}
    for name, account in accounts.items():
        group = account.get("group") or name
        everybody = name == default or group == everybody_group
        members[name] = active if everybody else active & people.groups.get(group, frozenset())
    open_qos = frozenset({NORMAL, *(name for name, qos in slurm["qos"].items() if not qos["groups"])})
    extra: dict[str, frozenset[str]] = {}
    for name, qos in slurm["qos"].items():
        for group in qos["groups"]:
            users = active if group == everybody_group else active & people.groups.get(group, frozenset())
            for user in users:
                extra[user] = extra.get(user, open_qos) | {name}
    return Wanted(
        cluster=cluster(pillar),
        default=default,
        accounts={
            name: {
                "Parent": account.get("parent") or ROOT,
                "Fairshare": account.get("fair_share", 1),
                **_limits(account, ACCOUNT_LIMITS),
            }
            for name, account in accounts.items()
        },
        qos={
            name: {"Priority": qos["priority"], **_limits(qos, QOS_LIMITS)}
            for name, qos in sorted(slurm["qos"].items())
        },
        everybody=open_qos,
        members=members,
        extra={user: qos for user, qos in extra.items() if qos != open_qos},
    )


def _limits(data: Mapping[str, Any], names: Mapping[str, str]) -> Settings:
    found: Settings = {}
    for key, name in names.items():
        value = data.get(key)
        if value is None:
            continue
        if name in TIMES:
            seconds = slurm_names.seconds(value)
            if math.isinf(seconds):
                continue
            value = max(math.ceil(seconds / 60), 1)
        elif name.endswith(".mem"):
            value = math.ceil(value / MIB)
        found[name] = value
    return found


# --- what is there --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A person's association with an account.

    ``closed`` means that the person may not submit jobs to it. ``qos`` are its own qualities of service, None where the
    account's apply.
    """

    closed: bool = False
    qos: frozenset[str] | None = None


@dataclass(frozen=True)
class Shown:
    """What slurmdbd has for one cluster.

    ``organizations`` are those of accounts, ``accounts`` and ``qos`` are settings by name. ``members`` are keyed by
    account and person, ``defaults`` are people's default accounts.
    """

    clusters: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    organizations: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, Settings] = field(default_factory=dict)
    everybody: frozenset[str] = frozenset({NORMAL})
    qos: Mapping[str, Settings] = field(default_factory=dict)
    members: Mapping[tuple[str, str], Member] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


def questions(name: str) -> dict[str, list[str]]:
    """Return the commands that list everything slurmdbd has for a cluster; :func:`shown` reads their answers."""

    def ask(what: str, columns: Iterable[str], *more: str) -> list[str]:
        return ["sacctmgr", "--noheader", "--parsable2", "show", what, f"format={','.join(columns)}", *more]

    return {
        "clusters": ask("cluster", ["Cluster"]),
        "resources": ask("tres", ["Type", "Name"]),
        "organizations": ask("account", ["Account", "Organization"]),
        "users": ask("user", ["User", "DefaultAccount"], "withassoc", f"cluster={name}"),
        "qos": ask("qos", QOS_COLUMNS),
        # Without these two options an association also shows what it inherits.
        "associations": ask("association", ASSOCIATION_COLUMNS, f"cluster={name}", "WOPLimits", "WithRawQOSLevel"),
    }


def rows(text: str, columns: int, what: str) -> Iterator[list[str]]:
    """Return the rows of an answer of sacctmgr as cells.

    Raises:
        VcoreError: a row does not have this number of columns; ``what`` names what is listed.
    """
    for line in text.splitlines():
        if not line:
            continue
        cells = line.split("|")
        if len(cells) != columns:
            raise VcoreError(
                tr(
                    "sacctmgr lists {what} in a format that the core cannot read: {line}",
                    what=what,
                    line=ascii(line)[:120],
                )
            )
        yield cells


def shown(answers: Mapping[str, str]) -> Shown:
    """Return what slurmdbd has, from the answers to :func:`questions`.

    Raises:
        VcoreError: an answer cannot be read.
    """
    accounts: dict[str, Settings] = {}
    members: dict[tuple[str, str], Member] = {}
    everybody = frozenset({NORMAL})
    for cells in rows(answers["associations"], len(ASSOCIATION_COLUMNS), "associations"):
        row = dict(zip(ASSOCIATION_COLUMNS, cells, strict=True))
        account, user = row["Account"], row["User"]
        qos = frozenset(row["QOS"].split(",")) - {""}
        if user:
            before = members.get((account, user))
            # A person may have one association per partition, and is closed only when all of them are.
            closed = row["MaxSubmit"] == "0" and (before is None or before.closed)
            members[account, user] = Member(closed, qos or None)
        elif account == ROOT:
            everybody = qos
        else:
            accounts[account] = _settings(row, ASSOCIATION_COLUMNS, leave=("QOS",))
    return Shown(
        clusters=frozenset(cells[0] for cells in rows(answers["clusters"], 1, "clusters")),
        resources=frozenset("/".join(filter(None, cells)) for cells in rows(answers["resources"], 2, "resources")),
        organizations={cells[0]: cells[1] for cells in rows(answers["organizations"], 2, "accounts")},
        accounts=accounts,
        everybody=everybody,
        qos={
            cells[0]: _settings(dict(zip(QOS_COLUMNS, cells, strict=True)), QOS_COLUMNS)
            for cells in rows(answers["qos"], len(QOS_COLUMNS), "qualities of service")
        },
        members=members,
        defaults={cells[0]: cells[1] for cells in rows(answers["users"], 2, "people")},
    )


def _settings(row: Mapping[str, str], columns: Mapping[str, str | None], *, leave: Collection[str] = ()) -> Settings:
    found: Settings = {}
    for column, name in columns.items():
        value = row[column]
        if name is None or column in leave or value == "":
            continue
        if name in RESOURCES:
            found |= {f"{name}.{kind}": number for kind, number in _resources(value).items() if kind in RESOURCES[name]}
        elif name in TIMES:
            found[name] = minutes(value)
        elif name == "Parent":
            found[name] = value
        else:
            found[name] = _number(value)
    return found


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else text


def _resources(text: str) -> dict[str, int | str]:
    """Return the resources of a list such as ``cpu=4,mem=8000M`` as numbers, memory in MiB; other text is kept."""
    found: dict[str, int | str] = {}
    for part in text.split(","):
        kind, _, value = part.partition("=")
        matched = re.fullmatch(r"([0-9]{1,18})(\.[0-9]+)?([KMGTP]?)", value)
        if kind == "mem" and matched and matched[3]:
            size = float(matched[1] + (matched[2] or "")) * 1024.0 ** ("KMGTP".index(matched[3]) - 1)
            found[kind] = math.ceil(size)
        else:
            found[kind] = _number(value)
    return found


def minutes(text: str) -> int | str:
    """Convert a sacctmgr duration such as ``1-10:00:00`` to minutes, rounded up; return other text unchanged."""
    matched = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{2}):([0-9]{2}):([0-9]{2})", text)
    if not matched:
        return text
    days, hours, minute, second = (int(part or 0) for part in matched.groups())
    return (days * 24 + hours) * 60 + minute + (second > 0)


# --- what differs ---------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What has to change, as a state shows it, and the commands that change it, in order."""

    changes: dict[str, Any] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)


#: The parts of a plan. It takes two steps because slurmdbd and slurmctld each wait for the other: the qualities of
#: service of partitions must exist before slurmctld starts, and GPU limits can be set only after it has registered
#: GPUs.
FIRST, GPUS, ALL = "first", "gpus", "all"


def _is_part(part: str, name: str) -> bool:
    """Return whether a setting belongs to a part."""
    return part == ALL or name.endswith(".gres/gpu") == (part == GPUS)


def plan(wanted: Wanted, shown: Shown, part: str = ALL) -> Plan:
    """Compare what is wanted with what slurmdbd has; the plan is empty where both agree.

    People who need the same change share a command, up to ``CHUNK`` of them. ``part`` is ``ALL``, or one of ``FIRST``
    and ``GPUS``, which together make up all.

    Raises:
        VcoreError: GPU limits are wanted, but SLURM has not registered any GPUs.
    """
    limits = {name for settings in (*wanted.accounts.values(), *wanted.qos.values()) for name in settings}
    if part != FIRST and any(_is_part(GPUS, name) for name in limits) and not shown.resources >= GPU:
        raise VcoreError(
            tr(
                "the site limits GPUs, but slurmdbd knows of none yet: slurmctld registers them when it "
                "starts; start it, then apply again"
            )
        )
    found = Plan()
    if part == GPUS:
        _plan_gpus(wanted, shown, found)
        return found
    if wanted.cluster not in shown.clusters:
        found.changes[f"cluster {wanted.cluster}"] = {"old": None, "new": "registered"}
        found.commands.append(_command("add", "cluster", wanted.cluster))
    _plan_qos(wanted, shown, found, part)
    _plan_accounts(wanted, shown, found, part)
    _plan_members(wanted, shown, found)
    return found


def _command(verb: str, what: str, *arguments: str) -> list[str]:
    return ["sacctmgr", "--immediate", "--quiet", verb, what, *arguments]


def _plan_gpus(wanted: Wanted, shown: Shown, found: Plan) -> None:
    """Plan only the GPU limits of the accounts and qualities of service that the first part has made."""
    where = f"cluster={wanted.cluster}"
    for name, settings in wanted.qos.items():
        there = shown.qos.get(name, {})
        if new := _differences(there, settings, QOS_LIMITS, GPUS):
            found.commands.append(_command("modify", "qos", "where", f"name={name}", "set", *_set(settings, new)))
            found.changes[f"qos {name}"] = {"old": _part(there, new), "new": _part(settings, new)}
    for name, settings in wanted.accounts.items():
        there = shown.accounts.get(name, {})
        if new := _differences(there, settings, ACCOUNT_LIMITS, GPUS):
            arguments = _set(settings, new)
            found.commands.append(_command("modify", "account", "where", f"name={name}", where, "set", *arguments))
            found.changes[f"account {name}"] = {"old": _part(there, new), "new": _part(settings, new)}


def _plan_qos(wanted: Wanted, shown: Shown, found: Plan, part: str) -> None:
    for name, settings in wanted.qos.items():
        there = shown.qos.get(name)
        new = _differences(there or {"Priority": 0}, settings, QOS_LIMITS, part)
        if there is None:
            found.commands.append(_command("add", "qos", name, f"Description={OURS}", *_set(settings, new)))
        elif new:
            found.commands.append(_command("modify", "qos", "where", f"name={name}", "set", *_set(settings, new)))
        if there is None or new:
            found.changes[f"qos {name}"] = {"old": _part(there, new), "new": _part(settings, new)}
    if wanted.everybody != shown.everybody:
        found.commands.append(
            _command(
                "modify", "account", "where", f"name={ROOT}", f"cluster={wanted.cluster}", "set",
                f"QOS={','.join(sorted(wanted.everybody))}",
            )
        )  # fmt: skip
        found.changes["qos of everybody"] = {"old": sorted(shown.everybody), "new": sorted(wanted.everybody)}


def _plan_accounts(wanted: Wanted, shown: Shown, found: Plan, part: str) -> None:
    where = f"cluster={wanted.cluster}"
    for name in _parents_first(wanted.accounts):
        settings, there = wanted.accounts[name], shown.accounts.get(name)
        new = _differences(there or {"Fairshare": 1, "Parent": ROOT}, settings, ACCOUNT_LIMITS, part)
        foreign = name in shown.organizations and shown.organizations[name] != OURS
        if there is None:
            about = (f"Organization={OURS}", f"Description={OURS}", f"Parent={settings['Parent']}")
            arguments = _set(settings, new - {"Parent"})
            found.commands.append(_command("add", "account", name, where, *about, *arguments))
            about_it = {name: value for name, value in settings.items() if _is_part(part, name)}
            found.changes[f"account {name}"] = {"old": None, "new": about_it}
        elif new:
            arguments = _set(settings, new)
            found.commands.append(_command("modify", "account", "where", f"name={name}", where, "set", *arguments))
            found.changes[f"account {name}"] = {"old": _part(there, new), "new": _part(settings, new)}
        if foreign:
            # An administrator made it and the site now names it: the core takes it over.
            found.commands.append(_command("modify", "account", "where", f"name={name}", "set", f"Organization={OURS}"))
            change = found.changes.setdefault(f"account {name}", {"old": {}, "new": {}})
            change["old"] = {**(change["old"] or {}), "Organization": shown.organizations[name]}
            change["new"] |= {"Organization": OURS}
    for name, there in shown.accounts.items():
        ours = shown.organizations.get(name) == OURS
        if ours and name not in wanted.accounts and there.get("GrpSubmitJobs") != 0:
            found.commands.append(
                _command("modify", "account", "where", f"name={name}", where, "set", "GrpSubmitJobs=0")
            )
            found.changes[f"account {name}"] = {"old": "open", "new": "closed"}


def _parents_first(accounts: Mapping[str, Settings]) -> list[str]:
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...] = ()) -> None:
        if name in accounts and name not in order and name not in above:
            visit(accounts[name]["Parent"], (*above, name))
            order.append(name)

    for name in sorted(accounts):
        visit(name)
    return order


def _differences(there: Settings, settings: Settings, limits: Mapping[str, str], part: str) -> set[str]:
    names = {*settings, *limits.values()}
    return {name for name in names if _is_part(part, name) and there.get(name) != settings.get(name)}


def _part(settings: Settings | None, names: Iterable[str]) -> Settings | None:
    return None if settings is None else {name: settings.get(name) for name in sorted(names)}


def _set(settings: Settings, names: Collection[str]) -> list[str]:
    """Return the arguments that set these settings; -1 removes a limit."""
    arguments: list[str] = []
    resources: dict[str, list[str]] = {}
    for name in sorted(names):
        value = settings.get(name, -1)
        key, dot, kind = name.partition(".")
        if dot:
            resources.setdefault(key, []).append(f"{kind}={value}")
        else:
            arguments.append(f"{name}={value}")
    return arguments + [f"{key}={','.join(parts)}" for key, parts in resources.items()]


def _plan_members(wanted: Wanted, shown: Shown, found: Plan) -> None:
    where = f"cluster={wanted.cluster}"
    names_of_accounts = {*wanted.members, *(account for account, _ in shown.members)}
    # Everybody's account first: a person's first account becomes the default of jobs that name none.
    for account in sorted(names_of_accounts, key=lambda name: (name != wanted.default, name)):
        members = wanted.members.get(account, frozenset())
        there = {user: member for (name, user), member in shown.members.items() if name == account and user != ROOT}
        add = sorted(members - there.keys())
        opened = sorted(user for user in members & there.keys() if there[user].closed)
        # From accounts that are not the site's, only people without any right to submit jobs are shut out.
        gone = there.keys() - (members if account in wanted.members else wanted.members[wanted.default])
        closed = sorted(user for user in gone if not there[user].closed)
        default = [f"DefaultAccount={wanted.default}"] if account == wanted.default else []
        for names in _chunks(add):
            found.commands.append(_command("add", "user", f"name={names}", f"account={account}", where, *default))
        for users, value in ((opened, -1), (closed, 0)):
            for names in _chunks(users):
                found.commands.append(
                    _command(
                        "modify", "user", "where", f"name={names}", f"account={account}", where, "set",
                        f"MaxSubmitJobs={value}",
                    )
                )  # fmt: skip
        if add or opened or closed:
            found.changes[f"people of account {account}"] = {"old": closed, "new": sorted([*add, *opened])}
    _plan_member_qos(wanted, shown, found)
    _plan_defaults(wanted, shown, found)


def _plan_member_qos(wanted: Wanted, shown: Shown, found: Plan) -> None:
    """Plan people's own qualities of service: one command for all people of an account with the same list."""
    lists: dict[tuple[str, frozenset[str] | None], list[str]] = {}
    for account, members in wanted.members.items():
        for user in members:
            want = wanted.extra.get(user)
            if shown.members.get((account, user), Member()).qos != want:
                lists.setdefault((account, want), []).append(user)
    for (account, qos), users in sorted(lists.items(), key=lambda item: (item[0][0], sorted(item[0][1] or []))):
        value = ",".join(sorted(qos or []))
        for names in _chunks(sorted(users)):
            found.commands.append(
                _command(
                    "modify", "user", "where", f"name={names}", f"account={account}", f"cluster={wanted.cluster}",
                    "set", f"QOS={value}",
                )
            )  # fmt: skip
        change = found.changes.setdefault(f"qos of people of account {account}", {})
        change[value or "as everybody"] = sorted(users)


def _plan_defaults(wanted: Wanted, shown: Shown, found: Plan) -> None:
    """Plan everybody's account as the default of people whose default account the site no longer has.

    Default accounts that people chose themselves stay.
    """
    users = sorted(
        user
        for user in wanted.members[wanted.default]
        if user in shown.defaults
        and shown.defaults[user] not in wanted.accounts
        and shown.organizations.get(shown.defaults[user], OURS) == OURS
    )
    for names in _chunks(users):
        found.commands.append(
            _command(
                "modify", "user", "where", f"name={names}", f"cluster={wanted.cluster}", "set",
                f"DefaultAccount={wanted.default}",
            )
        )  # fmt: skip
    if users:
        found.changes["default account"] = {"old": None, "new": {wanted.default: users}}


def _chunks(names: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(names), CHUNK):
        yield ",".join(names[start : start + CHUNK])
