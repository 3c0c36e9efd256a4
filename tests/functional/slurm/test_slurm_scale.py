"""Thousands of nodes, rendered and loaded by a real slurmctld: the cost grows no faster than their number."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from support import sites
from support.images import build
from vcore.kernel import resolve
from vcore.slurm import configuration as slurm_configuration

HEAD = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  slurm: {mode: managed}\n"
FACTS = {
    "sockets": 2, "cores_per_socket": 16, "threads_per_core": 2, "cpus": 64, "memory_mib": 257_543,
    "scratch_mib": 937_000, "cgroups": "none",
    "gpus": [{"type": "a100", "file": f"/dev/nvidia{number}", "mig": None} for number in range(4)],
}  # fmt: skip


def configuration(folder: Path, count: int) -> Path:
    """Return a folder with the configuration of a cluster of this many nodes."""
    enrolled = {
        f"compute-{n}": {
            "roles": ["compute"], "enrolled": 1, "by": "token", "address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
            "swarm_id": "x", "hardware": FACTS, "code": None, "forgotten": None, "retiring": False,
        }
        for n in range(1, count + 1)
    }  # fmt: skip
    pillar = resolve.node_pillar(sites.resolved(folder, HEAD, enrolled=enrolled), "head")
    place = folder / str(count)
    place.mkdir()
    for name, content in slurm_configuration.files(pillar).items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def prove(tmp_path):
    """Have a slurmctld load a configuration; return the seconds that it took."""
    image = build("slurm-controller")
    name = f"virtual-core-test-scale-{tmp_path.name.replace('_', '-')}-{time.monotonic_ns()}"
    command = ["docker", "run", "--detach", "--rm", "--name", name, "--hostname", "slurm-controller"]
    command += ["--volume", f"{tmp_path}:/sites:ro", "--entrypoint", "sleep", image, "3600"]
    subprocess.run(command, check=True, capture_output=True)

    def run(place: Path) -> float:
        program = ["/usr/lib/virtual-core/slurm-controller", "prove", f"/sites/{place.name}"]
        began = time.monotonic()
        done = subprocess.run(["docker", "exec", name, *program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return time.monotonic() - began

    yield run
    subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def test_a_thousand_nodes_load_in_seconds_and_ten_thousand_at_no_greater_cost_for_each(prove, tmp_path):
    few, thousand, many = (configuration(tmp_path, count) for count in (10, 1_000, 10_000))
    prove(few)
    seconds = {place.name: min(prove(place) for _ in range(2)) for place in (thousand, many)}
    print(f"loaded: {seconds}")
    assert seconds["1000"] <= 5
    assert seconds["10000"] <= 12 * seconds["1000"]
