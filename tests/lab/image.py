"""The image of lab hosts: a minimal Debian 13 with systemd, built once and kept."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from pathlib import Path

from lab import machine
from lab.machine import docker, inspect, progress

SUITE = "trixie"
SOURCES = Path(__file__).parent / "image"
BASE = f"vcore-lab/debian:{SUITE}"
REPOSITORY = "vcore-lab/host"
REGISTRY_IMAGE = f"docker.io/library/debian:{SUITE}"


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """Return a tar archive of name → (content, mode), everything root's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def context() -> bytes:
    """Return the build context: the image's sources and, below machine/, this machine's access to its mirrors."""
    debian, security = machine.mirrors()
    keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    sources = f"Types: deb\nURIs: {debian}\nSuites: {SUITE} {SUITE}-updates\nComponents: main\n{keyring}"
    sources += f"\nTypes: deb\nURIs: {security}\nSuites: {SUITE}-security\nComponents: main\n{keyring}"
    files = {path.name: (path.read_bytes(), path.stat().st_mode & 0o755) for path in SOURCES.iterdir()}
    files["machine/etc/apt/sources.list.d/debian.sources"] = (sources.encode(), 0o644)
    files["machine/etc/apt/apt.conf.d/90lab-machine"] = (machine.apt_settings().encode(), 0o644)
    files["machine/usr/local/lib/lab/machine-authorities.pem"] = (machine.bundle(), 0o644)
    return archive(files)


def make_base(yes: bool) -> None:
    """Make the base image: pull it from the registry or, if that cannot be reached, build it with mmdebstrap."""
    if inspect("image", BASE):
        return
    progress(f"pulling {REGISTRY_IMAGE}")
    if docker("pull", "--quiet", REGISTRY_IMAGE, check=False).returncode == 0:
        docker("tag", REGISTRY_IMAGE, BASE)
        return
    progress(f"no registry answers: making a minimal Debian {SUITE} with mmdebstrap (about 20 s)")
    if not shutil.which("mmdebstrap"):
        machine.install(["mmdebstrap"], "No image registry can be reached, and mmdebstrap is missing.", yes)
    machine.require_root("mmdebstrap")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "base.tar"))
        mirror, _ = machine.mirrors()
        machine.run("mmdebstrap", "--variant=minbase", "--include=debian-archive-keyring", SUITE, path, mirror)
        docker("import", path, BASE)


def ensure_image(yes: bool) -> str:
    """Return the reference of the lab hosts' image, which is built unless one from the same input exists."""
    data = context()
    reference = f"{REPOSITORY}:{hashlib.sha256(data).hexdigest()[:12]}"
    with machine.one_at_a_time("host-image"):
        if not inspect("image", reference):
            make_base(yes)
            progress(f"building the host image {reference} (about 30 s)")
            docker("build", "--quiet", "--force-rm", "--build-arg", f"BASE={BASE}", "--tag", reference, "-", data=data)
            former = docker("image", "ls", "--quiet", "--filter", f"before={reference}", REPOSITORY).stdout.split()
            if former:
                docker("image", "rm", *former, check=False)  # refused for those that a host of another lab still uses
    return reference


def remove_images() -> None:
    """Remove every image that labs made."""
    for repository in (REPOSITORY, BASE):
        if identifiers := docker("image", "ls", "--quiet", repository).stdout.split():
            docker("image", "rm", "--force", *sorted(set(identifiers)), check=False)
