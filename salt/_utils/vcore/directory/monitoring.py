"""What is measured of the directory: by slapd's own counters (slapd-monitor(5)), and by binding to it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from .client import Directory, open_administrator

if TYPE_CHECKING:
    from ..monitoring.measuring import Measurement

SERVICE = "ldap"
#: Where slapd counts, below cn=Monitor.
DATABASE, CONNECTIONS = "cn=Database 1,cn=Databases", "cn=Connections"
COUNTER, INFO, COMPLETED = "monitorCounter", "monitoredInfo", "monitorOpCompleted"
#: By what is measured: the entry and its attribute.
SOURCES = {
    "pages_max": (DATABASE, "olmMDBPagesMax"),
    "pages_used": (DATABASE, "olmMDBPagesUsed"),
    "pages_free": (DATABASE, "olmMDBPagesFree"),
    "readers_max": (DATABASE, "olmMDBReadersMax"),
    "readers_used": (DATABASE, "olmMDBReadersUsed"),
    "entries": (DATABASE, "olmMDBEntries"),
    "connections": (f"cn=Current,{CONNECTIONS}", COUNTER),
    "descriptors": (f"cn=Max File Descriptors,{CONNECTIONS}", COUNTER),
    "operations": ("cn=Operations", COMPLETED),
    "binds": ("cn=Bind,cn=Operations", COMPLETED),
    "searches": ("cn=Search,cn=Operations", COMPLETED),
    "modifications": ("cn=Modify,cn=Operations", COMPLETED),
    "write_waiters": ("cn=Write,cn=Waiters", COUNTER),
    "threads_max": ("cn=Max,cn=Threads", INFO),
    "threads_active": ("cn=Active,cn=Threads", INFO),
    "threads_pending": ("cn=Pending,cn=Threads", INFO),
    "uptime": ("cn=Uptime,cn=Time", INFO),
}
#: What the core's log of slapd and its state are looked at with.
LOGS = "docker service logs ldap"


class Counters(dict[str, float | None]):
    """What slapd has counted, by the names of :data:`SOURCES`; None where it says nothing."""

    def part(self, used: Iterable[str], whole: str, *, free: str | None = None) -> float | None:
        """Return in percent how much of ``whole`` is used, less what of it is free again."""
        values = [self[name] for name in used]
        total, unused = self[whole], self[free] if free else 0.0
        if not total or unused is None or None in values:
            return None
        return round(100 * (sum(value or 0.0 for value in values) - unused) / total, 1)


def read(directory: Directory, names: Iterable[str] = tuple(SOURCES)) -> Counters:
    """Read what slapd has counted, by a request for each entry that has some of it."""
    sources = {name: SOURCES[name] for name in names}
    wanted: dict[str, set[str]] = {}
    for entry, attribute in sources.values():
        wanted.setdefault(entry, set()).add(attribute)
    found = {entry: directory.read(f"{entry},cn=Monitor", attributes) or {} for entry, attributes in wanted.items()}
    values = {name: found[entry].get(attribute) for name, (entry, attribute) in sources.items()}
    return Counters({name: float(value[0]) if value else None for name, value in values.items()})


def measurements(pillar: Mapping[str, Any], paths: Paths) -> list[Measurement]:
    """Bind as the administrator, and read what slapd has counted."""
    if SERVICE not in pillar["services"]:
        return []
    error, bind, version = "", None, None
    counters = Counters(dict.fromkeys(SOURCES))
    began = time.monotonic()
    try:
        with open_administrator(pillar, paths) as directory:
            bind = round(time.monotonic() - began, 3)
            counters = read(directory)
            told = (directory.read("cn=Monitor", [INFO]) or {}).get(INFO)
            version = told[0].decode(errors="replace").partition(" (")[0] if told else None
    except VcoreError as refused:
        error = str(refused)
    return described(counters, bind=bind, version=version, error=error)


def described(counters: Counters, *, bind: float | None, version: str | None, error: str) -> list[Measurement]:
    """Return what was measured, with its limits; ``error`` says why something is missing."""
    pages = counters.part(["pages_used"], "pages_max", free="pages_free")
    found: list[Measurement] = [
        {
            "key": "directory.answers",
            "service": SERVICE,
            "title": tr("The administrator binds"),
            "value": 0 if bind is None else 1,
            "unit": "",
            "severe": {"below": 1},
            "problem": tr(
                "nobody can log in or be looked up: run salt-call vcore.doctor, and see docker service ps ldap "
                "and {logs}",
                logs=LOGS,
            ),
        },
        {
            "key": "directory.bind.duration",
            "service": SERVICE,
            "title": tr("Time that a bind takes"),
            "value": bind,
            "unit": "s",
            "warning": {"above": 1},
            "severe": {"above": 4},
            "problem": tr(
                "every login waits that long: see what takes the head's processors, and "
                "whether somebody guesses passwords ({logs}, with log_level: stats)",
                logs=LOGS,
            ),
        },
        {
            "key": "directory.database.used",
            "service": SERVICE,
            "title": tr("Database used"),
            "value": pages,
            "unit": "%",
            "warning": {"above": 80},
            "severe": {"above": 90},
            "problem": tr(
                "when the database is full, nothing can be changed, passwords included: raise "
                "services.ldap.settings.database_maximum_size in the site file and apply"
            ),
        },
        {
            "key": "directory.entries",
            "service": SERVICE,
            "title": tr("Entries"),
            "value": counters["entries"],
            "unit": "entries",
            "severe": {"below": 1},
            "problem": tr("the directory is empty: run salt-call state.apply, and put a dump back"),
        },
        {
            "key": "directory.readers.used",
            "service": SERVICE,
            "title": tr("Places of the database's readers used"),
            "value": counters.part(["readers_used"], "readers_max"),
            "unit": "%",
            "warning": {"above": 80},
            "severe": {"above": 95},
            "problem": tr(
                "without a free place no search is answered: look for slapcat or mdb_stat that hang in the "
                "container, or restart it with docker service update --force ldap"
            ),
        },
        {
            "key": "directory.connections",
            "service": SERVICE,
            "title": tr("Connections"),
            "value": counters["connections"],
            "unit": "connections",
        },
        {
            "key": "directory.connections.used",
            "service": SERVICE,
            "title": tr("Connections of those that slapd can hold"),
            "value": counters.part(["connections"], "descriptors"),
            "unit": "%",
            "warning": {"above": 80},
            "severe": {"above": 95},
            "problem": tr(
                "further clients will be turned away: find the host that holds most of them, by "
                "ss -tn 'sport = :636' in the container"
            ),
        },
        {
            "key": "directory.threads.active",
            "service": SERVICE,
            "title": tr("Threads at work"),
            "value": counters.part(["threads_active"], "threads_max"),
            "unit": "%",
            "warning": {"above": 90},
            "problem": tr(
                "further operations wait for a thread: see who asks that much "
                "({logs}, with log_level: stats), and whether searches have an index",
                logs=LOGS,
            ),
        },
        {
            "key": "directory.threads.pending",
            "service": SERVICE,
            "title": tr("Operations that wait for a thread"),
            "value": counters["threads_pending"],
            "unit": "operations",
            "warning": {"above": 10},
            "severe": {"above": 100},
            "problem": tr(
                "logins and look-ups wait: see who asks that much "
                "({logs}, with log_level: stats), and what takes the head's processors",
                logs=LOGS,
            ),
        },
        {
            "key": "directory.waiters.write",
            "service": SERVICE,
            "title": tr("Answers that their clients do not take"),
            "value": counters["write_waiters"],
            "unit": "connections",
            "warning": {"above": 5},
            "severe": {"above": 12},
            "problem": tr(
                "each of them may hold one of slapd's threads: find clients that hang, by "
                "ss -tn 'sport = :636' in the container (large Send-Q)"
            ),
        },
    ]
    for key, title in (
        ("operations", tr("Operations since the start")),
        ("binds", tr("Binds since the start")),
        ("searches", tr("Searches since the start")),
        ("modifications", tr("Modifications since the start")),
    ):
        found.append(
            {
                "key": f"directory.{key}",
                "service": SERVICE,
                "title": title,
                "value": counters[key],
                "unit": "operations",
                "counter": True,
            }
        )
    found += [
        {
            "key": "directory.uptime",
            "service": SERVICE,
            "title": tr("Time since slapd started"),
            "value": counters["uptime"],
            "unit": "s",
        },
        {"key": "directory.version", "service": SERVICE, "title": tr("Version"), "value": version, "unit": ""},
    ]
    for one in found:
        if one["value"] is None:
            one["error"] = error or tr("slapd says nothing of it: see whether its configuration has a monitor database")
    return found
