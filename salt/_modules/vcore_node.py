"""
What a node says of itself to the head
======================================

It is read there as something that anybody may have written: nothing of it is believed that the head cannot see for
itself, and no role ever follows from it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import salt.loader
from vcore import adapter

# vcore.host.docker_client is imported where it is used: with docker it takes 70 ms to load.
with adapter.imports("docker") as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.paths import Paths
    from vcore.host import mounts
    from vcore.storage import places

GRAIN = "vcore_hardware"


def facts(base_directory):
    """
    What the head has to know of this node: its place in the swarm, its hardware, its storage.

    base_directory
        The core's folder of data, below which the storage is.

    Returns ``{swarm_id, hardware, storage, boot, problem}``: Docker's id of this node in its swarm, or None and the
    problem in words; the grain ``vcore_hardware`` as it is now, memory in MiB; whether homes and data are mounted;
    what is another one after each start of this machine.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_node.facts /srv/virtual-core/data
    """
    swarm_id, problem = _swarm_id()
    return {
        "swarm_id": swarm_id,
        "hardware": _hardware(),
        "storage": _storage(str(base_directory)),
        "boot": _boot(),
        "problem": problem,
    }


def _swarm_id():
    from vcore.host.docker_client import connect, docker_errors

    try:
        with docker_errors():
            state = connect().info()["Swarm"]
    except VcoreError as error:
        return None, str(error)
    # One that is still asking to be let in has a place, too, or believes so: the head knows.
    if state["LocalNodeState"] not in ("active", "pending") or not state["NodeID"]:
        said = f": {state['Error']}" if state.get("Error") else ""
        return None, f"it is in no swarm (Docker says {state['LocalNodeState']}{said})"
    return state["NodeID"], None


def _hardware():
    """The grain, made anew: a minion keeps its grains from its start, and hardware may have gone since."""
    grain = salt.loader.grain_funcs(__opts__).get(f"{GRAIN}.{GRAIN}")
    return (grain() if grain else __grains__).get(GRAIN)


def _storage(base_directory):
    """Whether something is mounted where homes and data belong; a mount whose server is gone is not touched."""
    mounted = mounts.mounted()
    return {kind: places.mountpoint(base_directory, kind) in mounted for kind in places.KINDS}


def _boot():
    """The kernel's id of its boot, and when the first process began: a container has a host's kernel."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/1/stat').read_text().rpartition(')')[2].split()[19]}"


def leave():
    """
    Delete what the core entrusted to this node and has no further use for: secrets, the proof that it enrolled by, its
    key, and the files that the minion keeps of the head. Where systemd runs the minion, it ends and does not come back.

    ``salt-run vcore.retire`` calls this when all else is off the node. Returns what was deleted.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_node.leave
    """
    paths = Paths.from_opts(__opts__)
    configuration = Path(__opts__["conf_file"]).parent / "minion.d"
    files = [
        paths.configuration / "secrets",
        *(path for path in configuration.glob("*.conf") if _proves(path)),
        *Path(__opts__["pki_dir"]).glob("minion.p*"),
        *(Path(__opts__["cachedir"]) / name for name in ("files", "accumulator", "pillar")),
    ]
    gone = []
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        gone.append(str(path))
    if _is_service():
        # Not at the next boot, which may be soon: it would make itself a key under its old name.
        subprocess.run(["systemctl", "disable", "salt-minion"], check=False, timeout=30)
        # In a moment, when the answer to this has gone out; as a unit of its own, which does not end with the minion.
        command = "sleep 3; systemctl stop salt-minion"
        subprocess.run(["systemd-run", "--no-block", "--collect", "sh", "-c", command], check=False, timeout=30)
    return gone


def _proves(path):
    return "vcore_enrol" in path.read_text()


def _is_service():
    """Whether this process belongs to the minion that systemd runs."""
    if not Path("/run/systemd/system").is_dir():
        return False
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", "salt-minion"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    process, main = os.getpid(), shown.stdout.strip()
    while process > 1:
        if str(process) == main:
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False
