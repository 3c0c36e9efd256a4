"""The file router's container, and commands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import NotFound
from ..base.names import FILE_ROUTER as SERVICE
from ..host import containers

#: Where the container has the configuration, and its commands.
MOUNT, COMMANDS = "/etc/virtual-core/file-router", "/usr/lib/virtual-core"


def folder(pillar: Mapping[str, Any]) -> Path:
    """Where the configuration lies on the node."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


# --- what is there --------------------------------------------------------------------------------------------------


def container(pillar: Mapping[str, Any]) -> str:
    """The id of the file router's container that runs on this node.

    Raises:
        NotFound: none does.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound("the file router does not run on this node")
    return containers.running(
        SERVICE, folder(pillar), "the file router does not run; see docker service ps file-router"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a command as root in the file router's container on this node, with ``data`` as its input.

    Returns:
        Its exit code and all that it wrote, to both outputs.

    Raises:
        NotFound: the file router does not run here.
    """
    return containers.execute(container(pillar), command, data)


def run_checked(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    """Run a command, one of the image's own where it has no path, and return what it wrote.

    Raises:
        NotFound: the file router does not run here.
        VcoreError: the command failed; ``failed`` and what it wrote.
    """
    program = command[0] if command[0].startswith("/") else f"{COMMANDS}/{command[0]}"
    return containers.output_or_error(execute(pillar, [program, *command[1:]]), failed)
