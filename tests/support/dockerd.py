"""A Docker daemon of its own for tests of Docker Swarm: a container on this machine that runs dockerd.

Tests must neither start a swarm on the machine's own daemon nor stop it. The daemon here listens on a socket in
a folder that it shares with the machine, so tests talk to it as to any other daemon::

    with Dockerd() as daemon:
        docker.APIClient(base_url=daemon.url)

Bind mounts of its containers refer to folders inside this container, not on the machine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import docker
import pytest

from support.containers import execute
from support.images import machine

PACKAGES = ("docker.io", "docker-cli", "iptables", "iproute2", "procps", "busybox-static", "ca-certificates")
SUITE = "trixie"
RECIPE = hashlib.sha256(repr((PACKAGES, SUITE)).encode()).hexdigest()[:12]
IMAGE = f"virtual-core/test-dockerd:{RECIPE}"

#: The capabilities that dockerd needs; --privileged asks for more than some machines can give.
CAPABILITIES = """
    SYS_ADMIN NET_ADMIN NET_RAW SYS_PTRACE MKNOD SYS_CHROOT SETUID SETGID SETPCAP SETFCAP CHOWN DAC_OVERRIDE
    DAC_READ_SEARCH FOWNER FSETID KILL NET_BIND_SERVICE AUDIT_WRITE IPC_LOCK SYS_NICE SYS_MODULE LEASE SYSLOG
""".split()  # noqa: SIM905


def build_image(api: docker.APIClient) -> None:
    """Make the image that runs dockerd, unless this machine has it: Debian's minimal system with its docker.io."""
    if api.images(IMAGE, quiet=True):
        return
    if not shutil.which("mmdebstrap"):
        pytest.fail("mmdebstrap is missing: apt-get install mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="virtual-core-") as folder:
        tarball = Path(folder, "root.tar")
        include = ",".join(PACKAGES)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", SUITE, str(tarball)]
        subprocess.run(command, check=True)
        repository, tag = IMAGE.split(":")
        api.import_image_from_file(str(tarball), repository=repository, tag=tag)


class Dockerd:
    """One daemon, alive inside of a ``with`` block; its containers, images and swarm go with it."""

    def __init__(self) -> None:
        self.name = f"virtual-core-test-{uuid.uuid4().hex[:8]}"
        self.socket_folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.url = f"unix://{self.socket_folder}/docker.sock"
        self.machine = machine()

    def __enter__(self) -> Dockerd:
        build_image(self.machine)
        self.machine.create_container(
            IMAGE,
            name=self.name,
            hostname=self.name,
            # The host outlives its daemon, so that a test can kill the daemon; wait also reaps its children.
            command=["/bin/sh", "-c", "while :; do sleep 3600 & wait; done"],
            volumes=["/var/lib/docker"],
            host_config=self.machine.create_host_config(
                binds={
                    "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"},
                    str(self.socket_folder): {"bind": "/shared", "mode": "rw"},
                },
                cap_add=CAPABILITIES,
                security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            )
            # Docker's command line calls the two empty lists systempaths=unconfined.
            | {"CgroupnsMode": "host", "MaskedPaths": [], "ReadonlyPaths": []},
        )
        try:
            self.machine.start(self.name)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.remove_container(self.name, force=True, v=True)
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        # Docker would put its bridge on 172.18.0.0/16, where the core's networks are by default.
        options = f"--host unix:///shared/docker.sock --cgroup-parent /{self.name} --bip 192.168.250.1/24"
        execution = self.machine.exec_create(
            self.name, ["/bin/sh", "-c", f"exec dockerd {options} >>/dockerd.log 2>&1"]
        )
        self.machine.exec_start(execution, detach=True)
        deadline = time.monotonic() + 180
        while True:
            try:
                docker.APIClient(base_url=self.url, version="auto").ping()
                return
            except docker.errors.DockerException:
                if time.monotonic() > deadline:
                    log = self.run("tail -n 20 /dockerd.log")
                    pytest.fail(f"dockerd does not start in a container of this machine:\n{log}")
                time.sleep(0.2)

    def kill(self) -> None:
        """End the daemon as kill -9 does; its containers live on."""
        self.run("kill -9 $(cat /run/docker.pid); while pidof dockerd; do sleep 0.1; done")

    @property
    def address(self) -> str:
        """The address of the daemon's host on the machine's bridge network."""
        return self.machine.inspect_container(self.name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]

    def run(self, script: str) -> str:
        """Run a shell script on the daemon's host, where ``docker`` talks to the daemon, and return its output."""
        environment = {"DOCKER_HOST": "unix:///shared/docker.sock"}
        code, output = execute(self.machine, self.name, "/bin/sh", "-ec", script, environment=environment)
        assert code == 0, f"exit code {code} of:\n{script}\n{output}"
        return output
