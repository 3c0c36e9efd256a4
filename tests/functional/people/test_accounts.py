"""People and groups by command, by CSV file and by state: on a real slapd, with real homes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap
import pytest
import yaml
from Cryptodome.Hash import MD4
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support.directory import SUFFIX, Core, build_image, loaders, write_pillar
from vcore.base.errors import Unreachable
from vcore.directory import client, samba_ids
from vcore.people import accounts

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada; at work"
SENTENCE = "The directory has the people and groups of the site"


class AccountsCore(Core):
    """A core whose head serves the homes."""

    def site(self, settings: dict[str, Any]) -> str:
        self.skeleton = self.folder / "skeleton"
        (self.skeleton / ".config").mkdir(parents=True)
        (self.skeleton / ".profile").write_text("umask 027\n")
        (self.skeleton / "passwords").symlink_to("/etc/passwd")
        (self.skeleton / "etc").symlink_to("/etc")
        found = yaml.safe_load(super().site(settings))
        found["vcore"].setdefault("services", {})["file-router"] = {"enabled": True}
        found["vcore"]["accounts"] = {"skeleton": str(self.skeleton), "home_mode": "0750"}
        return json.dumps(found)

    @property
    def homes(self) -> Path:
        return self.folder / "data" / "file-router" / "home"

    def first_password(self, name: str) -> Path:
        return self.paths.secrets / "first-passwords" / name

    def own_password(self, name: str, password: str = "Chosen-by-myself-1") -> None:
        """Change the first password, as the person does."""
        first = self.first_password(name).read_text()
        self.bind(dn(name), first).passwd_s(dn(name), first, password)

    def entries(self) -> dict[str, dict[str, list[bytes]]]:
        """Return all people and groups, with all operational attributes."""
        found = self.bind().search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(objectClass=*)", ["*", "+"])
        return {name: values for name, values in found if ",ou=people," in name or ",ou=groups," in name}


def dn(uid: str) -> str:
    return f"uid={uid},ou=people,{SUFFIX}"


def group_dn(cn: str) -> str:
    return f"cn={cn},ou=groups,{SUFFIX}"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountsCore]:
    """Yield a directory with the core's own entries and two groups, on a head that serves homes."""
    build_image()
    core = AccountsCore(tmp_path_factory.mktemp("core"))
    try:
        core.bring_up()
        with accounts.opened(core.pillar, core.paths) as ours:
            ours.group_add("sequencing", {"description": "Sequencers"})
            ours.group_add("statistics", {})
        yield core
    finally:
        core.remove()


@pytest.fixture(scope="module")
def salt(core: AccountsCore) -> Any:
    return loaders(core)


@pytest.fixture(scope="module")
def vcore(salt: Any) -> Any:
    """Return the front door: ``vcore("user_add", "ada")``."""
    modules = salt.modules
    return lambda function, *arguments, **named: modules[f"vcore.{function}"](*arguments, **named)


def refused(core: AccountsCore, vcore: Any, *arguments: Any, **named: Any) -> str:
    """Return the one line with which something is refused; the directory and the homes must not change."""
    before = core.entries(), sorted(core.homes.glob("*"))
    with pytest.raises((SaltInvocationError, CommandExecutionError)) as error:
        vcore(*arguments, **named)
    assert (core.entries(), sorted(core.homes.glob("*"))) == before
    assert "\n" not in str(error.value)
    return str(error.value)


# --- one at a time --------------------------------------------------------------------------------------------------


def test_a_new_account_from_the_first_password_to_its_own(core: AccountsCore, vcore: Any) -> None:
    arguments = {
        "given_name": "Ada", "surname": "Lovelace", "mail": "ada@example.org", "telephone": "+44 20 7946 0000",
        "groups": "sequencing", "ssh_keys": KEY,
    }  # fmt: skip
    planned = vcore("user_add", "ada", **arguments, test=True)
    assert dn("ada") not in core.entries() and not core.homes.exists() and not core.first_password("ada").exists()
    made = vcore("user_add", "ada", **arguments)
    assert made["changes"] == planned["changes"] and made["comment"] == "ada is added."
    entry = core.entries()[dn("ada")]
    number = int(entry["uidNumber"][0])
    assert (made["uid"], made["home"]) == (planned["uid"], planned["home"]) == (number, "/home/ada")
    expected = {
        "uid": "ada", "cn": "Ada Lovelace", "sn": "Lovelace", "givenName": "Ada", "mail": "ada@example.org",
        "telephoneNumber": "+44 20 7946 0000", "gidNumber": "10000", "homeDirectory": "/home/ada",
        "loginShell": "/bin/bash", "sshPublicKey": KEY, "sambaAcctFlags": "[U          ]",
        "sambaSID": f"{samba_ids.domain_sid(SUFFIX)}-{2 * number + 1000}", "memberOf": group_dn("sequencing"),
        "pwdReset": "TRUE", "sambaPwdLastSet": "0",
    }  # fmt: skip
    assert {name: entry[name] for name in expected} == {name: [value.encode()] for name, value in expected.items()}
    group = core.entries()[group_dn("sequencing")]
    assert (group["memberUid"], group["member"]) == ([b"ada"], [dn("ada").encode()])

    home = core.homes / "ada"
    assert (home.stat().st_uid, home.stat().st_gid, stat.S_IMODE(home.stat().st_mode)) == (number, 10000, 0o750)
    assert (home / ".profile").read_text() == "umask 027\n" and (home / "passwords").is_symlink()
    for path in home.rglob("*"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (number, 10000)
    assert Path("/etc/passwd").stat().st_uid == 0 and Path("/etc").stat().st_uid == 0
    assert core.homes.stat().st_uid == 0 and stat.S_IMODE(core.homes.stat().st_mode) == 0o755

    # The first password is in a file that the result names. It works at once, and only for changing itself.
    path = Path(made["first_password"])
    first = path.read_text()
    assert path == core.first_password("ada") and len(first) == 16
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert first not in json.dumps(made) + core.logs()
    assert entry["sambaNTPassword"] == [MD4.new(first.encode("utf-16-le")).hexdigest().encode()]
    with pytest.raises(ldap.INSUFFICIENT_ACCESS):
        core.bind(dn("ada"), first).search_s(SUFFIX, ldap.SCOPE_SUBTREE)
    assert vcore("user_show", "ada")["password"] == "to be changed at first use"
    core.own_password("ada")
    assert core.bind(dn("ada"), "Chosen-by-myself-1").search_s(SUFFIX, ldap.SCOPE_SUBTREE)
    assert int(core.entries()[dn("ada")]["sambaPwdLastSet"][0]) > 0
    assert vcore("user_list")["ada"] == {
        "name": "Ada Lovelace", "uid": number, "groups": ["sequencing"], "locked": False, "first_password": False,
    }  # fmt: skip
    assert not path.exists()
    shown = vcore("user_show", "ada")
    assert shown["ssh_keys"] == [KEY] and shown["password"].startswith("20") and "first_password" not in shown
    assert "{ARGON2}" not in json.dumps(shown)


@pytest.mark.parametrize(
    "name",
    [
        "../x", "x/y", "x)(uid=*", "x,ou=services", "x+y=z", 'x"', "x\\2a", "a\nb", "a\r", "a\x00b", "", " ", "-rf",
        "Ada",
        "\u0430da", "ad\u0430", "ada\u200b", "a" * 32, "root", "nobody", "administrators", "daemon", True, 12, None, [],
    ],
)  # fmt: skip
def test_hostile_names_are_refused(core: AccountsCore, vcore: Any, name: Any) -> None:
    for function in ("user_add", "group_add", "user_show", "user_remove", "user_lock"):
        assert refused(core, vcore, function, name).isascii()


def test_what_is_not_acceptable_is_refused_before_anything_is_done(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "taken", uid=12000)
    for arguments, words in (
        ({"uid": 12000}, "the uid 12000 of new belongs to taken"),
        ({"uid": 0}, "greater than or equal to 9001"),
        ({"uid": "12001"}, "whole number"),
        ({"mail": "no address"}, "has to be a mail address"),
        ({"surname": "two\nlines"}, "one line"),
        ({"telephone": "=cmd()"}, "telephone number"),
        ({"shell": "/bin/fish"}, "shell '/bin/fish': has to be one of /bin/bash, "),
        ({"groups": "nobodys"}, "there is no group 'nobodys'"),
        ({"groups": "people"}, "everybody is in people already"),
        ({"groups": "x)(cn=*"}, "a name has at most"),
        ({"ssh_keys": 'command="sh" ssh-ed25519 AAAA'}, "public ssh key"),
    ):
        assert words in refused(core, vcore, "user_add", "new", **arguments)
    assert "exists already" in refused(core, vcore, "user_add", "taken")
    (core.homes / "foreign").mkdir()
    os.chown(core.homes / "foreign", 4711, 4711)
    assert "belongs to the uid 4711" in refused(core, vcore, "user_add", "foreign")
    (core.homes / "foreign").rmdir()
    (core.homes / "link").symlink_to("/etc")
    assert "is not a folder" in refused(core, vcore, "user_add", "link")
    (core.homes / "link").unlink()


def test_what_people_put_into_their_entries_is_not_read(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "pia")
    core.own_password("pia")
    photograph = b"\xff\xd8" + bytes(2**20)
    core.bind(dn("pia"), "Chosen-by-myself-1").modify_s(dn("pia"), [(ldap.MOD_REPLACE, "jpegPhoto", photograph)])
    with accounts.opened(core.pillar, core.paths) as ours:
        read = ours.look().people["pia"].attributes
    assert "jpegPhoto" not in read and read.keys() > {"uid", "pwdChangedTime", "sambaSID"}


def test_modify(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "mia", given_name="Mia", surname="One", mail="mia@example.org")
    planned = vcore("user_modify", "mia", surname="Two", mail="", groups=["statistics", "sequencing"], test=True)
    assert vcore("user_show", "mia")["surname"] == "One"
    changed = vcore("user_modify", "mia", surname="Two", mail="", groups=["statistics", "sequencing"])
    assert changed["changes"] == planned["changes"]
    shown = vcore("user_show", "mia")
    assert (shown["name"], shown.get("mail"), shown["groups"]) == ("Mia Two", None, ["sequencing", "statistics"])
    assert vcore("user_modify", "mia", surname="Two")["changes"] == {}
    vcore("user_modify", "mia", groups="", ssh_keys=[KEY])
    shown = vcore("user_show", "mia")
    assert (shown["groups"], shown["ssh_keys"]) == ([], [KEY])
    vcore("user_modify", "mia", ssh_keys="")
    assert vcore("user_show", "mia")["ssh_keys"] == []
    assert "say what to change" in refused(core, vcore, "user_modify", "mia")
    assert "there is nobody called" in refused(core, vcore, "user_modify", "nobody-there", mail="x@example.org")


def test_a_lock_holds_everywhere_until_it_is_lifted(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "lou", ssh_keys=KEY)
    core.own_password("lou")
    names = ["shadowExpire", "pwdAccountLockedTime", "sambaAcctFlags"]

    def marks() -> list[bytes | None]:
        entry = core.entries()[dn("lou")]
        return [entry.get(name, [None])[0] for name in names]

    assert vcore("user_lock", "lou", test=True)["changes"] and marks() == [None, None, b"[U          ]"]
    vcore("user_lock", "lou")
    assert marks() == [b"1", b"000001010000Z", b"[DU         ]"]
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("lou"), "Chosen-by-myself-1")
    assert vcore("user_lock", "lou")["changes"] == {}
    # Another password removes the directory's lock; a reset puts it back.
    path = vcore("user_reset_password", "lou")["first_password"]
    assert marks() == [b"1", b"000001010000Z", b"[DU         ]"]
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("lou"), Path(path).read_text())
    assert vcore("user_list")["lou"]["locked"] is True
    vcore("user_unlock", "lou")
    assert marks() == [None, None, b"[U          ]"]
    core.own_password("lou", "Chosen-by-myself-2")
    # A lock after wrong passwords, too.
    for _ in range(10):
        with pytest.raises(ldap.INVALID_CREDENTIALS):
            core.bind(dn("lou"), "wrong")
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("lou"), "Chosen-by-myself-2")
    assert vcore("user_show", "lou")["locked"] is False
    assert list(vcore("user_unlock", "lou")["changes"]) == [dn("lou")]
    core.bind(dn("lou"), "Chosen-by-myself-2")
    # And Samba's own lock, as smbd writes it.
    samba = {"sambaAcctFlags": b"[UXL        ]", "sambaBadPasswordCount": b"10", "sambaBadPasswordTime": b"1700000000"}
    core.bind().modify_s(dn("lou"), [(ldap.MOD_REPLACE, name, [value]) for name, value in samba.items()])
    assert vcore("user_modify", "lou", mail="lou@example.org")["changes"][dn("lou")]["new"].keys() == {"mail"}
    assert vcore("user_unlock", "lou")["changes"][dn("lou")]["new"]["sambaAcctFlags"] == ["[UX         ]"]
    assert not core.entries()[dn("lou")].keys() & {"sambaBadPasswordCount", "sambaBadPasswordTime"}
    assert vcore("user_unlock", "lou")["changes"] == {}


def test_a_reset_password_is_new_and_has_to_be_changed(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "rey")
    first = core.first_password("rey").read_text()
    core.own_password("rey")
    assert vcore("user_reset_password", "rey", test=True) and core.bind(dn("rey"), "Chosen-by-myself-1")
    vcore("user_reset_password", "rey")
    assert core.first_password("rey").read_text() != first
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("rey"), "Chosen-by-myself-1")
    entry = core.entries()[dn("rey")]
    assert (entry["pwdReset"], entry["sambaPwdLastSet"]) == ([b"TRUE"], [b"0"])


def test_removal_archives_the_home_and_follows_no_link(core: AccountsCore, vcore: Any, tmp_path: Path) -> None:
    vcore("user_add", "eve", groups="sequencing")
    number = vcore("user_show", "eve")["uid"]
    home, outside = core.homes / "eve", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret of another")
    (home / "data").write_text("mine")
    (home / "file-out").symlink_to(outside / "secret")
    (home / "folder-out").symlink_to(outside)
    (home / "--checkpoint-action=exec=sh").write_text("")
    os.mkfifo(home / "pipe")
    with (home / "sparse").open("wb") as huge:
        huge.truncate(2**40)
    planned = vcore("user_remove", "eve", test=True)
    assert home.exists()
    began = time.monotonic()
    assert vcore("user_remove", "eve")["changes"] == planned["changes"]
    assert time.monotonic() - began < 10
    assert not home.exists() and (outside / "secret").read_text() == "secret of another"
    assert dn("eve") not in core.entries() and not core.first_password("eve").exists()
    assert b"eve" not in core.entries()[group_dn("sequencing")].get("memberUid", [])
    archive = core.folder / "data" / "file-router" / "data" / "archive"
    (stored,) = archive.glob("eve-*")
    assert list(archive.iterdir()) == [stored]
    assert stat.S_IMODE(archive.stat().st_mode) == 0o700 and stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stored.stat().st_size < 2**20
    with tarfile.open(stored) as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert tar.extractfile("eve/data").read() == b"mine"
    assert members["eve/folder-out"].issym() and "eve/folder-out/secret" not in members
    assert members["eve"].uid == number
    assert "there is nobody called eve" in refused(core, vcore, "user_remove", "eve")

    # Nobody gets the number of a person who left, and a person who comes back gets a new one.
    vcore("user_add", "eve")
    assert vcore("user_show", "eve")["uid"] != number
    vcore("user_remove", "eve", archive=False)
    assert not home.exists() and list(archive.iterdir()) == [stored]
    # A home whose account was removed in another way.
    home.mkdir()
    assert list(vcore("user_remove", "eve")["changes"]) == ["home of eve"]
    assert not home.exists() and len(list(archive.iterdir())) == 2


def test_a_home_that_cannot_be_archived_stays(core: AccountsCore, vcore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vcore("user_add", "kim")
    tar = core.folder / "bin" / "tar"
    tar.parent.mkdir()
    tar.write_text("#!/bin/sh\necho half of it\necho 'tar: no space left' >&2\nexit 2\n")
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
    with pytest.raises(CommandExecutionError, match="cannot be archived: tar: no space left"):
        vcore("user_remove", "kim")
    assert (core.homes / "kim").is_dir() and not list((core.folder / "data" / "file-router").glob("data/archive/*kim*"))
    # The account is locked meanwhile; the next try removes it.
    assert vcore("user_show", "kim")["locked"] is True
    monkeypatch.undo()
    vcore("user_remove", "kim")
    assert not (core.homes / "kim").exists()


def test_one_who_cannot_be_removed_keeps_no_other(
    core: AccountsCore, vcore: Any, salt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ken", "kit"):
        vcore("user_add", name)
    tar = core.folder / "choosy" / "tar"
    tar.parent.mkdir()
    tar.write_text(f'#!/bin/sh\nfor name; do :; done\n[ "$name" = kit ] || exit 2\nexec {shutil.which("tar")} "$@"\n')
    tar.chmod(0o755)
    core.pillar["people"] = {name: {"removed": True} for name in ("ken", "kit")}
    write_pillar(core)
    monkeypatch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
    failed = salt.states.vcore_account.people_present(SENTENCE)
    assert failed.result is False and failed.comment.startswith("ken: the home ") and "kit" not in failed.comment
    assert dn("kit") not in core.entries() and dn("ken") in core.entries()
    monkeypatch.undo()
    assert salt.states.vcore_account.people_present(SENTENCE).result is True
    assert dn("ken") not in core.entries()
    core.pillar["people"] = {}
    write_pillar(core)


def test_groups(core: AccountsCore, vcore: Any) -> None:
    vcore("user_add", "gus")
    vcore("user_add", "gwen")
    planned = vcore("group_add", "lab", gid=13000, description="A lab", test=True)
    assert vcore("group_add", "lab", gid=13000, description="A lab")["changes"] == planned["changes"]
    vcore("group_modify", "lab", add="gus,gwen")
    assert vcore("group_show", "lab") == {"gid": 13000, "description": "A lab", "members": ["gus", "gwen"]}
    vcore("group_modify", "lab", remove=["gus"], description="")
    assert vcore("group_show", "lab") == {"gid": 13000, "description": "", "members": ["gwen"]}
    assert core.entries()[dn("gwen")]["memberOf"] == [group_dn("lab").encode()]
    vcore("group_modify", "administrators", add="gwen")
    core.own_password("gwen")
    core.bind(dn("gwen"), "Chosen-by-myself-1").modify_s(dn("gus"), [(ldap.MOD_REPLACE, "mail", b"g@example.org")])
    vcore("group_modify", "administrators", remove="gwen")
    for arguments, named, words in (
        (("group_add", "lab"), {}, "exists already"),
        (("group_add", "other"), {"gid": 13000}, "the gid 13000 of other belongs to lab"),
        (("group_add", "other"), {"gid": 10000}, "belongs to people"),
        (("group_modify", "lab"), {}, "say what to change"),
        (("group_modify", "lab"), {"add": "nobody-there"}, "there is nobody called"),
        (("group_modify", "lab"), {"add": "gus", "remove": "gus"}, "added and removed"),
        (("group_modify", "none"), {"add": "gus"}, "there is no group"),
        (("group_modify", "people"), {"add": "gus"}, "everybody is in people already"),
        (("group_remove", "people"), {}, "cannot be removed"),
        (("group_remove", "administrators"), {}, "cannot be removed"),
        (("group_remove", "none"), {}, "there is no group"),
    ):
        assert words in refused(core, vcore, *arguments, **named)
    core.bind().modify_s(dn("gus"), [(ldap.MOD_REPLACE, "gidNumber", b"13000")])
    assert "primary group of gus" in refused(core, vcore, "group_remove", "lab")
    core.bind().modify_s(dn("gus"), [(ldap.MOD_REPLACE, "gidNumber", b"10000")])
    vcore("group_remove", "lab")
    assert "lab" not in vcore("group_list") and "memberOf" not in core.entries()[dn("gwen")]
    vcore("group_add", "lab")
    assert vcore("group_show", "lab")["gid"] != 13000


def test_what_was_left_half_made_is_completed(core: AccountsCore, vcore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> Any:
        raise Unreachable("the network is cut")

    monkeypatch.setattr(client, "setting_password", cut)
    with pytest.raises(CommandExecutionError, match="network is cut"):
        vcore("user_add", "half", groups="sequencing")
    monkeypatch.undo()
    entry = core.entries()[dn("half")]
    assert "userPassword" not in entry and not (core.homes / "half").exists()
    assert vcore("user_show", "half")["password"] == "none"
    made = vcore("user_add", "half", groups="sequencing")
    assert (core.homes / "half").is_dir() and vcore("user_show", "half")["groups"] == ["sequencing"]
    core.bind(dn("half"), Path(made["first_password"]).read_text())

    core.skeleton.rename(core.folder / "elsewhere")
    with pytest.raises(CommandExecutionError, match="skeleton of homes"):
        vcore("user_add", "hanna")
    (core.folder / "elsewhere").rename(core.skeleton)
    assert list(vcore("user_add", "hanna")["changes"]) == ["home of hanna"]
    core.bind(dn("hanna"), core.first_password("hanna").read_text())


def test_two_at_once_get_different_numbers(core: AccountsCore) -> None:
    failures = []

    def add(name: str) -> None:
        try:
            with accounts.opened(core.pillar, core.paths) as ours:
                ours.add(name, {})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=[f"twin{index}"]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({core.entries()[dn(f"twin{index}")]["uidNumber"][0] for index in range(4)}) == 4


# --- the site file --------------------------------------------------------------------------------------------------


def apply_twice(core: AccountsCore, salt: Any) -> dict[str, Any]:
    """Apply twice: the plan lists what applying changes, and then nothing is left to change."""
    write_pillar(core)
    state = salt.states.vcore_account.people_present
    planned = state(SENTENCE, test=True)
    assert planned.result is None, planned.raw
    applied = state(SENTENCE)
    assert applied.result is True, applied.raw
    assert planned.changes == applied.changes != {}
    for test in (True, False):
        again = state(SENTENCE, test=test)
        assert (again.result, again.changes) == (True, {}), again.raw
    return applied.changes


def test_state_brings_people_and_groups_in(core: AccountsCore, salt: Any, vcore: Any) -> None:
    core.pillar["groups"] = {"genetics": {"gid": 14000, "description": "Genetics"}}
    core.pillar["people"] = {
        "sid": {"given_name": "Sid", "surname": "Site", "groups": ["genetics"], "removed": False},
        "sue": {"uid": 14001, "ssh_keys": [KEY], "locked": True, "removed": False},
        "ada": {"mail": "ada@core.example.org", "removed": False},
    }
    changes = apply_twice(core, salt)
    assert set(changes) == {
        group_dn("genetics"), "members of genetics", dn("sid"), dn("sue"), dn("ada"),
        *(f"{what} of {name}" for what in ("home", "first password") for name in ("sid", "sue")),
    }  # fmt: skip
    assert changes[dn("ada")] == {"old": {"mail": ["ada@example.org"]}, "new": {"mail": ["ada@core.example.org"]}}
    assert core.first_password("sid").read_text() not in json.dumps(changes)
    assert (core.homes / "sue").stat().st_uid == 14001
    assert vcore("user_show", "ada")["groups"] == ["sequencing"]
    # In both directions.
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("sue"), core.first_password("sue").read_text())
    core.pillar["people"]["sue"]["locked"] = False
    assert list(apply_twice(core, salt)) == [dn("sue")]
    core.bind(dn("sue"), core.first_password("sue").read_text())
    # People who have chosen their own password no longer need the first one.
    core.own_password("sue")
    assert salt.states.vcore_account.people_present(SENTENCE).changes == {}
    assert not core.first_password("sue").exists() and core.first_password("sid").exists()
    # Removed, with the home archived; the name can stay in the file.
    core.pillar["people"]["sid"]["removed"] = True
    core.pillar["people"]["never"] = {"removed": True}
    assert set(apply_twice(core, salt)) == {dn("sid"), "members of genetics"}
    assert list((core.folder / "data" / "file-router" / "data" / "archive").glob("sid-*"))


def test_state_completes_what_was_made_elsewhere(core: AccountsCore, salt: Any, vcore: Any) -> None:
    admin = core.bind()
    entry = {
        "objectClass": ["inetOrgPerson", "posixAccount"], "uid": "web", "cn": "Web", "sn": "Web", "uidNumber": "15000",
        "gidNumber": "10000", "homeDirectory": "/home/web",
    }  # fmt: skip
    admin.add_s(dn("web"), [(name, [v.encode() for v in ([value] if isinstance(value, str) else value)])
                            for name, value in entry.items()])  # fmt: skip
    admin.add_s(group_dn("webgroup"), [("objectClass", b"posixGroup"), ("cn", b"webgroup"), ("gidNumber", b"15000"),
                                       ("memberUid", [b"web", b"nobody-there"])])  # fmt: skip
    admin.modify_s(group_dn("sequencing"), [(ldap.MOD_ADD, "member", dn("web").encode())])
    admin.modify_s(group_dn("people"), [(ldap.MOD_ADD, "memberUid", b"web")])
    changes = apply_twice(core, salt)
    assert set(changes) == {
        dn("web"), "home of web", group_dn("webgroup"), "members of webgroup", "members of sequencing",
        "members of people",
    }  # fmt: skip
    made = core.entries()[dn("web")]
    assert made["loginShell"] == [b"/bin/bash"] and made["sambaAcctFlags"] == [b"[U          ]"]
    assert made["sambaSID"] == [f"{samba_ids.domain_sid(SUFFIX)}-31000".encode()]
    assert {b"ldapPublicKey", b"shadowAccount", b"sambaSamAccount"} < set(made["objectClass"])
    assert vcore("group_show", "webgroup")["members"] == ["web"]
    assert sorted(made["memberOf"]) == sorted([group_dn("webgroup").encode(), group_dn("sequencing").encode()])
    assert not core.first_password("web").exists() and "userPassword" not in made
    # Removed from one of the two attributes means removed.
    admin.modify_s(group_dn("sequencing"), [(ldap.MOD_DELETE, "memberUid", b"web")])
    assert apply_twice(core, salt) == {"members of sequencing": {"old": ["web"], "new": []}}
    assert dn("web").encode() not in core.entries()[group_dn("sequencing")].get("member", [])
    # Another password lifted the directory's half of a lock.
    vcore("user_lock", "web")
    admin.passwd_s(dn("web"), None, "Set-by-somebody-1")
    assert "pwdAccountLockedTime" not in core.entries()[dn("web")]
    apply_twice(core, salt)
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("web"), "Set-by-somebody-1")


def test_state_where_site_and_directory_contradict_each_other(core: AccountsCore, salt: Any) -> None:
    before = core.entries()
    own = core.pillar["people"], core.pillar["groups"]
    core.pillar["people"] = {
        "new": {"uid": 15000, "removed": False}, "ada": {"uid": 15001, "removed": False},
        "fine": {"removed": False},
    }  # fmt: skip
    core.pillar["groups"] = {"sequencing": {"gid": 15002}}
    write_pillar(core)
    for test in (True, False):
        failed = salt.states.vcore_account.people_present(SENTENCE, test=test)
        assert failed.result is False and failed.changes == {} and "\n" not in failed.comment
        assert "vcore.people.new: the uid 15000 of new belongs to web" in failed.comment
        assert "vcore.people.ada: ada has the uid" in failed.comment
        assert "vcore.groups.sequencing: the group sequencing has the gid" in failed.comment
    assert core.entries() == before
    core.pillar["people"], core.pillar["groups"] = own
    write_pillar(core)


def test_state_plans_for_a_directory_that_is_not_there_yet(
    core: AccountsCore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bare = AccountsCore(tmp_path_factory.mktemp("bare"))
    bare.pillar["people"] = {"ada": {"groups": ["lab"], "removed": False}}
    bare.pillar["groups"] = {"lab": {}}
    salt = loaders(bare)
    planned = salt.states.vcore_account.people_present(SENTENCE, test=True)
    assert planned.result is None, planned.raw
    assert planned.changes[dn("ada")]["new"]["uidNumber"] == ["10000"]
    assert planned.changes["members of lab"] == {"old": [], "new": ["ada"]}
    assert not bare.homes.exists() and not bare.paths.secrets.exists()


# --- many at once ---------------------------------------------------------------------------------------------------

BAD = [
    "../x,Bad,Name,,,,,,", "x)(uid=*,Bad,Name,,,,,,", "root,Bad,Name,,,,,,", '"a,dc=b",Bad,Name,,,,,,',
    "ad\u0430,Bad,Name,,,,,,", "p0001,Du,Plicate,,,,,,", ",No,Name,,,,,,", "Capital,Bad,Name,,,,,,",
    f"{'l' * 32},Too,Long,,,,,,", "ok1,Ann,Lee,no address,,,,,", "ok2,Ann,Lee,,no number,,,,", "ok3,Ann,Lee,,,x,,,",
    "ok4,Ann,Lee,,,12100,,,", "ok5,Ann,Lee,,,0,,,", "ok6,Ann,Lee,,,,nogroup1,,", "ok7,Ann,Lee,,,,,bash,",
    "ok8,Ann,Lee,,,,,,ssh-rsa", "ok9,Ann,Lee", 'ok10,"Ann,Lee,,,,,,', "ok11,Ann\x00,Lee,,,,,,",
]  # fmt: skip


def test_a_thousand_people(core: AccountsCore, vcore: Any, salt: Any) -> None:
    vcore("user_add", "holder", uid=12100)
    header = "name,given_name,surname,mail,telephone,uid,groups,shell,ssh_keys"
    good = [
        f"p{n:04},Given {n},Sur-{n},p{n}@example.org,,,{'sequencing;statistics' if n % 3 == 0 else ''},,"
        for n in range(980)
    ]
    rows = list(good)
    for index, bad in enumerate(BAD):
        rows.insert(49 * (index + 1), bad)
    assert len(rows) == 1000
    file = core.folder / "people.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([header, *rows]).encode())
    before = core.entries()
    planned = vcore("user_import", str(file), test=True)
    assert core.entries() == before
    began = time.monotonic()
    done = vcore("user_import", str(file))
    seconds = time.monotonic() - began
    print(f"980 of 1,000 lines: {seconds:.1f} s")
    assert done == planned
    assert {key: done[key] for key in ("added", "changed", "unchanged", "failed")} == {
        "added": 980, "changed": 0, "unchanged": 0, "failed": 20,
    }  # fmt: skip
    failures = [line for line in done["lines"] if ": failed: " in line]
    assert len(failures) == 20 and len(done["lines"]) == 1000
    for bad, line in zip(BAD, failures, strict=True):
        assert line.isascii() and line.startswith(f"line {rows.index(bad) + 2}: ")
    why = "a name has at most 31 characters of a-z, 0-9, - and _, and begins with a letter"
    assert failures[0] == f"line 51: '../x': failed: {why}"
    entries = core.entries()
    assert len(entries) == len(before) + 980
    numbers = [values["uidNumber"][0] for values in entries.values() if "uidNumber" in values]
    assert len(set(numbers)) == len(numbers)
    assert set(entries[group_dn("statistics")]["memberUid"]) == {f"p{n:04}".encode() for n in range(0, 980, 3)}
    assert len(entries[group_dn("statistics")]["member"]) == 327
    for name in ("p0000", "p0979"):
        assert entries[dn(name)]["pwdReset"] == [b"TRUE"] and (core.homes / name).is_dir()
        core.bind(dn(name), core.first_password(name).read_text())
    assert seconds <= 60

    began = time.monotonic()
    again = vcore("user_import", str(file))
    print(f"again: {time.monotonic() - began:.2f} s")
    assert (again["added"], again["changed"], again["unchanged"], again["failed"]) == (0, 0, 980, 20)
    assert core.entries().keys() == entries.keys()
    file.write_text("name,mail\np0000,other@example.org\np0001,p1@example.org\n")
    assert vcore("user_import", str(file))["lines"] == ["line 2: p0000: changed", "line 3: p0001: unchanged"]
    shown = vcore("user_show", "p0000")
    assert (shown["mail"], shown["given_name"], shown["groups"]) == (
        "other@example.org", "Given 0", ["sequencing", "statistics"],
    )  # fmt: skip

    began = time.monotonic()
    unchanged = salt.states.vcore_account.people_present(SENTENCE)
    print(f"state without changes, {len(numbers)} people: {time.monotonic() - began:.2f} s")
    assert (unchanged.result, unchanged.changes) == (True, {}), unchanged.raw


def test_an_export_is_an_import_without_changes(core: AccountsCore, vcore: Any) -> None:
    core.bind().modify_s(dn("p0003"), [(ldap.MOD_REPLACE, "telephoneNumber", b"=HYPERLINK(1)")])
    file = core.folder / "export.csv"
    vcore("user_export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and "HYPERLINK" not in file.read_text()
    done = vcore("user_import", str(file))
    assert (done["added"], done["changed"], done["failed"]) == (0, 0, 0) and done["unchanged"] > 980
    with pytest.raises(SaltInvocationError, match="line 1"):
        vcore("user_import", "/etc/passwd")
    with pytest.raises(CommandExecutionError, match="No such file"):
        vcore("user_import", "/nonexistent.csv")


def test_an_import_that_was_interrupted_goes_on(core: AccountsCore) -> None:
    content = "\n".join(["name,groups", *(f"q{n:03},resumed" for n in range(70))]).encode()

    def interrupt(done: int, total: int) -> None:
        assert total == 70
        if done >= 50:
            raise KeyboardInterrupt

    with accounts.opened(core.pillar, core.paths) as ours, pytest.raises(KeyboardInterrupt):
        ours.group_add("resumed", {})
        ours.import_csv(content, progress=interrupt)
    with accounts.opened(core.pillar, core.paths) as ours:
        done = ours.import_csv(content)
    assert (done["added"], done["changed"], done["unchanged"], done["failed"]) == (20, 0, 50, 0)
    members = core.entries()[group_dn("resumed")]["memberUid"]
    assert {f"q{n:03}".encode() for n in range(70)} == set(members)
    for name in ("q000", "q049", "q069"):
        core.bind(dn(name), core.first_password(name).read_text())
