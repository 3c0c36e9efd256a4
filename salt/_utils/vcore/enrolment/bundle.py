"""The bundle of files with which a new machine joins the core, and the command line that fetches it."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ..base.errors import VcoreError
from ..base.messages import tr
from ..nodes.code import KINDS

#: Folder of the unpacked bundle on a new machine.
FOLDER = "/opt/virtual-core/bundle"


#: Names of the files that the enrolment service offers.
AUTHORITY, BUNDLE = "ca.crt", "virtual-core.tar.gz"


#: Files and folders of the checkout that a machine needs to join the core and to leave it again.
CONTENTS = ("bootstrap.sh", "etc", "versions.yaml", "salt/states/roles/compute/absent.sls")


#: File with the facts about this core: the master's fingerprint, and the subnets that a node must not use already.
FACTS = "etc/core.yaml"


def bundle(checkout: Path, facts: Mapping[str, str]) -> bytes:
    """Return the archive for new machines; the same files and facts make the same bytes.

    Raises:
        VcoreError: a file of the checkout is missing.
    """
    said = "".join(f"{key}: {value}\n" for key, value in facts.items())
    files: dict[str, tuple[int, bytes]] = {FACTS: (0o644, said.encode())}
    wanted = [(name, "*") for name in CONTENTS] + [(f"salt/_{kind}", "*.py") for kind in KINDS]
    wanted.append(("salt/states/areas", "absent.sls"))
    for name, pattern in wanted:
        path = checkout / name
        for file in sorted(path.rglob(pattern)) if path.is_dir() else [path]:
            if not file.exists():
                raise VcoreError(tr("{file} is missing; the checkout is incomplete", file=file))
            if file.is_file():
                mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
                files[str(file.relative_to(checkout))] = (mode, file.read_bytes())
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, (mode, data) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            entry.uname = entry.gname = "root"
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def command(token: str, address: str, port: int, authority: bytes) -> str:
    """Return the line to run on a new machine, which fetches, verifies and runs the bundle.

    The authority's fingerprint in the line proves the certificate that the download trusts.
    It uses wget or curl, whichever exists, and sudo if it exists, since a machine with a root password may lack it. The
    token goes through standard input, because every user can read arguments.
    """
    digest = hashlib.sha256(authority).hexdigest()
    script = f"""
        set -e; umask 022; mkdir -p {FOLDER}; cd {FOLDER};
        if command -v wget >/dev/null;
        then get() {{ f=$1; shift; wget --no-proxy -O $f "$@" $u/$f; }};
        any="-q --no-check-certificate"; own="-nv --ca-directory=.";
        else get() {{ f=$1; shift; curl -f --noproxy "*" -o $f "$@" $u/$f; }};
        any="-s -k"; own="-sS --cacert {AUTHORITY}";
        fi;
        u=https://{address}:{port}; get {AUTHORITY} $any || {{ echo "$u does not answer."; exit 1; }};
        echo "{digest} *{AUTHORITY}" | sha256sum -c --status || {{ echo "$u is another head."; exit 1; }};
        get {BUNDLE} $own; tar -xzf {BUNDLE}; exec ./bootstrap.sh --join {address}"""
    return f"echo {token} | $(command -v sudo) sh -c '{' '.join(script.split())}'"
