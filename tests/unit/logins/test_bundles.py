"""Logins on nodes and on other hosts: configurations, scripts and bundles, and what they refuse."""

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sites
from vcore.base.errors import VcoreError
from vcore.kernel import site
from vcore.kernel.resolve import node_pillar
from vcore.logins import bundles
from vcore.logins import sssd as logins_sssd
from vcore.people import settings

CHECKOUT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden" / "clients"
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SITE = """
vcore:
  site: {name: genomics, domain: core.example.org}
  nodes:
    head: {roles: [head], address: 10.1.0.1}
    compute-1: {roles: [compute], address: 10.1.0.2, logins: {groups: [imaging]}}
"""


@pytest.fixture
def pillar(tmp_path):
    return sites.resolved(tmp_path, SITE)


@pytest.fixture
def core(pillar):
    return bundles.core(pillar, AUTHORITY, "test-password", ["imaging", "genomics"])


@pytest.mark.parametrize("kind", bundles.KINDS)
def test_the_files_of_each_kind(kind, core, golden):
    members = bundles.members(kind, core, CHECKOUT)
    folder = f"virtual-core-logins-{kind}/"
    for path, (content, _) in members.items():
        text = content.decode()
        if path in (f"{folder}install", f"{folder}undo"):
            # First the values of each system; then the text that a whole family shares.
            text = text[: text.index("# --- common")]
        golden(GOLDEN / kind / path.removeprefix(folder), text)
    known = {str(path.relative_to(GOLDEN / kind)) for path in (GOLDEN / kind).rglob("*") if path.is_file()}
    assert known == {path.removeprefix(folder) for path in members}


@pytest.mark.parametrize("kind", bundles.KINDS)
def test_a_bundle_is_closed_and_the_same_each_time(kind, core, tmp_path):
    bundles.write(kind, core, CHECKOUT, tmp_path / "one.tar.gz")
    bundles.write(kind, core, CHECKOUT, tmp_path / "two.tar.gz")
    packed = (tmp_path / "one.tar.gz").read_bytes()
    assert packed == (tmp_path / "two.tar.gz").read_bytes()
    assert (tmp_path / "one.tar.gz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
        entries = tar.getmembers()
    names = [entry.name for entry in entries if entry.isfile()]
    assert names == sorted(names)
    seen = set()
    for entry in entries:
        parent = str(Path(entry.name).parent)
        assert parent == "." or parent in seen, f"{entry.name} comes before its folder"
        seen.add(entry.name)
        assert entry.mode & 0o077 == 0
        assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "root", "root")
        assert not entry.name.startswith("/")
        assert ".." not in entry.name


@pytest.fixture(params=bundles.KINDS)
def scripts(request, core, tmp_path):
    """Write install and undo of each kind as files."""
    for program in ("install", "undo"):
        (tmp_path / program).write_text(bundles.script(program, request.param, core, CHECKOUT))
    return tmp_path


def tool(name):
    """Return a program that the tests need."""
    if not shutil.which(name):
        pytest.fail(f"{name} is missing: apt-get install {name}")
    return name


def test_scripts_are_posix_shell(scripts):
    for program in ("install", "undo"):
        for shell in ([tool("dash")], ["bash", "--posix"]):
            checked = subprocess.run([*shell, "-n", scripts / program], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr
            shown = subprocess.run([*shell, scripts / program, "--help"], capture_output=True, text=True, check=False)
            assert (shown.returncode, shown.stdout[:6]) == (0, "Usage:"), shown.stderr
            wrong = subprocess.run(
                [*shell, scripts / program, "--nonsense"], capture_output=True, text=True, check=False
            )
            assert wrong.returncode == 1
            assert wrong.stderr.startswith(f"{program}: unknown option --nonsense")


def test_shellcheck_has_nothing_to_say(scripts):
    done = subprocess.run(
        [tool("shellcheck"), "-s", "sh", scripts / "install", scripts / "undo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_old_tls_is_said_before_anything_else(core):
    text = bundles.script("install", "centos5", core, CHECKOUT)
    assert text.index("this system's TLS ends at 1.0") < text.index('mkdir -p "$STATE/backup"')
    assert "--relay" in text
    readme = bundles.members("centos5", core, CHECKOUT)["virtual-core-logins-centos5/README"][0].decode()
    assert "CANNOT SPEAK WITH THE CORE BY ITSELF" in readme
    for kind in bundles.KINDS:
        has = "1.2" in bundles.members(kind, core, CHECKOUT)[f"virtual-core-logins-{kind}/README"][0].decode()
        assert has == kind.startswith(("centos5", "centos6")), kind


def test_the_password_is_only_where_it_has_to_be(core):
    for kind in bundles.KINDS:
        holders = {
            path.partition("/")[2]
            for path, (content, _) in bundles.members(kind, core, CHECKOUT).items()
            if b"test-password" in content
        }
        assert "bind-password" in holders
        for path in holders - {"bind-password"}:
            mode = bundles.KINDS[kind].files[path.removeprefix("files")][1]
            assert mode in ("0600", "0640:root:nscd"), path


@pytest.mark.parametrize("password", ["", "a b", "a'b", "a\nb", "$(id)", "a#b", "ä"])
def test_passwords_that_some_client_reads_otherwise_are_refused(pillar, password):
    with pytest.raises(VcoreError, match="ldap/readonly-password"):
        bundles.core(pillar, AUTHORITY, password)


@pytest.mark.parametrize("group", ["", "../x", "a)(cn=*", "A", "a b", "x\n", "-x"])
def test_hostile_groups_are_refused(pillar, group):
    with pytest.raises(VcoreError, match="is not the name of a group"):
        bundles.core(pillar, AUTHORITY, "password", [group])


def test_what_is_not_there_is_said_with_the_choices():
    for name in (None, ""):
        with pytest.raises(VcoreError, match=r"os=debian; there are:\n  debian .*(\n.*)+rhel9"):
            bundles.kind(name)
    with pytest.raises(VcoreError, match=r"'debain'; did you mean debian\?"):
        bundles.kind("debain")
    with pytest.raises(VcoreError, match=r"did you mean genomics\?"):
        logins_sssd.check_groups(["genomic"], ["genomics", "people"], "people")
    with pytest.raises(VcoreError, match=r"there are: imaging$"):
        logins_sssd.check_groups(["x"], ["people", "imaging"], "people")
    with pytest.raises(VcoreError, match="name no group to let everybody in"):
        logins_sssd.check_groups(["people"], ["people"], "people")
    logins_sssd.check_groups(["imaging", "administrators"], ["imaging", "administrators"], "people")


def test_a_node_asks_sssd_for_groups_and_believes_it_only_while_the_directory_answers():
    def sssd(*known):
        def run(command):
            if command[-1] not in known:
                raise VcoreError("getent failed")

        return run

    logins_sssd.check_groups_by_sssd(["imaging"], sssd("imaging", "administrators"))
    logins_sssd.check_groups_by_sssd(["imaging"], sssd())
    with pytest.raises(VcoreError, match="the directory has no group 'imagin'"):
        logins_sssd.check_groups_by_sssd(["imaging", "imagin"], sssd("imaging", "administrators"))


def test_the_site_says_which_groups_others_have_to_make(tmp_path):
    def resolved(text):
        return sites.pillar(tmp_path, text, "compute-1")["node"]["logins"]

    text = SITE.replace("[imaging]", "[imaging, administrators, genomics]") + "  groups: {imaging: {}}\n"
    names = ["imaging", "administrators", "genomics"]
    assert resolved(text) == {"groups": names, "made_elsewhere": ["genomics"]}
    with pytest.raises(site.SiteError, match="everybody is in people, which lists no members"):
        resolved(SITE.replace("[imaging]", "[people]"))
    with pytest.raises(site.SiteError, match="sudo is a name that the system uses"):
        resolved(SITE.replace("[imaging]", "[sudo]"))


def test_a_core_without_a_directory_has_no_logins(pillar):
    with pytest.raises(VcoreError, match="switch the service ldap on"):
        bundles.core({**pillar, "directory": None}, AUTHORITY, "password")


# --- managed nodes --------------------------------------------------------------------------------------------------


def test_a_node_knows_all_that_its_logins_need(pillar, golden):
    node = node_pillar(pillar, "compute-1")
    authority = Path("/usr/local/share/ca-certificates/virtual-core.crt")
    access = logins_sssd.access(node, authority, node["node"]["logins"]["groups"])
    golden(GOLDEN / "node" / "sssd.conf", logins_sssd.sssd_conf(access, "test-password"))
    golden(GOLDEN / "node" / "pam-profile", logins_sssd.FAMILIES["Debian"].pam_files[logins_sssd.PAM_PROFILE])


def test_powerful_groups_are_names_that_nobody_may_have():
    assert set(logins_sssd.POWERFUL_GROUPS) - {"libvirt"} <= settings.RESERVED_NAMES
    assert logins_sssd.LEAST_ID < settings.SMALLEST_ID
    assert settings.LARGEST_ID <= logins_sssd.GREATEST_ID


def test_differences_hide_passwords():
    access = logins_sssd.Access("ldaps://ldap.x", "dc=x", "x", "/ca", ())
    one, other = (logins_sssd.sssd_conf(access, f"password-{number}") for number in (1, 2))
    assert logins_sssd.lines_difference(one, other) == ["+ a new password"]
    assert not any("password-1" in line for line in logins_sssd.lines_difference(None, one))
    assert logins_sssd.lines_difference(one, one) == []
    assert logins_sssd.lines_difference("a\n", "b\n") == ["- a", "+ b"]


def test_who_may_log_in():
    def made(*groups):
        return logins_sssd.Access("ldaps://ldap.x", "dc=x", "x", "/ca", groups).filter

    assert made() == "(objectClass=posixAccount)"
    assert made("a") == "(memberOf=cn=a,ou=groups,dc=x)"
    assert made("a", "b") == "(|(memberOf=cn=a,ou=groups,dc=x)(memberOf=cn=b,ou=groups,dc=x))"


NSSWITCH = "# x\npasswd:         files systemd\ngroup: files # local\nshadow:files\nhosts: files dns\n"


def test_name_service_in_and_out():
    on = logins_sssd.nsswitch_with(NSSWITCH, "sss")
    assert on == (
        "# x\npasswd:         files systemd sss\ngroup: files sss # local\nshadow:files sss\nhosts: files dns\n"
    )
    assert logins_sssd.nsswitch_with(on, "sss") == on
    assert logins_sssd.nsswitch_without(on, "sss") == NSSWITCH
    assert logins_sssd.nsswitch_without(NSSWITCH, "sss") == NSSWITCH


words = st.sampled_from(["files", "systemd", "ldap", "compat"])
databases = st.sampled_from(["passwd", "group", "shadow", "hosts"])


@given(st.lists(st.tuples(databases, st.lists(words, min_size=1, max_size=3)), max_size=5))
def test_name_service_comes_out_as_it_went_in(lines):
    text = "".join(f"{database}: {' '.join(sources)}\n" for database, sources in lines)
    assert logins_sssd.nsswitch_without(logins_sssd.nsswitch_with(text, "sss"), "sss") == text


def test_sshd_asks_by_a_drop_in_where_those_are_read():
    modern, old = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n", "UsePAM yes\n"
    wanted = logins_sssd.sshd_wanted(modern, on=True)
    assert wanted[logins_sssd.SSHD_CONFIG] == modern
    assert "AuthorizedKeysCommand /usr/bin/sss_ssh_authorizedkeys\n" in wanted[logins_sssd.SSHD_DROP_IN]
    assert logins_sssd.sshd_wanted(modern, on=False) == {
        logins_sssd.SSHD_CONFIG: modern,
        logins_sssd.SSHD_DROP_IN: None,
    }
    wanted = logins_sssd.sshd_wanted(old, on=True)
    assert wanted[logins_sssd.SSHD_CONFIG].startswith(f"{logins_sssd.BEGIN}\nAuthorizedKeysCommand")
    assert wanted[logins_sssd.SSHD_DROP_IN] is None
    again = wanted[logins_sssd.SSHD_CONFIG]
    assert logins_sssd.sshd_wanted(again, on=True)[logins_sssd.SSHD_CONFIG] == again
    assert logins_sssd.sshd_wanted(again, on=False)[logins_sssd.SSHD_CONFIG] == old


@given(st.text(alphabet="pa# \n", max_size=40))
def test_a_block_comes_out_as_it_went_in(text):
    text += "\n" if text and not text.endswith("\n") else ""
    inside = logins_sssd.with_block(text, ["x"], before="p")
    assert logins_sssd.without_block(inside) == text
    assert logins_sssd.with_block(inside, ["x"], before="p") == inside


def test_a_block_without_its_end_is_refused():
    with pytest.raises(VcoreError, match="put that back"):
        logins_sssd.without_block(f"{logins_sssd.BEGIN}\nx\n")


def test_an_unknown_distribution_is_refused():
    with pytest.raises(VcoreError, match="not supported on Suse; they are on: Debian, RedHat"):
        logins_sssd.family("Suse")


# --- packages that came, and go again -------------------------------------------------------------------------------


def system(there, needed=()):
    """Stand in for a node with these packages, some of which others depend on."""

    def run(command):
        assert command[:3] == ("dpkg", "--simulate", "--purge")
        if set(command[3:]) & set(needed):
            raise VcoreError("dpkg failed: \n login-tool depends on sssd-common.\nErrors:\n sssd-common")

    return logins_sssd.System(
        installed=lambda: set(there),
        install=lambda names, _: there.update({*names, *(f"{name}-common" for name in names)}),
        remove=lambda names: there.difference_update(names),
        running=lambda name: False,
        enabled=lambda name: False,
        service=lambda function, name: None,
        run=run,
    )


def test_what_other_packages_brought_along_is_known_after_a_power_cut_too():
    there = {"base", "sssd-ldap", "sssd-ldap-common"}
    noted = logins_sssd._with_packages({"before": ["base"], "packages": ["earlier"], "pam": True}, system(there))
    assert noted == {
        "packages": ["earlier", "sssd-ldap", "sssd-ldap-common"], "nsswitch": False, "pam": True
    }  # fmt: skip
    assert logins_sssd._with_packages(noted, system({"base", "more"})) == noted


def test_packages_that_others_need_by_now_stay():
    record, kind = {"packages": ["gone", "sssd-common", "sssd-ldap"]}, logins_sssd.FAMILIES["Debian"]
    there = {"base", "sssd-ldap", "sssd-common"}
    assert logins_sssd._removable(record, kind, system(there)) == (["sssd-common", "sssd-ldap"], "")
    assert logins_sssd._removable(record, kind, system(there, ["sssd-common"])) == (
        ["sssd-common", "sssd-ldap"], "login-tool depends on sssd-common."
    )  # fmt: skip
    assert logins_sssd._removable(record, kind, system({"base"})) == ([], "")
