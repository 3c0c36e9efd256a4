"""Images of this checkout for tests, built as vcore.images.builder builds them but under names of their own.

The base image is the brain's own work, so that tests of the brain and those of services share one.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import docker
import pytest
from lab.machine import one_at_a_time
from vcore.base.paths import Paths
from vcore.images import builder as images_builder
from vcore.images import downloads

CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN = "virtual-core/test-debian:trixie"
#: Nothing is set, so mirror, proxy and authorities are this machine's.
SETTINGS = {
    "source": "mmdebstrap",
    "mirror": None,
    "proxy": None,
    "ca_bundle": None,
    "python_index": None,
    "refresh": "",
}
#: The registry name under which the brain keeps what it built here; nothing answers to it.
REGISTRY = "registry.vcore-functional.test:5000"
#: Folder that keeps bare Debian's tarball between runs.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "virtual-core"


def machine() -> docker.APIClient:
    """Return a client of the machine's own daemon; without a daemon, the test fails with a remedy."""
    try:
        return docker.APIClient(base_url="unix:///var/run/docker.sock", version="auto", timeout=300)
    except docker.errors.DockerException as error:
        pytest.fail(f"no Docker daemon on this machine ({error}): apt-get install docker.io iptables, start dockerd")


def reference(name: str) -> str:
    """Return the reference of an image that :func:`build` made."""
    return DEBIAN if name == images_builder.DEBIAN else f"virtual-core/test-{name}:1"


@functools.cache
def build(name: str) -> str:
    """Build the image ``name``, and those below it, from this checkout, and return its reference.

    Docker's own layer cache makes the second time quick.
    """
    if name in (images_builder.BASE, images_builder.DEBIAN):
        return _base(name)
    return _build(name, images_builder.read_folder(CHECKOUT / "images" / name))


def _base(name: str) -> str:
    api = machine()
    paths = Paths(CHECKOUT, CACHE / "state", CACHE / "state")
    pillar: dict[str, Any] = {"registry": REGISTRY, "build": SETTINGS, "services": {}}
    with one_at_a_time(images_builder.BASE):
        paths.state.mkdir(parents=True, exist_ok=True)
        if not (paths.state / "cache").is_symlink():
            (paths.state / "cache").symlink_to(CACHE)
        builder = images_builder.Builder(pillar, paths, api)
        try:
            if name == images_builder.BASE:
                builder.ensure(name)
                made = builder.full(name, images_builder.recipe(name, pillar, paths).tag)
            else:
                made = builder._debian(_way())
        except images_builder.VcoreError as error:
            pytest.fail(str(error))
        api.tag(made, *reference(name).split(":"), force=True)
    return reference(name)


def _build(name: str, files: dict[str, images_builder.Entry]) -> str:
    api = machine()
    dockerfile = files["Dockerfile"].content.decode()
    below = build(images_builder.parent_name(dockerfile))
    versions = images_builder.read_versions(Paths(CHECKOUT, CHECKOUT, CHECKOUT))
    lines: list[str] = []
    with one_at_a_time(name):
        for message in api.build(
            fileobj=images_builder.context(files),
            custom_context=True,
            tag=reference(name),
            buildargs={"BASE": below, **images_builder.version_arguments(dockerfile, versions), **_way().environment},
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
    suite = images_builder.read_versions(Paths(CHECKOUT, CHECKOUT, CHECKOUT))["base"]["suite"]
    return downloads.Way.find(SETTINGS, suite)


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


@functools.cache
def build_client() -> str:
    """Build an image with smbclient, ssh and libnfs's nfs-ls, nfs-cp and nfs-cat, and return its reference."""
    return _build("client", {"Dockerfile": images_builder.Entry("file", CLIENT.encode())})
