"""Brings the guest's mounts of other file servers to what a pillar wants, by the core's own code; Salt stays away.

Reads requests, a line of JSON each: "do" (plan, apply or status), "pillar", "passwords" by route, "numbers" of people.
Answers each with a line of JSON: {"changes", "problems", "comment"}, or what routes.status says.
"""

import json
import sys
from typing import Any

sys.path.insert(0, "/srv/virtual-core/source/salt/_utils")

from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.base.secrets import Store
from vcore.file_router import routes


def install(package: str) -> None:
    """Do nothing: the state would install the package, but the guest has it."""
    raise VcoreError(f"{package} is missing in the guest")


def answer(given: dict[str, Any]) -> Any:
    """Do what a request asks for."""
    pillar = given["pillar"]
    if given["do"] == "status":
        return routes.status(pillar)
    for name, password in given["passwords"].items():
        Store(Paths().secrets).write(routes.SERVICE, f"route-{name}", password.encode())
    host = routes.Host(Paths(), "Debian")
    planned = routes.plan(pillar, Paths(), host, lambda database, name: int(given["numbers"][name]))
    comment = ""
    if given["do"] == "apply":
        try:
            comment = routes.apply(planned, host, install)
        except VcoreError as error:
            comment = str(error)
    return {"changes": planned.changes, "problems": planned.problems, "comment": comment}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
