"""Read the slurm.conf and check the key of a SLURM that the site already has (``slurm.mode: existing``).

Its files are read and passed on, but never written: the core's login host and compute nodes are its clients.
:mod:`vcore.slurm.offer` offers our compute nodes as files that its administrator can include.

Sources: slurm.conf(5), sackd(8) and slurmd(8) of SLURM 24.11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import VcoreError
from ..base.messages import tr
from .names import Existing

if TYPE_CHECKING:
    from .settings import SlurmSettings

#: Files beside slurm.conf that slurmd reads where it does not get them from its controller.
BESIDE = ("cgroup.conf", "gres.conf", "topology.conf")


#: The port of a slurmctld whose configuration names none.
PORT = 6817


#: The most bytes of a swarm config, and how deep files may include one another.
MOST, DEEPEST = 500_000, 8


#: The size of a key in bytes: auth/slurm accepts no shorter one, and swarm no longer one.
LEAST_KEY, MOST_KEY = 32, 500_000


#: Lines that are not about the cluster as a whole.
PARTS = ("nodename", "partitionname", "downnodes", "nodeset", "frontendname", "include")


HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


# --- reading --------------------------------------------------------------------------------------------------------


def flattened(path: Path) -> str:
    """Return a file of SLURM's with every ``include`` replaced by the file's text; names are relative to its folder.

    Raises:
        VcoreError: a file cannot be read, or together they are too large.
    """
    text = "".join(_lines(path, path.parent, 0))
    if len(text.encode()) > MOST:
        raise VcoreError(tr("{path} is larger than {most} bytes with all that it includes", path=path, most=MOST))
    return text


def _lines(path: Path, folder: Path, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise VcoreError(tr("{path} is included {depth} files deep; they include one another", path=path, depth=depth))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise VcoreError(tr("{path} cannot be read: {strerror}", path=path, strerror=error.strerror)) from None
    except UnicodeDecodeError:
        raise VcoreError(tr("{path} is not UTF-8 text", path=path)) from None
    for line in text.splitlines(keepends=True):
        matched = re.fullmatch(r"\s*include\s+(\S+)\s*", line, re.IGNORECASE)
        if matched:
            yield from _lines(folder / matched[1], folder, depth + 1)
        else:
            yield line if line.endswith("\n") else f"{line}\n"


def settings(text: str) -> dict[str, list[str]]:
    """Return the settings of the cluster as a whole, by name in lower case, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = re.split(r"(?<!\\)#", line, maxsplit=1)[0].strip()
        if not words or re.match(r"(\w+)", words) is None or words.lower().startswith(PARTS):
            continue
        for name, quoted, plain in re.findall(r'(\w+)\s*=\s*(?:"([^"]*)"|(\S*))', words):
            found.setdefault(name.lower(), []).append(quoted or plain)
    return found


def facts(text: str) -> Existing:
    """Return what the core needs from the text of a site's slurm.conf.

    That is ``cluster``, ``controllers`` (HOST:PORT each), whether clients fetch their configuration from the controller
    (``configless``), and the host of slurmdbd (``accounting``, None where there is none).

    Raises:
        VcoreError: a setting is missing, or the core cannot be a client of such a cluster.
    """
    found = settings(text)

    def last(name: str, default: str = "") -> str:
        return found.get(name, [default])[-1]

    name = last("clustername")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        raise VcoreError(
            tr("it has no ClusterName") if not name else tr("ClusterName {name} is no name", name=ascii(name)[:60])
        )
    if not found.get("slurmctldhost"):
        raise VcoreError(tr("it has no SlurmctldHost: it does not say where slurmctld is"))
    port = last("slurmctldport", str(PORT)).split("-")[0]
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise VcoreError(tr("SlurmctldPort {port} is no port", port=ascii(port)[:60]))
    controllers = []
    for value in found["slurmctldhost"]:
        matched = re.fullmatch(r"([^()\s]+)(?:\(([^()\s]+)\))?", value)
        host = (matched[2] or matched[1]) if matched else value
        if not HOST.fullmatch(host):
            raise VcoreError(tr("SlurmctldHost {value} is no host", value=ascii(value)[:60]))
        controllers.append(f"{host}:{port}")
    authentication = last("authtype", "auth/munge")
    if authentication != "auth/slurm":
        raise VcoreError(
            tr(
                "its AuthType is {authentication}, and the core's hosts can be clients of auth/slurm "
                "only: set AuthType=auth/slurm and CredType=cred/slurm on that cluster, with a slurm.key "
                "for all its hosts",
                authentication=ascii(authentication)[1:41],
            )
        )
    if "use_client_ids" not in last("authinfo"):
        raise VcoreError(
            tr(
                "its AuthInfo has no use_client_ids, without which it refuses people whom its slurmctld "
                "does not know: add AuthInfo=use_client_ids there"
            )
        )
    accounted = last("accountingstoragetype").endswith("slurmdbd")
    return {
        "cluster": name,
        "controllers": controllers,
        "configless": "enable_configless" in last("slurmctldparameters").lower().split(","),
        "accounting": last("accountingstoragehost", "localhost") if accounted else None,
    }


def check_key(path: Path) -> None:
    """Make sure that a file can be the key of a cluster.

    Raises:
        VcoreError: the file cannot be read, everybody can read it, or its size is wrong.
    """
    try:
        length, mode = path.stat().st_size, path.stat().st_mode
    except OSError as error:
        raise VcoreError(tr("{path} cannot be read: {strerror}", path=path, strerror=error.strerror)) from None
    if not path.is_file():
        raise VcoreError(tr("{path} is no file", path=path))
    if mode & 0o007:
        raise VcoreError(tr("{path} can be read by everybody on the head; chmod 0600 {path}", path=path))
    if not LEAST_KEY <= length <= MOST_KEY:
        raise VcoreError(
            tr(
                "{path} has {length} bytes; a slurm.key has {least_key} to {most_key}, usually 1024",
                path=path,
                length=length,
                least_key=LEAST_KEY,
                most_key=MOST_KEY,
            )
        )


def read(slurm: SlurmSettings) -> Existing | None:
    """Return the :func:`facts` of the site's own SLURM; None in other modes.

    Raises:
        VcoreError: its files have become unusable since the site was checked.
    """
    if slurm.mode != "existing" or slurm.configuration is None:
        return None
    return facts(flattened(Path(slurm.configuration)))
