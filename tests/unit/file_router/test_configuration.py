"""What the file router's folder should hold, how it changes, and how a refused change is taken back."""

import json
import re
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_samba import CHECKOUT, GOLDEN, SETTINGS, pillar
from vcore.base import configurations
from vcore.base.errors import NotFound, VcoreError
from vcore.base.paths import Paths
from vcore.base.secrets import Store
from vcore.file_router import configuration, container, ganesha, health, instruments, names, samba
from vcore.swarm import proving

PROGRAMS = CHECKOUT / "images" / "file-router" / "rootfs" / "usr" / "lib" / "virtual-core"
CONTENT = st.dictionaries(st.sampled_from(names.FILES), st.binary(max_size=20))


@pytest.fixture
def paths(tmp_path):
    return Paths(CHECKOUT, tmp_path / "etc", tmp_path / "state")


@pytest.fixture
def core(tmp_path):
    """Make a head whose volumes are below the test's folder."""
    core = pillar(tmp_path, SETTINGS["tdbsam"])
    for volume, entry in core["services"]["file-router"]["volumes"].items():
        entry["source"] = str(tmp_path / volume)
    (tmp_path / "configuration").mkdir()
    return core


@pytest.fixture
def router(core, monkeypatch):
    """Stand in for a running file router and record the commands it gets.

    ``refuses`` names the command that fails; ``replaced`` says that the run goes on to replace the container.
    """

    class Router:
        asked: list = []
        refuses = ()
        replaced = False
        proven: dict = {}

        def execute(self, _, command, data=b""):
            words = [Path(command[0]).name, *command[1:]]
            self.asked.append(words)
            if "prove" in words:
                self.proven = {path.name for path in (container.folder(core) / configurations.CANDIDATE).iterdir()}
            if self.refuses and words[: len(self.refuses)] == list(self.refuses) and self.refuses[-1] in words[-2:]:
                self.refuses = ()
                return 1, b"no\n"
            if words == ["file-router", "exports"]:
                text = (container.folder(core) / "ganesha.conf").read_text()
                return 0, "\n".join(map(ganesha.pseudo, ganesha.numbers_in(text))).encode()
            return 0, b""

    router = Router()
    router.asked = []
    monkeypatch.setattr(container, "execute", router.execute)
    monkeypatch.setattr(container, "container", lambda _: "id")
    monkeypatch.setattr(proving, "is_replaced", lambda *_: router.replaced)
    return router


def secrets(paths, **values):
    for name, value in values.items():
        Store(paths.secrets).write("file-router", f"instrument-{name}", value.encode())


def written(core):
    folder = container.folder(core)
    # The lock file, which is empty, remains.
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_what_settle_is_told(tmp_path, golden):
    wanted = configuration.wanted(pillar(tmp_path), {})
    golden(GOLDEN / "settle.json", wanted.content["settle.json"].decode())
    assert set(wanted.content) == set(names.FILES) - {"instruments"}


def test_the_files_of_another_server_are_left_alone(core):
    route = {"kind": "mount", "protocol": "nfs"}
    core["routes"] = {"nas": {**route, "path": "sequencing/runs"}, "other": {**route, "path": "software"}}
    core["shares"]["hidden"]["path"] = "software/inner"
    secret = lambda _: "x"  # noqa: E731
    folders = json.loads(configuration.wanted(core, {}, secret).content["settle.json"])["folders"]
    assert {path for path, folder in folders.items() if folder["mounted"]} == {
        "/data/sequencing/runs",
        "/data/software",
    }
    assert "/data/software/inner" not in folders


def test_only_tdbsam_has_hashes_in_a_file(tmp_path, paths):
    secrets(paths, scanner="one", sequencer="two")
    read = lambda name: Store(paths.secrets).read("file-router", f"instrument-{name}").decode()  # noqa: E731
    wanted = configuration.wanted(pillar(tmp_path, SETTINGS["tdbsam"]), {}, read)
    assert samba.nt_hash("one").encode() in wanted.content["instruments"]
    others = b"".join(data for name, data in wanted.content.items() if name != "instruments")
    for name in ("one", "two"):
        assert samba.nt_hash(name).encode() not in others


@pytest.fixture(scope="module")
def programs():
    """The programs of the image that go by the names of files, by their own names."""
    path = list(sys.path)
    loaded = {name: ModuleType(name) for name in ("settle", "file-router")}
    for name, module in loaded.items():
        SourceFileLoader(name, str(PROGRAMS / name)).exec_module(module)
    sys.path[:] = path  # the image's folder of the brain is none of this machine's
    return loaded


def test_the_image_goes_by_the_same_names(programs):
    settle, asked = programs["settle"], programs["file-router"]
    assert settle.FILES is asked.FILES is names.FILES
    assert settle.APPLIED == configurations.APPLIED
    assert (asked.PREVIOUS, asked.REFUSED) == (configurations.PREVIOUS, configurations.REFUSED)
    assert str(settle.CONFIGURATION) == str(asked.CONFIGURATION) == container.MOUNT


def test_its_shell_scripts_name_files_that_there_are():
    """They cannot import the names, and spell them out."""
    found = {}
    for path in PROGRAMS.rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh"):
            said = re.findall(rf"(?:\$configuration|{container.MOUNT})/([\w.-]+)", path.read_text())
            found |= dict.fromkeys(said, path.name)
    assert {"domain-sid", "ganesha.conf", "settle.json", "smb.conf"} <= found.keys() <= set(names.FILES), found


@given(CONTENT)
def test_settle_notes_what_the_core_has_written(programs, content):
    with tempfile.TemporaryDirectory() as folder:
        for name, data in content.items():
            Path(folder, name).write_bytes(data)
        Path(folder, "routes.json").write_bytes(b"of others")
        settle = programs["settle"]
        settle.CONFIGURATION = Path(folder)
        assert settle.in_place() == configuration.read(Path(folder)) == content
        assert settle.fingerprint is configurations.fingerprint
        settle.CONFIGURATION = Path(container.MOUNT)


@given(CONTENT, CONTENT)
def test_a_difference_is_there_when_something_differs(old, new):
    text = {name: data for name, data in new.items() if name != "instruments"}
    before = {name: data for name, data in old.items() if name != "instruments"}
    changes = configuration.difference(before, configuration.Files(text))
    assert set(changes) == {name for name in {*before, *text} if before.get(name) != text.get(name)}


def test_hashes_are_in_no_difference():
    old = samba.smbpasswd({"a": "A" * 32, "b": "B" * 32, "c": "C" * 32}).encode()
    new = samba.smbpasswd({"b": "D" * 32, "c": "C" * 32, "d": "E" * 32}).encode()
    changes = configuration.difference({"instruments": old}, configuration.Files({"instruments": new}))
    assert changes == {"instruments": {"a": "gone", "b": "another password", "d": "new"}}
    assert configuration.difference({}, configuration.Files({"instruments": new}))["instruments"]["c"] == "new"
    assert configuration.difference({}, configuration.Files({"instruments": b""})) == {"instruments": "new"}


def test_where_none_runs_the_configuration_is_written(core, paths, monkeypatch):
    def nothing(_):
        raise NotFound("none")

    monkeypatch.setattr(container, "container", nothing)
    planned = configuration.plan(core, paths, test=True)
    assert planned.changes["instruments"] == {"scanner": "new", "sequencer": "new"}
    with pytest.raises(NotFound, match="instrument-"):
        configuration.plan(core, paths, test=False)
    secrets(paths, scanner="one", sequencer="two")
    planned = configuration.plan(core, paths, test=False)
    assert "when it starts" in configuration.apply(core, paths, planned)
    assert written(core) == set(names.FILES)
    assert configuration.plan(core, paths, test=False).changes == {}
    folder = container.folder(core)
    closed = {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077 == 0}
    assert closed - {".lock"} == {"instruments"}


def test_where_one_runs_it_proves_first_and_reads_then(core, paths, router):
    secrets(paths, scanner="one", sequencer="two")
    configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    assert [words[:2] for words in router.asked] == [
        ["settle", "--wait"],
        ["file-router", "prove"],
        ["settle", "--wait"],
        ["file-router", "reload"],
    ]
    assert "instruments" not in router.proven
    assert written(core) == {*names.FILES, configurations.APPLIED}
    router.asked.clear()
    assert configuration.plan(core, paths, test=False).changes == {}
    assert router.asked == []


@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        (["settle", "--wait", "3", "--folders"], "folders cannot be made: no"),
        (["file-router", "prove"], "the configuration was refused, and the old one stays: no"),
        (["file-router", "reload"], "does not come into force: no; the old configuration is in place again"),
        (["settle", "--wait", "3"], "cannot be carried out: no; the old configuration is in place again"),
    ],
)
def test_what_is_refused_leaves_the_old_in_place(core, paths, router, refuses, says):
    secrets(paths, scanner="one", sequencer="two")
    configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    folder = container.folder(core)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    core["shares"]["runs"]["read"] = []
    core["shares"]["machines"]["nfs"] = []
    planned = configuration.plan(core, paths, test=False)
    assert set(planned.changes) == {"smb.conf", "ganesha.conf"}
    router.refuses = refuses
    with pytest.raises(VcoreError, match=says):
        configuration.apply(core, paths, planned)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert configuration.plan(core, paths, test=False).changes == planned.changes


def test_another_container_that_is_about_to_come_is_the_one_that_proves(core, paths, router):
    secrets(paths, scanner="one", sequencer="two")
    configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    folder, old = container.folder(core), configuration.read(container.folder(core))
    router.asked.clear()
    router.replaced = True
    core["shares"]["runs"]["read"] = []
    done = configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    assert done == "The configuration was written; the file router proves and reads it when it starts."
    assert router.asked == []
    assert configuration.read(folder / configurations.PREVIOUS) == old
    assert configuration.plan(core, paths, test=True).changes.keys() == {"reload"}
    # The new container serves the configuration.
    (folder / configurations.APPLIED).write_text(configurations.fingerprint(configuration.read(folder)))
    assert configuration.settle(core, paths, wait=0) is None
    assert written(core) == {*names.FILES, configurations.APPLIED}


def test_what_a_container_refused_at_its_start_fails_with_its_reason(core, paths, router):
    secrets(paths, scanner="one", sequencer="two")
    configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    core["shares"]["runs"]["read"] = []
    with pytest.raises(VcoreError, match="not the wanted one; apply again"):
        configuration.settle(core, paths, wait=0)
    (container.folder(core) / configurations.REFUSED).write_text("no\n")
    with pytest.raises(VcoreError, match=r"was refused, and the previous one is served: no$"):
        configuration.settle(core, paths, wait=0)


def test_a_change_that_was_cut_off_is_made_up_for(core, paths, router):
    secrets(paths, scanner="one", sequencer="two")
    planned = configuration.plan(core, paths, test=False)
    configuration.apply(core, paths, planned)
    folder = container.folder(core)
    (folder / configurations.APPLIED).unlink()
    again = configuration.plan(core, paths, test=False)
    assert again.changes == {"reload": "what runs has not read its configuration"}
    configuration.apply(core, paths, again)
    assert configuration.plan(core, paths, test=False).changes == {}


def test_numbers_of_exports_stay_when_shares_come_and_go(core, paths, router):
    secrets(paths, scanner="one", sequencer="two")
    folder = container.folder(core)
    (folder / "ganesha.conf").write_text(ganesha.ganesha_conf(core, {"runs": 5}))
    core["shares"] = {"aaa": {**core["shares"]["machines"], "path": "aaa"}, "runs": core["shares"]["runs"]}
    configuration.apply(core, paths, configuration.plan(core, paths, test=False))
    assert ganesha.numbers_in((folder / "ganesha.conf").read_text())["runs"] == 5


def test_a_lock_of_samba_is_no_difference():
    assert instruments._unlocked("[LUX        ]") == samba.FLAGS
    assert instruments._unlocked("[DUX        ]") != samba.FLAGS


def test_facts_of_a_router_elsewhere(core, paths):
    core["node"]["services"] = []
    facts = health.look(core)
    assert facts["problems"] == []
    assert [entry["name"] for entry in facts["exports"]] == ["/machines", "/runs", "/software"]
    assert {entry["name"]: entry["smb"] for entry in facts["shares"]}["private"] is False
    del core["services"]["file-router"]
    assert health.look(core) is None


def test_facts_tell_what_is_not_live(core, paths, router, monkeypatch):
    monkeypatch.setattr(health, "live_exports", lambda _: ["/runs", "/old", "/software"])
    assert health.look(core)["problems"] == [
        "file router: /machines is not exported",
        "file router: /old is exported, and the site does not want it",
    ]
