"""
Tables for people, of what ``vcore.status`` and ``vcore.doctor`` return
=======================================================================
"""

import io
import shutil
import time

try:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    HAS_RICH = True
except ImportError:
    HAS_RICH = False

#: Width where the output goes to no terminal.
WIDTH = 140


def __virtual__():
    return "vcore" if HAS_RICH else (False, "the package rich is not installed")


def output(data, **_):
    """Render the return of one or more nodes."""
    color = bool(__opts__.get("color"))
    width = shutil.get_terminal_size((WIDTH, 24)).columns if color else WIDTH
    stream = io.StringIO()
    console = Console(file=stream, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False)
    for value in data.values():
        if isinstance(value, dict) and "services" in value:
            console.print(_status(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(_doctor(value))
        else:
            console.print(value)
    return stream.getvalue().rstrip("\n")


def _table(*columns, right=(), whole=()):
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        justify = "right" if index in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=index in whole)
    return table


def _good(text, ok):
    return Text(text, style="green" if ok else "bold red")


def _age(seconds):
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"


def _since(stamp):
    """How long ago an RFC 3339 time (UTC) was; Docker writes it with nanoseconds."""
    if not stamp:
        return "-"
    return _age(time.time() - (time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone))


def _status(facts):
    services = _table("SERVICE", "TITLE", "STATE", "NODE", "ADDRESS", "IMAGE", "SINCE", whole=(4,))
    for name, service in facts["services"].items():
        state = "healthy" if service["ok"] else f"{service['state']} ({service['healthy']}/{service['desired']})"
        services.add_row(
            name,
            service["title"],
            _good(state, service["ok"]),
            service["node"] or "-",
            "\n".join(service["addresses"]) or "-",
            service["image"] or "-",
            _since(service["since"]),
        )
    nodes = _table("NODE", "ROLES", "ADDRESS", "STATE")
    for name, node in facts["nodes"].items():
        nodes.add_row(name, ", ".join(node["roles"]), node["address"] or "-", _good(node["state"], node["ok"]))
    certificates = _table("CERTIFICATE", "STATE", "DAYS LEFT", "EXPIRES", right=(2,))
    for name, certificate in facts["certificates"].items():
        certificates.add_row(
            name,
            _good(certificate["status"], certificate["ok"]),
            str(certificate.get("days_left", "-")),
            certificate.get("expires", "-"),
        )
    files = _file_router(facts["file_router"]) if facts.get("file_router") else []
    disk = facts["disk"]
    last = facts["convergence"]
    lines = [
        Text(f"Disk  {disk['path']}: {disk['used_percent']} % used, {disk['free'] / 2**30:.1f} GiB free"),
        Text("Convergence  none yet")
        if last is None
        else Text.assemble(
            "Convergence  ",
            _good("succeeded" if last["ok"] else "failed", last["ok"]),
            f" {_age(time.time() - last['ended'])} ago, {last['changed']} of {last['states']} states changed something",
        ),
    ]
    verdict = [Text("All is well.", style="bold green")]
    if not facts["ok"]:
        listed = [Text(f"  - {problem}") for problem in facts["problems"]]
        verdict = [Text(f"{len(listed)} problems:", style="bold red"), *listed]
    return Group(services, "", nodes, "", certificates, "", *files, *lines, "", *verdict)


def _file_router(facts):
    exports = {export["name"].removeprefix("/"): export for export in facts["exports"]}
    table = _table("SHARE", "FOLDER", "SMB", "NFS")
    for share in facts["shares"]:
        export = exports.get(share["name"])
        nfs = Text("-") if export is None else _good(export["name"] if export["ok"] else "not exported", export["ok"])
        table.add_row(share["name"], share["path"], "offered" if share["smb"] else "-", nfs)
    return [*([table, ""] if facts["shares"] else []), *_routes(facts["routes"])]


def _routes(routes):
    table = _table("ROUTE", "KIND", "FROM", "STATE", "LAST", "MESSAGE")
    for name, route in routes.items():
        # None: the file router runs on another node, which cannot be looked at from here.
        state = Text(route["state"]) if route["ok"] is None else _good(route["state"], route["ok"])
        last = _age(time.time() - route["ended"]) if route.get("ended") else "-"
        table.add_row(name, route["kind"], route["server"], state, last, Text(route["message"]))
    return [table, ""] if routes else []


def _doctor(checks):
    table = _table("", "CHECK", "SAW")
    for check in checks:
        table.add_row(_good("ok" if check["ok"] else "FAIL", check["ok"]), check["check"], check["saw"])
        if not check["ok"]:
            table.add_row("", Text(f"remedy: {check['remedy']}", style="yellow"), "")
    failed = sum(not check["ok"] for check in checks)
    verdict = _good(
        f"{len(checks)} checks, all passed." if not failed else f"{len(checks)} checks, {failed} failed.", not failed
    )
    return Group(table, "", verdict)
