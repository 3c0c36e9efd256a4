"""The directory as people, services and administrators meet it: a real slapd in the project's image."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import ldap
import ldap.modlist
import pytest
from Cryptodome.Hash import MD4
from salt.exceptions import SaltInvocationError
from support.directory import ADMINISTRATOR, SUFFIX, Core, build_image, loaders, write_pillar
from support.dockerd import Dockerd
from vcore.base.errors import Unreachable
from vcore.base.secrets import Store
from vcore.directory import client as directory_client
from vcore.directory import entries as directory_entries
from vcore.directory import health as directory_health
from vcore.swarm import specification

READONLY, SAMBA = (f"cn={name},ou=services,{SUFFIX}" for name in ("readonly", "samba"))
ADMINISTRATORS = f"cn=administrators,ou=groups,{SUFFIX}"
#: ada and bob are people, ada with an account for file sharing; carol is one of the administrators.
PEOPLE = {"ada": 10001, "bob": 10002, "carol": 10003}
HASHES = ["userPassword", "sambaNTPassword", "sambaLMPassword", "sambaPasswordHistory", "pwdHistory"]
OWN = ["telephoneNumber", "mobile", "roomNumber", "postalAddress", "description", "preferredLanguage", "jpegPhoto"]
NOT_OWN = {
    "mail": "x@vcore.test",
    "uid": "root",
    "uidNumber": "10666",
    "gidNumber": "10666",
    "homeDirectory": "/home/eve",
    "loginShell": "/bin/x",
    "cn": "x",
    "sn": "x",
    "sambaAcctFlags": "[D          ]",
    "pwdPolicySubentry": f"cn=service,ou=policies,{SUFFIX}",
    "pwdAccountLockedTime": "000001010000Z",
}


def dn(uid: str) -> str:
    return f"uid={uid},ou=people,{SUFFIX}"


def group(cn: str) -> str:
    return f"cn={cn},ou=groups,{SUFFIX}"


def attributes(**values: Any) -> list[tuple[str, list[bytes]]]:
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return ldap.modlist.addModlist({name: [str(v).encode() for v in value] for name, value in lists.items()})


def person(uid: str, number: int, *, samba: bool = False, **more: Any) -> list[tuple[str, list[bytes]]]:
    classes = ["inetOrgPerson", "posixAccount", "shadowAccount"]
    values = {
        "uid": uid,
        "cn": uid.title(),
        "sn": uid.title(),
        "uidNumber": number,
        "gidNumber": 10000,
        "homeDirectory": f"/home/{uid}",
        "loginShell": "/bin/bash",
        "mail": f"{uid}@vcore.test",
    }
    if samba:
        classes.append("sambaSamAccount")
        values |= {"sambaSID": f"S-1-5-21-1-2-3-{2 * number + 1000}", "sambaAcctFlags": "[U          ]"}
    return attributes(objectClass=classes, **(values | more))


def password(uid: str) -> str:
    return f"Initial-of-{uid}-1"


def set_password(admin: ldap.ldapobject.LDAPObject, uid: str) -> None:
    """Set a person's password as if the person had chosen it."""
    admin.passwd_s(dn(uid), None, password(uid))
    admin.modify_s(dn(uid), [(ldap.MOD_REPLACE, "pwdReset", None)])


def populate(core: Core) -> None:
    admin = core.bind()
    for uid, number in PEOPLE.items():
        admin.add_s(dn(uid), person(uid, number, samba=uid == "ada"))
        set_password(admin, uid)
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("carol").encode())])
    admin.unbind_s()


@pytest.fixture(scope="module")
def image() -> str:
    return build_image()


@pytest.fixture(scope="module")
def core(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Yield a running directory with the core's entries and three people."""
    core = Core(tmp_path_factory.mktemp("core"))
    try:
        core.bring_up()
        populate(core)
        yield core
    finally:
        core.remove()


@pytest.fixture
def fresh(image: str, tmp_path: Path) -> Iterator[Core]:
    """Make a directory for one test, not started, with secrets and authority."""
    core = Core(tmp_path)
    core.make_secrets()
    core.make_authority()
    try:
        yield core
    finally:
        core.remove()


def sign_in(core: Core, who: str) -> ldap.ldapobject.LDAPObject:
    """Bind as a person, as a service account, or as the root DN."""
    if who == "root":
        return core.bind()
    if who in directory_entries.SERVICE_ACCOUNTS:
        return core.bind(f"cn={who},ou=services,{SUFFIX}", core.password(who))
    return core.bind(dn(who), password(who))


def allowed(operation: Any, *arguments: Any) -> bool:
    """Return whether the directory carries an operation out; any failure other than a refusal fails the test."""
    try:
        operation(*arguments)
    except (ldap.INSUFFICIENT_ACCESS, ldap.NO_SUCH_OBJECT, ldap.STRONG_AUTH_REQUIRED):
        return False
    return True


def first(connection: ldap.ldapobject.LDAPObject, base: str, names: list[str]) -> dict[str, list[bytes]]:
    return connection.search_s(base, ldap.SCOPE_BASE, "(objectClass=*)", names)[0][1]


# --- who gets in ----------------------------------------------------------------------------------------------------


def test_a_client_needs_tls_the_authority_and_a_name(core: Core) -> None:
    assert core.bind().whoami_s() == f"dn:{ADMINISTRATOR}"
    with pytest.raises(ldap.INAPPROPRIATE_AUTH):
        core.bind("", "")
    address = core.api.inspect_container(core.container)["NetworkSettings"]["IPAddress"]
    socket.create_connection((address, 636), timeout=2).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, 389), timeout=2)
    elsewhere = ldap.initialize(directory_entries.uri(core.pillar))
    elsewhere.set_option(ldap.OPT_X_TLS_CACERTFILE, "/etc/ssl/certs/ca-certificates.crt")
    elsewhere.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
    elsewhere.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    with pytest.raises(ldap.SERVER_DOWN):
        elsewhere.simple_bind_s(ADMINISTRATOR, core.password())


@pytest.mark.parametrize("base", ["", "cn=Subschema", SUFFIX])
def test_without_a_bind_nothing_is_readable(core: Core, base: str) -> None:
    connection = ldap.initialize(directory_entries.uri(core.pillar))
    connection.set_option(ldap.OPT_X_TLS_CACERTFILE, str(core.paths.authority / "ca.crt"))
    connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    with pytest.raises(ldap.UNWILLING_TO_PERFORM, match="authentication required"):
        connection.search_s(base, ldap.SCOPE_BASE, "(objectClass=*)")


@pytest.mark.parametrize(("version", "accepted"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_tls_is_1_2_or_newer(core: Core, version: str, accepted: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(core.paths.authority / "ca.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection(("127.0.0.1", core.port), timeout=5) as plain:
        if accepted:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                assert secured.version() == version.replace("_", ".")
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_container_is_healthy_and_only_root_in_it_is_the_administrator(core: Core) -> None:
    deadline = time.monotonic() + 15
    while (health := core.execute("/sbin/server_health.sh"))[0] and time.monotonic() < deadline:
        time.sleep(0.3)
    assert health == (0, "")
    whoami = "ldapwhoami -Q -Y EXTERNAL -H ldapi:///"
    assert core.execute("sh", "-c", whoami) == (0, f"dn:{ADMINISTRATOR}\n")
    _, output = core.execute(
        "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c",
        f"{whoami}; ldapsearch -Q -LLL -Y EXTERNAL -H ldapi:/// -b {SUFFIX} '(cn=readonly)'",
    )  # fmt: skip
    assert ADMINISTRATOR not in output and "userPassword" not in output and "cn: readonly" not in output, output
    assert core.execute("sh", "-c", "stat -c %U /proc/$(pidof slapd)") == (0, "openldap\n")


# --- who reads and writes what --------------------------------------------------------------------------------------

EVERYBODY = ["ada", "bob", "carol", "readonly", "samba"]


@pytest.mark.parametrize("who", EVERYBODY)
def test_hashes_are_hidden_and_the_rest_of_people_is_not(core: Core, who: str) -> None:
    connection = sign_in(core, who)
    found = dict(connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(objectClass=*)", ["*", "+"]))
    seen = {name for values in found.values() for name in values} & set(HASHES)
    # Samba checks logins for file sharing against this one hash.
    assert seen == ({"sambaNTPassword"} if who == "samba" else set())
    assert found[dn("ada")]["uidNumber"] == [b"10001"]
    assert found[dn("ada")]["mail"] == [b"ada@vcore.test"]
    assert (READONLY in found) == (who in ("carol", "readonly"))
    # A filter on a hash would let somebody who cannot read it guess it.
    guess = connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(userPassword=*)", ["1.1"])
    assert guess == []
    assert core.bind().search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(userPassword=*)", ["1.1"]) != []


@pytest.mark.parametrize("attribute", OWN)
@pytest.mark.parametrize(
    ("who", "target", "may"),
    [
        ("ada", "ada", True),
        ("bob", "ada", False),
        ("carol", "ada", True),
        ("carol", "carol", True),
        ("readonly", "ada", False),
        ("samba", "ada", False),
    ],
)
def test_contact_data(core: Core, who: str, target: str, may: bool, attribute: str) -> None:
    change = [(ldap.MOD_REPLACE, attribute, b"12345")]
    assert allowed(sign_in(core, who).modify_s, dn(target), change) is may
    if may:
        assert first(core.bind(), dn(target), [attribute])[attribute] == [b"12345"]


@pytest.mark.parametrize("who", ["ada", "bob", "readonly"])
def test_identity_is_not_for_people_to_change(core: Core, who: str) -> None:
    connection = sign_in(core, who)
    before = first(core.bind(), dn("ada"), ["*", "+"])
    for name, value in NOT_OWN.items():
        change = [(ldap.MOD_REPLACE, name, value.encode())]
        assert not allowed(connection.modify_s, dn("ada"), change), f"{who} changed {name} of ada"
    with pytest.raises(ldap.CONSTRAINT_VIOLATION, match="no user modification"):
        connection.modify_s(dn("ada"), [(ldap.MOD_ADD, "memberOf", ADMINISTRATORS.encode())])
    assert not allowed(connection.rename_s, dn("ada"), "uid=eve")
    assert not allowed(connection.modify_s, dn("ada"), [(ldap.MOD_ADD, "objectClass", b"extensibleObject")])
    assert not allowed(connection.modify_s, ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("ada").encode())])
    assert not allowed(connection.add_s, dn("eve"), person("eve", 10666))
    assert not allowed(connection.delete_s, dn("bob"))
    assert first(core.bind(), dn("ada"), ["*", "+"]) == before


def test_administrators_manage_people_and_groups_and_no_more(core: Core) -> None:
    carol = sign_in(core, "carol")
    for base, entry in ((dn("dan"), person("dan", 10010)), (group("lab"), attributes(
        objectClass=["posixGroup", "vcoreMemberGroup"], cn="lab", gidNumber=10010, member=dn("ada")
    ))):  # fmt: skip
        carol.add_s(base, entry)
    carol.passwd_s(dn("dan"), None, "Chosen-by-carol-1")
    core.bind(dn("dan"), "Chosen-by-carol-1")
    carol.modify_s(dn("dan"), [(ldap.MOD_REPLACE, "loginShell", b"/bin/sh"), (ldap.MOD_REPLACE, "mail", b"d@x.test")])
    carol.delete_s(group("lab"))
    carol.delete_s(dn("dan"))
    assert not allowed(carol.passwd_s, READONLY, None, "Taken-over-by-carol-1")
    assert not allowed(carol.modify_s, READONLY, [(ldap.MOD_REPLACE, "description", b"x")])
    assert not allowed(carol.modify_s, f"cn=default,ou=policies,{SUFFIX}", [(ldap.MOD_REPLACE, "pwdMinLength", b"1")])
    assert not allowed(carol.add_s, f"ou=more,{SUFFIX}", attributes(objectClass="organizationalUnit", ou="more"))
    assert not allowed(carol.delete_s, f"ou=policies,{SUFFIX}")
    assert not allowed(carol.search_s, "cn=config", ldap.SCOPE_BASE)
    assert not allowed(carol.search_s, "cn=Monitor", ldap.SCOPE_BASE)
    # The file server authenticates with this hash, so it can be set only by changing the password.
    assert not allowed(carol.modify_s, dn("ada"), [(ldap.MOD_REPLACE, "sambaNTPassword", b"0" * 32)])
    assert not allowed(carol.add_s, dn("eve"), person("eve", 10666, samba=True, sambaNTPassword="0" * 32))


def test_no_administrator_makes_an_account_of_the_system(core: Core) -> None:
    carol = sign_in(core, "carol")
    for name, value in {
        "uidNumber": "0", "gidNumber": "0", "homeDirectory": "/etc", "loginShell": "/bin/sh:", "uid": "A B",
    }.items():  # fmt: skip
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            carol.modify_s(dn("ada"), [(ldap.MOD_REPLACE, name, value.encode())])
    for uid, number, more in (("eve", 0, {}), ("eve", 8999, {}), ("../eve", 10030, {"homeDirectory": "/home/eve"})):
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            carol.add_s(dn(uid), person(uid, number, **more))
    for cn, number in (("docker", 0), ("x y", 10030)):
        classes = ["posixGroup", "vcoreMemberGroup"]
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            carol.add_s(group(cn), attributes(objectClass=classes, cn=cn, gidNumber=number))


@pytest.mark.parametrize("number", ["0", "8999", "2000000001", "4294967295", "4294967296", "9999999999"])
def test_numbers_of_people_are_in_range_however_they_come(core: Core, number: str) -> None:
    """Old clients keep only the lower 32 bits, so that 2^32 would be root there."""
    carol, eve = sign_in(core, "carol"), dn("eve")
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        carol.modify_s(dn("ada"), [(ldap.MOD_REPLACE, "uidNumber", number.encode())])
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        carol.modify_s(ADMINISTRATORS, [(ldap.MOD_REPLACE, "gidNumber", number.encode())])
    # An entry that a change turns into an account.
    becoming = {"objectClass": "posixAccount", "uidNumber": number, "gidNumber": "10000", "homeDirectory": "/home/eve"}
    carol.add_s(eve, attributes(objectClass="inetOrgPerson", uid="eve", cn="Eve", sn="Eve"))
    try:
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            carol.modify_s(eve, [(ldap.MOD_ADD, name, value.encode()) for name, value in becoming.items()])
    finally:
        carol.delete_s(eve)


def test_no_administrator_gives_an_identity_of_windows(core: Core) -> None:
    """The file server derives rights from them: 500 and 512 are the domain's administrators, 544 the machine's."""
    carol, domain = sign_in(core, "carol"), "S-1-5-21-1-2-3"
    for sid in (f"{domain}-500", f"{domain}-512", "S-1-5-32-544", "S-1-5-18"):
        for attribute in ("sambaSID", "sambaPrimaryGroupSID"):
            with pytest.raises(ldap.CONSTRAINT_VIOLATION):
                carol.modify_s(dn("ada"), [(ldap.MOD_REPLACE, attribute, sid.encode())])
        mapped = attributes(
            objectClass=["posixGroup", "vcoreMemberGroup", "sambaGroupMapping"], cn="lab", gidNumber=10010,
            sambaSID=sid, sambaGroupType=2,
        )  # fmt: skip
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            carol.add_s(group("lab"), mapped)


def test_instruments_are_the_cores_and_nobody_binds_as_one(core: Core) -> None:
    admin, robot = core.bind(), f"uid=robot,ou=instruments,{SUFFIX}"
    admin.add_s(robot, attributes(
        objectClass=["account", "posixAccount", "sambaSamAccount"], uid="robot", cn="robot", uidNumber=2_000_000_001,
        gidNumber=2_147_000_001, homeDirectory="/nonexistent", userPassword="Robots-1-secret", sambaSID="S-1-5-21-1-77",
        sambaNTPassword="0" * 32, sambaAcctFlags="[U          ]",
    ))  # fmt: skip
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(robot, "Robots-1-secret")
    samba, carol = sign_in(core, "samba"), sign_in(core, "carol")
    assert first(samba, robot, ["sambaNTPassword"]) == {"sambaNTPassword": [b"0" * 32]}
    samba.modify_s(
        robot, [(ldap.MOD_REPLACE, "sambaPwdLastSet", b"1"), (ldap.MOD_REPLACE, "sambaNTPassword", b"1" * 32)]
    )
    for who in ("readonly", "carol"):
        found = first(sign_in(core, who), robot, ["*"])
        assert found["uidNumber"] == [b"2000000001"] and not found.keys() & set(HASHES)
    assert not allowed(sign_in(core, "ada").search_s, robot, ldap.SCOPE_BASE)
    assert not allowed(samba.modify_s, robot, [(ldap.MOD_REPLACE, "uidNumber", b"10666")])
    assert not allowed(samba.add_s, robot.replace("robot", "other"), person("other", 10666))
    assert not allowed(carol.modify_s, robot, [(ldap.MOD_REPLACE, "sambaAcctFlags", b"[D          ]")])
    assert not allowed(carol.delete_s, robot)
    # One name and one number, whatever the kind of account.
    for uid, number in (("robot", 10031), ("eve", 2_000_000_001)):
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            admin.add_s(dn(uid), person(uid, number))
    admin.delete_s(robot)


KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada"


def test_administrators_alone_give_people_ssh_keys(core: Core) -> None:
    add_class = (ldap.MOD_ADD, "objectClass", b"ldapPublicKey")
    sign_in(core, "carol").modify_s(dn("ada"), [add_class, (ldap.MOD_ADD, "sshPublicKey", KEY)])
    change = [(ldap.MOD_REPLACE, "sshPublicKey", b"ssh-ed25519 AAAA eve")]
    for who in ("ada", "bob", "readonly", "samba"):
        assert not allowed(sign_in(core, who).modify_s, dn("ada"), change)
    assert first(sign_in(core, "readonly"), dn("ada"), ["sshPublicKey"]) == {"sshPublicKey": [KEY]}


def test_who_leaves_the_administrators_is_none(core: Core) -> None:
    admin, bob = core.bind(), sign_in(core, "bob")
    change = [(ldap.MOD_REPLACE, "roomNumber", b"1")]
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("bob").encode())])
    assert allowed(bob.modify_s, dn("ada"), change)
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_DELETE, "member", dn("bob").encode())])
    assert not allowed(bob.modify_s, dn("ada"), change)


def test_samba_keeps_its_own_records_and_no_more(core: Core) -> None:
    samba = sign_in(core, "samba")
    for name, value in {
        "sambaBadPasswordCount": b"2",
        "sambaPwdLastSet": b"1",
        "sambaAcctFlags": b"[U          ]",
    }.items():
        samba.modify_s(dn("ada"), [(ldap.MOD_REPLACE, name, value)])
    domain = f"sambaDomainName=VCORE,{SUFFIX}"
    samba.add_s(domain, attributes(objectClass="sambaDomain", sambaDomainName="VCORE", sambaSID="S-1-5-21-1-2-3"))
    samba.modify_s(domain, [(ldap.MOD_REPLACE, "sambaNextRid", b"1000")])
    assert first(sign_in(core, "readonly"), domain, ["sambaSID"])
    assert not allowed(sign_in(core, "ada").search_s, domain, ldap.SCOPE_BASE)
    assert not allowed(samba.add_s, f"ou=more,{SUFFIX}", attributes(objectClass="organizationalUnit", ou="more"))
    assert not allowed(samba.add_s, dn("eve"), person("eve", 10666))
    assert not allowed(samba.modify_s, dn("ada"), [(ldap.MOD_REPLACE, "uidNumber", b"10666")])
    assert not allowed(samba.modify_s, dn("ada"), [(ldap.MOD_REPLACE, "sambaSID", b"S-1-5-21-1-2-3-29999")])
    assert not allowed(samba.modify_s, ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("ada").encode())])
    assert not allowed(samba.passwd_s, READONLY, None, "Taken-over-by-samba-1")
    assert not allowed(samba.delete_s, dn("ada"))


# --- passwords ------------------------------------------------------------------------------------------------------


def temporary_person(core: Core, uid: str, number: int, **more: Any) -> ldap.ldapobject.LDAPObject:
    """Make a person for one test, bound with a first password."""
    admin = core.bind()
    admin.add_s(dn(uid), person(uid, number, **more))
    set_password(admin, uid)
    return core.bind(dn(uid), password(uid))


def test_who_changes_whose_password(core: Core) -> None:
    eva = temporary_person(core, "eva", 10020)
    eva.passwd_s(dn("eva"), password("eva"), "Second-password-2")
    core.bind(dn("eva"), "Second-password-2")
    with pytest.raises(ldap.UNWILLING_TO_PERFORM):
        eva.passwd_s(dn("eva"), "not the old one", "Third-password-3")
    for who in ("ada", "readonly"):
        assert not allowed(sign_in(core, who).passwd_s, dn("eva"), None, f"Set-by-{who}-12345")
    for who in ("carol", "samba"):
        assert allowed(sign_in(core, who).passwd_s, dn("eva"), None, f"Set-by-{who}-12345")
        core.bind(dn("eva"), f"Set-by-{who}-12345")
    with pytest.raises(ldap.INVALID_CREDENTIALS):
        core.bind(dn("eva"), "Second-password-2")
    stored = first(core.bind(), dn("eva"), ["userPassword"])["userPassword"]
    assert len(stored) == 1 and stored[0].startswith(b"{ARGON2}$argon2id$")


def test_a_password_that_another_sets_has_to_be_changed(core: Core) -> None:
    admin, samba = core.bind(), sign_in(core, "samba")
    temporary_person(core, "ina", 10024, samba=True)
    must = ["pwdReset"]
    # Set by the root DN: the same write marks it, and it is good for nothing but changing itself.
    admin.passwd_s(dn("ina"), None, "First-of-ina-1")
    assert first(admin, dn("ina"), must) == {"pwdReset": [b"TRUE"]}
    ina = core.bind(dn("ina"), "First-of-ina-1")
    assert not allowed(ina.search_s, dn("ina"), ldap.SCOPE_BASE)
    assert not allowed(ina.modify_s, dn("ina"), [(ldap.MOD_REPLACE, "roomNumber", b"1")])
    ina.passwd_s(dn("ina"), "First-of-ina-1", "Second-of-ina-2")
    assert first(admin, dn("ina"), must) == {}
    assert allowed(core.bind(dn("ina"), "Second-of-ina-2").search_s, dn("ina"), ldap.SCOPE_BASE)
    # Changed by Samba for its owner: the mark goes, and the policy applies.
    admin.passwd_s(dn("ina"), None, "Third-of-ina-3")
    samba.passwd_s(dn("ina"), None, "Fourth-of-ina-4")
    assert first(admin, dn("ina"), must) == {}
    for refused in ("Third-of-ina-3", "Fourth-of-ina-4", "short"):
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            samba.passwd_s(dn("ina"), None, refused)
    # Set by an administrator in the directory: it is not marked by itself, but administrators may mark it.
    carol = sign_in(core, "carol")
    carol.passwd_s(dn("ina"), None, "Fifth-of-ina-5")
    assert first(admin, dn("ina"), must) == {}
    carol.modify_s(dn("ina"), [(ldap.MOD_REPLACE, "pwdReset", b"TRUE")])
    assert not allowed(core.bind(dn("ina"), "Fifth-of-ina-5").search_s, dn("ina"), ldap.SCOPE_BASE)


def test_every_way_to_set_a_password_ends_in_argon2(core: Core) -> None:
    carol = sign_in(core, "carol")
    carol.add_s(dn("fay"), person("fay", 10021, userPassword="Clear-in-the-add-1"))
    carol.modify_s(dn("fay"), [(ldap.MOD_REPLACE, "userPassword", b"Clear-in-the-modify-1")])
    stored = first(core.bind(), dn("fay"), ["userPassword"])["userPassword"]
    assert stored[0].startswith(b"{ARGON2}")
    hashed = b"{SSHA}" + base64.b64encode(hashlib.sha1(b"Weak-and-hashed-1salt").digest() + b"salt")
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        carol.modify_s(dn("fay"), [(ldap.MOD_REPLACE, "userPassword", hashed)])
    assert first(core.bind(), READONLY, ["userPassword"])["userPassword"][0].startswith(b"{ARGON2}")


def test_policy_length_and_history(core: Core) -> None:
    gil = temporary_person(core, "gil", 10022)
    old = password("gil")
    for index in range(1, 4):
        new = f"Changed-{index}-times"
        gil.passwd_s(dn("gil"), old, new)
        old = new
    for refused in ("Nine-long", password("gil"), "Changed-1-times", old):
        with pytest.raises(ldap.CONSTRAINT_VIOLATION):
            gil.passwd_s(dn("gil"), old, refused)
    # Administrators have to obey the policy, too.
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        sign_in(core, "carol").passwd_s(dn("gil"), None, "short")
    core.bind(dn("gil"), old)


def nt_hash(text: str) -> bytes:
    return MD4.new(text.encode("utf-16-le")).hexdigest().encode()


def test_a_password_change_reaches_samba_in_the_same_operation(core: Core) -> None:
    hal = temporary_person(core, "hal", 10023, samba=True)
    names = ["userPassword", "sambaNTPassword", "sambaPwdLastSet", "shadowLastChange"]
    admin = core.bind()
    before = first(admin, dn("hal"), names)
    assert before["sambaNTPassword"] == [nt_hash(password("hal"))]
    began = int(time.time())
    hal.passwd_s(dn("hal"), password("hal"), "Shared-password-2")
    after = first(admin, dn("hal"), names)
    assert after["sambaNTPassword"] == [nt_hash("Shared-password-2")]
    assert int(after["sambaPwdLastSet"][0]) >= began - 1
    assert int(after["shadowLastChange"][0]) == int(time.time()) // 86400
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        hal.passwd_s(dn("hal"), "Shared-password-2", "short")
    assert first(admin, dn("hal"), names) == after


def test_lockout_counts_ends_and_is_lifted(fresh: Core) -> None:
    fresh.pillar["services"]["ldap"]["settings"] |= {"lockout_failures": 3, "lockout_duration": 2}
    fresh.start()
    with directory_client.open_administrator(fresh.pillar, fresh.paths) as connection:
        directory_client.apply(
            fresh.pillar, fresh.paths, connection, directory_client.plan(fresh.pillar, fresh.paths, connection)
        )
    populate(fresh)

    def lock(who: str, secret: str) -> None:
        for _ in range(3):
            with pytest.raises(ldap.INVALID_CREDENTIALS):
                fresh.bind(who, "wrong")
        with pytest.raises(ldap.INVALID_CREDENTIALS):
            fresh.bind(who, secret)

    lock(dn("ada"), password("ada"))
    carol = sign_in(fresh, "carol")
    assert "pwdAccountLockedTime" in first(carol, dn("ada"), ["pwdAccountLockedTime"])
    assert "pwdAccountLockedTime" not in first(sign_in(fresh, "bob"), dn("ada"), ["+"])
    carol.modify_s(dn("ada"), [(ldap.MOD_DELETE, "pwdAccountLockedTime", None)])
    sign_in(fresh, "ada")
    lock(dn("bob"), password("bob"))
    time.sleep(2.2)
    sign_in(fresh, "bob")
    # Guessing a service account's password must not lock the service out.
    for _ in range(4):
        with pytest.raises(ldap.INVALID_CREDENTIALS):
            fresh.bind(READONLY, "wrong")
    sign_in(fresh, "readonly")


# --- overlays -------------------------------------------------------------------------------------------------------


def eventually(condition: Any) -> None:
    """refint works in the background; memberof and the rest within the operation."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_names_and_numbers_are_unique(core: Core) -> None:
    admin = core.bind()
    admin.add_s(group("taken"), attributes(objectClass="posixGroup", cn="taken", gidNumber=10100))
    admin.add_s(f"ou=more,ou=people,{SUFFIX}", attributes(objectClass="organizationalUnit", ou="more"))
    ada_sid = first(admin, dn("ada"), ["sambaSID"])["sambaSID"][0].decode()
    clashing = {
        dn("ada2"): person("ada2", PEOPLE["ada"]),
        f"uid=ada,ou=more,ou=people,{SUFFIX}": person("ada", 10200),
        dn("ian"): person("ian", 10201, samba=True, sambaSID=ada_sid),
        group("taken2"): attributes(objectClass="posixGroup", cn="taken2", gidNumber=10100),
        group("both"): attributes(objectClass="posixGroup", cn=["both", "taken"], gidNumber=10101),
    }
    for base, entry in clashing.items():
        with pytest.raises(ldap.CONSTRAINT_VIOLATION, match="unique"):
            admin.add_s(base, entry)
    with pytest.raises(ldap.CONSTRAINT_VIOLATION, match="unique"):
        admin.modify_s(dn("bob"), [(ldap.MOD_REPLACE, "uidNumber", str(PEOPLE["ada"]).encode())])
    # A person and a group may share a number, as a person's own group does.
    admin.add_s(group("ada"), attributes(objectClass="posixGroup", cn="ada", gidNumber=PEOPLE["ada"]))


def test_numbers_stay_unique_when_many_add_at_once(core: Core) -> None:
    connections = [core.bind() for _ in range(8)]
    for number in range(10400, 10412):
        sent = [
            (connection, connection.add(dn(f"twin{number}-{index}"), person(f"twin{number}-{index}", number)))
            for index, connection in enumerate(connections)
        ]
        added = 0
        for connection, message in sent:
            with contextlib.suppress(ldap.CONSTRAINT_VIOLATION):
                connection.result(message)
                added += 1
        assert added == 1


def test_member_of_follows_groups_and_references_follow_people(core: Core) -> None:
    admin = core.bind()
    for number, uid in enumerate(("jim", "kay"), 10030):
        admin.add_s(dn(uid), person(uid, number))
    admin.modify_s(dn("kay"), [(ldap.MOD_ADD, "manager", dn("jim").encode())])
    admin.add_s(
        group("team"),
        attributes(
            objectClass=["posixGroup", "vcoreMemberGroup"], cn="team", gidNumber=10300,
            member=[dn("jim"), dn("kay")], memberUid=["jim", "kay"],
        ),
    )  # fmt: skip
    readonly = sign_in(core, "readonly")
    found = readonly.search_s(SUFFIX, ldap.SCOPE_SUBTREE, f"(memberOf={group('team')})", ["memberOf"])
    assert sorted(name for name, _ in found) == [dn("jim"), dn("kay")]
    admin.rename_s(dn("jim"), "uid=jimmy")
    assert set(first(admin, group("team"), ["member"])["member"]) == {dn("jimmy").encode(), dn("kay").encode()}
    eventually(lambda: first(admin, dn("kay"), ["manager"]).get("manager") == [dn("jimmy").encode()])
    admin.delete_s(dn("jimmy"))
    assert first(admin, group("team"), ["member"])["member"] == [dn("kay").encode()]
    eventually(lambda: "manager" not in first(admin, dn("kay"), ["manager"]))
    admin.delete_s(group("team"))
    assert "memberOf" not in first(admin, dn("kay"), ["memberOf"])
    with pytest.raises(ldap.CONSTRAINT_VIOLATION):
        admin.modify_s(ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("nobody").encode())])


# --- configuration and data -----------------------------------------------------------------------------------------


def test_a_changed_configuration_keeps_the_data(fresh: Core) -> None:
    fresh.start()
    with directory_client.open_administrator(fresh.pillar, fresh.paths) as connection:
        directory_client.apply(
            fresh.pillar, fresh.paths, connection, directory_client.plan(fresh.pillar, fresh.paths, connection)
        )
    populate(fresh)
    entries = fresh.bind().search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(objectClass=*)", ["*", "+"])

    # Change settings and add an index; the data were added without it.
    fresh.pillar["services"]["ldap"]["settings"] |= {"log_level": "stats", "database_maximum_size": 2**27}
    changed = fresh.configuration().replace("olcDbIndex: objectClass eq", "olcDbIndex: objectClass,loginShell eq")
    assert changed != fresh.configuration()
    fresh.start(changed)
    assert "the indexes changed" in fresh.logs()
    connection = fresh.bind()
    assert connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(objectClass=*)", ["*", "+"]) == entries
    assert len(connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(loginShell=/bin/bash)")) == len(PEOPLE)
    # The container's log follows the answer, by a moment on a busy machine.
    eventually(lambda: "SRCH base" in fresh.logs())
    assert "index_param failed" not in fresh.logs()
    with directory_client.open_administrator(fresh.pillar, fresh.paths) as client:
        assert directory_health.status(fresh.pillar, client)["database"]["maximum"] == 2**27
        pages = client.read("cn=Database 1,cn=Databases,cn=Monitor", ["olmMDBPagesMax"])
        assert int(pages["olmMDBPagesMax"][0]) * 4096 == 2**27
    fresh.start(changed)
    assert "the indexes changed" not in fresh.logs()

    # The container ends before it touches the data if slapd refuses the configuration, or it is for other data.
    fresh.remove()
    before = {path.name: path.read_bytes() for path in fresh.data.iterdir() if path.name != "lock.mdb"}
    for broken, reason in (
        (changed.replace("olcDbIndex: sambaSID eq,sub", "olcDbIndex: noSuchAttribute eq"), "noSuchAttribute"),
        (changed.replace("by self =xw", "by nobody-knows"), "olcAccess"),
        (changed[: changed.index("olcRootDN:") + 5], "ldap:"),
        (changed.replace(SUFFIX, "dc=other,dc=test"), "belong to the suffix dc=vcore,dc=test"),
    ):
        fresh.start(broken, wait=False)
        assert fresh.exited() != 0
        assert reason in fresh.logs()
        assert {path.name: path.read_bytes() for path in fresh.data.iterdir() if path.name != "lock.mdb"} == before
    fresh.start()
    assert fresh.bind().search_s(SUFFIX, ldap.SCOPE_SUBTREE, "(objectClass=*)", ["*", "+"]) == entries


def test_killed_in_the_first_start(fresh: Core) -> None:
    for delay in (0.2, 0.5, 0.9):
        shutil.rmtree(fresh.data)
        fresh.make_volume()
        fresh.start(wait=False)
        time.sleep(delay)
        fresh.kill()
        fresh.start()
    with directory_client.open_administrator(fresh.pillar, fresh.paths) as connection:
        planned = directory_client.plan(fresh.pillar, fresh.paths, connection)
        part = directory_client.Plan(dict(list(planned.entries.items())[:9]), {}, {})
        assert f"cn=readonly,ou=services,{SUFFIX}" in part.entries
        real = connection.add

        def add_and_kill(name: str, values: Any) -> None:
            real(name, values)
            if name == list(part.entries)[-1]:
                fresh.kill()

        connection.add = add_and_kill
        with pytest.raises(Unreachable):
            directory_client.apply(fresh.pillar, fresh.paths, connection, part)
    fresh.start()
    with directory_client.open_administrator(fresh.pillar, fresh.paths) as connection:
        planned = directory_client.plan(fresh.pillar, fresh.paths, connection)
        assert list(planned.changes()) == list(directory_entries.wanted_entries(fresh.pillar))[9:]
        directory_client.apply(fresh.pillar, fresh.paths, connection, planned)
        assert directory_client.plan(fresh.pillar, fresh.paths, connection).changes() == {}


def test_no_secret_is_visible_from_outside(core: Core) -> None:
    inspected = json.dumps(core.api.inspect_container(core.container)) + json.dumps(
        core.api.history("virtual-core/test-ldap:1")
    )
    arguments = core.execute("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null")[1]
    for name in ("admin", "readonly", "samba"):
        for text in (inspected, arguments, core.logs(), core.configuration()):
            assert core.password(name) not in text


# --- state and module -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Core, Any]]:
    """A bare head, and Salt's loaders on it."""
    core = Core(tmp_path_factory.mktemp("head"))
    try:
        yield core, loaders(core)
    finally:
        core.remove()


def apply_twice(core: Core, salt: Any) -> dict[str, Any]:
    """Apply twice: the plan lists what applying changes, and then nothing is left to change."""
    write_pillar(core)
    state = salt.states.vcore_directory.base_present
    planned = state("The directory has its base entries", test=True)
    assert planned.result is None, planned.raw
    applied = state("The directory has its base entries")
    assert applied.result is True, applied.raw
    assert planned.changes == applied.changes != {}
    for test in (True, False):
        again = state("The directory has its base entries", test=test)
        assert (again.result, again.changes) == (True, {}), again.raw
    assert core.password("readonly") not in json.dumps(applied.raw)
    return applied.changes


def test_state_on_a_bare_head_then_drift(head: tuple[Core, Any]) -> None:
    core, salt = head
    state = salt.states.vcore_directory.base_present
    bare = state("The directory has its base entries", test=True)
    assert bare.result is None and list(bare.changes) == list(directory_entries.wanted_entries(core.pillar))
    core.make_secrets()
    core.make_authority()
    core.start()
    assert apply_twice(core, salt) == bare.changes
    populate(core)

    # What administrators write is theirs ...
    admin = core.bind()
    admin.modify_s(SUFFIX, [(ldap.MOD_ADD, "description", b"ours")])
    admin.modify_s(READONLY, [(ldap.MOD_ADD, "ou", b"infrastructure")])
    admin.modify_s(f"ou=people,{SUFFIX}", [(ldap.MOD_ADD, "objectClass", b"extensibleObject")])
    unchanged = state("The directory has its base entries")
    assert (unchanged.result, unchanged.changes) == (True, {})
    # ... but for what the core owns.
    admin.modify_s(f"cn=default,ou=policies,{SUFFIX}", [(ldap.MOD_REPLACE, "pwdMinLength", b"1")])
    admin.delete_s(f"cn=service,ou=policies,{SUFFIX}")
    admin.passwd_s(SAMBA, None, "Somebody's-own-choice")
    changes = apply_twice(core, salt)
    assert changes == {
        f"cn=default,ou=policies,{SUFFIX}": {"old": {"pwdMinLength": ["1"]}, "new": {"pwdMinLength": ["10"]}},
        f"cn=service,ou=policies,{SUFFIX}": {
            "old": None,
            "new": directory_entries.wanted_entries(core.pillar)[f"cn=service,ou=policies,{SUFFIX}"],
        },
        SAMBA: {"old": {"userPassword": "another one"}, "new": {"userPassword": "the secret ldap/samba-password"}},
    }
    sign_in(core, "samba")
    assert first(core.bind(), SUFFIX, ["description"])["description"] == [b"ours"]
    assert first(core.bind(), ADMINISTRATORS, ["member"])["member"] == [dn("carol").encode()]

    # A changed setting, a rotated secret, and the loss of the file in which the head remembers.
    core.pillar["services"]["ldap"]["settings"] |= {"password_history": 7, "lockout_failures": 0}
    Store(core.paths.secrets).write("ldap", "readonly-password", b"A-new-one-of-readonly")
    changes = apply_twice(core, salt)
    assert set(changes) == {f"cn=default,ou=policies,{SUFFIX}", READONLY}
    assert changes[f"cn=default,ou=policies,{SUFFIX}"]["new"] == {
        "pwdInHistory": ["7"], "pwdMaxFailure": ["0"],
    }  # fmt: skip
    core.bind(READONLY, "A-new-one-of-readonly")
    (core.paths.state / "directory.json").unlink()
    assert state("The directory has its base entries").changes == {}
    assert (core.paths.state / "directory.json").stat().st_mode & 0o777 == 0o600

    # The store has another administrator password than the service.
    secret = core.password()
    Store(core.paths.secrets).write("ldap", "admin-password", b"not rolled out yet")
    refused = state("The directory has its base entries")
    assert refused.result is False and "another administrator password" in refused.comment and not refused.changes
    Store(core.paths.secrets).write("ldap", "admin-password", secret.encode())


def test_a_plan_waits_for_a_rotated_password(head: tuple[Core, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    core, salt = head
    state, store = salt.states.vcore_directory.base_present, Store(core.paths.secrets)
    secret = store.read("ldap", "admin-password")

    def mount(api: docker.APIClient) -> None:
        """Add a service that mounts the stored password; it has no task, the directory itself runs beside it."""
        content = specification.content("ldap", "admin-password", store.read("ldap", "admin-password"))
        name = f"ldap-admin-password-{store.fingerprint(content)}"
        mounted = docker.types.SecretReference(api.create_secret(name, b"x")["ID"], name)
        container = docker.types.ContainerSpec("nothing", secrets=[mounted])
        mode = docker.types.ServiceMode("replicated", replicas=0)
        api.create_service(docker.types.TaskTemplate(container), name="ldap", mode=mode)

    with Dockerd() as daemon:
        monkeypatch.setenv("DOCKER_HOST", daemon.url)
        api = docker.APIClient(base_url=daemon.url, version="auto")
        api.init_swarm(advertise_addr=daemon.address)
        mount(api)
        store.write("ldap", "admin-password", b"rotated")
        try:
            planned = state("The directory has its base entries", test=True)
            assert (planned.result, planned.changes) == (True, {}) and "is rotated in this run" in planned.comment
            assert state("The directory has its base entries").result is False
            # A service that mounts the stored password but does not accept it: no apply can mend that.
            api.remove_service("ldap")
            mount(api)
            assert state("The directory has its base entries", test=True).result is False
        finally:
            store.write("ldap", "admin-password", secret)


def alone(pillar: dict[str, Any]) -> dict[str, Any]:
    """Return the pillar of a core without the directory's web page, which does not run here."""
    return {**pillar, "services": {"ldap": pillar["services"]["ldap"]}}


def test_state_when_the_directory_is_down(head: tuple[Core, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    core, salt = head
    core.remove()
    monkeypatch.setattr(directory_client, "START_TIME", 1.0)
    down = salt.states.vcore_directory.base_present("The directory has its base entries")
    assert down.result is False and down.changes == {}
    assert f"does not answer at ldaps://127.0.0.1:{core.port}" in down.comment and "\n" not in down.comment
    planned = salt.states.vcore_directory.base_present("The directory has its base entries", test=True)
    assert (planned.result, planned.changes) == (True, {}) and "when it runs" in planned.comment
    checks = directory_health.checks(alone(core.pillar), core.paths)
    assert [entry["ok"] for entry in checks] == [False, False, False, True]
    assert all(entry["remedy"] for entry in checks[:3])
    core.start()
    assert salt.states.vcore_directory.base_present("The directory has its base entries").changes == {}


def test_the_steady_state_takes_one_bind(head: tuple[Core, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    core, salt = head
    began = time.monotonic()
    with directory_client.open_administrator(core.pillar, core.paths) as connection:
        monkeypatch.setattr(directory_client, "Directory", None)
        assert directory_client.plan(core.pillar, core.paths, connection).changes() == {}
    print(f"bind and comparison: {1000 * (time.monotonic() - began):.0f} ms")
    monkeypatch.undo()
    unchanged = salt.states.vcore_directory.base_present("The directory has its base entries")
    assert unchanged.result is True
    print(f"state without changes: {unchanged.full_return['duration']} ms")


def test_module(core: Core) -> None:
    module = loaders(core).modules
    assert module["vcore_directory.whoami"]() == ADMINISTRATOR
    found = module["vcore_directory.search"]("(uid=ada)")
    assert list(found) == [dn("ada")] and found[dn("ada")]["uidNumber"] == ["10001"]
    everything = module["vcore_directory.search"](attributes=["*", "+"])
    assert set(everything) > {SUFFIX, dn("ada"), READONLY}
    assert not {name.lower() for values in everything.values() for name in values} & directory_entries.HASHES
    assert "{ARGON2}" not in json.dumps(everything)
    core.bind().modify_s(dn("bob"), [(ldap.MOD_REPLACE, "jpegPhoto", b"\xff\xd8\xff")])
    photo = module["vcore_directory.search"]("(uid=bob)", "jpegPhoto")
    assert photo == {dn("bob"): {"jpegPhoto": ["base64:/9j/"]}}
    with pytest.raises(SaltInvocationError, match="RFC 4515"):
        module["vcore_directory.search"]("(uid=ada")
    for name in ("userPassword", "SAMBANTPASSWORD", "userPassword;binary"):
        with pytest.raises(SaltInvocationError, match="never returned"):
            module["vcore_directory.search"]("(uid=ada)", [name])
    status = module["vcore_directory.status"]()
    assert status["suffix"] == SUFFIX and status["entries"]["people"] >= len(PEOPLE)
    assert status["entries"]["services"] == len(directory_entries.SERVICE_ACCOUNTS)
    assert 0 < status["database"]["used"] < 2**20 and status["database"]["maximum"] == 4 * 2**30
    assert status["policy"]["pwdMinLength"] == "10"


def test_doctor_checks(core: Core) -> None:
    checks = directory_health.checks(alone(core.pillar), core.paths)
    assert len(checks) == 4
    assert all(set(entry) == {"check", "ok", "saw", "remedy"} and entry["ok"] for entry in checks), checks
