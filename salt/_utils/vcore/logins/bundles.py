"""Bundles with which hosts that are not under Salt let the core's people log in: files, install, undo, README.

What differs from one kind of host to the next is data, in :data:`KINDS`. The scripts and templates are in
salt/clients of the checkout: only the head reads them, so they need not be among the states, nor where Salt syncs code
to nodes from. The configuration of sssd is the one that managed nodes get (:mod:`vcore.logins.sssd`).
"""

from __future__ import annotations

import difflib
import gzip
import io
import re
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..directory import client
from ..kernel import pillar as kernel_pillar
from ..services import templates
from . import sssd
from .sssd import Access

FOLDER = "/etc/virtual-core-logins"
AUTHORITY = f"{FOLDER}/authority.pem"
MESSAGE_FILE = f"{FOLDER}/password-elsewhere"
MARK = "# Virtual Core: logins of its people. Installed from a bundle of the core."
#: On one line, for the configuration of clients that can show it.
MESSAGE = " ".join(sssd.PASSWORD_MESSAGE.split())
#: The time of all members of a bundle, in Unix seconds: so the same core gives the same bundle.
TIME = 946684800

COMMON_NOTES = (
    "The directory answers at {uri}. Where the name {host} is not in DNS, install writes it into /etc/hosts with the "
    "address {address}; a moved core needs a new bundle.",
    "User and group ids below 9000 are not taken from the directory, and none of its groups takes the place of one "
    "that gives privileges on this host (sudo, wheel, docker and the like), if the client can tell.",
    "Passwords are not changed on this host: people use salt-call vcore.sync_password on the core's file router or "
    "login host, which changes the directory and the file server together. A first password has to be changed there, "
    "too, before it lets anybody in here.",
    "A locked account is refused, with an ssh key as well.",
    "A home is made at the first login; undo leaves homes where they are.",
)
SSSD_NOTES = (
    "Whoever has logged in before can also log in while the directory does not answer, for 14 days.",
    "ssh keys come from the directory (sshPublicKey).",
    "An sssd that this host already uses for something else is replaced: install keeps its sssd.conf for undo.",
)
NO_KEYS = (
    "ssh keys do not come from the directory: this client cannot fetch them. Those in ~/.ssh/authorized_keys work.",
    "There is no cache for when the directory does not answer: people cannot log in meanwhile. Keep a local account.",
)
UNTRIED = "This kind was not tried on a real system: its files follow the manual pages. Try it on a spare host first."
HIDDEN = "People who may not log in are unknown to this host: their files show only a number as the owner."
TLS_BY_UPDATES = (
    "The core speaks TLS 1.2 and newer. Here libldap does TLS with Mozilla's NSS, which learnt 1.2 late in the life of "
    "this release: update openldap and nss first (yum update openldap nss). install tries it, with this very library, "
    "before it changes any login; where it fails, the ways out are those for CentOS 5: see the bundle centos5."
)


@dataclass(frozen=True)
class Kind:
    """One kind of host. ``files`` maps paths to a builder's name and a mode (with an owner if that is not root)."""

    title: str
    #: What the error of install calls the systems, and the shell patterns of ``ID-VERSION_ID`` that match them.
    system_name: str
    systems: tuple[str, ...]
    family: str
    client: str
    packages: tuple[str, ...]
    probe: str
    services: tuple[str, ...]
    files: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...] = ()
    nss: str = "sss"
    pam_module: str = "pam_sss.so"
    authconfig: str = ""
    nslcd_group: str = "nslcd"
    #: The system account that the packages make.
    account: str = "sssd"
    #: Lines with which sshd asks for keys.
    sshd: tuple[str, ...] = ()
    pam_block: str = ""
    tunnel: bool = False
    tls_note: str = ""


_SSSD_FILES = {
    AUTHORITY: ("authority", "0644"),
    MESSAGE_FILE: ("message", "0644"),
    "/etc/sssd/sssd.conf": ("sssd", "0600"),
}
_DEBIAN = Kind(
    title="Debian 11 and newer, with sssd",
    system_name="Debian 11 or newer",
    systems=("debian-1[1-9]", "debian-"),
    family="apt",
    client="sssd",
    packages=(*sssd.FAMILIES["Debian"].packages, "ldap-utils"),
    probe="ldap-utils",
    services=("sssd",),
    files={**_SSSD_FILES, "/usr/share/pam-configs/virtual-core-logins": ("pam_profile", "0644")},
    notes=SSSD_NOTES,
    sshd=sssd.SSHD_LINES,
)
_EL = ("rhel", "centos", "rocky", "almalinux", "ol", "scientific")
_AUTHSELECT = Kind(
    title="",
    system_name="",
    systems=(),
    family="authselect",
    client="sssd",
    packages=(*sssd.FAMILIES["RedHat"].packages, "openldap-clients"),
    probe="openldap-clients",
    services=("sssd", "oddjobd"),
    files=_SSSD_FILES,
    notes=(*SSSD_NOTES, UNTRIED),
    sshd=sssd.SSHD_LINES,
    pam_block="/etc/pam.d/passwd",
)
_NSLCD = ("nslcd", "0600")
_LDAP_SWITCHES = "--enableldap --enableldapauth --disablesssd --disablesssdauth --enablemkhomedir --enablelocauthorize"


def _releases(version: str) -> tuple[str, ...]:
    return tuple(f"{name}-{version}{rest}" for name in _EL for rest in ("", ".*"))


#: By the name that ``salt-run vcore.client_bundle os=`` takes.
KINDS: dict[str, Kind] = {
    "debian": _DEBIAN,
    "ubuntu": replace(
        _DEBIAN,
        title="Ubuntu 20.04 and newer, with sssd",
        system_name="Ubuntu 20.04 or newer",
        systems=("ubuntu-2[0-9].*", "ubuntu-[3-9][0-9].*"),
        notes=(*SSSD_NOTES, UNTRIED),
    ),
    "debian-ldapd": replace(
        _DEBIAN,
        title="Debian 11 and newer or Ubuntu 20.04 and newer, with nslcd (libnss-ldapd, libpam-ldapd)",
        system_name="Debian 11 or Ubuntu 20.04, or newer",
        systems=("debian-1[1-9]", "debian-", "ubuntu-2[0-9].*", "ubuntu-[3-9][0-9].*"),
        client="nslcd",
        packages=("nslcd", "libnss-ldapd", "libpam-ldapd", "ldap-utils"),
        services=("nslcd",),
        files={
            AUTHORITY: ("authority", "0644"),
            "/etc/nslcd.conf": _NSLCD,
            "/usr/share/pam-configs/virtual-core-logins": ("pam_profile_homes", "0644"),
        },
        notes=NO_KEYS,
        nss="ldap",
        pam_module="pam_ldap.so",
        account="nslcd",
        sshd=(),
    ),
    "centos5": Kind(
        title="CentOS 5, with nss_ldap and pam_ldap",
        system_name="CentOS or Red Hat Enterprise Linux 5",
        systems=_releases("5"),
        family="authconfig",
        client="nss_ldap",
        packages=("nss_ldap", "nscd", "openldap-clients", "authconfig"),
        probe="openldap-clients",
        services=("nscd",),
        files={
            AUTHORITY: ("authority", "0644"),
            f"{FOLDER}/tunnel.conf": ("tunnel", "0644"),
            "/etc/rc.d/init.d/virtual-core-tunnel": ("tunnel_init", "0755"),
            # Whatever process looks a name up has to read the password here; so nscd looks names up for all of them.
            "/etc/ldap.conf": ("ldap", "0640:root:nscd"),
        },
        notes=(
            "THIS SYSTEM CANNOT SPEAK WITH THE CORE BY ITSELF: its OpenSSL 0.9.8 ends at TLS 1.0, and the core "
            "requires 1.2, which is not lowered for it. So a tunnel is needed; without one, install stops before any "
            "change.",
            "First way out: stunnel on this host, built against an OpenSSL of its own. OpenSSL 1.0.2u and stunnel 5.56 "
            "build with this system's gcc: ./config --prefix=/opt/virtual-core no-shared && make && make install_sw "
            "in the one, ./configure --prefix=/opt/virtual-core --with-ssl=/opt/virtual-core && make && make install "
            "in the other. install then runs it on 127.0.0.1:1389, where it checks the core's certificate.",
            "Second way out, for a virtual machine: a relay on its newer host, on a network that only the two share, "
            "such as stunnel there with files/etc/virtual-core-logins/tunnel.conf and another accept line; then "
            "./install --relay ADDRESS:PORT. What passes between the two is in the clear, people's passwords too: "
            "never over a network that others reach.",
            "The password of {bind_dn} is readable by root and nscd only. While nscd does not run, only root sees "
            "people's names.",
            HIDDEN,
            *NO_KEYS,
            UNTRIED,
        ),
        authconfig="--enableldap --enableldapauth --enablemkhomedir --enablelocauthorize",
        account="nscd",
        tunnel=True,
    ),
    "centos6": Kind(
        title="CentOS 6, with sssd",
        system_name="CentOS or Red Hat Enterprise Linux 6",
        systems=_releases("6"),
        family="authconfig",
        client="sssd",
        packages=("sssd", "openldap-clients", "authconfig", "oddjob-mkhomedir"),
        probe="openldap-clients",
        services=("messagebus", "oddjobd", "sssd"),
        files={**_SSSD_FILES, "/etc/sssd/sssd.conf": ("sssd_old", "0600")},
        notes=(TLS_BY_UPDATES, *SSSD_NOTES, UNTRIED),
        authconfig="--enablesssd --enablesssdauth --enablemkhomedir --enablelocauthorize",
        # OpenSSH 5.3 as Red Hat patched it calls the second option by another name.
        sshd=(sssd.SSHD_LINES[0], "AuthorizedKeysCommandRunAs nobody"),
        pam_block="/etc/pam.d/passwd",
        tls_note="update openldap and nss first: yum update openldap nss",
    ),
    "centos6-pam_ldap": Kind(
        title="CentOS 6, with nslcd and pam_ldap",
        system_name="CentOS or Red Hat Enterprise Linux 6",
        systems=_releases("6"),
        family="authconfig",
        client="pam_ldap",
        packages=("nss-pam-ldapd", "pam_ldap", "openldap-clients", "authconfig", "oddjob-mkhomedir"),
        probe="openldap-clients",
        services=("messagebus", "oddjobd", "nslcd"),
        files={
            AUTHORITY: ("authority", "0644"),
            "/etc/nslcd.conf": _NSLCD,
            "/etc/pam_ldap.conf": ("ldap", "0600"),
        },
        notes=(TLS_BY_UPDATES, HIDDEN, *NO_KEYS, UNTRIED),
        authconfig=f"--enableforcelegacy {_LDAP_SWITCHES}",
        nslcd_group="ldap",
        account="nslcd",
        tls_note="update openldap and nss first: yum update openldap nss",
    ),
    "centos7": Kind(
        title="CentOS 7, with nslcd",
        system_name="CentOS or Red Hat Enterprise Linux 7",
        systems=_releases("7"),
        family="authconfig",
        client="nslcd",
        packages=("nss-pam-ldapd", "openldap-clients", "authconfig", "oddjob-mkhomedir"),
        probe="openldap-clients",
        services=("oddjobd", "nslcd"),
        files={AUTHORITY: ("authority", "0644"), "/etc/nslcd.conf": _NSLCD},
        notes=(*NO_KEYS, UNTRIED),
        authconfig=f"--enableforcelegacy {_LDAP_SWITCHES}",
        nslcd_group="ldap",
        account="nslcd",
        tls_note="update openldap first: yum update openldap nss",
    ),
    "rhel8": replace(
        _AUTHSELECT,
        title="Red Hat Enterprise Linux 8 and its relatives, with sssd",
        system_name="Red Hat Enterprise Linux 8 or a relative",
        systems=_releases("8"),
    ),
    "rhel9": replace(
        _AUTHSELECT,
        title="Red Hat Enterprise Linux 9 and its relatives, with sssd",
        system_name="Red Hat Enterprise Linux 9 or a relative",
        systems=_releases("9"),
    ),
}


def kind(name: str | None) -> Kind:
    """Return the kind of host of this name.

    Raises:
        VcoreError: there is none of that name, or none was named; the message lists them.
    """
    choices = "\n".join(f"  {known:<17} {each.title}" for known, each in KINDS.items())
    if not name:
        raise VcoreError(tr("say for which kind of host, such as os=debian; there are:\n{choices}", choices=choices))
    if name not in KINDS:
        close = difflib.get_close_matches(str(name).lower(), KINDS, n=1, cutoff=0.5)
        hint = tr("; did you mean {close}? There are", close=close[0]) if close else tr("; there are")
        raise VcoreError(
            tr("no kind of host is called {name}{hint}:\n{choices}", name=quoted(name), hint=hint, choices=choices)
        )
    return KINDS[name]


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Core:
    """What bundles are made from: how the directory is reached, its root certificate (PEM), the password."""

    access: Access
    address: str
    authority: str
    password: str

    @property
    def host(self) -> str:
        """The directory's name."""
        return self.access.uri.removeprefix("ldaps://").partition(":")[0]

    @property
    def port(self) -> int:
        """The directory's port."""
        return int(self.access.uri.removeprefix("ldaps://").partition(":")[2] or 636)


def core(pillar: Mapping[str, Any], authority: str, password: str, groups: Iterable[str] = ()) -> Core:
    """Return what bundles of this core are made from, by the head's resolved pillar.

    Raises:
        VcoreError: there is no directory, a group's name is not valid, or the password has characters that some client
            would misread.
    """
    access = sssd.access(pillar, Path(AUTHORITY), groups)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", password):
        raise VcoreError(
            tr(
                "the secret ldap/readonly-password has characters that not every client takes: it may "
                "have letters, digits, '.', '_' and '-' only; salt-call vcore_secret.rotate "
                "ldap/readonly-password makes a new one"
            )
        )
    address = pillar["nodes"][pillar["services"]["ldap"]["node"]]["address"]
    return Core(access, str(address), authority, password)


def files(name: str, core: Core, checkout: Path) -> dict[str, bytes]:
    """Return the finished files of a kind, by their path on the host."""
    chosen = kind(name)
    folder = checkout / "salt" / "clients" / "files"
    access = core.access
    names = {
        "mark": MARK,
        "access": access,
        "password": core.password,
        "uri": "ldap://127.0.0.1:1389" if chosen.tunnel else access.uri,
        "host": core.host,
        "port": core.port,
        "tunnel": chosen.tunnel,
        "login": chosen.client,
        "person_filter": f"(&(objectClass=posixAccount)(!(shadowExpire=1)){access.filter})",
        "powerful": sssd.POWERFUL_GROUPS,
        "least_id": sssd.LEAST_ID,
        "message": MESSAGE,
        "nslcd_group": chosen.nslcd_group,
    }

    def build(builder: str) -> bytes:
        if builder == "authority":
            return core.authority.encode()
        if builder == "message":
            return sssd.PASSWORD_MESSAGE.encode()
        if builder in ("sssd", "sssd_old"):
            return sssd.sssd_conf(access, core.password, old=builder == "sssd_old", mark=MARK).encode()
        if builder in ("pam_profile", "pam_profile_homes"):
            return sssd.pam_profile(MESSAGE_FILE, refuse_passwords=builder == "pam_profile").encode()
        if builder == "tunnel_init":
            return (folder / "tunnel.init").read_bytes()
        return templates.render(folder, f"{builder}.conf.j2", names)

    return {path: build(builder) for path, (builder, _) in sorted(chosen.files.items())}


def script(program: str, name: str, core: Core, checkout: Path) -> str:
    """Return ``install`` or ``undo`` of a kind: values, what all kinds share, what its family does, and the steps."""
    chosen = kind(name)
    folder = checkout / "salt" / "clients"
    lines = {
        "PROGRAM": program,
        "KIND": name,
        "TITLE": chosen.title,
        "DOMAIN": core.access.domain,
        "SYSTEM_NAME": chosen.system_name,
        "SYSTEMS": " ".join(chosen.systems),
        "CLIENT": chosen.client,
        "PACKAGES": " ".join(chosen.packages),
        "PROBE_PACKAGE": chosen.probe,
        "SERVICES": " ".join(chosen.services),
        "FILES": "\n".join(f"{mode} {path}" for path, (_, mode) in sorted(chosen.files.items())),
        "URI": "ldap://127.0.0.1:1389" if chosen.tunnel else core.access.uri,
        "LDAP_HOST": core.host,
        "LDAP_ADDRESS": core.address,
        "AUTHORITY": AUTHORITY,
        "BIND_DN": core.access.bind_dn,
        "PEOPLE": core.access.people,
        "FILTER": f"(&(objectClass=posixAccount)(!(shadowExpire=1)){core.access.filter})",
        "SSSD_BY_ITSELF": "yes" if chosen.family == "apt" else "",
        "NSS": chosen.nss,
        "PAM_MODULE": chosen.pam_module,
        "ACCOUNT": chosen.account,
        "AUTHCONFIG": f"{chosen.authconfig} --ldapserver={core.access.uri} --ldapbasedn={core.access.suffix}"
        if "ldap" in chosen.authconfig
        else chosen.authconfig,
        "PAM_BLOCK": chosen.pam_block,
        "PAM_LINES": "\n".join(f"password {line}" for line in sssd.pam_password_lines(MESSAGE_FILE)),
        "SSHD_LINES": "\n".join(chosen.sshd),
        "SSHD_DROP_IN": str(sssd.SSHD_DROP_IN),
        "MARK": MARK,
        "TLS_NOTE": chosen.tls_note,
        "TUNNEL": "yes" if chosen.tunnel else "",
        "USAGE": " [--relay ADDRESS:PORT | --stunnel FILE]" if chosen.tunnel else "",
        "STUNNEL": "/opt/virtual-core/bin/stunnel" if chosen.tunnel else "",
    }
    values = "".join(f"{key}={shlex.quote(value)}\n" for key, value in lines.items())
    parts = [(folder / part).read_text() for part in ("common.sh", f"family-{chosen.family}.sh", f"{program}.sh")]
    return (
        f"#!/bin/sh\n# Virtual Core: logins of the people of {core.access.domain} on {chosen.title}. See README.\n"
        # For values that only one of the two scripts uses, or only some kinds.
        "# shellcheck disable=SC2034,SC2317,SC2329\n"
        f"set -eu\n\n{values}\n" + "".join(parts)
    )


def members(name: str, core: Core, checkout: Path) -> dict[str, tuple[bytes, int]]:
    """Return everything in a bundle: content and mode by path, in order."""
    chosen = kind(name)
    folder = f"virtual-core-logins-{name}"
    ready = files(name, core, checkout)
    values = {"uri": core.access.uri, "host": core.host, "address": core.address, "bind_dn": core.access.bind_dn}
    names = {
        "access": core.access,
        "kind": chosen,
        "folder": folder,
        "archive": f"{folder}.tar.gz",
        "files": {path: mode.partition(":")[0] for path, (_, mode) in sorted(chosen.files.items())},
        "notes": [note.format(**values) for note in (*COMMON_NOTES, *chosen.notes)],
    }
    contents: dict[str, tuple[bytes, int]] = {
        "README": (templates.render(checkout / "salt" / "clients", "README.j2", names), 0o600),
        # Without a line break, which LDAP's tools would take for a part of the password.
        "bind-password": (core.password.encode(), 0o600),
        "install": (script("install", name, core, checkout).encode(), 0o700),
        "undo": (script("undo", name, core, checkout).encode(), 0o700),
        **{f"files{path}": (content, 0o600) for path, content in ready.items()},
    }
    return {f"{folder}/{path}": contents[path] for path in sorted(contents)}


def archive(contents: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Return a tarball that old systems can unpack; it is the same for the same contents."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        folders: set[str] = set()
        for path, (content, mode) in contents.items():
            parents = [str(parent) for parent in reversed(Path(path).parents) if str(parent) != "."]
            for parent in parents:
                if parent not in folders:
                    folders.add(parent)
                    tar.addfile(_entry(parent, 0o700, tarfile.DIRTYPE))
            entry = _entry(path, mode, tarfile.REGTYPE)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime, entry.uname, entry.gname = kind, mode, TIME, "root", "root"
    return entry


def write(name: str, core: Core, checkout: Path, target: Path) -> None:
    """Write a bundle, readable by root only, since it holds the password.

    Raises:
        VcoreError: the path is not absolute, or its folder does not exist.
    """
    if not target.is_absolute() or not target.parent.is_dir():
        raise VcoreError(tr("{target} has to be an absolute path in a folder that exists", target=target))
    write_atomic(target, archive(members(name, core, checkout)), mode=0o600)


def make(paths: Paths, os: str | None, file: str | None, groups: Sequence[str]) -> dict[str, str]:
    """Write the bundle for a kind of host, by default below /root, and return what to tell: ``{file, for, secret}``.

    Members of ``groups`` may log in there, or everybody if there are none.

    Raises:
        VcoreError: there is no such kind or group, something of the core is not there yet, or the folder of the file
            does not exist.
    """
    chosen = kind(os)
    pillar = kernel_pillar.resolved(paths)
    root = paths.authority / "ca.crt"
    if not root.is_file():
        raise NotFound(tr("there is no certificate authority in {root} yet; apply the states on the head", root=root))
    made = core(pillar, root.read_text(), Store(paths.secrets).read("ldap", "readonly-password").decode(), groups)
    if groups:
        with client.open_administrator(pillar, paths) as connection:
            found = connection.search(made.access.group_base, "(objectClass=posixGroup)", ["cn"])
            known = [entry["cn"][0] for _, entry in found]
        sssd.check_groups(groups, known, pillar["accounts"]["group"])
    target = Path(file or f"/root/virtual-core-logins-{os}.tar.gz")
    write(str(os), made, paths.checkout, target)
    return {
        "file": str(target),
        "for": chosen.title,
        "secret": f"It holds the password of {made.access.bind_dn}: copy it by ssh, delete it when the host is done.",
    }
