"""Storage of the nodes: who mounts what, how it is written, and what a marker contains."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
from support import sites
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.file_router import ganesha
from vcore.host import mounts
from vcore.kernel import resolve as kernel_resolve
from vcore.kernel.documents import SiteError
from vcore.storage import mounting, places

GOLDEN = Path(__file__).parent / "golden" / "storage"
SITE = """vcore:
  site: {domain: core.example.org}
  base_directory: /srv/virtual core%
  nodes:
    head: {roles: [head], address: 10.0.0.1}
    compute-1: {roles: [compute], address: 10.0.0.2}
    compute-2: {roles: [compute], address: 10.0.0.3}
    compute-3: {roles: [compute]}
  services: {file-router: {enabled: true}}
"""
ENROLLED = {
    "compute-4": {
        "roles": ["compute"], "address": "10.0.0.4", "enrolled": 1, "swarm_id": None, "hardware": None,
        "forgotten": None, "retiring": False,
    }
}  # fmt: skip
PATH = "  storage: {kind: path, path: /lustre/core}\n"
OFF = SITE.replace("enabled: true", "enabled: false")
ELSEWHERE = SITE.replace("enabled: true", "enabled: true, node: compute-1")


def node(tmp_path, minion, text=SITE):
    return kernel_resolve.node_pillar(sites.resolved(tmp_path, text, enrolled=ENROLLED), minion)


@pytest.mark.parametrize(
    ("text", "minion", "mounted"),
    [
        (SITE, "head", ("bind", "/srv/virtual core%/file-router/home", None, True)),
        (SITE, "compute-1", ("nfs", "10.0.0.1:/core.home", "10.0.0.1", False)),
        (SITE, "compute-4", ("nfs", "10.0.0.1:/core.home", "10.0.0.1", False)),
        (SITE + PATH, "head", ("bind", "/lustre/core/home", None, True)),
        (SITE + PATH, "compute-1", ("bind", "/lustre/core/home", None, False)),
        (OFF, "head", None),
        (OFF, "compute-1", None),
        (OFF + PATH, "head", ("bind", "/lustre/core/home", None, True)),
        (OFF + PATH, "compute-1", ("bind", "/lustre/core/home", None, False)),
        (ELSEWHERE, "compute-1", ("bind", "/srv/virtual core%/file-router/home", None, True)),
        (ELSEWHERE, "head", ("nfs", "10.0.0.2:/core.home", "10.0.0.2", False)),
        (ELSEWHERE, "compute-2", ("nfs", "10.0.0.2:/core.home", "10.0.0.2", False)),
    ],
)
def test_who_mounts_what(tmp_path, text, minion, mounted):
    found = node(tmp_path, minion, text)["node"]["storage"]
    if mounted is None:
        assert found == {}
        return
    keys = ("kind", "source", "server", "keeper")
    assert tuple(found["home"][key] for key in keys) == mounted
    assert found["home"]["target"] == "/srv/virtual core%/storage/home"
    assert set(found) == set(places.KINDS)


@pytest.mark.parametrize(
    ("text", "clients"),
    [
        (SITE, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]),
        (SITE + PATH, []),
        (OFF, []),
        (ELSEWHERE, ["10.0.0.1", "10.0.0.3", "10.0.0.4"]),
    ],
)
def test_the_nodes_that_mount_by_nfs_are_the_clients_of_the_exports(tmp_path, text, clients):
    resolved = sites.resolved(tmp_path, text, enrolled=ENROLLED)
    assert resolved["storage_clients"] == clients
    if resolved["services"].get("file-router"):
        names = [name for name in ganesha.exported(resolved) if name.startswith("core.")]
        assert names == (["core.data", "core.home"] if clients else [])


def test_only_the_file_routers_node_knows_the_clients(tmp_path):
    assert "storage_clients" not in node(tmp_path, "compute-2", ELSEWHERE)
    assert node(tmp_path, "compute-1", ELSEWHERE)["storage_clients"]


def test_the_exports_of_the_nodes_are_written_as_before(golden, tmp_path):
    pillar = node(tmp_path, "head")
    golden(GOLDEN / "ganesha.conf", ganesha.ganesha_conf(pillar, {}))


def test_a_new_node_changes_nothing_but_the_clients(tmp_path):
    before = ganesha.ganesha_conf(node(tmp_path, "head"), {})
    pillar = kernel_resolve.node_pillar(sites.resolved(tmp_path, SITE), "head")
    after = ganesha.ganesha_conf(pillar, ganesha.numbers_in(before))
    assert ganesha.numbers_in(after) == ganesha.numbers_in(before)
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=False) if old != new]
    assert changed
    assert all("CLIENT" in old or "Clients" in old or old.startswith(("    ", "  }", "}")) for old, _ in changed)


@pytest.mark.parametrize(
    "shares", ["", "  shares: {zoo: {nfs: [{hosts: 10.0.0.0/8}]}, a: {nfs: [{hosts: 10.9.0.0/16}]}}\n"]
)
def test_nodes_are_let_in_and_nothing_else_is_changed(tmp_path, shares):
    alone = SITE.replace("compute", "# ") + shares
    before = ganesha.ganesha_conf(node(tmp_path, "head", alone), {})
    pillar = node(tmp_path, "head", SITE + shares)
    after = ganesha.with_nodes(before, pillar)
    assert after == ganesha.ganesha_conf(pillar, ganesha.numbers_in(before)), "as an apply would have it"
    assert ganesha.with_nodes(after, pillar) == after
    other = {**pillar, "shares": {}, "services": {}}
    assert ganesha.with_nodes(after, other) == after, "what else the site wants waits for an apply"
    assert ganesha.with_nodes(after, {**pillar, "storage_clients": []}) == after


def test_a_thousand_nodes_are_few_lines(tmp_path):
    pillar = dict(node(tmp_path, "head"), storage_clients=[f"10.{n // 250}.1.{n % 250 + 1}" for n in range(1000)])
    text = ganesha.ganesha_conf(pillar, {})
    assert len(text.splitlines()) < 200
    assert "10.0.1.0/25" not in text, "an address that is no node's has no access"
    assert "10.0.1.64/26" in text


def test_mounts_are_written_as_before(golden, tmp_path):
    texts = []
    for minion, text in (("head", SITE), ("compute-1", SITE), ("compute-1", SITE + PATH)):
        roots = mounting.wanted(node(tmp_path, minion, text))
        texts += [f"# {minion}: {shlex.join(mounts.mount_command(root))}\n" for root in roots.values()]
        texts += [f"\n## {unit}\n{content}" for unit, content in mounting.units(roots.values()).items()]
        texts.append("\n")
    golden(GOLDEN / "mounts.txt", "".join(texts))


def test_markers_are_written_as_before(golden, tmp_path):
    golden(GOLDEN / "marker.txt", mounting.wanted(node(tmp_path, "head"))["home"].marker)


def test_a_marker_tells_the_cores_storage_from_others():
    ours, others = places.identifier("core.example.org"), places.identifier("core.example.com")
    good = places.marker({"identifier": ours}, "core.example.org", "home")

    def judge(text):
        return mounting.judge(text, place="/x", identifier=ours, kind="home")

    assert judge(good) is None
    assert "is empty" in judge(None)
    assert "another core" in judge(good.replace(ours, others))
    assert "the core's data, not its home" in judge(good.replace(" home", " data"))
    for text in ("", "\n", "x", good[:20], good.replace("virtual-core", "virtual")):
        assert "another core" in judge(text)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{kind: path}", "storage.path: is required where storage.kind is path"),
        ("{path: /lustre/core}", "storage.path: goes with storage.kind: path"),
        ("{kind: path, path: lustre}", "storage.path"),
        ("{kind: path, path: /home}", "storage.path: has to be a folder of its own"),
        ("{kind: path, path: /srv/vc/storage}", "storage.path: the nodes mount the storage at /srv/vc/storage"),
    ],
)
def test_a_wrong_section_is_one_line(tmp_path, section, message):
    text = SITE.replace("/srv/virtual core%", "/srv/vc") + f"  storage: {section}\n"
    with pytest.raises(SiteError) as caught:
        sites.resolved(tmp_path, text)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


def test_a_node_says_what_is_mounted_where_its_storage_belongs(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("vcore_node", sites.CHECKOUT / "salt/_modules/vcore_node.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    real, link = tmp_path / "virtual core", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    # As the kernel lists it: with escapes, and with the folder that a link leads to.
    place = f"{real}/storage/home".replace(" ", r"\040")
    line = f"40 1 0:40 / {place} rw - nfs4 10.0.0.1:/core.home rw"
    monkeypatch.setattr(mounts, "mounted", lambda: mounts.mounts_in(line))
    for base in (real, link):
        assert module._storage(str(base)) == {"home": True, "data": False}
    assert module._storage("/srv") == {"home": False, "data": False}


# --- this host


@pytest.fixture
def here(tmp_path):
    """Stand in for a node whose storage lies on itself: folders of the test as roots, and its systemd."""
    base = tmp_path / "base"
    pillar = node(tmp_path, "head", SITE.replace("/srv/virtual core%", str(base)))
    root = tmp_path / "root"
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "run/systemd/system").mkdir(parents=True)
    host = mounting.Host(Paths(configuration=tmp_path / "etc"), "Debian", root)
    (base / "file-router").mkdir(parents=True)
    return mounting.wanted(pillar), host


def test_a_difference_names_all_that_is_missing(here):
    roots, host = here
    changes = mounting.difference(roots, host)
    assert list(changes) == ["marker of home", "home", "marker of data", "data", "units"]
    assert changes["home"]["new"] == {**roots["home"].record(), "mounted": True}
    for name, root in roots.items():
        mounting.mark(root)
        assert mounting.read_marker(root.source) == root.marker
        host.make_folder()
        (host.folder / f"{name}.json").write_text(json.dumps(root.record()))
    host.write_units(mounting.units(roots.values()))
    missing = {"old": {"mounted": False}, "new": {"mounted": True}}
    assert mounting.difference(roots, host) == {"home": missing, "data": missing}
    assert mounting.difference({}, host) == {name: {"old": roots[name].record(), "new": None} for name in sorted(roots)}


def test_a_marker_that_is_gone_is_not_written_again(here):
    roots, host = here
    host.make_folder()
    (host.folder / "home.json").write_text(json.dumps(roots["home"].record()))
    with pytest.raises(VcoreError, match=r"had a .virtual-core-storage and has none now.*vcore_storage.mark"):
        mounting.difference(roots, host)
    mounting.mark(roots["home"])
    assert "marker of home" not in mounting.difference(roots, host)


def test_the_storage_of_another_core_is_left_alone(here):
    roots, host = here
    place = Path(roots["home"].source)
    place.mkdir(parents=True)
    (place / mounting.MARKER).write_text(f"virtual-core {places.identifier('example.com')} home\n")
    with pytest.raises(VcoreError, match="is the storage of another core"):
        mounting.difference(roots, host)


def test_a_folder_that_people_write_to_is_not_marked(here):
    roots, _ = here
    place = Path(roots["home"].source)
    place.mkdir(parents=True)
    place.chmod(0o1777)
    with pytest.raises(VcoreError, match=r"is not root's alone .*mode 1777"):
        mounting.mark(roots["home"])
    assert not (place / mounting.MARKER).exists()


def test_a_file_system_that_is_not_there_is_not_made(here, tmp_path):
    roots, _ = here
    (tmp_path / "base/file-router").rmdir()
    with pytest.raises(VcoreError, match=r"see that the file system that storage\.path names is mounted"):
        mounting.mark(roots["home"])


def test_a_file_system_that_hangs_is_a_sentence(here, monkeypatch, tmp_path):
    roots, _ = here
    program = tmp_path / "bin/head"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(mounting, "PATIENCE", 0.3)
    with pytest.raises(VcoreError, match="does not answer"):
        mounting.read_marker(roots["home"].source)
