"""This machine's side of a lab: what it needs, and what hosts take over: mirrors, proxies, certificates, resolvers."""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
BUNDLES = (BUNDLE, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
BUNDLE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
PACKAGE_VARIABLES = re.compile(
    r"PIP_(EXTRA_)?INDEX_URL|PIP_TRUSTED_HOST|PIP_DEFAULT_TIMEOUT|UV_\w*INDEX\w*|UV_HTTP_TIMEOUT"
)
APT_SETTINGS = re.compile(r"Acquire::(Check-|Retries|https?::(Proxy|Timeout|Pipeline-Depth))")
STARTED = time.monotonic()


class LabError(Exception):
    """A failure that one sentence explains, with the remedy."""


def progress(message: str) -> None:
    """Print a step to standard error, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)


def run(
    *command: str, data: bytes | None = None, check: bool = True, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with `variables` added to the environment; a failure carries the last lines of its output."""
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(command, input=data, capture_output=True, check=False, env=environment)
    text = [part.decode(errors="replace") for part in (done.stdout, done.stderr)]
    if check and done.returncode:
        lines = "\n".join("".join(text).strip().splitlines()[-15:])
        raise LabError(f"`{' '.join(command[:3])} …` failed with exit code {done.returncode}:\n{lines}")
    return subprocess.CompletedProcess(done.args, done.returncode, *text)


def docker(
    *arguments: str, data: bytes | None = None, check: bool = True, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the Docker command-line client, as `run` does. The classic builder serves: buildx is not everywhere."""
    return run("docker", *arguments, data=data, check=check, variables={"DOCKER_BUILDKIT": "0"} | (variables or {}))


def inspect(kind: str, *names: str) -> list[dict[str, Any]]:
    """Return `docker <kind> inspect` of those names that exist."""
    return json.loads(docker(kind, "inspect", *names, check=False).stdout or "[]") if names else []


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let only one process of this user at a time make the thing of this name; the next process finds it made."""
    with Path(tempfile.gettempdir(), f"virtual-core-{os.getuid()}-{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def require_root(purpose: str) -> None:
    """Raise LabError unless this process runs as root."""
    if os.geteuid() != 0:
        raise LabError(f"{purpose} needs root: run it again with sudo.")


def agree(question: str, yes: bool) -> bool:
    """Ask on the terminal, unless --yes has answered; without a terminal the answer is no."""
    return yes or (sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes"))


def install(packages: list[str], purpose: str, yes: bool) -> None:
    """Offer to install Debian packages; raise LabError if the answer is no or there is no apt-get."""
    command = "apt-get install --no-install-recommends " + " ".join(packages)
    if not shutil.which("apt-get") or not agree(f"{purpose} Install it with `{command}`?", yes):
        raise LabError(f"{purpose} Install it (`{command}`), or let --yes do so.")
    require_root("installing packages")
    progress(f"installing {' '.join(packages)}")
    run("apt-get", "update", "--quiet")
    options = ("--yes", "--quiet", "--no-install-recommends")
    run("apt-get", "install", *options, *packages, variables={"DEBIAN_FRONTEND": "noninteractive"})


def ensure_docker(yes: bool) -> None:
    """Ensure that Docker is installed and answers: offer to install it, and start it, if need be without systemd."""
    answer = docker("version", check=False) if shutil.which("docker") else None
    if answer and answer.returncode == 0:
        return
    if not answer or not (shutil.which("dockerd") or os.environ.get("DOCKER_HOST")):
        packages = ["docker.io", "iptables"]
        if run("apt-cache", "show", "docker-cli", check=False).returncode == 0:
            packages.append("docker-cli")  # Debian 13 split the client off
        install(packages, "Docker is missing.", yes)
        answer = docker("version", check=False)
        if answer.returncode == 0:
            return
    if "permission denied" in answer.stderr:
        raise LabError("Docker does not let this user in: run it again with sudo, or join the group docker.")
    if os.environ.get("DOCKER_HOST"):
        raise LabError(f"no Docker answers at DOCKER_HOST={os.environ['DOCKER_HOST']}.")
    require_root("starting Docker")
    if Path("/run/systemd/system").is_dir():
        progress("starting docker.service")
        run("systemctl", "start", "docker")
    else:
        progress("no systemd runs here: starting dockerd directly, log in /var/log/dockerd.log")
        with Path("/var/log/dockerd.log").open("ab") as log:
            subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    for _ in range(120):
        if docker("version", check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise LabError("dockerd does not answer after 60 s: see /var/log/dockerd.log or `journalctl -u docker`.")


def bundle() -> bytes:
    """Return the certificates that this machine trusts, in PEM."""
    names = [os.environ.get(name) for name in BUNDLE_VARIABLES]
    path = next((Path(name) for name in (*names, *BUNDLES) if name and Path(name).is_file()), None)
    return path.read_bytes() if path else b""


def pip_settings() -> dict[str, str]:
    """Return the package indexes of pip's configuration files as environment variables; local folders stay behind."""
    settings = {}
    for path in (Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(path)
        for key, value in parser.items("global") if parser.has_section("global") else ():
            settings["PIP_" + key.upper().replace("-", "_")] = " ".join(value.split())
    return settings


def environment(no_proxy: str) -> dict[str, str]:
    """Return the variables of this machine's environment by which lab hosts reach package mirrors and registries.

    ``no_proxy`` names the lab's own addresses, which never go through a proxy.
    """
    machine = pip_settings() | dict(os.environ)
    wanted = {name for name in machine if name in PROXY_VARIABLES or PACKAGE_VARIABLES.fullmatch(name)}
    result = {
        name: machine[name] for name in wanted if "file:" not in machine[name] and machine[name][:1] not in ("", "/")
    }
    if result.keys() & {*PROXY_VARIABLES}:
        others = machine.get("no_proxy") or machine.get("NO_PROXY") or "localhost,127.0.0.1"
        result["no_proxy"] = result["NO_PROXY"] = f"{others},{no_proxy}"
    # pip and uv bring certificates of their own: where the machine's differ, they have to be told.
    own = any(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    result |= {name: BUNDLE for name in BUNDLE_VARIABLES if machine.get(name) or (own and name in BUNDLE_VARIABLES[:3])}
    return result | {"UV_LINK_MODE": "copy"}  # the shared cache is a file system of its own


def mirrors() -> tuple[str, str]:
    """Return the Debian mirror and the security mirror of this machine, or Debian's own."""
    found = {}
    if shutil.which("apt-get"):
        command = ("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages")
        listing = run(*command, check=False).stdout.splitlines()
        found = dict(line.split(" ", 1) for line in reversed(listing) if line.startswith("Debian"))
    debian = found.get("Debian", "http://deb.debian.org/debian").rstrip("/")
    return debian, found.get("Debian-Security", "http://deb.debian.org/debian-security").rstrip("/")


def apt_settings() -> str:
    """Return this machine's apt settings of proxies, retries and date checks, as apt.conf lines."""
    if not shutil.which("apt-config"):
        return ""
    lines = run("apt-config", "dump", "Acquire", check=False).stdout.splitlines()
    lines = [line for line in lines if APT_SETTINGS.match(line) and '""' not in line and "Auto-Detect" not in line]
    return "".join(f"{line}\n" for line in lines)


def resolvers() -> list[str]:
    """Return the name servers of this machine that containers can reach; may be empty."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.is_file():
            servers = re.findall(r"^nameserver\s+(\S+)", path.read_text(), re.MULTILINE)
            if reachable := [server for server in servers if not server.startswith("127.") and server != "::1"]:
                return reachable
    return []


def routes() -> list[str]:
    """Return the destinations of this machine's IPv4 routes, as networks."""
    table = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all").stdout)
    names = [entry["dst"] for entry in table if entry.get("type", "unicast") == "unicast"]
    return [name for name in names if name != "default"]


def checkout_files() -> list[Path]:
    """Return the checkout's files, below CHECKOUT: those that git tracks, and new ones that it does not ignore."""
    if not shutil.which("git"):
        raise LabError("the lab copies what git lists, and git is missing: `apt-get install git`.")
    git = ("git", "-c", "safe.directory=*", "-C", str(CHECKOUT))
    listing = run(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    names = [Path(name) for name in listing.split("\0") if name]
    return sorted(name for name in set(names) if (CHECKOUT / name).is_symlink() or (CHECKOUT / name).is_file())
