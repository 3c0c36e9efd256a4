"""Dumps of made-up parts: manifests, order, refusals, and what is left where something goes wrong."""

import hashlib
import json
import re
import stat

import pytest
from vcore.backup import parts, tables
from vcore.base.errors import VcoreError
from vcore.base.locks import exclusive
from vcore.base.paths import Paths
from vcore.directory import backup as directory
from vcore.kernel import areas

PILLAR = {"site": {"name": "genomics", "domain": "core.example.org"}}


class Part:
    """A part that remembers what was done with it."""

    def __init__(self, name, *needed_before, here=True):
        self.name, self.title, self.needed_before = name, f"What {name} has", needed_before
        self.here, self.fails, self.log = here, None, []

    def is_here(self, pillar):
        return self.here

    def dump(self, pillar, paths, folder):
        (folder / "more").mkdir()
        (folder / "data").write_text(f"{self.name}\n")
        (folder / "more" / "empty").touch()
        self._did("dump")

    def check(self, folder):
        if (folder / "data").read_text() != f"{self.name}\n":
            raise VcoreError("data is another part's")

    def put_back(self, pillar, paths, folder):
        self._did("put back")

    def _did(self, what):
        if self.fails == what:
            raise VcoreError("its disk is full")
        self.log.append((what, self.name))


class Core:
    """Parts of two areas, in an order that is not theirs."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.paths = folder / "dump", Paths(state=folder / "state")
        self.jobs, self.people, self.off = Part("jobs", "people", "gone"), Part("people"), Part("off", here=False)
        self.log = []
        for part in (self.jobs, self.people, self.off):
            part.log = self.log
        offers = [type("Area", (), {"PARTS": some}) for some in ((self.jobs, self.off), (self.people,))]
        monkeypatch.setattr(areas, "asked", lambda protocol: dict(enumerate(offers)))

    def dump(self, names=None):
        return parts.dump(PILLAR, self.paths, self.folder, names)

    def put_back(self, names=None, pillar=PILLAR, **options):
        self.log.clear()
        return parts.put_back(pillar, self.paths, self.folder, names, **options)

    def edit(self, change):
        manifest = json.loads((self.folder / parts.MANIFEST).read_text())
        change(manifest)
        (self.folder / parts.MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def core(tmp_path, monkeypatch):
    return Core(tmp_path, monkeypatch)


def refused(function, *arguments, **options):
    with pytest.raises(VcoreError) as error:
        function(*arguments, **options)
    return str(error.value)


def test_a_dump_has_what_is_here_and_a_manifest_of_every_file(core):
    told = core.dump()
    manifest = json.loads((core.folder / "manifest.json").read_text())
    assert list(manifest["parts"]) == ["jobs", "people"]
    assert manifest["core"] == PILLAR["site"]
    assert manifest["version"] == parts.version(core.paths)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["time"])
    assert manifest["parts"]["jobs"]["files"] == {
        "data": {"sha256": hashlib.sha256(b"jobs\n").hexdigest(), "size": 5},
        "more/empty": {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0},
    }
    assert [(part["name"], part["bytes"], part["state"]) for part in told["parts"]] == [
        ("jobs", 5, "dumped"), ("people", 7, "dumped"),
    ]  # fmt: skip
    modes = {stat.S_IMODE(path.stat().st_mode) for path in core.folder.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in [core.folder, *core.folder.rglob("*")] if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_parts_are_put_back_behind_those_that_they_need(core):
    core.dump()
    told = core.put_back()
    assert core.log == [("put back", "people"), ("put back", "jobs")]
    assert [(part["name"], part["state"]) for part in told["parts"]] == [("people", "put back"), ("jobs", "put back")]
    core.put_back(["jobs"])
    assert core.log == [("put back", "jobs")], "a part that it needs may be left out"


def test_a_trial_puts_nothing_back(core):
    core.dump()
    told = core.put_back(test=True)
    assert core.log == []
    assert {part["state"] for part in told["parts"]} == {"would be put back"}


def test_parts_that_need_each_other_are_the_cores_mistake(core):
    core.people.needed_before = ("jobs",)
    core.dump()
    assert "needed before each other" in refused(core.put_back)
    assert core.log == []


@pytest.mark.parametrize("name", ["people", "../x", "Jobs", ""])
def test_a_part_has_a_name_of_its_own_that_a_folder_can_have(core, name):
    core.jobs.name = name
    assert "needs a name of its own" in refused(core.dump)


def test_what_cannot_be_dumped_leaves_nothing(core):
    core.people.fails = "dump"
    assert refused(core.dump) == "its disk is full"
    assert [path.name for path in core.folder.parent.iterdir()] == ["state"]
    core.people.fails = None
    core.dump()


def test_a_dump_takes_the_place_of_nothing(core, tmp_path):
    core.folder.mkdir()
    assert "exists already" in refused(core.dump)
    assert list(core.folder.iterdir()) == []
    core.folder = tmp_path / "missing" / "dump"
    assert "in a folder that exists" in refused(core.dump)


def test_a_link_is_no_part_of_a_dump(core, tmp_path):
    core.jobs.dump = lambda pillar, paths, folder: [
        (folder / "data").write_text("jobs\n"), (folder / "link").symlink_to("/etc/shadow"),
    ]  # fmt: skip
    assert "neither a file nor a folder" in refused(core.dump)
    assert not core.folder.exists()


@pytest.mark.parametrize("names", [["notes"], ["people", "notes"], ["off"]])
def test_parts_that_are_not_here_cannot_be_dumped(core, names):
    assert refused(core.dump, names) == f"this core has no part {names[-1]}; there are: jobs, people"


def test_one_at_a_time(core):
    core.dump()
    with exclusive(core.paths.state / "backup.lock", wait=0, busy=""):
        assert "just now" in refused(core.put_back)


DAMAGES = {
    "people/data has another content than was written": lambda folder: (folder / "people/data").write_text("PEOPLE\n"),
    "people/data has 3 bytes instead of 7": lambda folder: (folder / "people/data").write_text("peo"),
    "people/data is missing": lambda folder: (folder / "people/data").unlink(),
    "people/more/new was not part of it": lambda folder: (folder / "people/more/new").touch(),
    "is neither a file nor a folder": lambda folder: (folder / "people/more/new").symlink_to("/etc"),
    "it has no manifest.json": lambda folder: (folder / "manifest.json").unlink(),
    "its manifest.json is damaged": lambda folder: (folder / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("says", DAMAGES)
def test_a_damaged_dump_is_refused_before_anything_is_put_back(core, says):
    core.dump()
    DAMAGES[says](core.folder)
    for function in (core.put_back, lambda: parts.check(core.folder)):
        said = refused(function)
        assert says in said
        assert "\n" not in said
    assert core.log == []


def test_a_part_that_is_whole_can_be_put_back_from_a_damaged_dump(core):
    core.dump()
    (core.folder / "people/data").unlink()
    core.put_back(["jobs"])
    assert core.log == [("put back", "jobs")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest.update(format=2), "it is of format 2, and this core reads 1"),
        (lambda manifest: manifest.pop("core"), "its manifest.json is damaged"),
        (lambda manifest: manifest.update(parts=[]), "its manifest.json is damaged"),
        (lambda manifest: manifest["parts"].update({"../../etc": manifest["parts"]["jobs"]}), "is damaged"),
        (lambda manifest: manifest["parts"]["jobs"]["files"].update({"../x": {"sha256": "", "size": 0}}), "is damaged"),
        (lambda manifest: manifest["parts"]["jobs"]["files"]["data"].update(size="5"), "is damaged"),
        (lambda manifest: manifest["parts"].update(notes=manifest["parts"]["jobs"]), "this core knows no part notes"),
        (lambda manifest: manifest["core"].update(domain="x.test"), "it is of x.test, and this core is core.example."),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(core, change, says):
    core.dump()
    core.edit(change)
    assert says in refused(core.put_back)
    assert core.log == []


def test_a_dump_of_another_core_can_be_checked(core):
    core.dump()
    core.edit(lambda manifest: manifest["core"].update(domain="x.test"))
    assert parts.check(core.folder)["domain"] == "x.test"


def test_a_part_looks_at_its_own(core):
    core.dump()
    (core.folder / "people/data").write_text("jobs???")
    core.edit(lambda manifest: manifest["parts"]["people"].update(files=parts.describe(core.folder / "people")))
    assert "people: data is another part's" in refused(core.put_back)


def test_a_part_whose_service_is_off_by_now_is_not_put_back(core):
    core.dump()
    core.people.here = False
    assert "this site has no people: switch it on" in refused(core.put_back)
    assert core.log == []


def test_what_goes_wrong_on_the_way_says_what_is_done(core):
    core.dump()
    core.jobs.fails = "put back"
    assert refused(core.put_back) == "jobs: its disk is full. Put back before it: people; not tried: nothing"
    core.jobs.fails, core.people.fails = None, "put back"
    assert refused(core.put_back) == "people: its disk is full. Put back before it: nothing; not tried: jobs"


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (6710886, "6.4 MiB"), (3 * 2**30, "3.0 GiB")]
)
def test_sizes(count, said):
    assert tables.size(count) == said


def test_the_parts_of_all_areas_have_names_and_an_order():
    found = parts.known()
    assert "directory" in found
    assert {part.name for part in parts.in_order(found.values())} == set(found)
    assert all(name in found for part in found.values() for name in part.needed_before)


LDIF = b"dn: dc=x\nentryUUID: 1-2\n\ndn:: b3U9eA==\nou: x\n dn: folded\nentryUUID: 3-4\n\n"


def test_data_of_the_directory_are_counted_by_entry():
    assert directory.faults(LDIF, {"entries": 2}) == []
    assert directory.identifiers(LDIF) == {"1-2", "3-4"}
    assert directory.records(LDIF) == sorted(LDIF.strip().split(b"\n\n"))


@pytest.mark.parametrize(
    ("data", "entries", "says"),
    [
        (LDIF, 3, "2 entries instead of 3"),
        (LDIF, None, "2 entries instead of None"),
        (LDIF[:-1], 2, "ends within an entry"),
        (LDIF.replace(b"3-4", b"1-2"), 2, "without an entryUUID of their own"),
        (b"", 1, "0 entries instead of 1"),
    ],
)
def test_data_that_are_not_whole(data, entries, says):
    assert says in "; ".join(directory.faults(data, {"entries": entries}))
