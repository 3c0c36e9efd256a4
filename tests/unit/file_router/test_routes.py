"""Routes: how mounts are written, which names are refused, where a pull resumes, and when the next one is due."""

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths
from vcore.file_router import pulls, routes
from vcore.file_router.pulls import Source
from vcore.host import mounts

CHECKOUT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden" / "routes"
SITE = """vcore:
  base_directory: /srv/virtual core
  nodes: {head: {roles: [head], address: 10.0.0.1}}
  services: {file-router: {enabled: true}, ldap: {enabled: true}}
  routes:
    nas: {kind: mount, server: nas.example.org, source: runs/Year 100%, user: reader, domain: LAB, path: seq/nas-1}
    drop: {kind: mount, server: 10.0.0.9, source: drop, user: writer, read_only: false, encrypt: false}
    old: {kind: mount, protocol: nfs, server: nfs.example.org, source: /export/all data}
    work: {kind: mount, protocol: nfs, server: nfs.example.org, source: /work, read_only: false}
    pulled: {kind: sync, server: nas.example.org, source: runs/2026, user: reader, owner: ada, group: sequencing}
"""
FOLDER = Path("/etc/virtual-core/routes")


@pytest.fixture(scope="module")
def pillar(tmp_path_factory):
    return sites.pillar(tmp_path_factory.mktemp("site"), SITE)


def wanted(pillar, name, **more):
    route = pillar["routes"][name]
    if route["protocol"] == "smb":
        more = {"uid": 10007, "gid": 10001, "password": "p@ss,word=1 ", **more}
    return routes.mount(name, route, data=routes.data_folder(pillar), folder=FOLDER, **more)


def test_mounts_are_written_as_before(golden, pillar):
    texts = []
    for name in ("nas", "drop", "old", "work"):
        one = wanted(pillar, name)
        texts.append(f"# {shlex.join(mounts.mount_command(one))}\n")
        texts += [f"\n## {unit}\n{text}" for unit, text in one.units().items()]
        if one.credentials:
            texts.append(f"\n## credentials\n{one.credentials.decode()}")
        texts.append("\n")
    golden(GOLDEN / "mounts.txt", "".join(texts))


def test_what_is_pulled_is_written_as_before(golden, pillar):
    golden(GOLDEN / "routes.json", routes.configuration(pillar).decode())


def test_a_password_is_only_in_the_credentials(pillar):
    one = wanted(pillar, "nas")
    assert "p@ss" not in repr(one) + str(mounts.mount_command(one)) + str(one.record()) + str(one.units())


@pytest.mark.parametrize("password", ["", "a\nusername=root", "a\rb", "a\x00b"])
def test_a_password_cannot_add_a_line(pillar, password):
    with pytest.raises(VcoreError, match="the secret file-router/route-nas is empty or has a line break"):
        wanted(pillar, "nas", password=password)


def test_owners_are_asked_for_only_where_nobody_knows_them(pillar):
    asked = []

    def lookup(database, name):
        asked.append((database, name))
        return 20000 + len(asked)

    first = pillar["accounts"]["first_id"]
    assert routes.owner_numbers(pillar, pillar["routes"]["nas"], lookup) == (0, first)
    assert asked == []
    assert routes.owner_numbers(pillar, pillar["routes"]["pulled"], lookup) == (20001, 20002)
    assert asked == [("passwd", "ada"), ("group", "sequencing")]


def host(tmp_path, *, systemd=True):
    root = tmp_path / "root"
    (root / "etc/systemd/system").mkdir(parents=True)
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    found = routes.Host(Paths(configuration=tmp_path / "etc"), "Debian", root)
    found.folder.mkdir(parents=True)
    return found


def test_a_difference_names_what_is_missing_and_no_password(pillar, tmp_path):
    here, one = host(tmp_path), wanted(pillar, "nas")
    changes = routes.difference({"nas": one}, here)
    assert changes["nas"]["new"]["mounted"] is True
    assert set(changes["nas"]["new"]) == {*one.record(), "credentials", "units", "mounted"}
    assert "p@ss" not in str(changes)
    (here.folder / "nas.json").write_text(json.dumps(one.record()))
    (here.folder / "nas.credentials").write_bytes(one.credentials)
    for unit, text in one.units().items():
        (here.units / unit).write_text(text)
    assert routes.difference({"nas": one}, here)["nas"] == {"old": {"mounted": False}, "new": {"mounted": True}}
    assert routes.difference({}, here) == {"nas": {"old": one.record(), "new": None}}
    assert routes.difference({}, here, keep=["nas"]) == {}, "a route that something stands in the way of stays"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "..\\x", "a\x00b", "a\nb", "\x1b[2J", "\x7f", "\ud800", "é" * 128, "../../etc/passwd"],
)
def test_hostile_names_are_refused(name):
    assert pulls.name_problem(name)
    assert pulls.shown(name).isprintable()


@pytest.mark.parametrize("name", ["a", ".hidden", "...", "ä ö", "深圳", "🧬", "a:b", "-rf", "CON", "a" * 255, "$x;`y`"])
def test_names_of_all_languages_are_taken(name):
    assert pulls.name_problem(name) is None


@given(st.binary(max_size=40))
def test_whatever_a_server_sends_is_a_safe_name_or_none(octets):
    name = pulls.decode_name(octets)
    if pulls.name_problem(name) is None:
        assert name.encode()
        assert not {"/", "\x00", "\n"} & set(name)
        assert name not in (".", "..")


# --- going on --------------------------------------------------------------------------------------------------------

BIG = Source(("a", "b"), 5 * pulls.PIECE, 1_000_000_000_000_000)
DIGESTS = [bytes([index]) * pulls.DIGEST for index in range(4)]


@pytest.mark.parametrize(
    ("listed", "size", "count"),
    [
        (pulls.header(BIG) + b"".join(DIGESTS), 4 * pulls.PIECE, 4),
        (pulls.header(BIG) + b"".join(DIGESTS), 4 * pulls.PIECE - 1, 3),
        (pulls.header(BIG) + b"".join(DIGESTS)[:-1], 5 * pulls.PIECE, 3),
        (pulls.header(BIG), 4 * pulls.PIECE, 0),
        (b"", 4 * pulls.PIECE, 0),
        (pulls.header(Source(BIG.path, BIG.size + 1, BIG.written)) + DIGESTS[0], 4 * pulls.PIECE, 0),
        (pulls.header(Source(BIG.path, BIG.size, BIG.written + 1)) + DIGESTS[0], 4 * pulls.PIECE, 0),
    ],
)
def test_only_whole_pieces_of_the_same_source_are_gone_on_with(listed, size, count):
    assert pulls.usable_digests(listed, BIG, size) == DIGESTS[:count]


def test_what_is_here_is_told_by_size_and_time(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"123")
    os.utime(path, ns=(0, 1_000_000_123_456_789))
    assert pulls.is_current(path.stat(), Source(("x",), 3, 1_000_000_123_456))
    assert not pulls.is_current(path.stat(), Source(("x",), 3, 1_000_000_123_457))
    assert not pulls.is_current(path.stat(), Source(("x",), 4, 1_000_000_123_456))
    assert not pulls.is_current(None, Source(("x",), 3, 1_000_000_123_456))


def test_a_file_settles():
    now = 1_000_000.0
    young = Source(("x",), 3, int((now - 10) * 1e6))
    assert pulls.is_settled(Source(("x",), 3, int((now - 60) * 1e6)), now, 60, {})
    assert not pulls.is_settled(young, now, 60, {})
    # The other server's clock may be ahead: then the file is settled once it has looked the same for long enough.
    ahead = Source(("x",), 3, int((now + 9999) * 1e6))
    seen = {"x": pulls.seen_entry(ahead, now, {})}
    assert not pulls.is_settled(ahead, now + 59, 60, seen)
    seen = {"x": pulls.seen_entry(ahead, now + 59, seen)}
    assert pulls.is_settled(ahead, now + 60, 60, seen)
    assert not pulls.is_settled(Source(("x",), 4, ahead.written), now + 60, 60, seen)


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "now", "due"),
    [(None, 0, True), (1000, 1899, False), (1000, 1900, True), (1000, 990, False), (1000, 900, True)],
)
def test_a_pull_is_due_after_its_time(ended, now, due):
    assert pulls.is_due(15, {"started": 1, "ended": ended}, now) is due
    assert pulls.is_due(15, None, now)


def test_logins_are_given_up_until_the_account_is_another():
    account, note = ["nas", "", "reader", "wrong"], None
    for count in range(1, 4):
        assert not pulls.is_stopped(note, account)
        note = pulls.refused(note, account, b"salt")
        assert note["count"] == count
    assert pulls.is_stopped(note, account)
    assert "wrong" not in json.dumps(note)
    other = [*account[:3], "right"]
    assert not pulls.is_stopped(note, other)
    assert pulls.refused(note, other, b"salt")["count"] == 1


def record(**more):
    return {
        "started": 100, "ended": 200, "updated": 200, "result": "ok", "error": None, "current": None, "waiting": 0,
        "files": {"done": 2, "todo": 2}, "bytes": {"done": 2048, "todo": 2048},
        "skipped": {"count": 0, "examples": []}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "now", "good", "sentence"),
    [
        (None, 0, True, "no pull yet"),
        (record(), 300, True, "2 files, 2.0 KiB"),
        (record(), 999999, False, "its next pull is overdue"),
        (record(files={"done": 0, "todo": 0}), 300, True, "nothing new"),
        (record(waiting=3), 300, True, "3 are still being written"),
        (record(skipped={"count": 2, "examples": ["x: is a link"]}), 300, True, "2 skipped: x: is a link"),
        (record(result="running", ended=None, current="a"), 300, True, "2 of 2 files, 2.0 KiB of 2.0 KiB, now a"),
        (record(result="running", ended=None), 999, False, "it makes no progress"),
        (record(result="refused", error="nas refuses"), 300, False, "nas refuses"),
    ],
)
def test_a_record_is_a_sentence(entry, now, good, sentence):
    assert pulls.is_good({"every": 15}, entry, now) is good
    assert sentence in pulls.sentence(entry, good)


def test_a_record_that_is_none_is_none():
    assert [pulls.read_record(text) for text in ("", "[]", "{}", '{"started": 1')] == [None] * 4
