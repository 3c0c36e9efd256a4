"""Routes from other file servers: real pulls from a real smbd, and what the states write and refuse.

One container of the file router's image is both: smbd is the other server, and routes.py pulls from it.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import sites
from support.images import build, machine
from vcore.base import secrets
from vcore.file_router import pulls, routes

PASSWORD = "p@ss, wörd"
SITE = """vcore:
  base_directory: {base}
  nodes: {{head: {{roles: [head], address: 10.0.0.1}}}}
  services: {{file-router: {{enabled: true}}, ldap: {{enabled: true}}}}
  routes:
    nas: {{kind: sync, server: 127.0.0.1, source: runs/year one, user: reader, path: seq/nas, every: 1}}
    wall: {{kind: mount, server: 127.0.0.1, source: runs, user: reader}}
"""
SMB_CONF = """[global]
server min protocol = SMB3
smb ports = 445
disable netbios = yes
passdb backend = tdbsam
load printers = no
mangled names = no
log level = 1 auth:3
logging = file
log file = /var/lib/virtual-core/smbd.log
[runs]
path = /srv/runs
read only = yes
valid users = reader
"""
PROGRAM = "/usr/lib/virtual-core/routes.py"


class Router:
    """The container, its folders on this machine, and the site."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder = folder
        self.api = machine()
        self.pillar = sites.pillar(folder, SITE.format(base=folder / "base"))
        volumes = self.pillar["services"]["file-router"]["volumes"]
        self.configuration, self.state, self.data = (
            Path(volumes[name]["source"]) for name in ("configuration", "state", "data")
        )
        self.source, self.secrets = folder / "runs" / "year one", folder / "secrets"
        for path in (self.configuration, self.state / "samba" / "private", self.data, self.source, self.secrets):
            path.mkdir(parents=True)
        for path in (folder, folder / "runs", self.source):
            path.chmod(0o755)
        self.there, self.here = self.source, self.data / "seq" / "nas"
        (self.configuration / "group").write_text("people:x:10000:\n")
        (self.configuration / "passwd").write_text("")
        (self.configuration / "smb.conf").write_text(SMB_CONF)
        binds = {
            self.configuration: "/etc/virtual-core/file-router",
            self.state: "/var/lib/virtual-core",
            self.data: "/data",
            folder / "runs": "/srv/runs",
            self.secrets: "/run/secrets",
        }
        image = build("file-router")
        self.container = self.api.create_container(
            image,
            entrypoint=["tini", "--", "sh", "-c"],
            command=["mkdir -p /run/samba && exec smbd --foreground --no-process-group"],
            host_config=self.api.create_host_config(binds={str(a): {"bind": b} for a, b in binds.items()}),
        )["Id"]
        self.api.start(self.container)

    def settle(self) -> None:
        """Make the account on the other server, and the configuration of pulls."""
        self.run("useradd", "--no-create-home", "reader")
        self.set_password(PASSWORD)
        self.route()

    def set_password(self, password: str) -> None:
        """Set the password on the other server, and here."""
        self.run("sh", "-c", f"printf '%s\\n%s\\n' '{password}' '{password}' | smbpasswd -s -a reader")
        (self.secrets / "route-nas").write_text(password + "\n")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program in the container; return its output."""
        done = subprocess.run(
            ["docker", "exec", self.container, *command], capture_output=True, text=True, timeout=120, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def route(self, settle: int = 60, **changes: object) -> None:
        """Write what is to be pulled, as the state does."""
        wanted = json.loads(routes.configuration(self.pillar))
        wanted["routes"]["nas"].update(settle=settle, **changes)
        (self.configuration / "routes.json").write_text(json.dumps(wanted))

    def pull(self, *more: str) -> dict:
        """Pull once; return the record."""
        output = self.run(PROGRAM, "--pull", "nas", *more, check=False)
        assert "Traceback" not in output, output
        assert PASSWORD not in output
        return {**self.record(), "output": output}

    def record(self) -> dict:
        return json.loads((self.state / "routes" / "nas.json").read_text())

    def put(self, name: str, content: bytes, age: float = 3600) -> Path:
        """Write a file on the other server whose time is ``age`` seconds ago."""
        path = self.there / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def begin(self, size: int) -> tuple[subprocess.Popen, int]:
        """Start a pull and stop it (SIGSTOP) when this much of a file is here; return the client and the process."""
        work = self.data / ".routes" / "nas"
        client = subprocess.Popen(["docker", "exec", self.container, PROGRAM, "--pull", "nas"])
        process = None
        for _ in range(4000):
            if process is None:
                listed = self.api.top(self.container, "-eo pid,args")["Processes"]
                process = next((int(pid) for pid, args in listed if "--pull" in args and "python" in args), None)
            with_part = [path.stat().st_size for path in work.glob("*.part")]
            if process and with_part and max(with_part) >= size:
                os.kill(process, signal.SIGSTOP)
                return client, process
            time.sleep(0.002)
        pytest.fail("the pull did not begin")


@pytest.fixture(scope="module")
def running(tmp_path_factory, checkout):
    folder = tmp_path_factory.mktemp("routes")
    core = Router(folder, checkout)
    try:
        core.settle()
        yield core
    finally:
        core.api.remove_container(core.container, force=True)


@pytest.fixture
def router(running):
    """Yield the router, with nothing on the other server and nothing here."""
    yield running
    for folder in (running.there, running.data):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (running.state / "routes").glob("*"):
        path.unlink()
    running.route()


@pytest.fixture
def pillar(running):
    return running.pillar


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder):
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def test_a_tree_arrives_whole_and_once(router):
    names = ["a.txt", "empty", "lane 1/é-\u00e9.fastq", "lane 1/e\u0301.fastq", "深/x/🧬.bam", ".hidden", "~x$%;'&.txt"]
    for name in names:
        router.put(name, b"" if name == "empty" else os.urandom(3000))
    (router.there / "nothing in it").mkdir()
    first = router.pull()
    assert (first["result"], first["files"], first["encrypted"]) == ("ok", {"done": 7, "todo": 7}, True), first
    assert tree(router.here) == tree(router.there)
    assert (router.here / "nothing in it").is_dir()
    status = (router.here / "a.txt").stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode & 0o7777)) == (0, 10000, "0o640")
    assert status.st_mtime_ns // 1000 == (router.there / "a.txt").stat().st_mtime_ns // 1000
    assert oct((router.here / "lane 1").stat().st_mode & 0o7777) == "0o2750"
    router.put("a.txt", b"another")
    (router.there / "empty").unlink()
    second = router.pull()
    assert second["files"] == {"done": 1, "todo": 1}
    assert (router.here / "a.txt").read_bytes() == b"another"
    assert (router.here / "empty").exists(), "what is deleted there stays here"
    assert router.pull()["files"]["todo"] == 0


def test_a_killed_pull_goes_on_behind_its_last_good_piece(router):
    big = router.put("big.bin", os.urandom(6 * pulls.PIECE + 12345))
    client, process = router.begin(4 * pulls.PIECE)
    assert not (router.here / "big.bin").exists()
    os.kill(process, signal.SIGKILL)
    client.wait(timeout=20)
    (part,) = (router.data / ".routes" / "nas").glob("*.part")
    with part.open("r+b") as stream:
        stream.seek(2 * pulls.PIECE + 77)
        octet = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([octet[0] ^ 1]))
    record = router.pull()
    assert f"goes on at {2 * pulls.PIECE} bytes" in record["output"], "the third piece was spoilt"
    assert record["result"] == "ok"
    assert digest(router.here / "big.bin") == digest(big)
    assert sorted(path.name for path in (router.data / ".routes" / "nas").iterdir()) == ["seen.json"]


def test_a_killed_pull_of_a_file_that_is_another_now_starts_again(router):
    router.put("big.bin", os.urandom(4 * pulls.PIECE))
    client, process = router.begin(2 * pulls.PIECE)
    os.kill(process, signal.SIGKILL)
    client.wait(timeout=20)
    big = router.put("big.bin", os.urandom(4 * pulls.PIECE), age=600)
    record = router.pull()
    assert "goes on" not in record["output"]
    assert digest(router.here / "big.bin") == digest(big)


def test_a_file_that_changes_during_the_pull_never_appears(router):
    big = router.put("big.bin", os.urandom(4 * pulls.PIECE))
    router.put("other", b"x")
    client, process = router.begin(pulls.PIECE)
    with big.open("r+b") as stream:
        stream.write(b"changed")
    os.kill(process, signal.SIGCONT)
    assert client.wait(timeout=60) == 0
    record = router.record()
    assert (record["waiting"], record["files"]) == (1, {"done": 1, "todo": 2})
    assert not (router.here / "big.bin").exists()
    assert (router.here / "other").exists()


def test_a_file_that_was_just_written_waits(router):
    router.put("growing", b"x", age=5)
    router.put("ahead", b"x", age=-86400)  # the other server's clock is ahead
    router.route(settle=3600)
    assert (router.pull()["waiting"], (router.here / "growing").exists()) == (2, False)
    router.route(settle=2)
    time.sleep(2)
    assert router.pull()["waiting"] == 0
    assert (router.here / "ahead").exists()


def test_hostile_names_and_links_lead_nowhere(router, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("good", "line\nbreak", "back\\..\\slash", "sub/inner", "taken", "lie"):
        router.put(name, b"evil")
    (router.there / "sub" / "up").symlink_to("..")
    router.here.mkdir(parents=True)
    # People may write here; links that they planted are not followed.
    (router.here / "sub").symlink_to(outside)
    (router.here / "taken").mkdir()
    (router.here / "lie").symlink_to(outside / "lie")
    record = router.pull()
    assert record["result"] == "ok"
    assert list(outside.iterdir()) == []
    # A server that cannot express such a name lists another one, which is harmless; nothing has left its folder.
    assert {path.name for path in router.data.iterdir()} == {"seq", ".routes"}
    assert {path.name for path in router.here.iterdir()} >= {"good", "sub", "taken", "lie"}
    assert not any("\n" in path.name or "\\" in path.name for path in router.here.rglob("*"))
    skipped = "\n".join(record["skipped"]["examples"])
    assert "sub: there is a file or a link of this name here" in skipped
    assert "taken: what has this name here is no file" in skipped


def test_a_loop_of_folders_ends(router):
    router.put("one/two/file", b"x")
    (router.there / "one" / "two" / "back").symlink_to("../../one")
    record = router.pull()
    assert record["result"] == "ok"
    assert "leads back to a folder above it" in record["skipped"]["examples"][0]
    assert len(tree(router.here)) == 1


def test_two_thousand_small_files(router, record_property):
    for index in range(2000):
        router.put(f"small/{index % 20}/{index}.txt", b"%d" % index * 50)
    began = time.monotonic()
    record = router.pull()
    took = time.monotonic() - began
    assert record["files"] == {"done": 2000, "todo": 2000}
    assert tree(router.here) == tree(router.there)
    record_property("files_per_second", round(2000 / took))
    print(f"{2000 / took:.0f} files/s")
    assert took < 60


def test_a_refused_login_stops_before_the_account_is_locked(router):
    def attempts():
        return (
            (router.state / "smbd.log").read_text(errors="replace").count("FAILED with error NT_STATUS_WRONG_PASSWORD")
        )

    (router.secrets / "route-nas").write_text("wrong")
    before = attempts()
    for _ in range(5):
        record = router.pull()
        assert record["result"] == "refused"
    assert attempts() > before
    tried = attempts() - before
    assert "refused the login of reader 3 times" in record["error"]
    router.pull()
    assert attempts() - before == tried, "nothing is tried any more"
    assert "wrong" not in json.dumps(record)
    assert "refuses the login" in router.pull("--asked")["error"], "a person may try once more"
    (router.secrets / "route-nas").write_text(PASSWORD + "\n")
    assert router.pull()["result"] == "ok"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"server": "127.0.0.2", "port": 446}, "127.0.0.2 does not answer by SMB 3"),
        ({"source": "nothing"}, "the share nothing: "),
        ({"source": "runs/no folder"}, "the folder no folder: "),
        ({"group": "nobodies"}, "there is no group nobodies"),
    ],
)
def test_what_cannot_be_pulled_is_a_sentence(router, change, sentence):
    router.route(**change)
    record = router.pull()
    assert record["result"] == "failed"
    assert record["error"].startswith(sentence)
    assert "\n" not in record["error"]


def test_the_program_pulls_on_its_schedule_and_on_demand(router, loaders):
    router.put("one", b"1")
    client = subprocess.Popen(["docker", "exec", router.container, PROGRAM])

    def until(condition, what):
        for _ in range(200):
            try:
                if condition():
                    return
            except (OSError, KeyError):
                pass
            time.sleep(0.1)
        pytest.fail(what)

    try:
        status = loaders.modules["vcore_route.status"]
        until(lambda: status()["nas"]["state"] == "ok", "the first pull comes at once")
        assert (status()["nas"]["ok"], status()["nas"]["message"]) == (True, "1 files, 1 bytes")
        router.put("two", b"2")
        assert "pulls nas" in loaders.modules["vcore_route.pull"]("nas")
        until(lambda: (router.here / "two").exists(), "a pull on demand comes at once")
        # While it runs, its progress can be seen; removing a route ends it.
        router.put("big.bin", os.urandom(6 * pulls.PIECE))
        loaders.modules["vcore_route.pull"]("nas")
        until(lambda: list((router.data / ".routes" / "nas").glob("*.part")), "the third pull begins")
        listed = router.api.top(router.container, "-eo pid,args")["Processes"]
        (process,) = [int(pid) for pid, args in listed if "--pull nas" in args]
        os.kill(process, signal.SIGSTOP)
        seen = status()["nas"]
        assert (seen["state"], seen["ok"], seen["current"]) == ("running", True, "big.bin"), seen
        (router.configuration / "routes.json").write_text('{"routes": {}}')
        time.sleep(1.2)
        os.kill(process, signal.SIGCONT)
        until(lambda: not (router.state / "routes" / "nas.json").exists(), "its record goes")
        assert not (router.here / "big.bin").exists()
        assert (router.here / "two").exists(), "what was brought stays"
    finally:
        for pid, args in router.api.top(router.container, "-eo pid,args")["Processes"]:
            if PROGRAM in args and "tini" not in args:
                os.kill(int(pid), signal.SIGTERM)
        client.wait(timeout=20)


# --- the states ------------------------------------------------------------------------------------------------------


def test_the_file_router_is_told_what_to_pull(router, plan_and_apply):
    (router.configuration / "routes.json").unlink()
    done = plan_and_apply("vcore_route.configured", name="The file router knows what to pull")
    assert '"nas"' in done.changes["routes.json"]["new"]
    assert PASSWORD not in str(done.changes)


def test_a_kernel_that_cannot_mount_is_a_clear_error(router, loaders, virtual_core):
    if routes.Host(virtual_core, "Debian").kernel_problem("smb") is None:
        pytest.fail("this kernel mounts SMB: the guest's tests are for that, and this one has nothing to see")
    secrets.Store(virtual_core.secrets).write("file-router", "route-wall", b"secret")
    state = loaders.states["vcore_route.mounted"]
    for test in (True, False):
        result = state(name="The routes are mounted", test=test)
        assert (result.result, result.changes) == (False, {})
        assert "route wall: this host's kernel" in result.comment
        assert "has no cifs client" in result.comment
    assert not (router.data / "wall").exists()


def test_a_node_without_the_file_router_keeps_nothing_of_its_routes(router, plan_and_apply, virtual_core):
    host = routes.Host(virtual_core, "Debian")
    wall = routes.mount(
        "wall",
        router.pillar["routes"]["wall"],
        data=str(router.data),
        folder=host.folder,
        password=PASSWORD,
    )
    host.folder.mkdir(parents=True)
    (host.folder / "wall.json").write_text(json.dumps(wall.record()))
    (host.folder / "wall.credentials").write_bytes(wall.credentials)
    Path(wall.target).mkdir(parents=True)
    done = plan_and_apply("vcore_route.absent", name="No routes are mounted here")
    assert done.changes == {"wall": {"old": wall.record(), "new": None}}
    assert not list(host.folder.iterdir())
    assert not Path(wall.target).exists()


def test_a_pull_that_cannot_be_asked_for_is_an_error(router, loaders):
    from salt.exceptions import CommandExecutionError

    with pytest.raises(CommandExecutionError, match="no route wall of kind sync; there are: nas"):
        loaders.modules["vcore_route.pull"]("wall")
