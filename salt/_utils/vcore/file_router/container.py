"""Find the file router's container, and run commands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import NotFound
from ..base.messages import tr
from ..base.names import FILE_ROUTER as SERVICE
from ..host import containers

#: Where the container has the configuration, and its commands.
MOUNT, COMMANDS = "/etc/virtual-core/file-router", "/usr/lib/virtual-core"


def folder(pillar: Mapping[str, Any]) -> Path:
    """Return the folder of the configuration on the node."""
    return Path(pillar["services"][SERVICE]["volumes"]["configuration"]["source"])


# --- what is there --------------------------------------------------------------------------------------------------


def container(pillar: Mapping[str, Any]) -> str:
    """Return the id of the file router's container on this node.

    Raises:
        NotFound: the file router does not run on this node.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound(tr("the file router does not run on this node"))
    return containers.running(
        SERVICE, folder(pillar), "the file router does not run; see docker service ps file-router"
    )


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a command as root in the file router's container on this node, with ``data`` as its input.

    Returns:
        Its exit code, and everything that it wrote to standard output and standard error.

    Raises:
        NotFound: the file router does not run here.
    """
    return containers.execute(container(pillar), command, data)


def run_checked(pillar: Mapping[str, Any], command: Sequence[str], failed: str) -> str:
    """Run a command and return its output; a command without a path is one of the image's own.

    Raises:
        NotFound: the file router does not run here.
        VcoreError: the command failed; the message is ``failed`` with its output.
    """
    program = command[0] if command[0].startswith("/") else f"{COMMANDS}/{command[0]}"
    return containers.output_or_error(execute(pillar, [program, *command[1:]]), failed)
