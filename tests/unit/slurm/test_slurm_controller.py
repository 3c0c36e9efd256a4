"""Which commands SLURM's controller gets about its configuration, and how the outcome is reported."""

import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest
from support import sites
from vcore.base import configurations
from vcore.base.errors import NotFound, VcoreError
from vcore.base.paths import Paths
from vcore.kernel import resolve
from vcore.slurm import controller
from vcore.swarm import proving

SITE = "vcore:\n  nodes: {head: {roles: [head], address: 10.0.0.1}}\n  slurm: {mode: managed}\n"
PROGRAM = "images/slurm-controller/rootfs/usr/lib/virtual-core/slurm-controller"


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path, tmp_path / "etc", tmp_path / "state")


@pytest.fixture
def core(tmp_path):
    """Make a head whose configuration lies below the test's folder."""
    core = resolve.node_pillar(sites.resolved(tmp_path, SITE), "head")
    core["services"][controller.SERVICE]["volumes"]["configuration"]["source"] = str(tmp_path / "configuration")
    (tmp_path / "configuration").mkdir()
    return core


@pytest.fixture
def slurmctld(monkeypatch):
    """Stand in for a running slurmctld and record the commands it gets.

    ``refuses`` names the command that fails once; ``replaced`` says that the run goes on to replace the container.
    """

    class Slurmctld:
        refuses: str | None = None
        replaced = False
        asked: list = []

        def execute(self, _, command):
            program, question, *_ = command
            assert program == controller.COMMAND
            self.asked.append(question)
            if question == self.refuses:
                self.refuses = None
                return 1, b"no\n"
            return 0, b""

    slurmctld = Slurmctld()
    slurmctld.asked = []
    monkeypatch.setattr(controller, "execute", slurmctld.execute)
    monkeypatch.setattr(controller, "container", lambda _: "id")
    monkeypatch.setattr(proving, "is_replaced", lambda *_: slurmctld.replaced)
    return slurmctld


def test_what_runs_proves_first_and_reads_then(core, paths, slurmctld):
    planned = controller.plan(core, paths)
    assert planned.changes == dict.fromkeys(planned.files, "new")
    assert controller.apply(core, paths, planned) == "SLURM has read its new configuration."
    assert slurmctld.asked == ["prove", "reload"]
    assert controller.configure(core, paths) == {}
    controller.place(core).forget()
    assert controller.configure(core, paths) == {"reload": "slurmctld may not have read its configuration"}
    assert controller.configure(core, paths) == {}


@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        ("prove", "slurm.conf was refused, and the old one stays in force: no"),
        ("reload", "slurmctld does not read its configuration: no; the old configuration is in place again"),
    ],
)
def test_what_is_refused_leaves_the_old_in_force(core, paths, slurmctld, refuses, says):
    controller.configure(core, paths)
    place = controller.place(core)
    before = place.read()
    core["slurm"]["cluster"] = "another"
    slurmctld.refuses = refuses
    with pytest.raises(VcoreError) as refused:
        controller.configure(core, paths)
    assert str(refused.value) == says
    assert place.read() == before
    assert place.is_in_force(before)


def test_a_container_that_is_about_to_come_proves_and_is_asked_afterwards(core, paths, slurmctld):
    slurmctld.replaced = True
    done = controller.apply(core, paths, controller.plan(core, paths), replacing=True)
    assert done == "The configuration was written; slurmctld proves and reads it when it starts."
    assert slurmctld.asked == []
    assert controller.plan(core, paths).changes == {}, "a plan knows that the new container reads it"
    slurmctld.refuses = "probe"
    with pytest.raises(VcoreError, match=r"^slurmctld does not serve: no$"):
        controller.settle(core)
    controller.settle(core)
    assert controller.place(core).is_in_force(controller.place(core).read())
    assert slurmctld.asked == ["probe", "probe"]


def test_who_brings_no_service_up_asks_the_one_that_runs(core, paths, slurmctld):
    slurmctld.replaced = True
    assert controller.configure(core, paths)
    assert slurmctld.asked == ["prove", "reload"]


def test_what_a_container_refused_at_its_start_fails_with_its_reason(core, paths, slurmctld):
    controller.configure(core, paths)
    core["slurm"]["cluster"] = "another"
    with pytest.raises(VcoreError, match="not the wanted one; apply again"):
        controller.settle(core)
    (controller.folder(core) / configurations.REFUSED).write_text("line 3\n")
    with pytest.raises(VcoreError, match=r"^the configuration was refused, and the previous one is in force: line 3$"):
        controller.settle(core)


def test_where_none_runs_it_is_written_and_nobody_is_asked(core, paths, slurmctld, monkeypatch):
    def nothing(_):
        raise NotFound("none")

    monkeypatch.setattr(controller, "container", nothing)
    assert controller.configure(core, paths)
    controller.settle(core)
    assert slurmctld.asked == []


def test_the_image_goes_by_the_same_names(checkout, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # it adds the image's folder of the brain
    module = ModuleType("slurm-controller")
    SourceFileLoader("slurm-controller", str(checkout / PROGRAM)).exec_module(module)
    held = (configurations.APPLIED, configurations.PREVIOUS, configurations.REFUSED)
    assert held == (module.APPLIED, module.PREVIOUS, module.REFUSED)
    assert str(module.CONFIGURATION) == controller.MOUNT
