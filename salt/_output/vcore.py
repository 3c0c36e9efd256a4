"""
For people: what functions such as ``vcore.status``, ``vcore.doctor`` and ``vcore.user_add`` return
===================================================================================================

The whole of it, and nothing but it, is what ``--out json`` prints.
"""

import io
import shutil
import time

try:
    import hostlist
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    MISSING = None
except ImportError as error:
    MISSING = str(error)

#: A key of what each runner's function returns: a list.
RUNNER = "problems"
#: Width where the output goes to no terminal.
WIDTH = 140


def __virtual__():
    return (False, MISSING) if MISSING else "vcore"


def output(data, **_):
    """Render the return of one or more nodes."""
    color = bool(__opts__.get("color"))
    width = shutil.get_terminal_size((WIDTH, 24)).columns if color else WIDTH
    stream = io.StringIO()
    console = Console(
        file=stream, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False, markup=False
    )
    # A runner's return comes as it is, those of minions by minion.
    alone = isinstance(data.get(RUNNER), list)
    for value in [data] if alone else data.values():
        console.print(_shape(value)(value))
    return stream.getvalue().rstrip("\n")


def _shape(value):
    """What shows a value of this shape; errors and the like are text."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _doctor
    if isinstance(value, dict):
        shapes = (
            ("services", _status), ("changes", _change), ("lines", _import), ("nodes", _nodes),
            ("reconciled", _reconciled), ("retired", _retired),
        )  # fmt: skip
        for key, shows in shapes:
            if key in value:
                return shows
        if value and all(isinstance(entry, dict) for entry in value.values()):
            return _people if "uid" in next(iter(value.values())) else _groups
    return _plain


def _plain(value):
    """Text on which the terminal does nothing: much of it was written by others, into the directory, say."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or "-"
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


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
    nodes = _table("NODE", "ROLES", "ADDRESS", "STATE", "CONVERGED")
    for name, node in facts["nodes"].items():
        state = _good(node["state"], node["ok"])
        nodes.add_row(name, ", ".join(node["roles"]), node["address"] or "-", state, _converged(node))
    certificates = _table("CERTIFICATE", "STATE", "DAYS LEFT", "EXPIRES", right=(2,))
    for name, certificate in facts["certificates"].items():
        certificates.add_row(
            name,
            _good(certificate["status"], certificate["ok"]),
            str(certificate.get("days_left", "-")),
            certificate.get("expires", "-"),
        )
    files = _file_router(facts["file_router"]) if facts.get("file_router") else []
    waiting = _pending(facts["pending"]) if facts.get("pending", {}).get("count") else []
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
    return Group(services, "", nodes, "", certificates, "", *files, *waiting, *lines, "", *verdict)


def _file_router(facts):
    exports = {export["name"].removeprefix("/"): export for export in facts["exports"]}
    table = _table("SHARE", "FOLDER", "SMB", "NFS")
    for share in facts["shares"]:
        export = exports.get(share["name"])
        nfs = Text("-") if export is None else _good(export["name"] if export["ok"] else "not exported", export["ok"])
        table.add_row(share["name"], share["path"], "offered" if share["smb"] else "-", nfs)
    return [*([table, ""] if facts["shares"] else []), *_routes(facts["routes"])]


def _converged(node):
    """How the last convergence of a node by the reconciler went."""
    if node.get("error"):
        return Text("failed", style="bold red")
    if node.get("converging"):
        return Text("at it")
    return Text(f"{_age(time.time() - node['succeeded'])} ago" if node.get("succeeded") else "-")


def _nodes(facts):
    table = _table("NODE", "ROLES", "KEY", "ADDRESS", "SWARM", "SLURM", "CONVERGED", "WHY", whole=(0,))
    for name, node in facts["nodes"].items():
        slurm = _plain(node["slurm"] or "-")
        if node["reason"]:
            slurm = Text.assemble(slurm, ": ", _plain(node["reason"]))
        converged = Text("retiring") if node["retiring"] else _converged(node)
        seconds = max((node["next"] or 0) - time.time(), 0)
        why = f"{node['error']} (tries: {node['attempts']}, next in {_age(seconds)})" if node["error"] else "-"
        roles, address = ", ".join(node["roles"]) or "-", node["address"] or "-"
        table.add_row(name, roles, node["key"] or "-", address, node["swarm"] or "-", slurm, converged, _plain(why))
    return Group(table, *[Text(f"  - {problem}", style="red") for problem in facts["problems"]])


def _reconciled(told):
    table = _table("NODE", "RESULT", "WHY", whole=(0,))
    for name, node in told["reconciled"].items():
        table.add_row(name, _good(node["result"], node["result"] != "failed"), _plain(node["error"] or "-"))
    lines = [f"{what}: {', '.join(told[what])}" for what in ("labelled", "resumed") if told[what]]
    problems = [Text(f"  - {problem}", style="red") for problem in told["problems"]]
    rounds = f"{told['rounds']} rounds, " if told["rounds"] != 1 else ""
    verdict = f"{rounds}{told['seconds']:.1f} s."
    listed = [table] if told["reconciled"] else [Text("No node was due.")]
    return Group(*listed, *map(Text, lines), *problems, _good(verdict, told["ok"]))


def _retired(told):
    """Nodes of which the same was done share a line."""
    alike = {}
    for name, node in told["retired"].items():
        alike.setdefault(tuple(node["done"]), []).append(name)
    lines = [
        f"{hostlist.collect_hostlist(names)}: {', '.join(done) or 'nothing was done'}." for done, names in alike.items()
    ]
    remains = [Text(node["remains"], style="yellow") for node in told["retired"].values() if node["remains"]]
    problems = [Text.assemble("  - ", _plain(problem), style="red") for problem in told["problems"]]
    return Group(*map(Text, lines), *remains, *problems)


def _pending(pending):
    table = _table("KEY THAT WAITS", "WHY", whole=(0,))
    for key in pending["keys"]:
        table.add_row(_plain(key["id"]), _plain(key["reason"]))
    more = pending["count"] - len(pending["keys"])
    return [table, *([Text(f"and {more} more: salt-key -l pre")] if more else []), ""]


def _routes(routes):
    table = _table("ROUTE", "KIND", "FROM", "STATE", "LAST", "MESSAGE")
    for name, route in routes.items():
        # None: the file router runs on another node, which cannot be looked at from here.
        state = Text(route["state"]) if route["ok"] is None else _good(route["state"], route["ok"])
        last = _age(time.time() - route["ended"]) if route.get("ended") else "-"
        table.add_row(name, route["kind"], route["server"], state, last, Text(route["message"]))
    return [table, ""] if routes else []


# What vcore.user_add and its like did, or would do.
FACTS = {"uid": "number", "home": "home", "first_password": "first password"}


def _change(result):
    facts = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for key, label in FACTS.items():
        if key in result:
            facts.add_row(label, _plain(result[key]))
    lines = [_plain(result["comment"]), *([facts] if facts.row_count else [])]
    if result["changes"] and (result["test"] or "uid" not in result):
        # Of somebody new all is new: a plan shows it, and afterwards vcore.user_show does.
        changes = _table("CHANGE", "FROM", "TO")
        for name, change in result["changes"].items():
            old, new = change["old"], change["new"]
            if isinstance(old, dict) or isinstance(new, dict):
                changes.add_row(_plain(name), "" if old else "-", "" if new else "-", style="bold")
                for key in {**(old or {}), **(new or {})}:
                    changes.add_row(f"  {key}", _plain((old or {}).get(key, "-")), _plain((new or {}).get(key, "-")))
            else:
                changes.add_row(_plain(name), _plain(old or "-"), _plain(new or "-"))
        lines += ["", changes]
    return Group(*lines)


def _import(result):
    counts = [f"{result[key]} {key}" for key in ("added", "changed", "unchanged", "failed")]
    failed = [_plain(line) for line in result["lines"] if ": failed: " in line]
    verdict = _good(", ".join(counts) + ".", not failed)
    return Group(*failed, verdict, Text(f"First passwords are in {result['first_passwords']}."))


def _people(people):
    table = _table("NAME", "NUMBER", "WHO", "GROUPS", "STATE", right=(1,), whole=(0,))
    for name, person in people.items():
        state = "locked" if person["locked"] else "first password" if person["first_password"] else "-"
        who, groups = _plain(person["name"]), _plain(person["groups"])
        table.add_row(_plain(name), str(person["uid"]), who, groups, Text(state))
    return table


def _groups(groups):
    table = _table("GROUP", "NUMBER", "FOR", "MEMBERS", right=(1,), whole=(0,))
    for name, group in groups.items():
        description, members = _plain(group["description"] or "-"), _plain(group["members"])
        table.add_row(_plain(name), str(group["gid"]), description, members)
    return table


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
