"""
For people: what functions such as ``vcore.status``, ``vcore.doctor`` and ``vcore.user_add`` return
===================================================================================================

The whole of it, and nothing but it, is what ``--out json`` prints.
"""

import io
import shutil
import time

from vcore import adapter

with adapter.imports() as __virtual__:
    from rich.console import Console
    from vcore.kernel import areas
    from vcore.terminal import Group, Shapes, Status, Text, age, good, plain, table

#: A key of what each runner's function returns: a list.
RUNNER = "problems"
#: Width where the output goes to no terminal.
WIDTH = 140


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
    if isinstance(value, dict) and "convergence" in value:
        return _status
    shapes = [shape for area in areas.asked(Shapes).values() for shape in area.SHAPES]
    return next((shows for tells, shows in shapes if tells(value)), plain)


def _status(facts):
    parts = sorted(areas.asked(Status).values(), key=lambda area: area.PLACE)
    shown = [[*part, ""] for area in parts if (part := area.status(facts))]
    disk, last = facts["disk"], facts["convergence"]
    lines = [
        Text(f"Disk  {disk['path']}: {disk['used_percent']} % used, {disk['free'] / 2**30:.1f} GiB free"),
        Text("Convergence  none yet")
        if last is None
        else Text.assemble(
            "Convergence  ",
            good("succeeded" if last["ok"] else "failed", last["ok"]),
            f" {age(time.time() - last['ended'])} ago, {last['changed']} of {last['states']} states changed something",
        ),
    ]
    verdict = [Text("All is well.", style="bold green")]
    if not facts["ok"]:
        listed = [Text(f"  - {problem}") for problem in facts["problems"]]
        verdict = [Text(f"{len(listed)} problems:", style="bold red"), *listed]
    return Group(*(line for part in shown for line in part), *lines, "", *verdict)


def _doctor(checks):
    rows = table("", "CHECK", "SAW")
    for check in checks:
        rows.add_row(good("ok" if check["ok"] else "FAIL", check["ok"]), check["check"], check["saw"])
        if not check["ok"]:
            rows.add_row("", Text(f"remedy: {check['remedy']}", style="yellow"), "")
    failed = sum(not check["ok"] for check in checks)
    verdict = good(
        f"{len(checks)} checks, all passed." if not failed else f"{len(checks)} checks, {failed} failed.", not failed
    )
    return Group(rows, "", verdict)
