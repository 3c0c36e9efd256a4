"""Containers of the core's services on this node: finding the one that runs, and running commands in it."""

from __future__ import annotations

import io
import socket as sockets
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.messages import tr

# vcore.host.docker_client is imported where it is used: docker takes 70 ms to load.

#: The label with which swarm marks the containers of a service.
SERVICE_LABEL = "com.docker.swarm.service.name"
#: The number of a command's output for errors.
STANDARD_ERROR = 2


def running(service: str, volume: Path, said: str) -> str:
    """Return the id of a service's container that runs on this node.

    ``volume`` is a folder of the node that the container mounts; it tells the container from that of another core on
    the same daemon.

    Raises:
        NotFound: none runs; the message is ``said``.
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


def execute(
    container: str, command: Sequence[str], data: bytes = b"", *, client: Any = None, **options: Any
) -> tuple[int, bytes]:
    """Run a command in a container of this node, by default as root, with ``data`` as its standard input.

    ``client`` is a connection to Docker, by default a new one; ``options`` are further ones of docker-py's
    ``exec_create``: ``user``, ``workdir``, ``environment``.

    Returns:
        Its exit code, and all that it wrote to standard output and standard error.

    Raises:
        VcoreError: Docker refuses, or the connection ended before the command.
    """
    code, frames = _run(container, command, data, client, options)
    return code, b"".join(written for _, written in frames)


def read_output(
    container: str, command: Sequence[str], failed: str, *, data: bytes = b"", client: Any = None, **options: Any
) -> bytes:
    """Run a command as :func:`execute` does, and return what it wrote to its standard output alone.

    Raises:
        VcoreError: its exit code is another than 0: ``failed``, and what it wrote to standard error. What it had
            written to its output, which may be secret, is not told.
    """
    code, frames = _run(container, command, data, client, options)
    said = b"".join(written for stream, written in frames if stream == STANDARD_ERROR)
    output_or_error((code, said), failed)
    return b"".join(written for stream, written in frames if stream != STANDARD_ERROR)


def output_or_error(answer: tuple[int, bytes], failed: str) -> str:
    """Return as text what a command wrote, from the answer of :func:`execute`.

    Raises:
        VcoreError: its exit code is not 0; the message is ``failed`` and what it wrote.
    """
    code, output = answer
    said = output.decode(errors="replace").strip()
    if code:
        raise VcoreError(f"{failed}: {said or f'exit code {code}'}")
    return said


def _run(
    container: str, command: Sequence[str], data: bytes, client: Any, options: dict[str, Any]
) -> tuple[int, list[tuple[int, bytes]]]:
    """Run a command, and return its exit code and what it wrote, each piece with the number of its output."""
    from .docker_client import connect, docker_errors

    client = client or connect()
    with docker_errors():
        job = client.exec_create(container, list(command), stdin=True, **options)["Id"]
        connection = client.exec_start(job, socket=True)
        # Beside the reading: a command may write more than the pipes hold before it has read all.
        writer = threading.Thread(target=_send, args=(getattr(connection, "_sock", connection), data), daemon=True)
        # Where the socket alone is closed, Python 3.13 complains of the response on standard error.
        with closing(connection._response) as response:
            writer.start()
            frames = list(_frames(response.raw._fp.fp))
        code = client.exec_inspect(job)["ExitCode"]
    if code is None:
        raise VcoreError(tr("Docker ended the connection to a command that still runs: {command}", command=command[0]))
    return int(code), frames


def _send(stream: sockets.socket, data: bytes) -> None:
    with suppress(OSError):  # the command may end without reading
        stream.sendall(data)
        stream.shutdown(sockets.SHUT_WR)


def _frames(reader: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """What a command wrote, out of Docker's frames: a byte for the output, three of nothing, four of length.

    A header is one byte for the stream, three empty bytes, and four bytes for the length of what follows. ``reader``
    has to be the one that has read the response's headers. Frames that came together with these are in its buffer,
    which docker-py's socket, and so its own ``exec_start``, bypasses:
    https://github.com/docker/docker-py/issues/3332. On a busy machine that lost all output of one short command in 200.
    """
    while header := reader.read(8):
        stream, length = struct.unpack(">BxxxL", header)
        yield stream, reader.read(length)
