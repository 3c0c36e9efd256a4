"""What decides an image's tag, what is to be done about an image, and how its build reaches packages."""

import json
import tarfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vcore.base.errors import NotFound, VcoreError
from vcore.base.paths import Paths
from vcore.host import docker_client
from vcore.images import builder, downloads
from vcore.images.builder import Entry, input_hash, kept_tags, plan

CHECKOUT = Path(__file__).parents[3]
DOCKERFILE = b"ARG BASE\nFROM ${BASE}\nRUN true\n"
FILES = {"Dockerfile": Entry("file", DOCKERFILE), "rootfs/etc/x.conf": Entry("file", b"x")}
ONE, TWO = "sha256:" + 64 * "1", "sha256:" + 64 * "2"


def make_pillar(*services, **build):
    return {
        "registry": "registry.vcore.test:5000",
        "build": {"source": "mmdebstrap", "mirror": None, "proxy": None, "ca_bundle": None, "refresh": ""} | build,
        "services": {name: {"image": {"name": name, "push": push}} for name, push in services},
    }


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout with a base, an image on it, and one on that."""
    for name, text in (
        ("base", "ARG BASE\nFROM ${BASE}\nCOPY rootfs/ /\n"),
        ("tool", "ARG BASE\nFROM ${BASE}\nARG PYTHON_UV\n"),
        ("login", "# comment\n\nARG BASE=tool\nFROM ${BASE}\n"),
    ):
        (tmp_path / "images" / name / "rootfs").mkdir(parents=True)
        (tmp_path / "images" / name / "Dockerfile").write_text(text)
        (tmp_path / "images" / name / "rootfs" / "file").write_text(name)
    (tmp_path / "versions.yaml").write_text("python:\n  uv: 0.13.9\nbase:\n  suite: trixie\n")
    return Paths(tmp_path, tmp_path / "etc", tmp_path / "state")


# -- tags


def test_a_tag_is_the_same_on_every_machine():
    assert input_hash(FILES, parent="0123456789ab", arguments={"PYTHON_UV": "1"}) == "3c219acde6ad"


@pytest.mark.parametrize(
    "files, parent, arguments",
    [
        (FILES | {"Dockerfile": Entry("file", DOCKERFILE + b"#")}, "p", {}),
        (FILES | {"rootfs/etc/x.conf": Entry("executable", b"x")}, "p", {}),
        (FILES | {"rootfs/etc/x.conf": Entry("link", b"x")}, "p", {}),
        (FILES | {"rootfs/etc/y.conf": Entry("file", b"")}, "p", {}),
        ({"Dockerfile": FILES["Dockerfile"], "rootfs/etc/z.conf": Entry("file", b"x")}, "p", {}),
        (FILES, "q", {}),
        (FILES, "p", {"A": "1"}),
    ],
    ids=["content", "mode", "kind", "new file", "renamed", "parent", "version"],
)
def test_everything_that_goes_in_changes_the_tag(files, parent, arguments):
    assert input_hash(files, parent=parent, arguments=arguments) != input_hash(FILES, parent="p", arguments={})


entries = st.dictionaries(
    st.text("abc/.", min_size=1),
    st.builds(Entry, st.sampled_from(["file", "executable", "link"]), st.binary()),
    min_size=2,
)


@given(files=entries, data=st.data())
def test_the_order_of_files_does_not_change_the_tag(files, data):
    shuffled = dict(data.draw(st.permutations(list(files.items()))))
    assert input_hash(shuffled, parent="", arguments={}) == input_hash(files, parent="", arguments={})


@given(one=entries, other=entries)
def test_different_files_have_different_tags(one, other):
    same = input_hash(one, parent="", arguments={}) == input_hash(other, parent="", arguments={})
    assert same == (one == other)


def test_only_what_git_keeps_of_a_file_counts(tmp_path):
    folder = tmp_path / "image"
    (folder / "rootfs").mkdir(parents=True)
    (folder / "rootfs" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "rootfs" / "link").symlink_to("run.sh")
    for junk in ("README.md", "rootfs/run.sh~", "rootfs/.run.sh.swp", "rootfs/x.pyc"):
        (folder / junk).write_text("junk")
    (folder / "rootfs" / "run.sh").chmod(0o644)
    plain = builder.read_folder(folder)
    assert plain == {"rootfs/run.sh": Entry("file", b"#!/bin/sh\n"), "rootfs/link": Entry("link", b"run.sh")}
    (folder / "rootfs" / "run.sh").chmod(0o664)
    assert builder.read_folder(folder) == plain
    (folder / "rootfs" / "run.sh").chmod(0o775)
    assert builder.read_folder(folder)["rootfs/run.sh"] == Entry("executable", b"#!/bin/sh\n")


def test_a_link_that_leads_out_has_to_lead_to_a_file(tmp_path):
    folder, brain = tmp_path / "images" / "tool", tmp_path / "salt" / "vcore"
    (folder / "rootfs" / "own").mkdir(parents=True)
    brain.mkdir(parents=True)
    (brain / "files.py").write_text("x = 1\n")
    link = folder / "rootfs" / "vcore"
    link.symlink_to("../../../salt/vcore")
    with pytest.raises(VcoreError) as caught:
        builder.read_folder(folder)
    assert str(caught.value) == f"{link} leads to ../../../salt/vcore, a folder; link its files one by one"
    link.unlink()
    link.symlink_to("../../../salt/nothing")
    with pytest.raises(VcoreError, match="which does not exist"):
        builder.read_folder(folder)
    link.unlink()
    (folder / "rootfs" / "files.py").symlink_to("../../../salt/vcore/files.py")
    # These links are followed in the container, wherever they lead there; they never reach this machine's folders.
    (folder / "rootfs" / "within").symlink_to("own")
    (folder / "rootfs" / "absolute").symlink_to(brain)
    (folder / "rootfs" / "smb.conf").symlink_to("/etc/virtual-core/file-router/smb.conf")
    assert builder.read_folder(folder) == {
        "rootfs/files.py": Entry("file", b"x = 1\n"),
        "rootfs/within": Entry("link", b"own"),
        "rootfs/absolute": Entry("link", bytes(brain)),
        "rootfs/smb.conf": Entry("link", b"/etc/virtual-core/file-router/smb.conf"),
    }


def test_a_change_below_changes_everything_above_and_nothing_beside(checkout):
    pillar = make_pillar()
    before = builder.lineage("login", pillar, checkout)
    assert list(before) == ["login", "tool", "base", "debian"]
    (checkout.images / "tool" / "rootfs" / "file").write_text("other")
    after = builder.lineage("login", pillar, checkout)
    assert {name for name in before if before[name] != after[name]} == {"login", "tool"}


@pytest.mark.parametrize(
    "build, changed",
    [
        ({"refresh": "2026-11-22"}, True),
        ({"source": "registry.example.org/debian:13"}, True),
        ({"mirror": "http://debian.example.org/debian"}, False),
        ({"proxy": "http://proxy.example.org:3128"}, False),
        ({"ca_bundle": "/etc/ssl/site.pem"}, False),
        ({"python_index": "https://pypi.example.org/simple"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_which_build_settings_change_a_tag(checkout, build, changed):
    before, after = (builder.lineage("login", make_pillar(**settings), checkout) for settings in ({}, build))
    assert all((before[name] != after[name]) is changed for name in before)


def test_only_versions_that_a_dockerfile_names_change_its_tag(checkout):
    before = builder.lineage("login", make_pillar(), checkout)
    checkout.versions.write_text("python:\n  uv: 0.14.0\nbase:\n  suite: trixie\n")
    after = builder.lineage("login", make_pillar(), checkout)
    assert before["base"] == after["base"]
    assert before["tool"] != after["tool"]
    assert builder.recipe("tool", make_pillar(), checkout).arguments == {"PYTHON_UV": "0.14.0"}


@pytest.mark.parametrize(
    "dockerfile, message",
    [
        ("FROM debian\n", "has to start with ARG BASE"),
        ("ARG BASE\nFROM debian\n", "has to start with ARG BASE"),
        ("", "has to start with ARG BASE"),
        ("ARG BASE\nFROM ${BASE}\nARG PYTHON_PIP\n", "ARG PYTHON_PIP"),
        ("ARG BASE=login\nFROM ${BASE}\n", "in a circle: login → tool → login"),
        ("ARG BASE=nothing\nFROM ${BASE}\n", "there is no image nothing"),
    ],
)
def test_a_dockerfile_that_breaks_the_rules_is_one_clear_error(checkout, dockerfile, message):
    (checkout.images / "tool" / "Dockerfile").write_text(dockerfile)
    with pytest.raises(VcoreError, match=message):
        builder.recipe("login", make_pillar(), checkout)


def test_an_unknown_image_is_an_error(checkout):
    with pytest.raises(NotFound, match="there is no image ladp"):
        builder.reference("ladp", make_pillar(), checkout)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CHECKOUT.glob("images/*/Dockerfile")))
def test_every_image_of_the_project_keeps_the_rules(name):
    assert len(builder.recipe(name, make_pillar(), Paths(CHECKOUT)).tag) == 12


def test_a_build_context_is_the_same_byte_for_byte():
    files = FILES | {"run.sh": Entry("executable", b"#!"), "link": Entry("link", b"run.sh")}
    stream = builder.context(files)
    assert stream.getvalue() == builder.context(dict(reversed(files.items()))).getvalue()
    with tarfile.open(fileobj=stream) as archive:
        members = {member.name: member for member in archive}
    assert {name: oct(member.mode) for name, member in members.items() if member.isfile()} == {
        "Dockerfile": "0o644",
        "rootfs/etc/x.conf": "0o644",
        "run.sh": "0o755",
    }
    assert members["link"].linkname == "run.sh"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


# -- what has to happen


@pytest.mark.parametrize(
    "record, present, pushed, published, build, push, changes",
    [
        # A pushed image: nothing there; everything there; built but not pushed; pushed but not recorded.
        ({}, False, True, None, True, True, {"tag", "image", "registry"}),
        ({"tag": "t", "digest": ONE}, True, True, ONE, False, False, set()),
        ({}, True, True, None, False, True, {"tag", "registry"}),
        ({}, True, True, ONE, False, False, {"tag"}),
        # Gone from this host, but in the registry; gone from the registry; gone from both.
        ({"tag": "t", "digest": ONE}, False, True, ONE, False, False, set()),
        ({"tag": "t", "digest": ONE}, True, True, None, False, True, {"registry"}),
        ({"tag": "t", "digest": ONE}, False, True, None, True, True, {"image", "registry"}),
        # The registry has another digest than the record; it does not answer.
        ({"tag": "t", "digest": ONE}, True, True, TWO, False, False, {"digest"}),
        ({"tag": "t", "digest": ONE}, True, True, "unknown", False, False, set()),
        ({"tag": "t", "digest": ONE}, False, True, "unknown", False, False, set()),
        ({"tag": "t", "digest": None}, True, True, "unknown", False, True, {"registry"}),
        ({"tag": "old", "digest": ONE}, False, True, "unknown", True, True, {"tag", "image", "registry"}),
        # An image that stays on this host.
        ({}, False, False, None, True, False, {"tag", "image"}),
        ({"tag": "t", "digest": None}, True, False, None, False, False, set()),
        ({"tag": "t", "digest": None}, False, False, None, True, False, {"image"}),
        ({}, True, False, None, False, False, {"tag"}),
    ],
)
def test_what_has_to_happen(record, present, pushed, published, build, push, changes):
    found = plan("ldap", "t", record, present=present, pushed=pushed, published=published)
    assert (found.build, found.push, set(found.changes)) == (build, push, changes)


def test_a_reference_has_the_digest_of_the_wanted_image_only(checkout):
    pillar = make_pillar(("tool", True), ("login", False))
    tag = builder.recipe("tool", pillar, checkout).tag
    plain = f"registry.vcore.test:5000/tool:{tag}"
    assert builder.reference("tool", pillar, checkout) == plain
    builder.write_records(checkout, {"tool": {"tag": tag, "digest": ONE}, "login": {"tag": "x", "digest": ONE}})
    assert builder.reference("tool", pillar, checkout) == f"{plain}@{ONE}"
    assert "@" not in builder.reference("login", pillar, checkout)
    builder.write_records(checkout, {"tool": {"tag": "0123456789ab", "digest": ONE}})
    assert builder.reference("tool", pillar, checkout) == plain


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_broken_records_count_as_none(checkout, text):
    checkout.state.mkdir()
    (checkout.state / "images.json").write_text(text)
    assert builder.read_records(checkout) == {}


def test_what_is_pruned_is_the_same_before_and_after_the_build():
    before = kept_tags({"ldap": {"tag": "b", "previous": "a"}}, {"ldap": "c"})
    after = kept_tags({"ldap": {"tag": "c", "previous": "b"}}, {"ldap": "c"})
    assert before == after == {"ldap": {"b", "c"}}
    found = [("ldap", "a"), ("ldap", "b"), ("ldap", "c"), ("web", "a")]
    assert builder.superseded(found, after) == ["ldap:a", "web:a"]


# -- how builds reach packages

ONE_LINE = """
# deb http://commented.example.org/debian trixie main
deb-src http://source.example.org/debian trixie main
deb http://user:password@first.example.org/debian trixie main
deb [arch=amd64 signed-by=/x] http://packages.example.org/tool stable main
deb http://mirror.example.org/debian/ bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://security.example.org/debian-security bookworm-security main
"""
DEB822 = """
Types: deb
URIs: https://two.example.org/debian/ http://three.example.org/debian
Suites: trixie
"""


def test_mirrors_are_found_in_both_formats_of_apt():
    addresses = downloads.apt_addresses([ONE_LINE, DEB822])
    assert downloads.debian_mirrors(addresses) == (
        "http://mirror.example.org/debian",
        "http://security.example.org/debian-security",
    )
    assert downloads.debian_mirrors(downloads.apt_addresses([DEB822])) == ("https://two.example.org/debian", None)
    assert downloads.debian_mirrors(["http://archive.ubuntu.com/ubuntu"]) == (None, None)


@pytest.mark.parametrize(
    "setting, environ, apt, expected",
    [
        (None, {}, {}, {}),
        ("http://p:1", {"http_proxy": "http://q:1"}, {}, {"http_proxy": "http://p:1", "https_proxy": "http://p:1"}),
        (None, {"HTTPS_PROXY": "http://q:1", "no_proxy": "x"}, {}, {"https_proxy": "http://q:1", "no_proxy": "x"}),
        (None, {}, {"http": "http://a:3142"}, {"http_proxy": "http://a:3142"}),
        (None, {"no_proxy": "x"}, {}, {}),
    ],
)
def test_proxies_come_from_the_site_then_the_environment_then_apt(setting, environ, apt, expected):
    assert downloads.proxies(setting, environ, apt) == expected


@pytest.mark.parametrize(
    "line, proxy, expected",
    [
        ("deb http://localhost:3142/debian trixie main", None, True),
        ("deb http://deb.example.org/debian trixie main", "http://127.0.0.1:3128", True),
        ("deb http://deb.example.org/debian trixie main", "http://10.0.0.1:3128", False),
    ],
)
def test_a_mirror_on_this_host_needs_its_network(line, proxy, expected):
    way = downloads.Way([line], {"http_proxy": proxy} if proxy else {}, {})
    assert way.on_this_host is expected


@given(user=st.text("abc:%0", min_size=1), before=st.text(), after=st.text("abc/ "))
def test_credentials_in_addresses_are_blotted_out(user, before, after):
    assert f"//{user}@" not in docker_client.without_credentials(
        f"{before} http://{user}@proxy.example.org:3128/{after}"
    )


def certificate(body: str) -> bytes:
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n".encode()


def test_a_bundle_is_split_into_what_the_distribution_lacks():
    bundle = b"# one\n" + certificate("AAAA") + b"# two\n" + certificate("BBBB\nCC")
    assert downloads.site_authorities(bundle, [certificate("AAAA").replace(b"\n", b"\r\n")]) == [
        certificate("BBBB\nCC")
    ]
    files = downloads.base_files(["deb http://m/debian trixie main"], bundle)
    assert files["etc/ssl/certs/ca-certificates.crt"] == bundle
    assert [path for path in files if path.startswith("usr/local")] == [
        f"usr/local/share/ca-certificates/site-00{number}.crt" for number in (0, 1)
    ]
    assert downloads.base_files([], b"").keys() == {"etc/apt/sources.list", "etc/apt/sources.list.d/debian.sources"}


@pytest.mark.parametrize(
    "environ, settings, expected",
    [
        ({}, {}, None),
        ({"PIP_INDEX_URL": "https://one.example.org/simple"}, {"index-url": "https://two.example.org/"}, "one"),
        ({"UV_DEFAULT_INDEX": "https://one.example.org/simple"}, {}, "one"),
        ({}, {"index-url": "https://two.example.org/"}, "two"),
        ({"PIP_INDEX_URL": "https://user:secret@one.example.org/simple"}, {}, None),
        ({"PIP_INDEX_URL": "file:///srv/pypi"}, {}, None),
        ({"PIP_INDEX_URL": 'https://one.example.org/"\nx'}, {}, None),
    ],
)
def test_the_index_of_python_packages_is_picked_up_from_the_host(environ, settings, expected):
    found = downloads.python_index(environ, settings)
    assert (found is None) if expected is None else f"//{expected}." in found


def test_pip_and_uv_of_the_base_image_know_the_index():
    files = downloads.base_files([], b"", "http://127.0.0.1:3141/simple")
    assert files["etc/pip.conf"] == b"[global]\nindex-url = http://127.0.0.1:3141/simple\ntrusted-host = 127.0.0.1\n"
    assert tomllib.loads(files["etc/uv/uv.toml"].decode()) == {
        "index": [{"url": "http://127.0.0.1:3141/simple", "default": True}]
    }
    assert b"trusted" not in downloads.base_files([], b"", "https://pypi.example.org/simple")["etc/pip.conf"]
    assert downloads.Way([], {}, {}, "http://127.0.0.1:3141/simple").on_this_host


def test_an_index_with_a_password_is_one_clear_error():
    build = {"mirror": None, "proxy": None, "ca_bundle": None, "python_index": "https://user:secret@pypi.example.org"}
    with pytest.raises(VcoreError, match=r"vcore\.build\.python_index: a password") as caught:
        downloads.Way.find(build, "trixie")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content, message", [(None, "cannot be read"), ("nothing", "holds no certificate")])
def test_a_ca_bundle_that_is_none_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "site.pem"
    if content:
        path.write_text(content)
    build = {"mirror": None, "proxy": None, "ca_bundle": str(path)}
    with pytest.raises(VcoreError, match=rf"vcore\.build\.ca_bundle: .*{message}"):
        downloads.Way.find(build, "trixie")


def test_a_mirror_with_a_password_is_one_clear_error():
    build = {"mirror": "http://user:secret@mirror.example.org/debian", "proxy": None, "ca_bundle": None}
    with pytest.raises(VcoreError, match=r"vcore\.build\.mirror: a password") as caught:
        downloads.Way.find(build, "trixie")
    assert "secret" not in str(caught.value)


def test_a_mirror_that_does_not_answer_is_one_clear_error():
    build = {"mirror": "http://127.0.0.1:9/debian", "proxy": None, "ca_bundle": None}
    with pytest.raises(VcoreError, match=r"127\.0\.0\.1:9/debian does not offer trixie.*vcore\.build\.mirror"):
        downloads.Way.find(build, "trixie")


def test_the_records_are_plain_json(checkout):
    builder.write_records(checkout, {"ldap": {"tag": "t", "digest": ONE, "previous": None}})
    assert json.loads((checkout.state / "images.json").read_text())["ldap"]["digest"] == ONE
