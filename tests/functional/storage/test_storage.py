"""Homes and data on a node that has the files itself, or on a file system: real bind mounts and markers."""

import contextlib
import subprocess

import pytest
from support import sites
from vcore.host import mounts
from vcore.storage import mounting, places

NAME = "Homes and data are there"


def mounted(path):
    return [entry.kind for entry in mounts.mounted().get(str(path), [])]


@pytest.fixture
def base(tmp_path):
    """Yield the base directory; nothing stays mounted below it."""
    folder = tmp_path / "base"
    (folder / "file-router").mkdir(parents=True)
    yield folder
    for target in sorted(mounts.mounted(), reverse=True):
        if target.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "--recursive", target], check=False)
    for kind in places.KINDS:
        with contextlib.suppress(OSError):
            mounts.set_immutable(folder / "storage" / kind, False)


def core(tmp_path, base, more="", minion="head"):
    text = (
        f"vcore:\n  base_directory: {base}\n"
        "  nodes:\n    head: {roles: [head], address: 10.0.0.1}\n    compute-1: {roles: [compute], address: 10.0.0.2}\n"
        f"  services: {{file-router: {{enabled: true}}}}\n{more}"
    )
    return sites.pillar(tmp_path, text, minion)


class TestWhereTheFilesLie:
    """The node of the file router."""

    @pytest.fixture
    def pillar(self, tmp_path, base):
        return core(tmp_path, base)

    def test_they_are_mounted_marked_and_taken_away(self, base, plan_and_apply, loaders):
        home, there = base / "storage/home", base / "file-router/home"
        plan = loaders.states["vcore_storage.present"](name=NAME, test=True)
        assert plan.changes
        assert not home.exists(), "a plan makes nothing"
        done = plan_and_apply("vcore_storage.present", name=NAME)
        assert str(home) in done.comment
        (there / "ada").mkdir()
        assert (home / "ada").is_dir()
        assert mounted(home)
        marker = home / mounting.MARKER
        assert (marker.stat().st_uid, marker.stat().st_mode & 0o777) == (0, 0o444)
        assert marker.read_text().startswith("virtual-core ")
        assert loaders.modules["vcore_storage.status"]()["ok"] is True
        done = plan_and_apply("vcore_storage.absent", name=NAME)
        assert done.changes["home"]["new"] is None
        assert not (base / "storage").exists()
        assert (there / "ada").is_dir(), "files stay"
        assert (there / mounting.MARKER).exists()

    def test_what_is_mounted_below_is_seen_and_stays(self, base, plan_and_apply):
        route = base / "file-router/data/route"
        route.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(route)], check=True)
        (route / "file").write_text("of another server")
        plan_and_apply("vcore_storage.present", name=NAME)
        assert (base / "storage/data/route/file").read_text() == "of another server"
        plan_and_apply("vcore_storage.absent", name=NAME)
        assert mounted(route) == ["tmpfs"]

    def test_what_somebody_unmounts_is_mounted_again(self, base, plan_and_apply, loaders):
        plan_and_apply("vcore_storage.present", name=NAME)
        subprocess.run(["umount", str(base / "storage/home")], check=True)
        seen = loaders.modules["vcore_storage.status"]()
        assert (seen["ok"], seen["roots"]["data"]["ok"]) == (False, True)
        assert seen["problems"] == [f"storage home: {base}/storage/home is not mounted"]
        with pytest.raises(PermissionError):
            (base / "storage/home/ada").mkdir()
        done = plan_and_apply("vcore_storage.present", name=NAME)
        assert done.changes == {"home": {"old": {"mounted": False}, "new": {"mounted": True}}}

    def test_a_lost_marker_is_an_error_until_somebody_has_looked(self, base, plan_and_apply, loaders):
        plan_and_apply("vcore_storage.present", name=NAME)
        (base / "file-router/home" / mounting.MARKER).unlink()
        state = loaders.states["vcore_storage.present"]
        for test in (True, False):
            result = state(name=NAME, test=test)
            assert (result.result, result.changes) == (False, {})
            assert "had a .virtual-core-storage and has none now" in result.comment
        assert loaders.modules["vcore_storage.mark"]() == [str(base / "file-router" / kind) for kind in places.KINDS]
        assert state(name=NAME).result is True

    def test_a_folder_in_use_is_not_taken_away(self, base, plan_and_apply, loaders):
        plan_and_apply("vcore_storage.present", name=NAME)
        with (base / "storage/home" / mounting.MARKER).open():
            result = loaders.states["vcore_storage.absent"](name=NAME)
        assert result.result is False
        assert f"{base}/storage/home is in use: fuser -vm" in result.comment
        assert mounted(base / "storage/home")
        plan_and_apply("vcore_storage.absent", name=NAME)

    def test_files_below_the_mountpoint_are_not_hidden(self, base, loaders):
        (base / "storage/home").mkdir(parents=True)
        (base / "storage/home/thesis").write_text("all of it")
        result = loaders.states["vcore_storage.present"](name=NAME)
        assert result.result is False
        assert "has files of its own" in result.comment
        assert (base / "storage/home/thesis").exists()


class TestASharedFileSystem:
    """A compute node of a core whose storage is a path."""

    @pytest.fixture
    def shared(self, tmp_path):
        folder = tmp_path / "lustre"
        folder.mkdir()
        return folder

    @pytest.fixture
    def pillar(self, tmp_path, base, shared):
        return core(tmp_path, base, f"  storage: {{kind: path, path: {shared}}}\n", "compute-1")

    def fill(self, tmp_path, base, shared):
        """Fill the folders as the head does."""
        head = core(tmp_path, base, f"  storage: {{kind: path, path: {shared}}}\n")
        for root in mounting.wanted(head).values():
            mounting.mark(root)

    def test_it_is_mounted_once_it_is_there(self, tmp_path, base, shared, plan_and_apply, loaders):
        state = loaders.states["vcore_storage.present"]
        result = state(name=NAME)
        assert result.result is False
        assert f"{shared}/home has no .virtual-core-storage" in result.comment
        assert "see that its file system is mounted here" in result.comment
        assert not mounted(base / "storage/home")
        self.fill(tmp_path, base, shared)
        plan_and_apply("vcore_storage.present", name=NAME)
        assert (base / "storage/home" / mounting.MARKER).exists()

    def test_another_cores_is_refused(self, tmp_path, base, shared, loaders):
        self.fill(tmp_path, base, shared)
        path = shared / "data" / mounting.MARKER
        path.write_text(path.read_text().replace("virtual-core ", "virtual-core 0"))
        result = loaders.states["vcore_storage.present"](name=NAME)
        assert result.result is False
        assert result.comment.startswith(f"storage data: {shared}/data is the storage of another core")
        assert mounted(base / "storage/home"), "the other is not held up"

    def test_a_file_system_that_goes_is_noticed(self, tmp_path, base, shared, plan_and_apply, loaders):
        self.fill(tmp_path, base, shared)
        plan_and_apply("vcore_storage.present", name=NAME)
        (shared / "home" / mounting.MARKER).unlink()
        result = loaders.states["vcore_storage.present"](name=NAME)
        assert (result.result, result.changes) == (False, {})
        assert f"storage home: {base}/storage/home has no" in result.comment


class TestANodeWithoutAKernelClient:
    """A compute node whose kernel does not speak NFS, as this machine's may not."""

    @pytest.fixture
    def pillar(self, tmp_path, base):
        return core(tmp_path, base, minion="compute-1")

    def test_it_is_a_clear_error(self, base, loaders, virtual_core):
        if mounting.Host(virtual_core, "Debian").kernel_problem("nfs") is None:
            pytest.fail("this kernel mounts NFS: the guest's tests are for that, and this one has nothing to see")
        for test in (True, False):
            result = loaders.states["vcore_storage.present"](name=NAME, test=test)
            assert (result.result, result.changes) == (False, {})
            assert "has no nfs client; install the kernel package" in result.comment
        assert not (base / "storage").exists()
