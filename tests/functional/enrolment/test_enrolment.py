"""The line that a new machine runs, with the container that it fetches from, and with impostors in its place."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from salt.crypt import write_keys
from support import sites
from support.containers import execute
from support.directory import free_port
from support.images import build, machine
from vcore.base.paths import Paths
from vcore.certificates import x509
from vcore.certificates.authority import Authority
from vcore.enrolment import admission, bundle, health, tokens

SITE = """
vcore:
  nodes: {head: {roles: [head], address: 127.0.0.1}}
  services: {enrolment: {enabled: true}}
"""
TOKEN = tokens.make_token(b"k" * 32, "role=compute", 2_000_000_000)


class Head:
    """An authority, a master's key, and what both offer to new machines, in a folder."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder = folder
        self.paths = Paths(checkout, folder / "configuration", folder / "state", folder)
        self.pillar = sites.pillar(folder, SITE)
        self.service = self.pillar["services"]["enrolment"]
        self.public = folder / "public"
        self.public.mkdir()
        self.service["volumes"]["public"]["source"] = str(self.public)
        self.service["ports"]["https"]["number"] = free_port()
        authority = Authority(self.paths.authority, x509.policy(self.pillar))
        authority.ensure()
        authority.issue(x509.wanted(self.pillar, "enrolment/tls"))
        write_keys(str(folder), "master", 2048)
        self.offer = admission.Offer(self.pillar, self.paths)
        self.offer.write()

    @property
    def port(self) -> int:
        return int(self.service["ports"]["https"]["number"])

    @property
    def root(self) -> bytes:
        return (self.paths.authority / "ca.crt").read_bytes()

    @property
    def leaf(self) -> tuple[Path, Path]:
        """Issue a certificate; return it and its key."""
        issued = self.paths.authority / "issued" / "enrolment"
        return issued / "tls.crt", issued / "tls.key"


@pytest.fixture(scope="module")
def head(tmp_path_factory, checkout) -> Iterator[Head]:
    """The service, in its container."""
    head = Head(tmp_path_factory.mktemp("head"), checkout)
    api, certificate = machine(), head.service["certificates"]["tls"]
    key = Path(shutil.copy(head.leaf[1], head.folder / "leaf.key"))
    os.chown(key, certificate["owner"], certificate["group"])
    key.chmod(int(certificate["key_mode"], 8))
    public = Path(shutil.copy(head.leaf[0], head.folder / "leaf.crt"))
    public.chmod(0o644)
    mounts = {public: certificate["certificate"], key: certificate["key"]}
    mounts[head.public] = head.service["volumes"]["public"]["path"]
    container = api.create_container(
        build("enrolment"),
        ports=[4507],
        host_config=api.create_host_config(
            binds={str(source): {"bind": target, "mode": "ro"} for source, target in mounts.items()},
            port_bindings={4507: ("127.0.0.1", head.port)},
            mem_limit=head.service["memory"]["limit"],
        ),
    )["Id"]
    try:
        api.start(container)
        deadline = time.monotonic() + 180
        while True:
            if not api.inspect_container(container)["State"]["Running"]:
                pytest.fail(f"the container has ended:\n{api.logs(container).decode(errors='replace')}")
            code, said = execute(api, container, "/sbin/server_health.sh")
            if code == 0:
                break
            assert time.monotonic() < deadline, f"{said}\n{api.logs(container).decode(errors='replace')}"
            time.sleep(0.2)
        yield head
    finally:
        api.remove_container(container, force=True)


@contextlib.contextmanager
def serving(folder: Path, certificate: Path, key: Path) -> Iterator[int]:
    """Offer a folder over TLS, as an impostor."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@pytest.fixture(params=["wget", "curl"])
def run(request, tmp_path, monkeypatch) -> Any:
    """Run the line on a machine that has only one of the two programs (the one with wget also has sudo); return what it
    would run.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "mkdir", "tar", "gzip", "sha256sum", "cat", "id", request.param):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing: apt-get install {name}"))
    if request.param == "wget":
        (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (programs / "sudo").chmod(0o755)
    place = tmp_path / "bundle"
    monkeypatch.setattr(bundle, "FOLDER", str(place))

    def run(port: int, root: bytes) -> tuple[subprocess.CompletedProcess[str], Path]:
        line = bundle.command(TOKEN, "127.0.0.1", port, root)
        assert line.count("exec ./bootstrap.sh") == 1
        line = line.replace("exec ./bootstrap.sh", "echo arguments; cat; echo")
        environment = {"PATH": str(programs), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
        return done, place

    return run


def test_the_line_brings_what_the_head_offers_and_hands_on_the_token(head, run):
    done, place = run(head.port, head.root)
    assert done.stderr.count("WARNING") == 0
    assert done.stdout.splitlines() == ["arguments", TOKEN, "--join 127.0.0.1"]
    assert (place / "bootstrap.sh").read_bytes() == (head.paths.checkout / "bootstrap.sh").read_bytes()
    finger = tokens.fingerprint((head.folder / "master.pub").read_text())
    assert f"master_finger: {finger}\n" in (place / "etc" / "core.yaml").read_text()
    # Once more, over the existing files.
    assert run(head.port, head.root)[0].returncode == 0


def test_a_head_with_another_authority_is_not_believed(head, run, tmp_path, checkout):
    (tmp_path / "other").mkdir()
    other = Head(tmp_path / "other", checkout)
    with serving(other.public, *other.leaf) as port:
        done, place = run(port, head.root)
    assert (done.returncode, done.stdout) == (1, f"https://127.0.0.1:{port} is another head.\n")
    assert not (place / "bootstrap.sh").exists()


def test_the_right_authority_with_somebody_elses_certificate_is_not_believed(head, run, tmp_path, checkout):
    """Anybody can fetch the authority's certificate and present it."""
    (tmp_path / "other").mkdir()
    other = Head(tmp_path / "other", checkout)
    (other.public / "ca.crt").write_bytes(head.root)
    with serving(other.public, *other.leaf) as port:
        done, place = run(port, head.root)
    assert done.returncode != 0
    assert "certificate" in done.stderr.lower()
    assert "arguments" not in done.stdout
    assert not (place / "bootstrap.sh").exists()


def test_where_nobody_answers_the_line_says_so(head, run):
    port = free_port()
    done, _ = run(port, head.root)
    assert (done.returncode, done.stdout) == (1, f"https://127.0.0.1:{port} does not answer.\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ca.crt", 200),
        ("GET", "/virtual-core.tar.gz", 200),
        ("GET", "/", 404),
        ("GET", "/ca.crt/", 404),
        ("GET", "/etc/passwd", 404),
        ("GET", "/../enrolment/ca.crt", 400),
        ("GET", "/../../etc/passwd", 400),
        ("GET", "/%2e%2e/%2e%2e/etc/enrolment/tls/key.pem", 400),
        ("HEAD", "/ca.crt", 405),
        ("POST", "/ca.crt", 405),
        ("PUT", "/new", 405),
        ("DELETE", "/ca.crt", 405),
        ("OPTIONS", "/", 405),
    ],
)
def test_two_files_are_to_be_had_and_nothing_else(head, method, path, status):
    trust = ssl.create_default_context(cadata=head.root.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", head.port, context=trust, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", "localhost")
    connection.endheaders()
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == status
    if status == 200:
        assert data == (head.public / Path(path).name).read_bytes()
    connection.close()


def test_the_doctor_asks_as_a_new_machine_does(head):
    (found,) = health.checks(head.pillar, head.paths)
    assert found["ok"], found
    (head.public / "virtual-core.tar.gz").write_bytes(b"not what it was")
    try:
        (found,) = health.checks(head.pillar, head.paths)
        assert found["ok"], "the container serves the very folder"
    finally:
        head.offer.write()
    missing = {**head.pillar, "services": {"enrolment": {**head.service, "ports": {"https": {"number": free_port()}}}}}
    (found,) = health.checks(missing, head.paths)
    assert not found["ok"]
    assert found["remedy"] == "apply the states: salt-call state.apply"
