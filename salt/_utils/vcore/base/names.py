"""Names that head and nodes both go by. Standard library only: nodes have nothing else of the core installed."""

from __future__ import annotations

import re

#: What a node may be called; nothing of another name is ever accepted, written or run.
NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
#: The service of shares, routes and instruments.
FILE_ROUTER = "file-router"
#: The secret that nodes join the swarm by, which Docker makes: service and name.
JOIN_TOKEN = ("swarm", "join-token")


def within_one_another(one: str, other: str) -> bool:
    """Whether two folders are the same, or one lies in the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


#: Labels of swarm's services, configs, secrets and nodes.
SERVICE_LABEL = "vcore.service"
