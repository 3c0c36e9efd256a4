"""Brings the guest's storage to what a pillar wants, by the core's own code; Salt stays away.

Reads requests, a line of JSON each: "do" (plan, apply, absent or facts) and "pillar". Answers each with a line of JSON:
{"changes", "comment", "ok"}, or what storage.health.look says.
"""

import json
import sys
from typing import Any

sys.path.insert(0, "/srv/virtual-core/source/salt/_utils")

from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.storage import health, mounting


def install(package: str) -> None:
    """Do nothing: the state would install the package, but the guest has it."""
    raise VcoreError(f"{package} is missing in the guest")


def answer(given: dict[str, Any]) -> Any:
    """Do what a request asks for."""
    if given["do"] == "facts":
        return health.look(given["pillar"])
    host = mounting.Host(Paths(), "Debian")
    roots = {} if given["do"] == "absent" else mounting.wanted(given["pillar"])
    changes = mounting.difference(roots, host)
    comment, ok = "\n".join(mounting.problem_lines(roots, host)) if not changes else "", True
    if given["do"] != "plan" and changes:
        try:
            comment = mounting.apply(roots, changes, host, install)
        except VcoreError as error:
            comment, ok = str(error), False
    return {"changes": changes, "comment": comment, "ok": ok}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
