"""Commands in containers, with a real Docker daemon."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.images import build, machine
from vcore.base.errors import VcoreError
from vcore.host import containers
from vcore.images import builder

DAEMON = "/var/run/docker.sock"


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    api = machine()
    created = api.create_container(build(builder.DEBIAN), ["sleep", "600"])["Id"]
    try:
        api.start(created)
        yield created
    finally:
        api.remove_container(created, force=True)


class Relay(socketserver.BaseRequestHandler):
    """Relays connections to Docker, and holds each answer back until more than its head has come."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(DAEMON)
            threading.Thread(target=self.pass_on, args=(self.request, daemon), daemon=True).start()
            while self.patient(daemon) and (answer := daemon.recv(1 << 20)):
                self.request.sendall(answer)

    @staticmethod
    def patient(daemon: socket.socket) -> bool:
        first = daemon.recv(1, socket.MSG_PEEK)
        time.sleep(0.3)
        return bool(first)

    @staticmethod
    def pass_on(client: socket.socket, daemon: socket.socket) -> None:
        while asked := client.recv(1 << 20):
            daemon.sendall(asked)
        with contextlib.suppress(OSError):  # the daemon may have closed it first
            daemon.shutdown(socket.SHUT_WR)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[docker.APIClient]:
    """Yield a client of the daemon whose answers come in one piece, as they do on a busy machine."""
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "docker.sock"), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = docker.APIClient(base_url=f"unix://{tmp_path}/docker.sock", version="auto", timeout=30)
        yield client
        client.close()
        server.shutdown()


def test_what_a_command_says_at_once_is_not_lost(container: str, slow: docker.APIClient) -> None:
    assert containers.execute(container, ["echo", "said"], client=slow) == (0, b"said\n")


def test_the_exit_code_comes_with_both_outputs(container: str) -> None:
    code, output = containers.execute(container, ["sh", "-c", "echo one; echo two >&2; exit 3"])
    assert (code, sorted(output.split())) == (3, [b"one", b"two"])


def test_input_and_output_are_larger_than_a_pipe(container: str) -> None:
    data = bytes(range(256)) * 8192
    assert containers.execute(container, ["cat"], data) == (0, data)
    assert containers.execute(container, ["true"], data) == (0, b"")


def test_it_runs_as_whom_and_where_it_is_told(container: str) -> None:
    command = ["sh", "-c", "id -un; pwd; echo $WORD"]
    options = {"user": "nobody", "workdir": "/tmp", "environment": {"WORD": "given"}}
    assert containers.execute(container, command, **options) == (0, b"nobody\n/tmp\ngiven\n")


def test_an_output_is_kept_apart_from_errors_and_not_told_where_the_command_fails(container: str) -> None:
    command = ["sh", "-c", "echo secret; echo warning >&2; exit $0"]
    assert containers.read_output(container, [*command, "0"], "it failed") == b"secret\n"
    with pytest.raises(VcoreError) as refused:
        containers.read_output(container, [*command, "3"], "it failed")
    assert str(refused.value) == "it failed: warning"
    assert containers.read_output(container, ["cat"], "it failed", data=bytes(1 << 20)) == bytes(1 << 20)
