"""The file router, the half that does it: brings its configuration into place and asks the one that runs."""

from __future__ import annotations

import io
import socket as sockets
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .docker_client import connect, docker_errors
from .errors import NotFound
from .shares import SERVICE

#: The label with which swarm marks the containers of a service.
SERVICE_LABEL = "com.docker.swarm.service.name"


def container(pillar: Mapping[str, Any]) -> str:
    """The id of the file router's container that runs on this node.

    Raises:
        NotFound: none does.
    """
    if SERVICE not in pillar["node"]["services"]:
        raise NotFound("the file router does not run on this node")
    client = connect()
    # Its configuration tells it from the file router of another core on the same daemon.
    volume = pillar["services"][SERVICE]["volumes"]["configuration"]["source"]
    with docker_errors():
        running = client.containers(filters={"label": f"{SERVICE_LABEL}={SERVICE}", "status": "running"})
    found = [entry for entry in running if any(mount["Source"] == volume for mount in entry["Mounts"])]
    if not found:
        raise NotFound("the file router does not run; see docker service ps file-router")
    newest = max(found, key=lambda entry: (entry["Created"], entry["Id"]))
    return str(newest["Id"])


def execute(pillar: Mapping[str, Any], command: Sequence[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a command as root in the file router's container on this node, with ``data`` as its input.

    Returns:
        Its exit code and all that it wrote, to both outputs.

    Raises:
        NotFound: the file router does not run here.
    """
    client, target = connect(), container(pillar)
    with docker_errors():
        job = client.exec_create(target, list(command), stdin=True)["Id"]
        connection = client.exec_start(job, socket=True)
        # Beside the reading: a command may write more than the pipes hold before it has read all.
        writer = threading.Thread(target=_send, args=(getattr(connection, "_sock", connection), data), daemon=True)
        try:
            writer.start()
            output = _output(connection)
        finally:
            connection.close()
        code = client.exec_inspect(job)["ExitCode"]
    return int(code), output


def _send(stream: sockets.socket, data: bytes) -> None:
    with suppress(OSError):  # the command may end without reading
        stream.sendall(data)
        stream.shutdown(sockets.SHUT_WR)


def _output(stream: io.RawIOBase) -> bytes:
    """What a command wrote, out of Docker's frames: a byte for the output, three of nothing, four of length."""
    collected = bytearray()
    reader = io.BufferedReader(stream)
    while header := reader.read(8):
        (length,) = struct.unpack(">xxxxL", header)
        collected += reader.read(length)
    return bytes(collected)
