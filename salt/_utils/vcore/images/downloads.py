"""How image builds reach their packages: Debian mirror, index of Python packages, proxy, certificate authorities.

The site's ``build`` settings decide; what they leave out is picked up from this host's apt and environment.
"""

from __future__ import annotations

import configparser
import hashlib
import ipaddress
import os
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..base.errors import VcoreError
from ..base.messages import tr
from ..host.docker_client import without_credentials

DEFAULT_MIRROR = "http://deb.debian.org/debian"


DEFAULT_SECURITY = "http://deb.debian.org/debian-security"


HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


#: The authorities that Debian's own ca-certificates brings.
DISTRIBUTION_AUTHORITIES = Path("/usr/share/ca-certificates/mozilla")


#: Seconds that a mirror may take to answer.
PATIENCE = 20


_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def apt_addresses(texts: Iterable[str]) -> list[str]:
    """Return the http addresses that apt sources name, in either of their formats (sources.list(5)), in their order."""
    addresses: list[str] = []
    for text in texts:
        for line in text.splitlines():
            # One-line format: deb [options] address suite components. deb822: URIs: address address.
            matched = re.match(r"deb\s+(?:\[[^]]*\]\s*)?(\S+)|URIs:\s*(.+)", line)
            if matched:
                addresses += (matched[1] or matched[2]).split()
    known = (
        address.rstrip("/") for address in addresses if address.startswith(("http://", "https://", "mirror+file:"))
    )
    # Addresses with a password stay on the host, because sources end up in images.
    return [address for address in known if "@" not in urlsplit(address).netloc]


def debian_mirrors(addresses: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the first Debian mirror and the first mirror of Debian's security updates among apt's addresses."""
    found = list(addresses)
    mirror = next((a for a in found if re.search(r"/debian$", a)), None)
    security = next((a for a in found if re.search(r"/debian-security$", a)), None)
    return mirror, security


def site_authorities(bundle: bytes, distribution: Iterable[bytes]) -> list[bytes]:
    """Return the certificates (PEM) of a bundle that the distribution does not bring."""

    def body(pem: bytes) -> bytes:
        return b"".join(pem.split())

    known = {body(pem) for text in distribution for pem in _CERTIFICATE.findall(text)}
    return [pem + b"\n" for pem in _CERTIFICATE.findall(bundle) if body(pem) not in known]


@dataclass(frozen=True)
class Way:
    """How a build reaches its packages.

    ``lines`` are apt's sources, ``environment`` the proxies (they are build arguments that Docker knows and keeps out
    of the image), ``files`` what the base image gets: its apt sources, the settings of pip and uv and the site's
    authorities. ``index`` is the index of Python packages, where it is not PyPI.
    """

    lines: list[str]
    environment: dict[str, str]
    files: dict[str, bytes]
    index: str | None = None

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits over what the base image gets."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:12]

    @property
    def on_this_host(self) -> bool:
        """Whether a mirror or proxy listens on this host's loopback, where only its own network reaches it."""
        addresses = [*(line.split()[1] for line in self.lines), *self.environment.values(), self.index or ""]
        return any(_is_loopback(urlsplit(address).hostname or "") for address in addresses if "://" in address)

    @classmethod
    def find(cls, build: Mapping[str, Any], suite: str) -> Way:
        """Return the way that the site's settings and this host give; ask the mirrors whether they have the suite.

        Raises:
            VcoreError: no mirror answers, the CA bundle cannot be read, or an address holds a password.
        """
        environment = proxies(build["proxy"], os.environ, _apt_proxies() if not build["proxy"] else {})
        certificates = _bundle(build["ca_bundle"])
        index = build.get("python_index")
        if index and "@" in urlsplit(index).netloc:
            raise VcoreError(tr("vcore.build.python_index: a password here would end up in every image; leave it out"))
        index = index or python_index(os.environ, _pip_settings())
        if build["mirror"]:
            mirror = build["mirror"].rstrip("/")
            if "@" in urlsplit(mirror).netloc:
                raise VcoreError(tr("vcore.build.mirror: a password here would end up in every image; leave it out"))
            # Mirrors that carry both keep them side by side, as Debian's own do.
            security = f"{mirror}-security"
        else:
            found, found_security = debian_mirrors(_host_addresses())
            mirror, security = found or DEFAULT_MIRROR, found_security or DEFAULT_SECURITY
        sources = [(mirror, suite), (mirror, f"{suite}-updates"), (security, f"{suite}-security")]
        problems = {source: _problem(*source, environment, certificates) for source in sources}
        if problem := problems[sources[0]]:
            raise VcoreError(
                tr(
                    "the Debian mirror {without_credentials} does not offer {suite}: {problem}; set "
                    "vcore.build.mirror, or vcore.build.proxy, in the site file",
                    without_credentials=without_credentials(mirror),
                    suite=suite,
                    problem=problem,
                )
            )
        lines = [f"deb {address} {name} main" for address, name in sources if not problems[address, name]]
        return cls(lines, environment, base_files(lines, certificates, index), index)


def python_index(environ: Mapping[str, str], settings: Mapping[str, str]) -> str | None:
    """Return the index of Python packages that pip and uv use on this host, from their environment or pip's settings.

    Folders of this host are left out, since builds cannot reach them, and so are addresses with a password, which stay
    on the host.
    """
    candidates = (environ.get("PIP_INDEX_URL"), environ.get("UV_DEFAULT_INDEX"), settings.get("index-url"))
    found = next((value for value in candidates if value), None)
    return found if found and re.fullmatch(r"https?://[^\s\"'@]+", found) else None


def proxies(setting: str | None, environ: Mapping[str, str], apt: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables of a build: the setting for everything, or else the environment's, or else apt's."""
    found: dict[str, str] = {}
    for scheme in ("http", "https"):
        name = f"{scheme}_proxy"
        if value := setting or environ.get(name) or environ.get(name.upper()) or apt.get(scheme):
            found[name] = value
    if found and (exceptions := environ.get("no_proxy") or environ.get("NO_PROXY")):
        found["no_proxy"] = exceptions
    return found


def base_files(lines: Iterable[str], certificates: bytes, index: str | None = None) -> dict[str, bytes]:
    """Return the files, by path, through which images reach their packages."""
    files = {"etc/apt/sources.list": "".join(f"{line}\n" for line in lines).encode()}
    # A base image that is pulled has its sources here.
    files["etc/apt/sources.list.d/debian.sources"] = b""
    if index:
        # pip uses an address without TLS only if it is told that it may; uv does so anyway.
        trusted = f"trusted-host = {urlsplit(index).hostname}\n" if index.startswith("http:") else ""
        files["etc/pip.conf"] = f"[global]\nindex-url = {index}\n{trusted}".encode()
        files["etc/uv/uv.toml"] = f'[[index]]\nurl = "{index}"\ndefault = true\n'.encode()
    if certificates:
        # Used until update-ca-certificates writes it from Debian's authorities and the site's.
        files["etc/ssl/certs/ca-certificates.crt"] = certificates
        distribution = [path.read_bytes() for path in sorted(DISTRIBUTION_AUTHORITIES.glob("*.crt"))]
        for number, certificate in enumerate(site_authorities(certificates, distribution)):
            files[f"usr/local/share/ca-certificates/site-{number:03}.crt"] = certificate
    return files


def _bundle(setting: str | None) -> bytes:
    """Return the CA bundle that the site names, or this host's, or nothing where the host has none."""
    if not setting:
        return HOST_BUNDLE.read_bytes() if HOST_BUNDLE.is_file() else b""
    try:
        certificates = Path(setting).read_bytes()
    except OSError as error:
        raise VcoreError(
            tr("vcore.build.ca_bundle: {setting} cannot be read: {strerror}", setting=setting, strerror=error.strerror)
        ) from None
    if not _CERTIFICATE.search(certificates):
        raise VcoreError(tr("vcore.build.ca_bundle: {setting} holds no certificate in PEM format", setting=setting))
    return certificates


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_addresses() -> list[str]:
    """Return apt's addresses on this host; of a list of mirrors, the first one."""
    folder = Path("/etc/apt")
    further = sorted(path for path in folder.glob("sources.list.d/*") if path.suffix in (".list", ".sources"))
    paths = [path for path in (folder / "sources.list", *further) if path.is_file()]
    addresses = []
    for address in apt_addresses(path.read_text(errors="replace") for path in paths):
        if address.startswith("mirror+file:"):
            listing = Path(address.removeprefix("mirror+file:"))
            entries = listing.read_text(errors="replace").split() if listing.is_file() else []
            address = next((entry.rstrip("/") for entry in entries if entry.startswith("http")), "")
        addresses.append(address)
    return addresses


def _pip_settings() -> dict[str, str]:
    """Return the settings for all commands in pip's configuration files of this host and of its administrator."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(("/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"))
        return {name: value.strip() for name, value in parser.items("global")} if "global" in parser else {}
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
        return {}


def _apt_proxies() -> dict[str, str]:
    """Return the proxies of this host's apt, by scheme."""
    found = {}
    for scheme in ("http", "https"):
        command = ["apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        matched = re.search(r"PROXY='(http[^']*)'", answer.stdout)
        if matched:
            found[scheme] = matched[1]
    return found


def _problem(mirror: str, suite: str, environment: Mapping[str, str], certificates: bytes) -> str | None:
    """Return why a mirror does not offer a suite, or None."""
    context = ssl.create_default_context(cadata=certificates.decode(errors="replace") or None)
    proxied = {name.removesuffix("_proxy"): value for name, value in environment.items() if name != "no_proxy"}
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxied), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"{mirror}/dists/{suite}/InRelease", timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        return tr("HTTP status {code}", code=error.code)
    except (OSError, ValueError) as error:
        return without_credentials(str(getattr(error, "reason", error)))
