"""
The hardware of a node, as SLURM wants to know it
=================================================

The grain ``vcore_hardware``. The head believes none of it before it has checked it (vcore.nodes.hardware). Grains
cannot import what Salt synchronises, so this file stands alone.
"""

import json
import os
import re
import subprocess
from pathlib import Path

#: Seconds for nvidia-smi, which takes some to wake the GPUs.
_PATIENCE = 30


def vcore_hardware():
    """
    Sockets, cores, threads, memory, scratch space, GPUs, and whether the kernel can hold jobs to their memory.
    """
    try:
        return {"vcore_hardware": _read(Path("/"), _nvidia_smi)}
    except (OSError, ValueError):
        # A node without the grain gets no jobs, and the head says so; a minion that does not start says nothing.
        return {}


def _read(root, nvidia_smi):
    return {
        **_processors(root / "sys/devices/system/cpu"),
        "memory_mib": _memory(root / "proc/meminfo"),
        "scratch_mib": _scratch(root),
        "cgroups": _cgroups(root),
        "gpus": _gpus(root, nvidia_smi),
    }


def _processors(folder):
    online = _numbers((folder / "online").read_text())
    packages, cores = {}, {}
    for number in online:
        topology = folder / f"cpu{number}" / "topology"
        package = _text(topology / "physical_package_id") or "0"
        # The processors of a core; older kernels know the list by its other name.
        siblings = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list") or str(number)
        core = tuple(sorted(set(_numbers(siblings)) & set(online)))
        packages.setdefault(package, set()).add(core)
        cores.setdefault(core, set()).add(number)
    count = len(online)
    sockets = len(packages)
    per_socket = {len(found) for found in packages.values()}
    threads = {len(found) for found in cores.values()}
    if len(per_socket) == 1 and len(threads) == 1 and sockets * max(per_socket) * max(threads) == count:
        shape = (sockets, max(per_socket), max(threads))
    else:
        # Cores of several kinds, or some that are switched off: SLURM only knows even machines.
        shape = (1, count, 1)
    return {"sockets": shape[0], "cores_per_socket": shape[1], "threads_per_core": shape[2], "cpus": count}


def _numbers(text):
    """The numbers of a list of the kernel's, such as ``0-3,8``."""
    found = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _text(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _memory(path):
    found = re.search(r"^MemTotal:\s+([0-9]+) kB$", path.read_text(), re.MULTILINE)
    if not found:
        raise ValueError("no MemTotal")
    return int(found[1]) // 1024


def _docker(root):
    try:
        settings = json.loads((root / "etc/docker/daemon.json").read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _scratch(root):
    """The file system of Docker's data: /tmp of slurmd's container, where jobs have their scratch space, is on it."""
    place = root / str(_docker(root).get("data-root", "/var/lib/docker")).lstrip("/")
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize // 1024**2


def _cgroups(root):
    """v2 where the unified hierarchy has what SLURM limits jobs with; guarded where slurmd's container may mount that
    only if Docker can do without its AppArmor profile, which the swarm knows.
    """
    controllers = _text(root / "sys/fs/cgroup/cgroup.controllers").split()
    guarded = _text(root / "sys/module/apparmor/parameters/enabled") == "Y" and any(
        (root / folder / "apparmor_parser").exists() for folder in ("sbin", "usr/sbin")
    )
    if not {"cpu", "cpuset", "memory"} <= set(controllers):
        return "none"
    return "guarded" if guarded else "v2"


def _gpus(root, nvidia_smi):
    """NVIDIA's GPUs, as far as containers of this node see them: where Docker's default runtime is NVIDIA's."""
    if _docker(root).get("default-runtime") != "nvidia":
        return []
    models = _models(root)
    found = []
    parts = None
    for device in sorted((root / "dev").glob("nvidia[0-9]*"), key=lambda path: (len(path.name), path.name)):
        minor = device.name.removeprefix("nvidia")
        if not minor.isdecimal():
            continue
        entry = {"type": models.get(minor, "gpu"), "file": f"/dev/{device.name}"}
        capabilities = root / "proc/driver/nvidia/capabilities" / f"gpu{minor}" / "mig"
        if capabilities.is_dir():
            parts = _parts(nvidia_smi("mig", "-lgi")) if parts is None else parts
            instances = list(_instances(capabilities, parts.get(minor, {}), entry["file"]))
            if instances:
                found += [{**entry, "mig": mig} for mig in instances]
                continue
        found.append({**entry, "mig": None})
    return found


def _models(root):
    """The types of the GPUs by their minor numbers, out of what the driver says: ``Tesla V100-SXM2`` is v100."""
    models = {}
    for path in (root / "proc/driver/nvidia/gpus").glob("*/information"):
        text = _text(path)
        model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*([0-9]+)$", text, re.MULTILINE)
        if model and minor:
            models[minor[1]] = _type(model[1])
    return models


def _type(model):
    """The word that names the chip, such as a100, h200 or rtx4090."""
    words = [word for word in re.split(r"[^a-z0-9]+", model.lower()) if word not in ("", "nvidia", "geforce", "tesla")]
    for before, word in zip(["", *words], words, strict=False):
        if re.search(r"[0-9]", word):
            name = f"{before}{word}" if word[0].isdigit() else word
            return name[:32] if name[0].isalpha() else "gpu"
    return "gpu"


def _parts(text):
    """From ``nvidia-smi mig -lgi``: the profiles of GPU instances, by GPU and instance."""
    parts = {}
    for gpu, profile, instance in re.findall(r"^\|\s+(\d+)\s+MIG\s+(\S+)\s+\d+\s+(\d+)\s", text, re.MULTILINE):
        parts.setdefault(gpu, {})[instance] = profile.replace("+", ".")
    return parts


def _instances(capabilities, profiles, device):
    """What a job needs of a part: the GPU's device and those that grant its GPU and compute instance."""
    for instance, profile in sorted(profiles.items(), key=lambda item: int(item[0])):
        for compute in sorted((capabilities / f"gi{instance}").glob("ci[0-9]*")):
            files = [_minor(compute.parent / "access"), _minor(compute / "access")]
            if all(files):
                yield {
                    "profile": profile,
                    "files": [device, *(f"/dev/nvidia-caps/nvidia-cap{number}" for number in files)],
                }


def _minor(path):
    found = re.search(r"^DeviceFileMinor:\s*([0-9]+)$", _text(path), re.MULTILINE)
    return found[1] if found else ""


def _nvidia_smi(*arguments):
    try:
        return subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
