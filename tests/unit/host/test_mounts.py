"""Mounts of a host: names of units, lists of mounts, and their life, with a stand-in for systemd and mount(8)."""

import json
import os
from dataclasses import dataclass

import pytest
from vcore.base.errors import VcoreError
from vcore.host import mounts


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/virtual-core/data", "srv-virtual\\x2dcore-data"),
        ("/srv/a b/%/.x/y.z_:é", "srv-a\\x20b-\\x25-.x-y.z_:\\xc3\\xa9"),
        ("/.x", "\\x2ex"),
        ("/", "-"),
    ],
)
def test_units_are_named_as_systemd_does(path, name):
    assert mounts.unit_name(path) == name


def test_mountpoints_are_read_with_their_escapes():
    text = (
        "22 1 0:21 / /proc rw - proc proc rw\n"
        "40 1 0:40 / /srv/a\\040b rw shared:1 - autofs systemd-1 rw\n"
        "41 40 0:41 / /srv/a\\040b rw shared:2 master:3 - cifs //nas/runs rw\n"
    )
    assert mounts.mounts_in(text) == {
        "/proc": [("proc", "proc", "/")],
        "/srv/a b": [("autofs", "systemd-1", "/"), ("cifs", "//nas/runs", "/")],
    }


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "mount error(13): Permission denied\nRefer to the mount.cifs(8) manual page",
            "mount error(13): Permission denied",
        ),
        ("mount.nfs: access denied by server while mounting x", "mount.nfs: access denied by server while mounting x"),
        ("", ""),
    ],
)
def test_the_telling_line_of_a_mount_is_found(output, reason):
    assert mounts.mount_reason(output) == reason


def test_a_distribution_without_a_known_package_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        mounts, "PROTOCOLS", {"smb": mounts.Protocol("x", (), "x", "no-such-helper", 1, {"Debian": "p"})}
    )
    here = mounts.Host(tmp_path, "Debian")
    assert here.missing_package("smb") == "p"
    here.os_family = "Suse"
    with pytest.raises(VcoreError, match="for Suse no package"):
        here.missing_package("smb")


# --- their life ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Disk(mounts.Mount):
    """A mount of an area that exists in these tests only."""

    def record(self):
        return {"source": self.source, "target": self.target, "options": ",".join(self.options)}

    def units(self):
        name = mounts.unit_name(self.target)
        about = f"Description=disk {self.name}"
        return {
            f"{name}.mount": mounts.mount_unit(self, about),
            f"{name}.automount": mounts.automount_unit(self, about),
        }

    def no_answer(self, reason, port, host):
        return f"{self.server} does not answer on port {port}"


class Tried(Disk):
    """A mount without units of its own, which a timer mounts."""

    def units(self):
        return {}


class Host(mounts.Host):
    """A stand-in for the host: records the commands it gets, and what is mounted after them."""

    def __init__(self, tmp_path, *, systemd=True, timer=None):
        root = tmp_path / "root"
        (root / "etc/systemd/system").mkdir(parents=True)
        if systemd:
            (root / "run/systemd/system").mkdir(parents=True)
        super().__init__(tmp_path / "records", "Debian", root)
        self.timer = timer
        self.known = []
        self.commands = []
        self.table = {}
        #: Answers to commands by how these begin: exit code and output.
        self.refuses = {}

    def mounts(self):
        return {target: [mounts.Entry(kind, "", "/") for kind in kinds] for target, kinds in self.table.items()}

    def missing_package(self, protocol):
        return f"{protocol}-client"

    def run(self, *command, time_limit=0):
        self.commands.append(" ".join(command))
        for start, answer in self.refuses.items():
            if self.commands[-1].startswith(start):
                return answer
        names = {mounts.unit_name(target): target for target in self.known}
        target = names.get(command[-1].rpartition(".")[0], command[-1])
        kinds = self.table.setdefault(target, [])
        if command[0] == "mount" or (command[1] == "start" and command[-1].endswith(".mount")):
            kinds.append("nfs4")
        elif "nfs4" in kinds and (command[0] == "umount" or command[1] == "stop"):
            kinds.remove("nfs4")
        return 0, ""


@pytest.fixture
def make(tmp_path):
    """Yield a function that makes mounts by name below a folder of the test, which can be removed afterwards."""
    made = []

    def disks(*names, kind=Disk, **more):
        given = {"protocol": "nfs", "server": "127.0.0.1", "source": "127.0.0.1:/x", "options": ("rw",), **more}
        found = {name: kind(name=name, target=str(tmp_path / "mnt" / name), **given) for name in names}
        made.extend(tmp_path / "mnt" / name for name in names)
        return found

    yield disks
    for folder in made:
        if folder.is_dir():
            mounts.set_immutable(folder, False)


def apply(host, wanted, units=mounts.NO_UNITS):
    """Compare and carry out; return what differed, and the outcome."""
    host.known = [one.target for one in wanted.values()] + [record["target"] for record in host.records().values()]
    host.commands.clear()
    changes = mounts.difference(wanted, host, units=units)
    return changes, mounts.carry_out(wanted, changes, host, units=units)


def outcome(mounted=(), removed=(), **failed):
    return mounts.Outcome(list(mounted), list(removed), failed)


def mode(path):
    return oct(path.stat().st_mode & 0o7777)


def test_a_mount_comes_stays_and_goes(make, tmp_path):
    host, wanted = Host(tmp_path), make("a", "b", credentials=b"password=x\n")
    changes, done = apply(host, wanted)
    assert list(changes) == ["package nfs-client", "a", "b"]
    assert changes["a"]["old"] == {"credentials": "others or none", "units": "others or none", "mounted": False}
    assert changes["a"]["new"] == {
        **wanted["a"].record(), "credentials": "installed", "units": "installed", "mounted": True,
    }  # fmt: skip
    assert done == outcome(["a", "b"])
    unit = mounts.unit_name(wanted["a"].target)
    assert host.commands[0] == "systemctl daemon-reload"
    assert [command for command in host.commands if unit in command] == [
        f"systemctl enable --now {unit}.automount", f"systemctl start {unit}.mount",
    ]  # fmt: skip
    assert mode(host.folder) == "0o700"
    assert {path.name: mode(path) for path in host.folder.iterdir()} == dict.fromkeys(
        ["a.json", "a.credentials", "b.json", "b.credentials"], "0o600"
    )
    assert {mode(path) for path in host.units.iterdir()} == {"0o644"}
    assert mode(tmp_path / "mnt/a") == "0o0"
    assert [name for name in mounts.difference(wanted, host) if not name.startswith("package ")] == []
    changes, done = apply(host, make("b", credentials=b"password=x\n"))
    assert (changes["a"], done) == ({"old": wanted["a"].record(), "new": None}, outcome(removed=["a"]))
    assert host.commands == [
        f"systemctl stop {unit}.mount", f"systemctl disable --now {unit}.automount", "systemctl daemon-reload",
    ]  # fmt: skip
    assert sorted(path.name for path in host.folder.iterdir()) == ["b.credentials", "b.json"]
    assert not any(path.name.startswith(unit) for path in host.units.iterdir())
    assert not (tmp_path / "mnt/a").exists()
    assert mounts.difference({}, host, keep=["b"]) == {}


def test_without_systemd_it_is_mounted_by_mount(make, tmp_path):
    host, wanted = Host(tmp_path, systemd=False), make("a")
    target = wanted["a"].target
    assert apply(host, wanted)[1] == outcome(["a"])
    assert host.commands == [f"mount -t nfs -o rw 127.0.0.1:/x {target}"]
    assert list(host.units.iterdir()) == []
    changes, done = apply(host, make("a", options=("ro",)))
    assert changes["a"]["new"]["options"] == "ro"
    assert done == outcome(["a"])
    assert host.commands == [f"umount {target}", f"mount -t nfs -o ro 127.0.0.1:/x {target}"]
    host.recursive = True
    apply(host, {})
    assert host.commands == [f"umount --recursive {target}"]


def test_a_timer_rests_while_mounts_change(make, tmp_path):
    host, wanted = Host(tmp_path, timer="later"), make("a", kind=Tried)
    unit = mounts.unit_name(wanted["a"].target)
    units = mounts.timer_units("later", "Description=mounts", [f"-systemctl start {unit}.mount"], 15)
    units |= {f"{unit}.mount": mounts.mount_unit(wanted["a"], "Description=a", ["nofail"])}
    changes, done = apply(host, wanted, units)
    assert changes["units"] == {"old": "others or none", "new": "installed"}
    assert done == outcome(["a"])
    begin = ["systemctl daemon-reload", f"systemctl reset-failed {unit}.mount", f"systemctl start {unit}.mount"]
    assert host.commands == [*begin, "systemctl enable --now later.timer"]
    assert {path.name for path in host.units.iterdir()} == set(units)
    assert not host.has_units({**units, "later.timer": "[Timer]\n"})
    host.table.clear()
    apply(host, wanted, units)
    rest = ["systemctl disable --now later.timer", "systemctl stop later.service"]
    assert host.commands == [*rest, *begin, "systemctl enable --now later.timer"]
    assert apply(host, {})[1] == outcome(removed=["a"])
    assert host.commands == [*rest, f"systemctl stop {unit}.mount", "systemctl daemon-reload"]
    assert list(host.units.iterdir()) == []


def test_what_goes_wrong_with_one_does_not_hold_the_others_up(make, tmp_path, monkeypatch):
    host, wanted = Host(tmp_path), make("full", "refused", "silent", "good")
    (tmp_path / "mnt/full").mkdir(parents=True)
    (tmp_path / "mnt/full/file").write_text("of somebody")
    unit = {name: mounts.unit_name(one.target) for name, one in wanted.items()}
    host.refuses = {
        f"systemctl enable --now {unit['refused']}": (1, "Failed\nto enable"),
        f"systemctl start {unit['silent']}": (1, ""),
    }
    monkeypatch.setattr(mounts, "answers", lambda server, port: "Connection refused")
    _, done = apply(host, wanted)
    full = f"{tmp_path}/mnt/full has files of its own, which the mount would hide; move them away"
    assert done == outcome(
        ["good"], full=full, refused="systemctl refuses its automount: to enable",
        silent="127.0.0.1 does not answer on port 2049",
    )  # fmt: skip
    assert not (host.folder / "full.json").exists()
    monkeypatch.setattr(mounts, "answers", lambda server, port: None)
    host.refuses["journalctl"] = (0, "systemd: no mount\nmount.nfs: access denied by server\n")
    _, done = apply(host, make("silent", "good"))
    assert done.failed == {"silent": "127.0.0.1:/x cannot be mounted: mount.nfs: access denied by server"}


@pytest.mark.parametrize(("output", "words"), [("target is busy", "is in use"), ("no", "cannot be unmounted (no)")])
def test_what_cannot_be_unmounted_stays_as_it_was(make, tmp_path, output, words):
    host, wanted = Host(tmp_path, systemd=False), make("a", "b")
    apply(host, wanted)
    target = wanted["a"].target
    host.refuses = {f"umount {target}": (32, output)}
    for other in ({}, make("a", options=("ro",))):
        _, done = apply(host, other)
        assert done.failed["a"].startswith(f"{target} {words}: fuser -vm {target} says by whom")
        assert json.loads((host.folder / "a.json").read_text()) == wanted["a"].record()
    assert "b" not in host.records()
    assert os.path.lexists(target)
