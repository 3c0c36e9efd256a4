"""People and files as people experience them: an account, one password for everything, the same files by SMB and NFS.

The clients, ssh, smbclient and libnfs, are in a container with this machine's network: the site lets its address on the
lab's network mount the shares.
"""

import hashlib
import ipaddress
import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pexpect
import pytest
import sitefile
import yaml
from support.images import build_client

SUFFIX = "dc=vcore,dc=test"
STORE = "/etc/virtual-core/secrets"
SOURCE = "/srv/virtual-core/source"
SSH_PORT = 2022
MEGABYTE = 1024 * 1024
#: The files that both protocols copy.
SMALL_FILES, SMALL_SIZE = 2000, 4096
LARGE_SIZE = 1024 * MEGABYTE


@pytest.fixture(scope="module")
def machine(head):
    """Return the address by which the head sees this machine: the first of the lab's network."""
    return str(ipaddress.ip_network(f"{head.address}/24", strict=False)[1])


@pytest.fixture(scope="module")
def department(head, machine):
    """Apply a site with people, groups, shares and an instrument."""
    site = yaml.safe_load(sitefile.read(head))
    site["vcore"] |= {
        "groups": {"sequencing": {"description": "Sequencing"}},
        "people": {
            "grace": {"given_name": "Grace", "surname": "Hopper", "groups": ["sequencing"]},
            "linus": {"given_name": "Linus", "surname": "Pauling"},
        },
        "shares": {
            "runs": {
                "write": ["@sequencing"],
                "group": "sequencing",
                "nfs": [{"hosts": machine, "access": "rw"}],
            },
            "reference": {
                "read": ["@people"],
                "write": ["grace"],
                "mode": "2775",
                "nfs": [{"hosts": machine, "access": "ro"}],
            },
            "elsewhere": {"read": ["@people"], "nfs": [{"hosts": "192.0.2.1", "access": "rw"}]},
        },
        "instruments": {"novaseq": {"share": "runs"}},
    }
    sitefile.write(head, yaml.safe_dump(site))
    assert sitefile.failed(sitefile.apply(head)) == {}
    return head


def first_password(head, name):
    """Return the password that an administrator hands over."""
    return head.run(["cat", f"{STORE}/first-passwords/{name}"]).stdout.strip()


# --- clients -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Yield ``clients("smbclient", ...)``, the command that runs a program among the clients; they see the tests'
    files.
    """
    folder = tmp_path_factory.getbasetemp()
    options = ["--rm", "--detach", "--network=host", f"--volume={folder}:{folder}"]
    container = subprocess.check_output(["docker", "run", *options, build_client()], text=True).strip()
    yield lambda *command: ["docker", "exec", "--interactive", container, *map(str, command)]
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def on_terminal(clients, *command):
    """Run a program among the clients with a terminal of its own, on which it prompts."""
    script = ["script", "--quiet", "--return", "--command", shlex.join(map(str, command)), "/dev/null"]
    program, *arguments = clients(*script)
    return pexpect.spawn(program, arguments, timeout=30, encoding="utf-8", echo=False)


class Person:
    """A person with a login name and a password, at the clients."""

    def __init__(self, head, clients, folder, name, password):
        self.address, self.clients, self.folder, self.name = head.address, clients, folder, name
        self.authority = folder / "ca.crt"
        self.authority.write_text(head.run(["cat", "/etc/virtual-core/authority/ca.crt"]).stdout)
        self.password = password
        self.known_hosts = folder / "known_hosts"

    def terminal(self, command="", password=None):
        """Open a terminal on the file router, up to ssh's prompt for the password."""
        options = f"-o UserKnownHostsFile={self.known_hosts} -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
        options += " -o NumberOfPasswordPrompts=1 -o PubkeyAuthentication=no -o ConnectTimeout=10"
        login = f"{self.name}@{self.address}"
        session = on_terminal(self.clients, "ssh", *options.split(), "-tt", "-p", str(SSH_PORT), login, command)
        session.expect("[Pp]assword: ?")
        session.sendline(password or self.password)
        return session

    def can_ssh(self, password=None):
        """Return whether ssh lets the person in."""
        session = self.terminal("echo in=yes", password)
        found = session.expect(["in=yes", "[Dd]enied", pexpect.EOF])
        session.close()
        return found == 0

    def smbclient(self, share, password=None):
        """Return the command of smbclient for a share; it reads the password from a file."""
        login = self.folder / "login"
        login.touch(mode=0o600)
        login.write_text(f"username={self.name}\npassword={password or self.password}\n")
        return ["smbclient", f"//{self.address}/{share}", "-A", login, "-m", "SMB3"]

    def smb(self, share, command, password=None, timeout=300):
        """Run smbclient's commands on a share."""
        return subprocess.run(
            self.clients(*self.smbclient(share, password), "-c", command),
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def can_smb(self, password=None):
        """Return whether the file server lets the person in."""
        return self.smb("IPC$", "exit", password).returncode == 0

    def can_ldap(self, password=None):
        """Return whether the directory accepts the password."""
        secret = self.folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(password or self.password)
        who = f"uid={self.name},ou=people,{SUFFIX}"
        done = subprocess.run(
            ["ldapwhoami", "-x", "-o", "nettimeout=5", "-H", f"ldaps://{self.address}", "-y", secret, "-D", who],
            env={**os.environ, "LDAPTLS_CACERT": str(self.authority)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 49), done.stderr
        return done.returncode == 0

    def everywhere(self, password=None):
        """Return where the password is accepted."""
        return {"ssh": self.can_ssh(password), "smb": self.can_smb(password), "ldap": self.can_ldap(password)}


def change_password(person, old, new, timings, name):
    """Change the password on the file router as a person does, answering the prompts; return the output."""
    session = person.terminal("salt-call vcore.sync_password; echo code=$?", old)
    began = time.monotonic()
    for answer in (old, new, new):
        session.expect("assword.*: ?")
        session.sendline(answer)
    answered = time.monotonic()
    session.expect(r"code=(\d+)")
    finished = time.monotonic()
    text, code = session.before, int(session.match[1])
    session.close()
    assert code == 0, text
    timings.record(f"{name}: from the last answer to the end", finished - answered)
    timings.record(f"{name}: from Enter to the end", finished - began)
    return text


@pytest.fixture(scope="module")
def nfs(clients):
    """``nfs("nfs-ls", ...)``: run one of libnfs's programs."""

    def run(*arguments):
        return subprocess.run(clients(*arguments), capture_output=True, check=False, timeout=300)

    return run


@pytest.fixture(scope="module")
def person(department, clients, tmp_path_factory):
    """Return a function that makes a client of a person."""

    def make(name, password):
        return Person(department, clients, tmp_path_factory.mktemp(name), name, password)

    return make


@pytest.fixture(scope="module")
def grace(department, person, timings):
    """Return Grace, after her first login and with a password of her own."""
    grace = person("grace", first_password(department, "grace"))
    own = "first-light-over-Roskilde"
    change_password(grace, grace.password, own, timings, "first password changed")
    grace.password = own
    grace.uid = department.salt_call("vcore.user_show", "grace")["uid"]
    return grace


# --- accounts ----------------------------------------------------------------------------------------------------


def test_a_second_apply_of_people_and_files_changes_nothing(department, timings):
    began = time.monotonic()
    states = sitefile.apply(department)
    timings.record("second apply with people and files, no change", time.monotonic() - began, limit=12)
    assert sitefile.changes(states) == {}
    assert sitefile.failed(states) == {}


def test_everything_is_well_with_people_and_files(department):
    status = department.salt_call("vcore.status")
    assert status["ok"] is True, status["problems"]
    checks = department.salt_call("vcore.doctor")
    assert [check for check in checks if not check["ok"]] == []
    assert any("SMB" in check["check"] for check in checks)


def test_a_new_account_is_used_and_its_password_changed(department, person, timings):
    """An administrator adds the person, who logs in by ssh and changes the password; at once only the new one works."""
    with timings.step("account added"):
        department.salt_call("vcore.user_add", "ida", given_name="Ida", surname="Tacke", groups="sequencing")
    ida = person("ida", first_password(department, "ida"))
    assert ida.can_ssh()
    assert not ida.can_smb(), "a first password opens no share before it is changed"
    change_password(ida, ida.password, "Analytical-Engine-1", timings, "new account, password changed")
    assert ida.everywhere("Analytical-Engine-1") == {"ssh": True, "smb": True, "ldap": True}
    assert ida.everywhere(ida.password) == {"ssh": False, "smb": False, "ldap": False}
    change_password(ida, "Analytical-Engine-1", "Difference-Engine-2", timings, "password changed (ldapsam)")
    assert ida.everywhere("Difference-Engine-2") == {"ssh": True, "smb": True, "ldap": True}
    assert ida.everywhere("Analytical-Engine-1") == {"ssh": False, "smb": False, "ldap": False}
    assert department.salt_call("vcore.password_check", "ida")["in_sync"] is True


def test_a_locked_account_is_shut_out_at_once_and_let_in_again(department, grace):
    department.salt_call("vcore.user_lock", "grace")
    assert grace.everywhere() == {"ssh": False, "smb": False, "ldap": False}
    department.salt_call("vcore.user_unlock", "grace")
    assert grace.everywhere() == {"ssh": True, "smb": True, "ldap": True}


def test_hostile_names_are_refused_with_one_line_each(department):
    """None of these names gets past the shell, Salt and the directory; the functional tests have every kind."""
    whole = "salt-call vcore_directory.search --out=json | sha256sum"
    before = department.run(whole).stdout
    for name in ("../x", "a)(uid=*", "a,ou=people", "a\nb", "\u0430da", "root", "-rf"):
        add = ["salt-call", "--retcode-passthrough", "vcore.user_add", f"name={json.dumps(name)}"]
        done = department.run(add, check=False)
        assert done.returncode != 0, name
        assert "Traceback" not in done.stdout + done.stderr
    assert department.run(whole).stdout == before


def test_a_number_in_use_is_refused(department, grace):
    done = department.run(f"salt-call --retcode-passthrough vcore.user_add twin uid={grace.uid}", check=False)
    assert done.returncode != 0
    assert str(grace.uid) in done.stdout + done.stderr


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(department, grace, tmp_path_factory):
    """Make small files and a large one, a folder for them, and Grace's numbers for NFS."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "small").mkdir()
    for number in range(SMALL_FILES):
        (folder / "small" / f"file-{number:04}").write_bytes(os.urandom(SMALL_SIZE))
    block = os.urandom(MEGABYTE)
    with (folder / "large").open("wb") as stream:
        for number in range(LARGE_SIZE // MEGABYTE):
            stream.write(number.to_bytes(8, "big") + block[8:])
    return folder


@pytest.fixture(scope="module")
def mounted(department, grace):
    """Return ``mounted("runs", "file")``: libnfs's name of a file, for Grace and her group."""
    gid = department.salt_call("vcore.group_show", "sequencing")["gid"]

    def address(share, path):
        return f"nfs://{grace.address}/{share}/{path}?version=4&uid={grace.uid}&gid={gid}"

    return address


def sums(folder):
    """Return the checksums of a folder's files, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_what_is_put_by_smb_is_read_by_nfs_with_the_right_owner(department, grace, mounted, files, nfs):
    (files / "note").write_text("by SMB")
    done = grace.smb("runs", f"put {files}/note note")
    assert done.returncode == 0, done.stdout
    assert nfs("nfs-cat", mounted("runs", "note")).stdout == b"by SMB"
    path = "/srv/virtual-core/data/file-router/data/runs/note"
    assert department.run(["stat", "-c", "%u", path]).stdout.strip() == str(grace.uid)
    (files / "answer").write_text("by NFS")
    assert nfs("nfs-cp", files / "answer", mounted("runs", "answer")).returncode == 0
    assert department.run(["stat", "-c", "%u", path.replace("note", "answer")]).stdout.strip() == str(grace.uid)
    done = grace.smb("runs", f"get answer {files}/back")
    assert (files / "back").read_text() == "by NFS", done.stdout


def test_who_may_only_read_cannot_write_and_strangers_get_nothing(department, person, mounted, files, nfs, timings):
    linus = person("linus", first_password(department, "linus"))
    change_password(linus, linus.password, "Nature-of-the-Bond-3", timings, "first password changed, again")
    linus.password = "Nature-of-the-Bond-3"
    assert linus.smb("reference", "ls").returncode == 0
    assert "NT_STATUS_ACCESS_DENIED" in linus.smb("reference", f"put {files}/note note").stdout
    assert "NT_STATUS_ACCESS_DENIED" in linus.smb("runs", "ls").stdout
    assert nfs("nfs-ls", mounted("reference", "")).returncode == 0
    assert nfs("nfs-cp", files / "note", mounted("reference", "note")).returncode != 0
    assert nfs("nfs-ls", mounted("elsewhere", "")).returncode != 0


def test_an_instrument_writes_its_share_and_does_nothing_else(department, person, files):
    password = department.run(["cat", f"{STORE}/file-router/instrument-novaseq"]).stdout.strip()
    instrument = person("novaseq", password)
    assert instrument.smb("runs", f"put {files}/note from-the-instrument").returncode == 0
    for share in ("reference", "elsewhere", "novaseq", "homes"):
        assert instrument.smb(share, "ls").returncode != 0, share
    assert not instrument.can_ssh()
    assert not instrument.can_ldap()


def test_many_files_and_a_large_one_pass_through_both_ways(grace, clients, mounted, files, nfs, timings):
    """Checksums are equal, and the large file's speed is reported as a ratio to a local copy in the same run."""
    wanted = sums(files / "small")
    with timings.step(f"{SMALL_FILES} small files in, by SMB"):
        done = grace.smb("runs", f"mkdir small; cd small; lcd {files}/small; prompt; mput *", timeout=600)
        assert done.returncode == 0, done.stdout[-2000:]
    (files / "by-nfs").mkdir()
    one = f'nfs-cp "{mounted("runs", "small/@")}" {files}/by-nfs/@ > /dev/null'
    with timings.step(f"{SMALL_FILES} small files out, by NFS, a connection each"):
        fetch = clients("xargs", "-P4", "-I@", "sh", "-c", one)
        subprocess.run(fetch, input="\n".join(wanted), text=True, check=True, timeout=600)
    assert sums(files / "by-nfs") == wanted

    speed = {}

    def timed(what, command):
        began = time.monotonic()
        done = command()
        speed[what] = LARGE_SIZE / MEGABYTE / (time.monotonic() - began)
        assert done.returncode == 0, done.stdout

    timed("local", lambda: nfs("sh", "-c", f"cp {files}/large {files}/copy && sync {files}/copy"))
    (files / "copy").unlink()
    timed("SMB in", lambda: grace.smb("runs", f"put {files}/large large"))
    timed("NFS out", lambda: nfs("nfs-cp", mounted("runs", "large"), files / "copy"))
    assert_same(files / "copy", files / "large")
    timed("NFS in", lambda: nfs("nfs-cp", files / "large", mounted("runs", "large-2")))
    timed("SMB out", lambda: grace.smb("runs", f"get large-2 {files}/copy"))
    assert_same(files / "copy", files / "large")
    for what, value in speed.items():
        timings.report(f"1 GiB, {what}", f"{value:.0f} MB/s, {value / speed['local']:.2f} of a local copy")
    done = grace.smb("runs", "del large; del large-2; deltree small")
    assert done.returncode == 0, done.stdout


def assert_same(one: Path, other: Path):
    """Assert that two files have the same content."""
    first, second = (subprocess.run(["sha256sum", path], capture_output=True, check=True) for path in (one, other))
    assert first.stdout.split()[0] == second.stdout.split()[0]


def test_a_changed_share_cuts_no_session(department, grace, machine):
    """Changes of the site are read while a person is in the middle of something."""
    session = on_terminal(grace.clients, *grace.smbclient("runs"))
    session.expect("smb: ")
    more = {"projects": {"write": ["@sequencing"], "nfs": [{"hosts": machine, "access": "rw"}]}}
    shares = yaml.safe_load(sitefile.read(department))["vcore"]["shares"]
    task = "docker ps --quiet --filter label=com.docker.swarm.service.name=file-router"
    before = department.run(task).stdout
    with sitefile.changed(department, shares=shares | more):
        plan = sitefile.apply(department, test=True)
        done = sitefile.apply(department)
        assert sitefile.changes(plan) == sitefile.changes(done) != {}
        session.sendline("ls")
        session.expect("blocks available")
        assert grace.smb("projects", "ls").returncode == 0
        exports = department.salt_call("vcore.status")["file_router"]["exports"]
        assert {"name": "/projects", "path": "/data/projects", "ok": True} in exports
    sitefile.apply(department)
    session.sendline("ls")
    session.expect("blocks available")
    session.close()
    assert grace.smb("projects", "ls").returncode != 0
    assert department.run(task).stdout == before


def test_a_new_image_brings_a_new_configuration_with_it(department, grace):
    """One apply brings both: the image that will serve the configuration proves it, not the running one."""
    probe = f"{SOURCE}/images/file-router/rootfs/usr/lib/virtual-core/probe.d/20-file-router"
    shares = yaml.safe_load(sitefile.read(department))["vcore"]["shares"]
    image = "docker service inspect file-router -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}'"
    before = department.run(image).stdout
    department.run(f"cp -p {probe} /root/probe && echo '# a change' >> {probe}")
    try:
        with sitefile.changed(department, shares=shares | {"thesis": {"write": ["@sequencing"]}}):
            plan = sitefile.apply(department, test=True)
            done = sitefile.apply(department)
            assert sitefile.changes(plan).keys() == sitefile.changes(done).keys() != set()
            assert department.run(image).stdout != before
            assert grace.smb("thesis", "ls").returncode == 0
            assert sitefile.changes(sitefile.apply(department)) == {}
    finally:
        department.run(f"cp -p /root/probe {probe}")
    sitefile.apply(department)
    assert grace.smb("thesis", "ls").returncode != 0
    assert department.run(image).stdout == before
