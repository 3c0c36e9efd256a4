"""The core as a client of a SLURM that the site already has: a foreign slurmctld, our node through the file that we
offer, and our login host from which people submit jobs there.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.directory import build_image
from support.images import build, machine
from support.slurm_services import NODE, SlurmCore
from vcore.slurm import offer
from vcore.slurm import service as slurm_service

THEIRS, LOGIN = "theirs", "login"
CONF = """\
ClusterName=dept
SlurmctldHost={host}
AuthType=auth/slurm
CredType=cred/slurm
AuthInfo=use_client_ids
SlurmUser=slurm
SlurmctldParameters={parameters}
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld/slurmctld.pid
SlurmctldLogFile=/run/slurmctld/log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MailProg=/usr/bin/true
MpiDefault=none
Include {nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Site(SlurmCore):
    """A core beside a SLURM of the site's own, whose files are in a folder of the head."""

    def __init__(self, folder: Path) -> None:
        self.theirs = folder / "theirs"
        self.theirs.mkdir(parents=True)
        (self.theirs / "slurm.key").write_bytes(secrets.token_bytes(1024))
        (self.theirs / "slurm.key").chmod(0o600)
        (self.theirs / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (self.theirs / offer.NODES).write_text("")
        self.write("enable_configless", THEIRS)
        files = {"configuration": f"{self.theirs}/slurm.conf", "key": f"{self.theirs}/slurm.key"}
        super().__init__(folder, {"mode": "existing", **files})

    def write(self, parameters: str, host: str) -> None:
        """Their slurm.conf, as their administrator has it."""
        text = CONF.format(host=host, parameters=parameters, nodes=offer.NODES)
        (self.theirs / "slurm.conf").write_text(text)

    def include(self) -> None:
        """Include the offered files, as the other cluster's administrator does."""
        offered = self.paths.state / offer.OFFER / offer.NODES
        shutil.copyfile(offered, self.theirs / offer.NODES)

    def run_theirs(self) -> None:
        """Run the other cluster's slurmctld: an image of the core's will do, with a folder and a key that are not the
        core's.
        """
        self.end(THEIRS)
        place = self.folder / "their-etc"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.theirs, place, ignore=shutil.ignore_patterns("slurm.key"))
        compute = self.pillar["services"]["slurm-compute"]
        rendered = self.folder / "rendered" / "slurm-compute"
        binds = {
            str(place): ("/etc/slurm", "rw"),
            str(self.theirs / "slurm.key"): ("/run/secrets/slurm.key", "ro"),
            **self.people(compute, rendered),
        }
        image = machine().inspect_image(build("slurm-controller"))["Id"]
        self.create(THEIRS, image, THEIRS, binds, address=self.address(8))
        self.wait_for(THEIRS)

    def people(self, definition: dict[str, Any], rendered: Path) -> dict[str, tuple[str, str]]:
        """Return what a container needs to know people, as the compute node gets it."""
        binds = {
            str(rendered / name): (definition["configs"][name]["path"], "ro")
            for name in ("people.json", "authority.pem")
        }
        password = definition["secrets"]["readonly-password"]["path"]
        return binds | {str(self.paths.secrets / "ldap" / "readonly-password"): (password, "ro")}

    def run_login(self) -> None:
        """Run a host that people log in to: SLURM's client commands, with what a login host is given."""
        self.end(LOGIN)
        compute = self.pillar["services"]["slurm-compute"]
        rendered = self.folder / "rendered" / "slurm-compute"
        (rendered / "slurm.json").write_text(json.dumps({"controller": self.pillar["slurm"]["controller"]}))
        binds = self.people(compute, rendered) | {
            compute["secrets"]["key"]["file"]: ("/run/secrets/slurm.key", "ro"),
            str(rendered / "slurm.json"): ("/etc/virtual-core/slurm.json", "ro"),
        }
        for name, config in compute["configs"].items():
            if "file" in config:
                (rendered / name).write_bytes(slurm_service.content(config))
                binds[str(rendered / name)] = (config["path"], "ro")
        image = machine().inspect_image(build("slurm"))["Id"]
        self.create(LOGIN, image, LOGIN, binds)
        sackd = "/usr/lib/virtual-core/programs/sackd.conf"
        code, output = self.on(
            LOGIN, "sh", "-c", f"cp {sackd} /etc/supervisor/conf.d/ && until supervisorctl update; do sleep 0.2; done"
        )
        assert code == 0, output

    def finished(self, job: str) -> str:
        """Wait until a job has ended; return its state."""
        ask = ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"]
        return self.eventually(
            lambda: self.on(LOGIN, *ask)[1].strip(), lambda said: said in ("COMPLETED", "FAILED", "CANCELLED"), 60
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    build_image()
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.bring_up_people()
        site.write("enable_configless", f"{THEIRS}({site.address(8)})")
        site.settle_pillar()
        yield site
    except BaseException:
        for service in site.containers:
            print(service, site.api.logs(site.containers[service]).decode(errors="replace")[-4000:])
        raise
    finally:
        if not os.environ.get("VCORE_KEEP_LAB"):
            site.take_down()


@pytest.mark.parametrize("parameters", ["enable_configless", "idle_on_node_suspend"])
def test_people_send_jobs_from_our_login_host_to_our_node_in_their_slurm(site, parameters):
    """The other controller serves its configuration, or everybody has a copy of it."""
    site.write(parameters, f"{THEIRS}({site.address(8)})")
    site.settle_pillar()
    before = {path.name: path.read_bytes() for path in site.theirs.iterdir() if path.name != offer.NODES}
    offer.write_offer(site.pillar, site.paths)
    assert offer.differences(site.pillar, site.paths) == {}
    site.include()
    site.run_node(wait=False)
    site.run_theirs()
    site.wait_for("slurm-compute")
    site.run_login()

    def state() -> str:
        return site.on(LOGIN, "sinfo", "-h", "-n", NODE, "-o", "%T")[1].strip()

    site.eventually(state, lambda said: said == "idle", 60)
    code, output = site.submit("ada", place=LOGIN, script="test $(id -un) = ada")
    assert code == 0, output
    assert site.finished(output.strip()) == "COMPLETED"
    code, output = site.on(LOGIN, "scontrol", "show", "config")
    assert "ClusterName             = dept" in output
    assert before == {path.name: path.read_bytes() for path in site.theirs.iterdir() if path.name != offer.NODES}
