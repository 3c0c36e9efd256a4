"""Names that the head and the nodes share. Standard library only: nodes have none of the core's other libraries."""

from __future__ import annotations

import re

#: Valid names of nodes; nothing of any other name is ever accepted, written or run.
NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
#: The service of shares, routes and instruments.
FILE_ROUTER = "file-router"
#: The secret with which nodes join the swarm, made by Docker: service and name.
JOIN_TOKEN = ("swarm", "join-token")


def within_one_another(one: str, other: str) -> bool:
    """Return whether two folders are the same, or one lies in the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


#: Labels of swarm's services, configs, secrets and nodes.
SERVICE_LABEL = "vcore.service"
