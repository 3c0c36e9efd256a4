"""A dump of a real slapd that is at work, and putting it back, by the commands for people."""

from __future__ import annotations

import json
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap
import ldap.modlist
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support.directory import SUFFIX, Core, build_image, loaders
from vcore.base.errors import VcoreError
from vcore.directory import backup

PEOPLE = f"ou=people,{SUFFIX}"
GROUP = f"cn=administrators,ou=groups,{SUFFIX}"


def dn(uid: str) -> str:
    return f"uid={uid},{PEOPLE}"


def add(connection: ldap.ldapobject.LDAPObject, uid: str) -> None:
    person = {"objectClass": [b"inetOrgPerson"], "cn": [b"x"], "sn": [b"x"], "uid": [uid.encode()]}
    connection.add_s(dn(uid), ldap.modlist.addModlist(person))


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """A directory with ada, who has chosen a password, and is an administrator; and bob, who was moved."""
    build_image()
    core = Core(tmp_path_factory.mktemp("core"))
    try:
        core.bring_up()
        connection = core.bind()
        add(connection, "ada")
        connection.passwd_s(dn("ada"), None, "Initial-of-ada-1")
        core.bind(dn("ada"), "Initial-of-ada-1").passwd_s(dn("ada"), "Initial-of-ada-1", "Chosen-by-ada-1")
        connection.modify_s(GROUP, [(ldap.MOD_ADD, "member", dn("ada").encode())])
        add(connection, "robert")
        connection.rename_s(dn("robert"), "uid=bob")
        yield core
    finally:
        core.remove()


@pytest.fixture(scope="module")
def salt(core: Core) -> Any:
    return loaders(core).modules


@pytest.fixture
def dump(core: Core, salt: Any, tmp_path: Path) -> Path:
    salt["vcore.backup_dump"](folder=str(tmp_path / "dump"))
    return tmp_path / "dump"


def entries(core: Core) -> list[bytes]:
    """Everything that the directory holds, as slapcat prints it."""
    code, text = core.execute("slapcat", "-F", "/etc/ldap/slapd.d", "-n", "1")
    assert code == 0
    return backup.records(text.encode())


def dumped(dump: Path) -> list[bytes]:
    return backup.records((dump / "directory" / "data.ldif").read_bytes())


def pid(core: Core) -> str:
    return core.execute("pgrep", "-x", "slapd")[1]


def beside(core: Core) -> Path:
    return core.data / ".put-back"


def is_untouched(core: Core, before: tuple[str, list[bytes]]) -> bool:
    return (pid(core), entries(core)) == before


def test_a_dump_is_secret_and_says_what_it_is(core: Core, salt: Any, dump: Path) -> None:
    modes = {path.relative_to(dump).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in dump.rglob("*")}
    assert stat.S_IMODE(dump.stat().st_mode) == 0o700
    assert modes == {
        "manifest.json": 0o600, "directory": 0o700, "directory/data.ldif": 0o600, "directory/facts.json": 0o600,
    }  # fmt: skip
    text = (dump / "directory" / "data.ldif").read_text()
    for kept in ("userPassword", "entryUUID", "entryCSN", "pwdHistory", "memberOf", "creatorsName"):
        assert f"\n{kept}:" in text
    assert dumped(dump) == entries(core)
    told = salt["vcore.backup_check"](folder=str(dump))
    assert (told["domain"], [part["state"] for part in told["parts"]]) == ("vcore.test", ["whole"])
    with pytest.raises(CommandExecutionError, match="exists already"):
        salt["vcore.backup_dump"](folder=str(dump))
    with pytest.raises(SaltInvocationError, match="whole path"):
        salt["vcore.backup_dump"](folder="dump")


def test_a_dump_while_people_are_changed_is_one_moment(core: Core, salt: Any, tmp_path: Path) -> None:
    """Each of 20 changes adds a person: the dump has the first ones, and no other."""
    began = threading.Event()

    def change() -> None:
        connection = core.bind()
        for number in range(20):
            add(connection, f"late{number}")
            began.set()

    changes = threading.Thread(target=change)
    changes.start()
    began.wait(30)
    salt["vcore.backup_dump"](folder=str(tmp_path / "dump"))
    changes.join(60)
    text = (tmp_path / "dump" / "directory" / "data.ldif").read_text()
    late = [int(number) for number in re.findall(r"^uid: late(\d+)$", text, re.MULTILINE)]
    assert late == list(range(len(late))) and late
    salt["vcore.backup_put_back"](folder=str(tmp_path / "dump"))
    assert entries(core) == dumped(tmp_path / "dump")


def test_a_changed_directory_is_as_it_was_and_twice_is_safe(core: Core, salt: Any, dump: Path) -> None:
    connection = core.bind()
    add(connection, "eve")
    connection.delete_s(dn("bob"))
    connection.passwd_s(dn("ada"), None, "Another-for-ada-1")
    changed = (pid(core), entries(core))
    plan = salt["vcore.backup_put_back"](folder=str(dump), test=True)
    assert [part["state"] for part in plan["parts"]] == ["would be put back"]
    assert is_untouched(core, changed)
    for _ in range(2):
        told = salt["vcore.backup_put_back"](folder=str(dump))
        assert [part["state"] for part in told["parts"]] == ["put back"]
        assert entries(core) == dumped(dump)
        assert not beside(core).exists()
    core.bind(dn("ada"), "Chosen-by-ada-1")
    assert core.execute("/sbin/server_health.sh")[0] == 0


def test_an_emptied_directory_gets_everything(core: Core, salt: Any, dump: Path) -> None:
    core.remove()
    shutil.rmtree(core.data)
    core.make_volume()
    core.start()
    with pytest.raises(CommandExecutionError, match="no entries"):
        salt["vcore.backup_dump"](folder=str(dump.parent / "nothing"))
    assert not any(path.name.endswith("nothing") or "nothing" in path.name for path in dump.parent.iterdir())
    salt["vcore.backup_put_back"](folder=str(dump))
    assert entries(core) == dumped(dump)
    core.bind(dn("ada"), "Chosen-by-ada-1")
    core.start()
    assert entries(core) == dumped(dump)
    (member,) = core.bind().search_s(dn("ada"), ldap.SCOPE_BASE, attrlist=["memberOf"])
    assert member[1]["memberOf"] == [GROUP.encode()]
    # What the overlays keep up is kept up for entries that came back, too.
    connection = core.bind()
    connection.modify_s(GROUP, [(ldap.MOD_DELETE, "member", dn("ada").encode())])
    assert connection.search_s(dn("ada"), ldap.SCOPE_BASE, attrlist=["memberOf"]) == [(dn("ada"), {})]
    connection.modify_s(GROUP, [(ldap.MOD_ADD, "member", dn("ada").encode())])


def edit(dump: Path, change: Any) -> None:
    manifest = json.loads((dump / "manifest.json").read_text())
    change(manifest)
    (dump / "manifest.json").write_text(json.dumps(manifest))


def damage(dump: Path, how: str) -> None:
    data = dump / "directory" / "data.ldif"
    if how == "a bit":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "cut off":
        data.write_bytes(data.read_bytes()[:-100])
    elif how == "missing":
        data.unlink()
    elif how == "no manifest":
        (dump / "manifest.json").unlink()
    else:
        edit(dump, lambda manifest: manifest["core"].update(domain="other.test"))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("a bit", "directory/data.ldif has another content than was written"),
        ("cut off", r"directory/data.ldif has \d+ bytes instead of \d+"),
        ("missing", "directory/data.ldif is missing"),
        ("no manifest", "it has no manifest.json"),
        ("elsewhere", "it is of other.test, and this core is vcore.test"),
    ],
)
def test_a_damaged_dump_is_refused_and_nothing_changes(core: Core, salt: Any, dump: Path, how: str, says: str) -> None:
    before = (pid(core), entries(core))
    damage(dump, how)
    with pytest.raises(CommandExecutionError, match=rf"cannot be used: .*{says}.*Nothing was changed") as refused:
        salt["vcore.backup_put_back"](folder=str(dump))
    assert "\n" not in str(refused.value)
    assert is_untouched(core, before)
    if how != "elsewhere":
        with pytest.raises(CommandExecutionError, match=says):
            salt["vcore.backup_check"](folder=str(dump))


def test_data_that_slapd_does_not_accept_are_refused_while_it_runs(core: Core, salt: Any, dump: Path) -> None:
    """Of another schema, say; the hashes are right."""
    data = dump / "directory" / "data.ldif"
    data.write_bytes(data.read_bytes().replace(b"objectClass: inetOrgPerson", b"objectClass: inetOrgThing1"))
    from vcore.backup import parts

    edit(dump, lambda manifest: manifest["parts"]["directory"].update(files=parts.describe(dump / "directory")))
    before = (pid(core), entries(core))
    with pytest.raises(CommandExecutionError, match=r"the directory is as it was.*slapd does not accept"):
        salt["vcore.backup_put_back"](folder=str(dump))
    assert is_untouched(core, before)


def test_what_cannot_be_proven_brings_the_old_data_back(
    core: Core, salt: Any, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(core.bind(), "frank")
    before = entries(core)
    seen = []

    def refuse(*_: Any) -> None:
        seen.append(entries(core))
        raise VcoreError("it lacks an entry")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "prove", refuse)
        with pytest.raises(CommandExecutionError, match="it lacks an entry; the old data are in place again"):
            salt["vcore.backup_put_back"](folder=str(dump))
    assert seen == [dumped(dump)]
    core.wait()
    assert entries(core) == before
    core.bind().delete_s(dn("frank"))


def test_a_put_back_that_was_cut_off_is_made_up_for(core: Core, salt: Any, dump: Path) -> None:
    """The container dies behind the exchange, before anybody has looked; the old data are kept until somebody has."""
    add(core.bind(), "grace")
    with (dump / "directory" / "data.ldif").open("rb") as stream:
        data = stream.read()
    service = backup.container(core.pillar)
    backup.containers.read_output(service, [backup.PROGRAM, "load"], "load", data=data)
    backup.containers.read_output(service, [backup.PROGRAM, "take"], "take")
    core.kill()
    core.start()
    assert entries(core) == dumped(dump)
    assert (beside(core) / "old" / "data.mdb").exists()
    salt["vcore.backup_put_back"](folder=str(dump))
    assert entries(core) == dumped(dump)
    assert not beside(core).exists()


def test_a_directory_of_another_suffix_or_none_that_runs(core: Core, salt: Any, dump: Path) -> None:
    settings = core.pillar["services"]["ldap"]["settings"]
    before, kept = (pid(core), entries(core)), settings["suffix"]
    settings["suffix"] = "dc=other,dc=test"
    try:
        with pytest.raises(VcoreError, match=f"the data of {SUFFIX}, and this directory is dc=other"):
            backup.PARTS[0].put_back(core.pillar, core.paths, dump / "directory")
    finally:
        settings["suffix"] = kept
    assert is_untouched(core, before)
    core.remove()
    with pytest.raises(CommandExecutionError, match="the directory does not run on this node"):
        salt["vcore.backup_put_back"](folder=str(dump))
    core.start()
