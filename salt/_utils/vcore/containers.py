"""Containers of the core's services on this node: which one runs, and having a command run in it."""

from __future__ import annotations

import io
import socket as sockets
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import NotFound

# vcore.docker_client is imported where it is used: docker takes 70 ms to load.

#: The label with which swarm marks the containers of a service.
SERVICE_LABEL = "com.docker.swarm.service.name"


def running(service: str, volume: Path, said: str) -> str:
    """The id of a service's container that runs on this node.

    ``volume`` tells it from that of another core on the same daemon: a folder of the node that it mounts.

    Raises:
        NotFound: none runs, in the words ``said``.
    """
    from .docker_client import connect, docker_errors

    client = connect()
    with docker_errors():
        there = client.containers(filters={"label": f"{SERVICE_LABEL}={service}", "status": "running"})
    found = [entry for entry in there if any(mount["Source"] == str(volume) for mount in entry["Mounts"])]
    if not found:
        raise NotFound(said)
    newest = max(found, key=lambda entry: (entry["Created"], entry["Id"]))
    return str(newest["Id"])


def execute(container: str, command: Sequence[str], data: bytes = b"") -> tuple[int, bytes]:
    """Run a command as root in a container of this node, with ``data`` as its input.

    Returns:
        Its exit code and all that it wrote, to both outputs.
    """
    from .docker_client import connect, docker_errors

    client = connect()
    with docker_errors():
        job = client.exec_create(container, list(command), stdin=True)["Id"]
        connection = client.exec_start(job, socket=True)
        # Beside the reading: a command may write more than the pipes hold before it has read all.
        writer = threading.Thread(target=_send, args=(getattr(connection, "_sock", connection), data), daemon=True)
        try:
            writer.start()
            output = _output(connection)
        finally:
            # Where the socket alone is closed, Python 3.13 complains of the response on standard error.
            getattr(connection, "_response", connection).close()
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
    try:
        while header := reader.read(8):
            (length,) = struct.unpack(">xxxxL", header)
            collected += reader.read(length)
    finally:
        reader.detach()  # or it would close the stream, which is not its own
    return bytes(collected)
