"""Bundles for hosts that are not under Salt: Debian hosts, a real slapd, real PAM, ssh and packages."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ldap
import ldap.modlist
import pytest
from support.containers import execute
from support.directory import SUFFIX, Core, build_image
from support.images import DEBIAN, machine
from vcore.logins import bundles

IMAGE = "virtual-core/test-logins:1"
#: The packages are in the image but not installed: install finds them without the network.
DOCKERFILE = f"""
FROM {DEBIAN}
RUN rm -f /etc/apt/apt.conf.d/docker-* && apt-get -qq update \\
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \\
        openssh-server openssh-client pamtester >/dev/null \\
    && for set in "sssd-ldap libnss-sss libpam-sss sssd-tools cracklib-runtime" "nslcd libnss-ldapd libpam-ldapd"; do \\
        apt-get -qq install --no-install-recommends --download-only $set ldap-utils; done \\
    && ssh-keygen -q -N '' -t ed25519 -f /root/key && mkdir -p /run/sshd \\
    && useradd -m -s /bin/bash local && echo local:Local-password-1 | chpasswd
"""
#: Besides ada, who may log in: bob is in no group, carol is locked, dora has to change her first password.
PEOPLE = {"ada": 10001, "bob": 10002, "carol": 10003, "dora": 10004}


def password(uid: str) -> str:
    return f"Password-of-{uid}-1"


class Host:
    """A plain Debian host: a container without systemd."""

    def __init__(self) -> None:
        self.api = machine()
        # A shell reaps the daemons' zombies, for which init scripts wait.
        command = ["sh", "-c", "sleep 3600; :"]
        self.container = self.api.create_container(IMAGE, command, host_config=self.api.create_host_config())
        self.api.start(self.container)

    def run(self, command: str, *, data: str = "") -> tuple[int, str]:
        """Run a command in sh as root; return exit code and output. ``data`` is standard input."""
        line = f"printf %s {shlex.quote(data)} | ( {command} )" if data else command
        return execute(self.api, self.container, "sh", "-c", line)

    def must(self, command: str, **more: str) -> str:
        code, output = self.run(command, **more)
        assert code == 0, f"`{command}` exits with {code}:\n{output}"
        return output

    def login(self, uid: str, secret: str | None = None, *, service: str = "sshd") -> tuple[int, str]:
        """Run the PAM conversation of a login with a password, up to the end of the session."""
        line = f"pamtester {service} {uid} authenticate acct_mgmt open_session close_session"
        return self.run(line, data=(password(uid) if secret is None else secret) + "\n")

    def ssh(self, uid: str) -> tuple[int, str]:
        """Log in by ssh with the key that the directory has."""
        return self.run(f"ssh -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=no {uid}@127.0.0.1 'id -un; pwd'")

    def files(self) -> dict[str, str]:
        """Return checksums, modes and owners of all files that configure a system."""
        find = "find etc var/lib/pam usr/share/pam-configs -type f ! -name 'ld.so.cache' ! -name '*-'"
        found = self.must(f"cd / && {find} -printf '%m:%U:%G  %p\\n' && {find} -exec sha256sum {{}} +")
        known: dict[str, str] = {}
        for line in found.splitlines():
            value, name = line.split("  ", 1)
            known[name] = known.get(name, "") + value
        return known


def differences(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """Return the files that differ or exist on one side only."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    build_image()
    core = Core(tmp_path_factory.mktemp("core"))
    try:
        core.bring_up()
        yield core
    finally:
        core.remove()


@pytest.fixture(scope="module")
def image(core: Core) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(DOCKERFILE)
        command = ["docker", "build", "--quiet", "--tag", IMAGE, folder]
        done = subprocess.run(
            command,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return IMAGE


def populate(core: Core, key: str) -> None:
    admin = core.bind()
    for uid, number in PEOPLE.items():
        values = {
            "objectClass": ["inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey"],
            "uid": [uid],
            "cn": [uid.title()],
            "sn": [uid.title()],
            "uidNumber": [str(number)],
            "gidNumber": ["10000"],
            "homeDirectory": [f"/home/{uid}"],
            "loginShell": ["/bin/bash"],
            "sshPublicKey": [key],
        }
        if uid == "carol":
            values["shadowExpire"] = ["1"]
        entry = {name: [value.encode() for value in several] for name, several in values.items()}
        dn = f"uid={uid},ou=people,{SUFFIX}"
        admin.add_s(dn, ldap.modlist.addModlist(entry))
        admin.passwd_s(dn, None, password(uid))
        # A password that somebody else set has to be changed; only dora has not done so.
        admin.modify_s(dn, [(ldap.MOD_REPLACE, "pwdReset", b"TRUE" if uid == "dora" else None)])
    # People who manage groups in the directory must not become root on hosts by that.
    for name, number, members in (("genomics", 10001, ["ada", "carol", "dora"]), ("sudo", 10002, ["ada"])):
        group = {
            "objectClass": [b"posixGroup", b"vcoreMemberGroup"],
            "cn": [name.encode()],
            "gidNumber": [str(number).encode()],
            "memberUid": [uid.encode() for uid in members],
            "member": [f"uid={uid},ou=people,{SUFFIX}".encode() for uid in members],
        }
        admin.add_s(f"cn={name},ou=groups,{SUFFIX}", ldap.modlist.addModlist(group))
    admin.unbind_s()


@pytest.fixture(scope="module")
def people(core: Core, image: str) -> Core:
    host = Host()
    try:
        populate(core, host.must("cat /root/key.pub").strip())
    finally:
        host.api.remove_container(host.container, force=True)
    return core


@pytest.fixture(scope="module")
def host(people: Core) -> Iterator[Host]:
    host = Host()
    try:
        host.must("/usr/sbin/sshd")
        yield host
    finally:
        host.api.remove_container(host.container, force=True)


def bundle(core: Core, kind: str, host: Host, *, groups: tuple[str, ...] = ("genomics",)) -> str:
    """Make a bundle and unpack it on a host; return its folder."""
    address = core.api.inspect_container(core.container)["NetworkSettings"]["IPAddress"]
    made = bundles.core(core.pillar, (core.paths.authority / "ca.crt").read_text(), core.password("readonly"), groups)
    made = bundles.Core(made.access, address, made.authority, made.password)
    target = core.folder / f"{kind}.tar.gz"
    bundles.write(kind, made, core.paths.checkout, target)
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w") as tar:
        tar.add(target, f"{kind}.tar.gz")
    host.api.put_archive(host.container, "/root", outer.getvalue())
    host.must(f"cd /root && rm -rf virtual-core-logins-{kind} && tar xzf {kind}.tar.gz")
    return f"/root/virtual-core-logins-{kind}"


def test_a_debian_host_with_sssd(people: Core, host: Host) -> None:
    before = host.files()
    folder = bundle(people, "debian", host)
    dry = host.must(f"{folder}/install --dry-run")
    assert "would install the packages: sssd-ldap" in dry
    assert "would write /etc/sssd/sssd.conf (0600)" in dry
    assert differences(before, host.files()) == set()
    assert host.run("test -e /var/lib/virtual-core-logins")[0] == 1

    done = host.must(f"{folder}/install")
    assert "uid=10001(ada) gid=10000(people) groups=10000(people),10001(genomics)" in done
    assert host.must("stat -c '%a %U' /etc/sssd/sssd.conf").split() == ["600", "root"]

    # Who gets in, by password and by key.
    code, said = host.login("ada")
    assert code == 0, said
    assert host.must("stat -c '%U %a' /home/ada").split() == ["ada", "700"]
    assert host.login("ada", "wrong")[0] != 0
    for uid, why in {"bob": "no member", "carol": "locked"}.items():
        code, said = host.login(uid)
        assert code != 0, f"{uid}, {why}, is let in: {said}"
        assert host.ssh(uid)[0] == 255, f"{uid}, {why}, is let in with a key"
    code, said = host.ssh("ada")
    assert (code, said.split()[-2:]) == (0, ["ada", "/home/ada"]), said
    code, said = host.login("dora")
    assert code != 0, "a first password lets somebody in that has to be changed"
    assert host.login("local", "Local-password-1")[0] == 0

    # Groups of the directory have no power on the host, and their members are not listed.
    assert "10002" not in host.must("id ada") and "sudo" not in host.must("id ada")
    assert "ada" not in host.must("getent passwd")

    # Passwords: people are told where to change them, local ones change as always.
    code, said = host.run("pamtester passwd ada chauthtok", data=f"{password('ada')}\nAnother-password-2\n" * 2)
    assert code != 0
    assert "salt-call vcore.sync_password" in said
    new = "Quiet-harbour-27-stone"
    host.must("su -s /bin/sh local -c 'passwd'", data=f"Local-password-1\n{new}\n{new}\n")
    assert host.login("local", new)[0] == 0

    # A second run changes nothing.
    after = host.files()
    host.must(f"{folder}/install")
    assert differences(after, host.files()) == set()

    # Without the directory, people who have logged in before still can, with the right password only.
    people.kill()
    try:
        host.must("sss_cache -E")
        code, said = host.login("ada")
        assert code == 0, said
        assert host.login("ada", "wrong")[0] != 0
        assert host.login("bob")[0] != 0
    finally:
        people.start()

    host.must("/var/lib/virtual-core-logins/undo")
    # Except for the local password that was changed above.
    assert differences(before, host.files()) == {"etc/shadow"}
    assert host.run("id ada")[0] != 0
    assert host.run("test -e /var/lib/virtual-core-logins")[0] == 1
    assert host.run("dpkg --list sssd-common | grep ^ii")[0] != 0
    assert "nothing to undo" in host.must(f"{folder}/undo")


def test_a_debian_host_with_nslcd(people: Core, host: Host) -> None:
    before = host.files()
    folder = bundle(people, "debian-ldapd", host)
    done = host.must(f"{folder}/install")
    assert "uid=10001(ada) gid=10000(people) groups=10000(people),10001(genomics)" in done
    code, said = host.login("ada")
    assert code == 0, said
    assert host.login("ada", "wrong")[0] != 0
    assert host.login("local", "Quiet-harbour-27-stone")[0] == 0
    host.must(
        "mkdir -p -m 700 ~bob/.ssh ~carol/.ssh && cat /root/key.pub | tee ~bob/.ssh/authorized_keys "
        ">~carol/.ssh/authorized_keys && chown -R bob: ~bob && chown -R carol: ~carol"
    )
    for uid, why in {"bob": "no member", "carol": "locked"}.items():
        assert host.login(uid)[0] != 0, f"{uid}, {why}, is let in"
        assert host.ssh(uid)[0] != 0, f"{uid}, {why}, is let in with a key"
    assert "sudo" not in host.must("id ada")
    code, said = host.run("pamtester passwd ada chauthtok", data=f"{password('ada')}\nAnother-password-2\n" * 2)
    assert code != 0
    assert "salt-call vcore.sync_password" in said

    # Later changes of a system file by others stay, and packages that others need by now stay installed.
    host.must(
        "cd /tmp && mkdir -p tool/DEBIAN && printf 'Package: login-tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: "
        "x\\nDescription: x\\nDepends: libnss-ldapd\\n' > tool/DEBIAN/control && dpkg-deb -b tool && dpkg -i tool.deb"
    )
    host.must("echo '# mine' >> /etc/nsswitch.conf")
    said = host.must(f"{folder}/undo 2>&1")
    assert "/etc/nsswitch.conf was changed since" in said
    assert "these packages stay, others need them by now" in said
    assert "login-tool depends on libnss-ldapd" in host.must("cat /var/log/virtual-core-logins-undo.log")
    host.must("dpkg --list libnss-ldapd | grep ^ii && id nslcd")
    names = said.partition("undo.log: ")[2].splitlines()[0]
    host.must(f"apt-get -qq purge login-tool {names} && userdel nslcd")
    assert host.must("tail -n 1 /etc/nsswitch.conf") == "# mine\n"
    assert "ldap" not in host.must("grep -E '^(passwd|group|shadow):' /etc/nsswitch.conf")
    assert differences(before, host.files()) == {"etc/nsswitch.conf"}


def test_a_failure_takes_everything_back(people: Core, host: Host) -> None:
    before = host.files()
    folder = bundle(people, "debian", host)
    host.must(f"printf wrong > {folder}/bind-password")
    code, said = host.run(f"{folder}/install 2>&1")
    assert code == 1
    assert "the directory does not let this host in at ldaps://ldap.vcore.test" in said
    assert differences(before, host.files()) == set()
    assert host.run("test -e /var/lib/virtual-core-logins")[0] == 1
    folder = bundle(people, "rhel9", host)
    code, said = host.run(f"{folder}/install 2>&1")
    assert code == 1
    assert "this bundle is for Red Hat Enterprise Linux 9 or a relative, and this host is 'debian 13'" in said
    assert differences(before, host.files()) == set()


def test_an_installation_that_was_killed_can_be_undone(people: Core, host: Host) -> None:
    before = host.files()
    folder = bundle(people, "debian", host)
    host.must(
        f"setsid {folder}/install >/tmp/out 2>&1 & pid=$!; "
        # apt-get went on from update to install.
        "until grep -qsz '^install$' /proc/[0-9]*/cmdline; do sleep 0.05; done; "
        "kill -9 $pid; while pidof apt-get dpkg >/dev/null; do sleep 0.1; done"
    )
    host.must("dpkg --list ldap-utils | grep ^ii && ! dpkg --list sssd-common")
    host.must(f"{folder}/undo")
    assert host.run("dpkg --list ldap-utils")[0] != 0
    assert differences(before, host.files()) == set()
