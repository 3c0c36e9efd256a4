"""Images of this checkout for tests, built as vcore.images builds them but under names of their own."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import docker
import pytest
from vcore import downloads, images
from vcore.paths import Paths

CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN = "virtual-core/test-debian:trixie"
#: Nothing set: mirror, proxy and authorities are this machine's.
SETTINGS = {"mirror": None, "proxy": None, "ca_bundle": None, "python_index": None}


def machine() -> docker.APIClient:
    """A client of the machine's own daemon; the test fails with what to do where there is none."""
    try:
        return docker.APIClient(base_url="unix:///var/run/docker.sock", version="auto", timeout=300)
    except docker.errors.DockerException as error:
        pytest.fail(f"no Docker daemon on this machine ({error}): apt-get install docker.io iptables, start dockerd")


def reference(name: str) -> str:
    """What an image is called that :func:`build` made."""
    return DEBIAN if name == images.DEBIAN else f"virtual-core/test-{name}:1"


@functools.cache
def build(name: str) -> str:
    """Build the image ``name``, and those below it, from this checkout; its reference.

    Docker's own layer cache makes the second time quick.
    """
    return _build(name, images.read_folder(CHECKOUT / "images" / name))


def _build(name: str, files: dict[str, images.Entry]) -> str:
    api = machine()
    dockerfile = files["Dockerfile"].content.decode()
    if name == images.BASE:
        below = _debian(api)
        files |= {f"build/{path}": images.Entry("file", content) for path, content in _way().files.items()}
    else:
        below = build(images.parent_name(dockerfile))
    versions = images.read_versions(Paths(CHECKOUT, CHECKOUT, CHECKOUT))
    lines: list[str] = []
    for message in api.build(
        fileobj=images.context(files),
        custom_context=True,
        tag=reference(name),
        buildargs={"BASE": below, **images.version_arguments(dockerfile, versions), **_way().environment},
        network_mode="host" if _way().on_this_host else None,
        rm=True,
        forcerm=True,
        decode=True,
    ):
        lines.append(message.get("stream") or message.get("error") or "")
        if "error" in message:
            pytest.fail(f"the image {name} cannot be built:\n{''.join(lines)[-4000:]}")
    return reference(name)


@functools.cache
def _way() -> downloads.Way:
    suite = images.read_versions(Paths(CHECKOUT, CHECKOUT, CHECKOUT))["base"]["suite"]
    return downloads.Way.find(SETTINGS, suite)


def _debian(api: docker.APIClient) -> str:
    if not api.images(DEBIAN, quiet=True):
        if not shutil.which("mmdebstrap"):
            pytest.fail("mmdebstrap is missing: apt-get install mmdebstrap")
        repository, suite = DEBIAN.split(":")
        with tempfile.TemporaryDirectory(prefix="virtual-core-") as folder:
            tarball = Path(folder, "root.tar")
            subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", suite, str(tarball)], check=True)
            answer = json.loads(api.import_image_from_file(str(tarball), repository=repository, tag=suite))
            assert "error" not in answer, answer
    return DEBIAN


#: Clients of everything that the file router serves, for tests; on the image people, so that names resolve the same.
CLIENT = """\
ARG BASE=people
FROM ${BASE}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends libnfs-utils sshpass \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENTRYPOINT ["sleep", "infinity"]
HEALTHCHECK NONE
"""


def build_client() -> str:
    """An image with smbclient, ssh and libnfs's nfs-ls, nfs-cp and nfs-cat; its reference."""
    return _build("client", {"Dockerfile": images.Entry("file", CLIENT.encode())})
