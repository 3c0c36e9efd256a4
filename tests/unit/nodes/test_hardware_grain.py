"""The grain of a node's hardware, on file trees as kernels and NVIDIA's driver make them."""

import sys
from pathlib import Path

import pytest
from vcore.nodes import hardware

sys.path.insert(0, str(Path(__file__).parents[3] / "salt" / "_grains"))
import vcore_hardware as grain

LGI = """\
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   1  MIG 1g.5gb          19        7          0:1     |
|   1  MIG 1g.5gb+me       20       13          6:1     |
+-------------------------------------------------------+
"""


class Node:
    """A root folder with the files that the grain reads."""

    def __init__(self, root):
        self.root = root
        self.write("proc/meminfo", "MemTotal:       263724412 kB\nMemFree: 1 kB\n")
        self.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")
        self.topology(sockets=2, cores=4, threads=2)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def topology(self, *, sockets, cores, threads):
        total = sockets * cores * threads
        self.write("sys/devices/system/cpu/online", f"0-{total - 1}\n" if total > 1 else "0\n")
        for number in range(total):
            core = number % (sockets * cores)
            siblings = ",".join(str(core + thread * sockets * cores) for thread in range(threads))
            folder = f"sys/devices/system/cpu/cpu{number}/topology"
            self.write(f"{folder}/physical_package_id", f"{core // cores}\n")
            self.write(f"{folder}/core_cpus_list", f"{siblings}\n")

    def gpu(self, number, model):
        self.write(f"dev/nvidia{number}", "")
        text = f"Model: \t\t {model}\nDevice Minor: \t {number}\n"
        self.write(f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information", text)

    def read(self):
        return grain._read(self.root, lambda *_: LGI)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_node_of_two_sockets(node):
    found = node.read()
    assert (found["sockets"], found["cores_per_socket"], found["threads_per_core"], found["cpus"]) == (2, 4, 2, 16)
    assert (found["memory_mib"], found["cgroups"], found["gpus"]) == (257_543, "v2", [])
    assert found["scratch_mib"] > 0
    assert hardware.validate(found) == found


def test_uneven_processors_count_as_single_ones(node):
    node.write("sys/devices/system/cpu/online", "0-2,5\n")
    found = node.read()
    assert (found["sockets"], found["cores_per_socket"], found["threads_per_core"], found["cpus"]) == (1, 4, 1, 4)
    assert hardware.validate(found)


def test_the_kernel_limits_nothing_where_a_container_may_not_mount_or_controllers_are_missing(node):
    node.write("sys/module/apparmor/parameters/enabled", "Y\n")
    assert node.read()["cgroups"] == "v2"
    node.write("usr/sbin/apparmor_parser", "")
    found = node.read()
    assert found["cgroups"] == "guarded"
    assert hardware.validate(found)["cgroups"] == "none"
    assert hardware.validate(found, opens=True) == {**found, "cgroups": "v2"}
    node.write("sys/module/apparmor/parameters/enabled", "N\n")
    node.write("sys/fs/cgroup/cgroup.controllers", "pids\n")
    assert node.read()["cgroups"] == "none"


def test_gpus_count_where_containers_see_them_whole_or_in_parts(node):
    node.gpu(0, "NVIDIA A100-SXM4-40GB")
    node.gpu(1, "NVIDIA A100-SXM4-40GB")
    node.write("dev/nvidiactl", "")
    base = "proc/driver/nvidia/capabilities/gpu1/mig"
    for instance, minor in ((7, 66), (13, 120)):
        node.write(f"{base}/gi{instance}/access", f"DeviceFileMinor: {minor}\nDeviceFileMode: 256\n")
        node.write(f"{base}/gi{instance}/ci0/access", f"DeviceFileMinor: {minor + 1}\nDeviceFileMode: 256\n")
    assert node.read()["gpus"] == []
    node.write("etc/docker/daemon.json", '{"default-runtime": "nvidia"}')
    found = node.read()
    assert [gpu["mig"] and gpu["mig"]["profile"] for gpu in found["gpus"]] == [None, "1g.5gb", "1g.5gb.me"]
    assert found["gpus"][0] == {"type": "a100", "file": "/dev/nvidia0", "mig": None}
    caps = "/dev/nvidia-caps/nvidia-cap"
    assert found["gpus"][1]["mig"]["files"] == ["/dev/nvidia1", f"{caps}66", f"{caps}67"]
    assert hardware.validate(found)["gpus"] == found["gpus"]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100"), ("Tesla V100-SXM2-16GB", "v100"), ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA L40S", "l40s"), ("NVIDIA TITAN V", "gpu"), ("", "gpu"),
    ],
)  # fmt: skip
def test_a_type_is_the_name_of_the_chip(model, kind):
    assert grain._type(model) == kind
    assert hardware.GPU_TYPE.fullmatch(kind)


def test_this_machine_is_one_that_slurm_can_have():
    assert hardware.validate(grain.vcore_hardware()["vcore_hardware"])
