"""People of the core log in by ssh, for real: on a host that is not under Salt, and on the head itself."""

import json
import re

import pytest
import sitefile
import yaml

SUFFIX = "dc=vcore,dc=test"
PASSWORD = "Quiet-harbour-27"
BUNDLE = "virtual-core-logins-debian"
#: The files that configure a system, except those that apt and ld.so keep for themselves.
CONFIGURATION = (
    "find /etc /var/lib/pam /usr/share/pam-configs ! -type d ! -name 'ld.so.cache' ! -name '*-' ! -path '/etc/ssl/*' "
    "! -path '/etc/ca-certificates*' ! -path '/etc/.pwd.lock' | sort | xargs -d '\\n' ls -ld --time-style=+ ; "
    "find /etc/nsswitch.conf /etc/pam.d /etc/ssh /etc/hosts /etc/passwd /etc/group /etc/shadow -type f | sort | "
    "xargs sha256sum"
)


def install(host, *packages):
    host.run(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "
        + " ".join(packages),
        timeout=600,
    )


def in_directory(head, program, ldif):
    """Run an LDAP program as root in the directory's container, which makes it the administrator."""
    container = "$(docker ps --quiet --filter label=com.docker.swarm.service.name=ldap)"
    return head.run(f"docker exec -i {container} {program} -Q -Y EXTERNAL -H ldapi:///", input=ldif)


@pytest.fixture(scope="module")
def person(head, client):
    """Make a person of the core, in one group and not in another, whose key is on the client."""
    install(client, "openssh-server", "openssh-client", "sshpass")
    client.run("test -f /root/key || ssh-keygen -q -N '' -t ed25519 -f /root/key")
    key = client.run("cat /root/key.pub").stdout.strip()
    dn = f"uid=lovelace,ou=people,{SUFFIX}"
    classes = "".join(
        f"objectClass: {name}\n" for name in ("inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey")
    )
    in_directory(
        head,
        "ldapadd",
        f"dn: {dn}\n{classes}uid: lovelace\ncn: Lovelace\nsn: Lovelace\nuidNumber: 59001\ngidNumber: 10000\n"
        f"homeDirectory: /home/lovelace\nloginShell: /bin/bash\nsshPublicKey: {key}\nuserPassword: {PASSWORD}\n\n"
        f"dn: cn=engines,ou=groups,{SUFFIX}\nobjectClass: posixGroup\nobjectClass: vcoreMemberGroup\ncn: engines\n"
        f"gidNumber: 59001\nmemberUid: lovelace\nmember: {dn}\n\n"
        f"dn: cn=others,ou=groups,{SUFFIX}\nobjectClass: posixGroup\nobjectClass: vcoreMemberGroup\ncn: others\n"
        "gidNumber: 59002\n",
    )
    # A password that somebody else has set must be changed before it lets in.
    in_directory(head, "ldapmodify", f"dn: {dn}\nchangetype: modify\nreplace: pwdReset\n")
    yield "lovelace"
    gone = (dn, *(f"cn={group},ou=groups,{SUFFIX}" for group in ("engines", "others")))
    in_directory(head, "ldapmodify", "\n".join(f"dn: {each}\nchangetype: delete\n" for each in gone))


def by_password(client, who, address, password=PASSWORD):
    options = "-o StrictHostKeyChecking=no -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=1"
    return client.run(f"sshpass -d 0 ssh {options} {who}@{address} 'id; pwd'", input=f"{password}\n", check=False)


def by_key(client, who, address):
    options = "-o StrictHostKeyChecking=no -o BatchMode=yes -i /root/key"
    return client.run(f"ssh {options} {who}@{address} 'id; pwd'", check=False)


def bundle(head, client, groups):
    """Have the head write a bundle; copy it to the client and unpack it there."""
    head.run(f"salt-run --out=json vcore.client_bundle os=debian groups={groups}")
    assert head.run(f"stat -c '%a %U' /root/{BUNDLE}.tar.gz").stdout.split() == ["600", "root"]
    encoded = head.run(f"base64 /root/{BUNDLE}.tar.gz").stdout
    client.run(f"umask 077; cd /root && base64 -d > {BUNDLE}.tar.gz && tar xzf {BUNDLE}.tar.gz", input=encoded)


def test_a_bundle_is_asked_for_with_the_choices(head):
    for arguments, says in {
        "": "there are:\n  debian ",
        "os=debain": "did you mean debian?",
        "os=debian groups=engine": "the directory has no group 'engine'",
        "os=debian file=relative.tar.gz": "has to be an absolute path",
    }.items():
        done = head.run(f"salt-run vcore.client_bundle {arguments}", check=False)
        assert done.returncode != 0
        assert says in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_a_person_logs_in_on_a_host_that_is_not_under_salt(head, client, person, timings):
    before = client.run(CONFIGURATION).stdout
    assert by_password(client, person, client.address).returncode != 0
    bundle(head, client, "engines")
    with timings.step("logins: a bundle is installed", limit=120):
        client.run(f"/root/{BUNDLE}/install", timeout=300)
    for done in (by_password(client, person, client.address), by_key(client, person, client.address)):
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("uid=59001(lovelace) gid=10000(people) groups=10000(people),59001(engines)")
        assert done.stdout.endswith("/home/lovelace\n")
    assert by_password(client, person, client.address, "wrong").returncode != 0
    assert client.run("systemctl is-enabled sssd").stdout == "enabled\n"
    assert client.run("systemctl --failed --plain --no-legend").stdout == ""
    client.run("/var/lib/virtual-core-logins/undo", timeout=300)
    assert client.run("id lovelace", check=False).returncode != 0
    assert client.run(CONFIGURATION).stdout.splitlines() == before.splitlines()
    client.run(f"rm -rf /root/{BUNDLE}* /home/lovelace")


def test_a_person_logs_in_on_the_head(head, client, person, timings):
    install(head, "openssh-server")
    own = yaml.safe_load(sitefile.read(head))["vcore"]["nodes"]["head"]

    def let_in(group):
        return sitefile.changed(head, nodes={"head": {**own, "logins": {"groups": [group]}}})

    with let_in("engine"):
        refused = sitefile.failed(sitefile.apply(head, test=True, check=False))
        assert "the directory has no group 'engine'; did you mean engines?" in str(refused)
    with let_in("engines"):
        plan = sitefile.apply(head, test=True)
        with timings.step("logins: applied on the head"):
            done = sitefile.apply(head)
        assert sitefile.changes(plan) == sitefile.changes(done) != {}
        # In nothing that Salt returns and keeps.
        secret = head.run("cat /etc/virtual-core/secrets/ldap/readonly-password").stdout
        assert secret not in json.dumps(plan) + json.dumps(done)
        for login in (by_password(client, person, head.address), by_key(client, person, head.address)):
            assert login.returncode == 0, login.stderr
    with let_in("others"):
        assert sitefile.changes(sitefile.apply(head)) != {}
        for login in (by_password(client, person, head.address), by_key(client, person, head.address)):
            assert login.returncode != 0
        assert sitefile.changes(sitefile.apply(head)) == {}
    plan = sitefile.apply(head, test=True)
    done = sitefile.apply(head)
    assert sitefile.changes(plan) == sitefile.changes(done) != {}
    assert sitefile.changes(sitefile.apply(head)) == {}
    assert head.run("id lovelace", check=False).returncode != 0
    assert head.run("dpkg --list sssd-common | grep ^ii", check=False).returncode != 0
    assert not re.search(r"\bsss\b", head.run("cat /etc/nsswitch.conf /etc/pam.d/common-*").stdout)
    assert head.run("systemctl --failed --plain --no-legend").stdout == ""
