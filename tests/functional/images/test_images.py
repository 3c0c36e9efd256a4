"""Images as Docker really builds them, and the registry as Docker and strangers see it.

Uses the machine's own Docker with names of its own, and removes what it made, except the base image and its tarball
(~/.cache/virtual-core), which the next run uses again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import salt.config
from saltfactories.utils.functional import Loaders
from support.containers import execute
from support.cost import least_seconds
from support.images import CACHE, REGISTRY, build
from vcore.base.errors import CommandFailed, Refused, Unreachable, VcoreError
from vcore.base.paths import Paths
from vcore.base.secrets import Store
from vcore.host import docker_client
from vcore.images import builder as images_builder
from vcore.images import registry
from vcore.services.catalogue import load

CHECKOUT = Path(__file__).parents[3]
#: An image without packages: these tests are about building, not about apt.
PROBE = "ARG BASE\nFROM ${BASE}\nCOPY rootfs/ /\nRUN cat /content > /copy\n"
PROGRAM = """[program:main]
command=/bin/sh -c '%s'
autorestart=true
startsecs=3
redirect_stderr=true
stdout_logfile=/dev/fd/1
stdout_logfile_maxbytes=0
"""

pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture(scope="module")
def programs() -> None:
    for program, package in (("mmdebstrap", "mmdebstrap"), ("openssl", "openssl"), ("ssh", "openssh-client")):
        if not shutil.which(program):
            pytest.fail(f"{program} is missing: apt-get install {package}")


@pytest.fixture(scope="module")
def api() -> Any:
    try:
        return docker_client.connect()
    except VcoreError as error:
        pytest.fail(f"{error} (apt-get install docker.io iptables, start dockerd)")


class Head:
    """A head in a folder: a checkout with images of its own beside the project's, a pillar, a registry name."""

    def __init__(self, folder: Path, api: Any, address: str) -> None:
        self.folder, self.api, self.address = folder, api, address
        self.paths = Paths(folder / "checkout", folder / "etc", folder / "state")
        self.paths.images.mkdir(parents=True)
        for name in ("base", "registry"):
            self.paths.images.joinpath(name).symlink_to(CHECKOUT / "images" / name)
        shutil.copy(CHECKOUT / "versions.yaml", self.paths.versions)
        self.paths.state.mkdir()
        CACHE.mkdir(parents=True, exist_ok=True)
        (self.paths.state / "cache").symlink_to(CACHE)
        for user in ("push", "pull"):
            Store(self.paths.secrets).write("registry", user, uuid.uuid4().hex.encode())
        definition = load(CHECKOUT / "salt" / "states" / "services")["registry"].model_dump(mode="json")
        self.pillar: dict[str, Any] = {
            "node": {"name": "head", "roles": ["head"], "address": "127.0.0.1"},
            "registry": address,
            "build": {"source": "mmdebstrap", "mirror": None, "proxy": None, "ca_bundle": None, "refresh": ""},
            "services": {"registry": definition},
        }
        self.loaders: Loaders | None = None

    @property
    def builder(self) -> images_builder.Builder:
        return images_builder.Builder(self.pillar, self.paths, self.api)

    def add(self, name: str, content: str, *, push: bool = True, dockerfile: str = PROBE) -> str:
        """Add an image, used by a service of the same name, to the checkout; return its wanted reference."""
        folder = self.paths.images / name
        (folder / "rootfs").mkdir(parents=True, exist_ok=True)
        (folder / "Dockerfile").write_text(dockerfile)
        (folder / "rootfs" / "content").write_text(content)
        self.pillar["services"][name] = {"image": {"name": name, "push": push}}
        return f"{self.address}/{name}:{images_builder.recipe(name, self.pillar, self.paths).tag}"

    def local(self) -> dict[str, str]:
        """Return the ids of images with this registry name, by the rest of their names."""
        prefix = f"{self.address}/"
        found = {tag: image["Id"] for image in self.api.images() for tag in image["RepoTags"] or ()}
        return {tag.removeprefix(prefix): image for tag, image in found.items() if tag.startswith(prefix)}

    def states(self) -> Any:
        """Return Salt's real loaders for a minion with this head's pillar as it is now."""
        roots = self.folder / "pillar"
        roots.mkdir(exist_ok=True)
        (roots / "top.sls").write_text("base: {'*': [vcore]}\n")
        (roots / "vcore.sls").write_text("#!json\n" + json.dumps({"vcore": self.pillar}))
        if self.loaders is None:
            salt_root = self.folder / "salt"
            self.loaders = Loaders(
                dict(salt.config.DEFAULT_MINION_OPTS)
                | {
                    "id": "head",
                    "root_dir": str(salt_root),
                    "cachedir": str(salt_root / "cache"),
                    "extension_modules": str(salt_root / "extmods"),
                    "conf_file": str(salt_root / "minion"),
                    "file_client": "local",
                    "pillar_roots": {"base": [str(roots)]},
                    "module_dirs": [str(CHECKOUT / "salt")],
                    # Otherwise the loader would take salt/states, which holds SLS files, for the folder of state
                    # modules.
                    "states_dirs": [str(CHECKOUT / "salt" / "_states")],
                    "virtual_core": {
                        "checkout": str(self.paths.checkout),
                        "configuration": str(self.paths.configuration),
                        "state": str(self.paths.state),
                    },
                }
            )
        return self.loaders.states

    def apply(self, state: str, name: str, *, succeeds: bool = True) -> Any:
        """Plan a state, apply it and compare; return the applied state's result."""
        before = (self.local(), images_builder.read_records(self.paths))
        states = self.states()
        plan = states[f"vcore_image.{state}"](name, test=True)
        assert (self.local(), images_builder.read_records(self.paths)) == before, "a plan changed something"
        result = states[f"vcore_image.{state}"](name)
        assert result.result is succeeds, result.comment
        if succeeds:
            assert plan.changes == result.changes
            assert plan.result is (None if result.changes else True)
        return result

    def clean(self) -> None:
        for tag in self.local():
            self.api.remove_image(f"{self.address}/{tag}", force=True)


@pytest.fixture(scope="module")
def base(api: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Return a head with the base image that all tests share."""
    build("base")
    head = Head(tmp_path_factory.mktemp("base"), api, REGISTRY)
    head.builder.ensure("base")
    head.builder.prune()  # Base images of earlier checkouts.
    return head


@pytest.fixture
def head(base: Head, api: Any, tmp_path: Path) -> Iterator[Head]:
    """Yield a head for one test, with a registry name at which nothing answers."""
    head = Head(tmp_path, api, f"registry-{uuid.uuid4().hex[:8]}.vcore.test:5000")
    yield head
    head.clean()


@contextlib.contextmanager
def container(api: Any, image: str, *, files: dict[Path, str] | None = None, **arguments: Any) -> Iterator[str]:
    """Run a container, which is removed afterwards; ``files`` are mounted read-only."""
    binds = {str(path): {"bind": target, "mode": "ro"} for path, target in (files or {}).items()}
    config = api.create_host_config(binds=binds, **arguments.pop("host", {}))
    created = api.create_container(image, host_config=config, **arguments)["Id"]
    try:
        api.start(created)
        yield created
    finally:
        api.remove_container(created, force=True, v=True)


def wait_healthy(api: Any, container_id: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while (answer := execute(api, container_id, "/sbin/server_health.sh"))[0] != 0:
        if time.monotonic() > deadline:
            pytest.fail(f"never healthy: {answer[1]}\n{api.logs(container_id).decode(errors='replace')[-3000:]}")
        time.sleep(0.3)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


# -- the base image's contract


@pytest.fixture(scope="module")
def base_reference(base: Head) -> str:
    return images_builder.reference("base", base.pillar, base.paths)


@pytest.fixture
def program(tmp_path: Path) -> Any:
    def write(command: str) -> dict[Path, str]:
        path = tmp_path / "main.conf"
        path.write_text(PROGRAM % command)
        return {path: "/etc/supervisor/conf.d/main.conf"}

    return write


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("authorized", "foreign"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    return tmp_path / "authorized", tmp_path / "foreign"


def ssh(api: Any, container_id: str, key: Path, user: str = "root") -> subprocess.CompletedProcess[str]:
    address = api.inspect_container(container_id)["NetworkSettings"]["IPAddress"]
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "BatchMode=yes")
    flags = [flag for option in (*options, "LogLevel=VERBOSE") for flag in ("-o", option)]
    command = ["ssh", *flags, "-i", str(key), f"{user}@{address}", "id"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_nothing_but_its_programs_runs_in_a_container(api, base_reference, program):
    with container(api, base_reference, files=program("echo main is here; exec sleep 1000")) as running:
        wait_healthy(api, running)
        processes = execute(api, running, "ps", "axo", "args")[1]
        assert "/usr/bin/tini -- /sbin/server_run.sh" in processes
        assert "sleep 1000" in processes
        assert "sshd" not in processes and "zabbix" not in processes
        assert b"main is here" in api.logs(running)
        assert execute(api, running, "find", "/etc/ssh", "-name", "ssh_host_*")[1] == ""


def test_sshd_lets_root_in_with_a_supplied_key_only(api, base_reference, program, keys):
    key, foreign = keys
    files = program("exec sleep 1000") | {key.with_suffix(".pub"): "/etc/virtual-core/authorized_keys"}
    with container(api, base_reference, files=files) as running:
        wait_healthy(api, running)
        assert "uid=0(root)" in ssh(api, running, key).stdout
        refused = ssh(api, running, foreign)
        assert refused.returncode == 255 and "Permission denied (publickey)." in refused.stderr
        assert "Permission denied" in ssh(api, running, key, user="daemon").stderr
        effective = execute(api, running, "/usr/sbin/sshd", "-T")[1].splitlines()
        assert {"passwordauthentication no", "kbdinteractiveauthentication no", "allowusers root"} <= set(effective)
        assert "permitrootlogin without-password" in effective


def test_two_containers_have_different_host_keys(api, base_reference, program, keys):
    files = program("exec sleep 1000") | {keys[0].with_suffix(".pub"): "/etc/virtual-core/authorized_keys"}
    found = set()
    for _ in range(2):
        with container(api, base_reference, files=files) as running:
            wait_healthy(api, running)
            found.add(execute(api, running, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")[1])
    assert len(found) == 2


def test_the_agent_runs_where_it_is_configured(api, base_reference, program, tmp_path):
    (tmp_path / "agent.conf").write_text(
        "Server=127.0.0.1\nHostname=x\nLogType=console\n"
        "PidFile=/run/zabbix/agent.pid\nControlSocket=/run/zabbix/agent.sock\n"
    )
    files = program("exec sleep 1000") | {tmp_path / "agent.conf": "/etc/virtual-core/zabbix_agent2.conf"}
    with container(api, base_reference, files=files) as running:
        wait_healthy(api, running)
        assert "zabbix   /usr/sbin/zabbix_agent2" in execute(api, running, "ps", "axo", "user,args")[1]


@pytest.mark.parametrize("again", [False, True], ids=["first start", "started again"])
def test_sigterm_stops_everything_within_five_seconds(api, base_reference, program, keys, tmp_path, again):
    further = tmp_path / "further.conf"
    further.write_text(
        "".join((PROGRAM % "exec sleep 1000").replace(":main]", f":further{number}]") for number in range(4))
    )
    files = program('trap "echo stopped cleanly; exit 0" TERM; while :; do sleep 0.1; done')
    files |= {
        further: "/etc/supervisor/conf.d/further.conf",
        keys[0].with_suffix(".pub"): "/etc/virtual-core/authorized_keys",
    }
    with container(api, base_reference, files=files) as running:
        wait_healthy(api, running)
        if again:
            api.kill(running, "SIGKILL")
            api.wait(running)
            api.start(running)
            wait_healthy(api, running)
        started = time.monotonic()
        api.kill(running, "SIGTERM")
        assert api.wait(running, timeout=15)["StatusCode"] == 0
        assert time.monotonic() - started < 5
        assert b"stopped cleanly" in api.logs(running)


def test_a_program_that_cannot_be_started_ends_the_container(api, base_reference, program):
    with container(api, base_reference, files=program("echo cannot start; exit 3")) as running:
        api.wait(running, timeout=120)
        log = api.logs(running).decode()
        assert log.count("cannot start\n") == 4
        assert "ending the container, a program cannot be started: processname:main" in log


def test_a_container_is_unhealthy_while_a_program_or_the_probe_is(api, base_reference, program, tmp_path):
    probe = tmp_path / "probe.sh"
    probe.write_text("#!/bin/sh\necho the probe says no\n[ -e /tmp/well ]\n")
    probe.chmod(0o755)
    files = program("exec sleep 1000") | {probe: "/usr/sbin/probe.sh"}
    with container(api, base_reference, files=files) as running:
        deadline = time.monotonic() + 60
        while (answer := execute(api, running, "/sbin/server_health.sh"))[1] != "the probe says no\n":
            assert answer[0] == 1 and time.monotonic() < deadline
            time.sleep(0.3)
        assert answer == (1, "the probe says no\n")
        execute(api, running, "touch", "/tmp/well")
        assert execute(api, running, "/sbin/server_health.sh")[0] == 0
        assert execute(api, running, "supervisorctl", "stop", "main")[0] == 0
        assert execute(api, running, "/sbin/server_health.sh") == (1, "main is STOPPED\n")


def test_a_failing_preparation_ends_the_container(api, base_reference, tmp_path):
    script = tmp_path / "prepare_magic.sh"
    script.write_text("#!/bin/sh\necho no secret\nexit 4\n")
    script.chmod(0o755)
    with container(api, base_reference, files={script: "/usr/sbin/prepare_magic.sh"}) as running:
        assert api.wait(running, timeout=15)["StatusCode"] == 4
        assert b"no secret" in api.logs(running)


def test_images_can_install_packages_and_trust_the_authorities_of_the_host(api, base_reference):
    with container(api, base_reference, entrypoint=["sleep", "60"]) as running:
        sources = execute(api, running, "cat", "/etc/apt/sources.list")[1]
        assert "trixie main" in sources and "trixie-security main" in sources
        hosts = Path("/etc/ssl/certs/ca-certificates.crt").read_text().split("-----BEGIN CERTIFICATE-----")
        inside = execute(api, running, "cat", "/etc/ssl/certs/ca-certificates.crt")[1]
        own = Path("/usr/local/share/ca-certificates").rglob("*.crt")
        assert all(certificate.read_text().split()[-5] in inside for certificate in own)
        assert len(hosts) > 100 and inside.count("BEGIN CERTIFICATE") > 100
        assert execute(api, running, "sh", "-c", "echo $PIP_CERT")[1].strip() == "/etc/ssl/certs/ca-certificates.crt"


# -- building


def test_an_image_is_built_once(head):
    head.add("probe", "one", push=False)
    result = head.apply("built", "probe")
    tag = images_builder.recipe("probe", head.pillar, head.paths).tag
    assert result.changes == {"tag": {"old": None, "new": tag}, "image": "built"}
    before = head.local()
    assert f"probe:{tag}" in before
    assert least_seconds(lambda: head.builder.plan("probe").changes == {}) < 0.1
    assert head.apply("built", "probe").changes == {}
    assert head.local() == before
    head.add("probe", "two", push=False)
    assert head.apply("built", "probe").changes["tag"]["old"] == tag
    assert images_builder.read_records(head.paths)["probe"]["previous"] == tag


def test_a_failing_build_shows_its_last_lines_and_leaves_what_is_there(head):
    reference = head.add("probe", "one", push=False)
    head.apply("built", "probe")
    before = (head.local(), images_builder.read_records(head.paths))
    head.add("probe", "two", push=False, dockerfile=PROBE + "RUN for n in $(seq 50); do echo line $n; done; exit 7\n")
    result = head.apply("built", "probe", succeeds=False)
    assert "non-zero code: 7" in result.comment
    assert "line 50" in result.comment and "line 31" in result.comment and "line 25" not in result.comment
    assert result.changes == {}
    assert (head.local(), images_builder.read_records(head.paths)) == before
    assert reference.removeprefix(f"{head.address}/") in head.local()


def test_an_image_that_is_gone_is_built_again_and_a_record_that_is_gone_is_not(head):
    head.add("probe", "one", push=False)
    head.builder.ensure("probe")
    before = head.local()
    (head.paths.state / "images.json").unlink()
    assert set(head.apply("built", "probe").changes) == {"tag"}
    assert head.local() == before
    (tag,) = (tag for tag in before if tag.startswith("probe:"))
    head.api.remove_image(f"{head.address}/{tag}")
    assert head.apply("built", "probe").changes == {"image": "built"}
    assert tag in head.local()


def test_the_steps_of_a_build_are_reported(head):
    head.add("probe", "one", push=False)
    head.builder.ensure("probe")
    lines = [json.loads(line) for line in head.paths.progress.read_text().splitlines()]
    messages = [line["message"] for line in lines if line["step"] == "image probe"]
    assert any(message.startswith("step 4 of ") and "RUN cat /content" in message for message in messages)


def test_a_build_that_was_killed_is_taken_up_again(head):
    head.add("probe", "one", push=False, dockerfile=PROBE + "RUN sleep 6\n")
    script = (
        "import json, sys; from pathlib import Path; from vcore.images import builder\n"
        "from vcore.base.paths import Paths\n"
        "pillar, *folders = json.loads(sys.argv[1])\n"
        "builder.Builder(pillar, Paths(*map(Path, folders))).ensure('probe')\n"
    )
    folders = [str(folder) for folder in (head.paths.checkout, head.paths.configuration, head.paths.state)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "salt" / "_utils")}
    child = subprocess.Popen([sys.executable, "-c", script, json.dumps([head.pillar, *folders])], env=environment)
    deadline = time.monotonic() + 90
    while not (head.paths.progress.exists() and "RUN sleep 6" in head.paths.progress.read_text()):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert "probe" not in images_builder.read_records(head.paths)
    assert set(head.apply("built", "probe").changes) == {"tag", "image"}


def test_a_tarball_that_was_not_finished_is_not_used(head, base, monkeypatch, tmp_path):
    """mmdebstrap fails, and the next run starts anew: half a system is never imported."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "mmdebstrap"
    fake.write_text('#!/bin/sh\nfor a; do case $a in *.tar) echo half > "$a";; esac; done\necho E: no space; exit 1\n')
    fake.chmod(0o755)
    (head.paths.state / "cache").unlink()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    head.pillar["build"]["refresh"] = "never-built"
    with pytest.raises(CommandFailed, match=r"(?s)exit code 1.*E: no space"):
        head.builder.ensure("base")
    assert not list((head.paths.state / "cache").glob("*.tar"))
    assert head.local() == {}


def test_a_base_that_is_pulled_says_what_cannot_be_pulled(head):
    head.pillar["build"]["source"] = f"{head.address}/nothing:1"
    with pytest.raises(CommandFailed, match="image debian"):
        head.builder.ensure("base")


# -- the registry


class Registry(Head):
    """A head whose registry runs in a container, as swarm would run it."""

    def certify(self) -> None:
        """Make an authority for this test, and its certificate for the registry's address."""
        authority, leaf = self.paths.authority, self.folder / "tls"
        authority.mkdir(parents=True)
        leaf.mkdir()
        name = self.address.partition(":")[0]
        common = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        openssl(
            *("req", "-x509", *common, "-subj", "/CN=Test authority", "-keyout", str(authority / "ca.key")),
            *("-out", str(authority / "ca.crt"), "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        openssl(
            *("req", "-x509", *common, "-subj", "/CN=registry", "-keyout", str(leaf / "key.pem")),
            *("-CA", str(authority / "ca.crt"), "-CAkey", str(authority / "ca.key")),
            *("-out", str(leaf / "certificate.pem"), "-addext", f"subjectAltName=IP:{name}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
        os.chown(leaf / "key.pem", 912, 912)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        self.certify()
        storage = self.folder / "storage"
        storage.mkdir()
        os.chown(storage, 912, 912)
        secrets = Store(self.paths.secrets)
        self.builder.ensure("registry")
        files = {self.folder / "tls": "/etc/registry/tls"}
        files |= {secrets.path("registry", user): f"/run/secrets/registry-{user}" for user in ("push", "pull")}
        port = int(self.address.partition(":")[2])
        trust = Path("/etc/docker/certs.d", self.address)
        binds = {str(path): {"bind": target, "mode": "ro"} for path, target in files.items()}
        binds[str(storage)] = {"bind": "/var/lib/registry", "mode": "rw"}
        created = self.api.create_container(
            images_builder.reference("registry", self.pillar, self.paths),
            labels={"com.docker.swarm.service.name": "registry"},
            ports=[5000],
            host_config=self.api.create_host_config(
                binds=binds, port_bindings={5000: (self.address.partition(":")[0], port)}
            ),
        )["Id"]
        try:
            trust.mkdir(parents=True)
            shutil.copy(self.paths.authority / "ca.crt", trust / "ca.crt")
            self.api.start(created)
            wait_healthy(self.api, created)
            yield created
        finally:
            self.api.remove_container(created, force=True, v=True)
            shutil.rmtree(trust)

    def docker_pull(self, reference: str, credentials: dict[str, str] | None) -> str:
        """Return Docker's output of a pull; raise its error."""
        repository, _, tag = reference.rpartition(":")
        return self.api.pull(repository, tag=tag, auth_config=credentials or {})

    def docker_push(self, reference: str, user: str | None) -> str:
        credentials = registry.credentials(self.paths, user, self.address) if user else {}
        repository, _, tag = reference.rpartition(":")
        return self.api.push(repository, tag=tag, auth_config=credentials)


@pytest.fixture(scope="module")
def live(base: Head, api: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Yield a head with a running registry on the address of Docker's bridge: for loopback, Docker does not require
    TLS.
    """
    network = api.inspect_network("bridge")["IPAM"]["Config"][0]
    gateway = network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])
    with socket.socket() as probe:
        probe.bind((gateway, 0))
        address = f"{gateway}:{probe.getsockname()[1]}"
    head = Registry(tmp_path_factory.mktemp("registry"), api, address)
    try:
        with head.running():
            yield head
    finally:
        head.clean()


def test_an_image_is_pushed_once_and_deployed_by_digest(live):
    reference = live.add("first", "one")
    started = time.monotonic()
    assert set(live.apply("built", "first").changes) == {"tag", "image", "registry"}
    print(f"build and push: {time.monotonic() - started:.1f} s")
    digest = images_builder.read_records(live.paths)["first"]["digest"]
    assert live.builder.registry.digest(*reference.rpartition("/")[2].split(":")) == digest
    assert images_builder.reference("first", live.pillar, live.paths) == f"{reference}@{digest}"
    seconds = least_seconds(lambda: live.builder.plan("first").changes == {})
    print(f"nothing to do: {seconds * 1000:.0f} ms")
    assert seconds < 0.2
    assert live.apply("built", "first").changes == {}


def test_an_image_builds_on_another_one_of_the_project(live):
    live.add("parent", "of the parent")
    live.builder.ensure("parent")
    child = live.add("child", "of the child", dockerfile="ARG BASE=parent\nFROM ${BASE}\nRUN grep parent /copy\n")
    live.builder.ensure("child")
    assert child.removeprefix(f"{live.address}/") in live.local()
    assert live.builder.plan("parent").changes == {}
    live.add("parent", "of the parent, changed")
    assert set(live.builder.plan("child").changes) == {"tag", "image", "registry"}


def test_what_is_lost_is_made_good(live):
    reference = live.add("second", "one")
    live.builder.ensure("second")
    record = images_builder.read_records(live.paths)["second"]
    name, tag = reference.rpartition("/")[2].split(":")
    # Without the record: the registry knows the digest.
    records = images_builder.read_records(live.paths)
    images_builder.write_records(live.paths, {name: records[name] for name in records if name != "second"})
    assert set(live.apply("built", "second").changes) == {"tag"}
    assert images_builder.read_records(live.paths)["second"]["digest"] == record["digest"]
    # Without the local image: nodes pull it from the registry.
    live.api.remove_image(reference, force=True)
    assert live.apply("built", "second").changes == {}
    # Without the registry's content, too.
    live.builder.registry.delete(name, tag)
    assert live.apply("built", "second").changes == {"image": "built", "registry": "pushed"}
    # Without the registry's content alone: the same bytes are pushed again.
    digest = images_builder.read_records(live.paths)["second"]["digest"]
    live.builder.registry.delete(name, tag)
    assert live.apply("built", "second").changes == {"registry": "pushed"}
    assert images_builder.read_records(live.paths)["second"]["digest"] == digest


def test_nodes_pull_and_only_the_head_pushes(live):
    reference = live.add("third", "three")
    live.builder.ensure("third")
    other = reference.replace("/third:", "/smuggled:")
    live.api.tag(reference, *other.rpartition(":")[::2])
    for user in ("pull", None):
        assert "unauthorized" in live.docker_push(other, user) or "no basic auth" in live.docker_push(other, user)
    live.api.remove_image(other)
    live.api.remove_image(reference)
    for credentials in ({}, {"username": "pull", "password": "guess"}, {"username": "root", "password": ""}):
        with pytest.raises(docker.errors.APIError, match=r"unauthorized|no basic auth"):
            live.docker_pull(reference, credentials)
    live.docker_pull(reference, registry.credentials(live.paths, "pull", live.address))
    assert reference in live.api.inspect_image(reference)["RepoTags"]
    assert live.builder.registry.content().count(("smuggled", reference.rpartition(":")[2])) == 0


def test_a_rotated_credential_is_waited_for(live):
    """Until its container is replaced, the registry knows the old credential; a plan must not fail because of it."""
    live.add("sixth", "six")
    live.builder.ensure("sixth")
    del live.pillar["services"]["sixth"]
    store = Store(live.paths.secrets)
    before = store.read("registry", "pull")
    store.write("registry", "pull", b"a new one")
    try:
        with pytest.raises(Refused, match="HTTP status 401"):
            live.builder.registry.content()
        live.add("first", "one")
        live.builder.plan("first")
        assert live.states().vcore_image.built("registry", test=True).result is True
        planned = live.builder.prune_plan()
    finally:
        store.write("registry", "pull", before)
    # The registry changes in this very run, so this apply does not ask it what it keeps, either.
    assert planned == live.builder.prune_plan(ask_registry=False) != live.builder.prune_plan()
    assert "registry" not in planned
    live.apply("pruned", "images")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_nothing_but_reading_is_open_to_the_pull_credential(live, method):
    with pytest.raises(VcoreError, match=r"HTTP status 40[135]"):
        live.builder.registry._ask(method, "/v2/first/blobs/uploads/", "pull")


def test_the_registry_speaks_tls_from_1_2_on_and_nothing_else(live):
    def handshake(*options: str) -> int:
        command = ["openssl", "s_client", "-connect", live.address, "-CAfile", str(live.paths.authority / "ca.crt")]
        command += ["-verify_return_error", "-verify_ip", live.address.partition(":")[0], *options]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode

    assert handshake("-tls1_2") == 0
    assert handshake("-tls1_3") == 0
    assert handshake("-tls1_1", "-cipher", "ALL:@SECLEVEL=0") != 0
    with socket.create_connection(live.address.split(":")) as plain:
        plain.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert b"400 Bad Request" in plain.recv(1000)


def test_a_certificate_of_somebody_else_is_not_trusted(live, tmp_path):
    paths = Paths(live.paths.checkout, tmp_path, tmp_path)
    shutil.copytree(live.paths.secrets, paths.secrets)
    paths.authority.mkdir()
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Other"),
        *("-keyout", str(tmp_path / "key"), "-out", str(paths.authority / "ca.crt")),
    )
    with pytest.raises(Unreachable, match="certificate verify failed"):
        registry.Client(live.pillar, paths).content()


def test_secrets_are_not_in_the_container_s_description_arguments_or_log(live):
    (container_id,) = (c["Id"] for c in live.api.containers() if c["Image"].startswith(f"{live.address}/registry:"))
    shown = json.dumps(live.api.inspect_container(container_id)) + live.api.logs(container_id).decode()
    shown += execute(live.api, container_id, "ps", "axeww")[1] + live.paths.progress.read_text()
    shown += json.dumps(live.api.history(images_builder.reference("registry", live.pillar, live.paths)))
    for user in ("push", "pull"):
        assert Store(live.paths.secrets).read("registry", user).decode() not in shown


def test_the_registry_s_programs_are_not_root(live):
    (container_id,) = (c["Id"] for c in live.api.containers() if c["Image"].startswith(f"{live.address}/registry:"))
    users = {
        tuple(line.split()[:2]) for line in execute(live.api, container_id, "ps", "axo", "user,comm")[1].splitlines()
    }
    assert {user for user, command in users if command in ("nginx", "docker-registry")} == {"registry"}


def test_superseded_images_go_and_their_space_with_them(live):
    size = 3_000_000
    random = PROBE + f"RUN head --bytes {size} /dev/urandom > /random\n"
    tags = []
    for content in ("one", "two", "three"):
        tags.append(live.add("fourth", content, dockerfile=random).rpartition(":")[2])
        live.builder.ensure("fourth")
    result = live.apply("pruned", "images")
    assert f"fourth:{tags[0]}" in result.changes["registry"]
    assert f"fourth:{tags[0]}" in result.changes["docker"]
    assert not {f"fourth:{tag}" for tag in tags[1:]} & {*result.changes["registry"], *result.changes["docker"]}
    freed = float(result.comment.split(" freed ")[1].split()[0])
    assert freed * 1e6 > size * 0.99
    assert {tag for name, tag in live.builder.registry.content() if name == "fourth"} == set(tags[1:])
    assert live.apply("pruned", "images").changes == {}
    # The remaining images are whole, and a layer that was collected can be pushed again.
    live.api.remove_image(f"{live.address}/fourth:{tags[1]}", force=True)
    live.docker_pull(f"{live.address}/fourth:{tags[1]}", registry.credentials(live.paths, "pull", live.address))
    live.add("fourth", "one", dockerfile=random)
    live.builder.ensure("fourth")
    live.api.remove_image(f"{live.address}/fourth:{tags[0]}", force=True)
    live.docker_pull(f"{live.address}/fourth:{tags[0]}", registry.credentials(live.paths, "pull", live.address))


def test_images_of_a_service_that_is_off_go(live):
    reference = live.add("fifth", "five")
    live.builder.ensure("fifth")
    del live.pillar["services"]["fifth"]
    result = live.apply("pruned", "images")
    short = reference.rpartition("/")[2]
    assert short in result.changes["registry"] and short in result.changes["docker"]
    assert "fifth" not in images_builder.read_records(live.paths)
    assert live.builder.plan("registry").changes == {}


def test_a_collection_that_was_cut_off_is_made_up_for(live):
    (live.paths.state / "registry-garbage").touch()
    assert list(live.apply("pruned", "images").changes) == ["garbage"]
    assert live.apply("pruned", "images").changes == {}


def test_a_push_without_a_registry_is_one_clear_error(head):
    head.add("probe", "one")
    result = head.apply("built", "probe", succeeds=False)
    assert result.comment.startswith("image probe: ") and "no such host" in result.comment
    assert "probe" not in images_builder.read_records(head.paths)


def test_the_module_lists_what_there_is(live):
    live.add("first", "one")
    live.builder.ensure("first")
    live.loaders = None  # Modules, other than states, keep the pillar with which they were loaded.
    live.states()
    listing = live.loaders.modules["vcore_image.list"]()
    assert listing["first"]["tag"] == listing["first"]["wanted"]
    assert listing["first"]["digest"].startswith("sha256:")
    assert listing["base"]["digest"] is None
    assert listing["registry"]["size"] > 100_000_000
    assert listing["registry"]["built"].startswith("20") and listing["registry"]["built"].endswith("+00:00")
    assert live.loaders.modules["vcore_image.reference"]("first").endswith(listing["first"]["digest"])
    assert live.loaders.modules["vcore_image.build"]("first") == {}
