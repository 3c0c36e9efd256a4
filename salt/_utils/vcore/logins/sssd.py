"""Logins of the core's people on a node itself: by sssd, with what that needs in the name service, PAM and sshd.

Standard library only, since it is imported on nodes, which have none of the core's other libraries. What differs
between distributions is data, in :data:`FAMILIES`. Hosts that are not under Salt get a bundle:
:mod:`vcore.logins.bundles`.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import NotFound, VcoreError
from ..base.files import write_atomic
from ..base.messages import quoted, tr

Changes = dict[str, Any]

#: The first line of each file that is the core's.
MARK = "# Virtual Core: logins of its people. Written by Salt."
#: User and group ids that a host takes from the directory. Below are the system's own, and above are special ones.
LEAST_ID, GREATEST_ID = 9000, 2_000_000_000
#: Groups that give privileges on a host: no entry of the directory may take their place.
_POWERFUL = "adm admin disk docker kmem kvm libvirt lxd root shadow staff sudo systemd-journal wheel"
POWERFUL_GROUPS = tuple(_POWERFUL.split())
#: The databases of nsswitch.conf(5) that the directory answers.
DATABASES = ("passwd", "group", "shadow")
SECRET = "ldap_default_authtok"
PASSWORD_MESSAGE = (
    "Your password is kept in the core's directory and cannot be changed here.\n"
    "Change it with  salt-call vcore.sync_password  on the core's file router or login host.\n"
)

SSSD_CONF = Path("/etc/sssd/sssd.conf")
MESSAGE_FILE = Path("/etc/virtual-core-logins/password-elsewhere")
NSSWITCH = Path("/etc/nsswitch.conf")
SSHD_CONFIG = Path("/etc/ssh/sshd_config")
SSHD_DROP_IN = Path("/etc/ssh/sshd_config.d/virtual-core-logins.conf")
BEGIN, END = "# Virtual Core: begin, logins", "# Virtual Core: end, logins"


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Access:
    """How a host reaches the directory, and who may log in on it.

    ``authority`` is the path of the root certificate on that host; without ``groups`` all of the core's people may log
    in.
    """

    uri: str
    suffix: str
    domain: str
    authority: str
    groups: tuple[str, ...] = ()

    @property
    def bind_dn(self) -> str:
        """The DN that the host binds as to look people up."""
        return f"cn=readonly,ou=services,{self.suffix}"

    @property
    def people(self) -> str:
        """The base DN of people."""
        return f"ou=people,{self.suffix}"

    @property
    def group_base(self) -> str:
        """The base DN of groups."""
        return f"ou=groups,{self.suffix}"

    @property
    def filter(self) -> str:
        """Who may log in, as a filter (RFC 4515)."""
        members = "".join(f"(memberOf=cn={group},{self.group_base})" for group in self.groups)
        if not members:
            return "(objectClass=posixAccount)"
        return members if len(self.groups) == 1 else f"(|{members})"


#: The group that every core's directory has; vcore.people defines it, too, but is not for nodes.
ADMINISTRATORS = "administrators"
GROUP_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def access(pillar: Mapping[str, Any], authority: Path, groups: Iterable[str]) -> Access:
    """Return the access of a node, from its resolved pillar.

    Raises:
        VcoreError: the core has no directory, or a group's name is not valid.
    """
    directory = pillar["directory"]
    if directory is None:
        raise VcoreError(tr("logins need the directory: switch the service ldap on in the site file"))
    names = tuple(str(group) for group in groups)
    for name in names:
        if not GROUP_NAME.fullmatch(name):
            raise VcoreError(
                tr(
                    "{name} is not the name of a group: at most 31 of a-z, 0-9, - and _, a letter first",
                    name=quoted(name),
                )
            )
    return Access(directory["uri"], directory["suffix"], pillar["site"]["domain"], str(authority), names)


def check_groups(groups: Iterable[str], known: Collection[str], everybody: str) -> None:
    """Refuse groups that would let nobody in.

    These are groups that the directory does not have, and the group of ``everybody``, which lists no members.

    Raises:
        VcoreError: there is such a group; the message names the first, and what to do.
    """
    for group in groups:
        if group == everybody:
            raise VcoreError(
                tr("everybody is in {group}, which lists no members: name no group to let everybody in", group=group)
            )
        if group not in known:
            names = sorted(set(known) - {everybody})
            close = difflib.get_close_matches(group, names, n=1)
            hint = (
                tr("did you mean {close}?", close=close[0])
                if close
                else tr("there are: {names}", names=", ".join(names) or "none")
            )
            raise VcoreError(tr("the directory has no group {group}; {hint}", group=quoted(group), hint=hint))


def check_groups_by_sssd(groups: Iterable[str], run: Callable[[Sequence[str]], None]) -> None:
    """Refuse groups that the directory does not have, by asking this node's sssd, which has to run.

    While the directory does not answer, sssd may know no group at all. Then it does not know the administrators'
    either, which always exists, and no group is refused.

    Raises:
        VcoreError: the directory does not have a group.
    """

    def known(group: str) -> bool:
        try:
            run(("getent", "-s", "sss", "group", group))
        except VcoreError:
            return False
        return True

    for group in groups:
        if not known(group) and known(ADMINISTRATORS):
            raise VcoreError(
                tr(
                    "the directory has no group {group}: make it with salt-call vcore.group_add on the "
                    "head, or correct logins of this node in the site file",
                    group=quoted(group),
                )
            )


def sssd_conf(access: Access, password: str, *, old: bool = False, mark: str = MARK) -> str:
    """Return sssd.conf(5). ``old`` leaves out what sssd 1.13, that of CentOS 6, does not know."""
    domain: dict[str, str] = {
        "id_provider": "ldap",
        "auth_provider": "ldap",
        "access_provider": "ldap",
        # People change passwords elsewhere, where the directory and the file server change together.
        "chpass_provider": "none",
        "sudo_provider": "none",
        "autofs_provider": "none",
        "ldap_uri": access.uri,
        "ldap_schema": "rfc2307",
        "ldap_search_base": access.suffix,
        "ldap_user_search_base": access.people,
        "ldap_group_search_base": access.group_base,
        "ldap_default_bind_dn": access.bind_dn,
        "ldap_default_authtok_type": "password",
        SECRET: password,
        "ldap_tls_reqcert": "demand",
        "ldap_tls_cacert": access.authority,
        "ldap_user_ssh_public_key": "sshPublicKey",
        # Both apply to every login, one by ssh key, too: who may log in, and whose account is locked (shadowExpire).
        "ldap_access_order": "filter, expire",
        "ldap_access_filter": access.filter,
        "ldap_account_expire_policy": "shadow",
        "min_id": str(LEAST_ID),
        "max_id": str(GREATEST_ID),
        "enumerate": "false",
        # Whoever has logged in before can also log in while the directory does not answer, for two weeks.
        "cache_credentials": "true",
        "entry_cache_timeout": "600",
        "ldap_network_timeout": "3",
        "ldap_opt_timeout": "6",
    }
    sections = {
        "sssd": {
            "services": "nss, pam, ssh",
            "domains": access.domain,
        },
        "nss": {"filter_users": "root", "filter_groups": ", ".join(POWERFUL_GROUPS)},
        "pam": {
            "offline_credentials_expiration": "14",
            "pam_account_expired_message": "This account is locked. Ask the core's administrators.",
        },
        f"domain/{access.domain}": domain,
    }
    if old:
        sections["sssd"] |= {"config_file_version": "2"}
        del sections["pam"]["pam_account_expired_message"]
    blocks = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
        for name, options in sections.items()
    ]
    return f"{mark}\n\n" + "\n".join(blocks)


def pam_password_lines(message: str) -> tuple[str, ...]:
    """Return PAM lines that refuse to change a password that is not kept on this host, and say where to change it."""
    return (
        "[success=3 default=ignore]\tpam_localuser.so",
        f"[success=ignore default=2]\tpam_succeed_if.so quiet uid >= {LEAST_ID}",
        f"optional\tpam_echo.so file={message}",
        "requisite\tpam_deny.so",
    )


def pam_profile(message: str, *, refuse_passwords: bool = True) -> str:
    """Return a profile of pam-auth-update(8): homes are made at the first login, passwords are changed elsewhere.

    Its priority is between that of unix, which knows local accounts, and that of sss: before unix it would take the new
    password that unix has to ask for.
    """
    lines = [
        "Name: Logins of the people of a Virtual Core",
        "Default: yes",
        "Priority: 200",
        "Session-Type: Additional",
        "Session-Interactive-Only: no",
        "Session:",
        "\trequired\tpam_mkhomedir.so umask=0077",
    ]
    if refuse_passwords:
        lines += ["Password-Type: Primary", "Password:", *(f"\t{line}" for line in pam_password_lines(message))]
    return "".join(f"{line}\n" for line in lines)


SSHD_LINES = (
    "AuthorizedKeysCommand /usr/bin/sss_ssh_authorizedkeys",
    "AuthorizedKeysCommandUser nobody",
)
INCLUDES_DROP_INS = re.compile(r"^\s*Include\s+(/etc/ssh/)?sshd_config\.d/\*\.conf", re.MULTILINE | re.IGNORECASE)
OTHER_KEYS = re.compile(r"^\s*AuthorizedKeysCommand\s+(?!none\b)(\S.*)$", re.MULTILINE | re.IGNORECASE)


def sshd_wanted(config: str, *, on: bool) -> dict[Path, str | None]:
    """Return what sshd's files have to hold so that it asks sssd for keys (``on``), or does so no longer.

    It is a drop-in where sshd reads these, elsewhere a block before everything else, since the first value of an option
    counts. None means that there is no such file.
    """
    kept = without_block(config)
    if not on:
        return {SSHD_CONFIG: kept, SSHD_DROP_IN: None}
    if INCLUDES_DROP_INS.search(config):
        return {SSHD_CONFIG: kept, SSHD_DROP_IN: "".join(f"{line}\n" for line in (MARK, *SSHD_LINES))}
    return {SSHD_CONFIG: "".join(f"{line}\n" for line in (BEGIN, *SSHD_LINES, END)) + kept, SSHD_DROP_IN: None}


def with_block(text: str, lines: Sequence[str], *, before: str) -> str:
    """Return a text with the core's block before the first line that begins with ``before``, or at the end."""
    kept = without_block(text).splitlines(keepends=True)
    place = next((number for number, line in enumerate(kept) if line.startswith(before)), len(kept))
    block = [f"{line}\n" for line in (BEGIN, *lines, END)]
    return "".join([*kept[:place], *block, *kept[place:]])


def without_block(text: str) -> str:
    """Return a text without the core's block.

    Raises:
        VcoreError: the end of the block is missing, so that it is unknown what belongs to it.
    """
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        inside = inside or line.rstrip("\n") == BEGIN
        if not inside:
            kept.append(line)
        inside = inside and line.rstrip("\n") != END
    if inside:
        raise VcoreError(
            tr("'{begin}' has no line '{end}' below it; put that back where the block ends", begin=BEGIN, end=END)
        )
    return "".join(kept)


def nsswitch_with(text: str, source: str) -> str:
    """Return nsswitch.conf(5) with ``source`` as the last one for people, groups and their passwords."""
    lines = []
    for line in text.splitlines(keepends=True):
        database, colon, sources = line.partition(":")
        words = sources.split("#")[0].split()
        if colon and database.strip() in DATABASES and source not in words:
            body = line.rstrip("\n")
            content, hash_sign, comment = body.partition("#")
            line = f"{content.rstrip()} {source}" + (f" {hash_sign}{comment}" if hash_sign else "") + "\n"
        lines.append(line)
    return "".join(lines)


def nsswitch_without(text: str, source: str) -> str:
    """Return nsswitch.conf(5) without ``source``, the opposite of :func:`nsswitch_with`."""
    pattern = re.compile(rf"^({'|'.join(DATABASES)})(:[^#\n]*?)[ \t]+{re.escape(source)}(?=[ \t#\n]|$)", re.MULTILINE)
    return pattern.sub(r"\1\2", text)


# --- distributions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How logins are set up on a family of distributions.

    ``pam`` is what shows that sssd is in PAM: files, and what each has to contain. ``pam_on`` and ``pam_off`` are the
    commands that put it there and take it away, ``pam_files`` the files that these need. ``sockets`` are units that
    would start parts of sssd which it starts by itself.
    """

    packages: tuple[str, ...]
    services: tuple[str, ...]
    sshd: str
    pam: Mapping[Path, tuple[str, ...]]
    pam_on: tuple[tuple[str, ...], ...]
    pam_off: tuple[tuple[str, ...], ...]
    pam_files: Mapping[Path, str] = field(default_factory=dict)
    #: Where the first of ``pam_on`` (its option ``--backup``) keeps what was there, and ``pam_off`` finds it.
    pam_backup: Path | None = None
    #: A file of PAM that gets :func:`pam_password_lines` as a block, where no profile can carry them.
    pam_block: Path | None = None
    nsswitch: bool = True
    sockets: tuple[str, ...] = ()
    #: A command that fails if some other package needs one of those named behind it.
    removal_check: tuple[str, ...] = ()
    install_options: Mapping[str, Any] = field(default_factory=dict)


PAM_PROFILE = Path("/usr/share/pam-configs/virtual-core-logins")

#: By Salt's grain ``os_family``.
FAMILIES = {
    "Debian": Family(
        # libpam-sss brings pam_pwquality, which refuses all new passwords of local accounts without cracklib's words.
        packages=("sssd-ldap", "libnss-sss", "libpam-sss", "sssd-tools", "cracklib-runtime"),
        services=("sssd",),
        sshd="ssh",
        pam={
            Path("/etc/pam.d/common-auth"): ("pam_sss.so",),
            Path("/etc/pam.d/common-account"): ("pam_sss.so",),
            Path("/etc/pam.d/common-session"): ("pam_sss.so", "pam_mkhomedir.so"),
            Path("/etc/pam.d/common-password"): (str(MESSAGE_FILE),),
        },
        pam_on=(("pam-auth-update", "--package"),),
        pam_off=(("pam-auth-update", "--package", "--remove", PAM_PROFILE.name),),
        pam_files={PAM_PROFILE: pam_profile(str(MESSAGE_FILE))},
        removal_check=("dpkg", "--simulate", "--purge"),
        sockets=tuple(f"sssd-{name}.socket" for name in ("nss", "pam", "ssh", "sudo", "autofs")),
        install_options={"install_recommends": False},
    ),
    "RedHat": Family(
        packages=("sssd-ldap", "sssd-tools", "authselect", "oddjob-mkhomedir"),
        services=("sssd", "oddjobd"),
        sshd="sshd",
        pam={Path("/etc/authselect/authselect.conf"): ("sssd", "with-mkhomedir")},
        pam_on=(
            ("authselect", "select", "sssd", "with-mkhomedir", "--force", "--backup=virtual-core-logins"),
            ("authselect", "check"),
        ),
        pam_off=(
            ("authselect", "backup-restore", "virtual-core-logins"),
            ("authselect", "backup-remove", "virtual-core-logins"),
        ),
        pam_backup=Path("/var/lib/authselect/backups/virtual-core-logins"),
        pam_block=Path("/etc/pam.d/passwd"),
        # authselect's profile does that.
        nsswitch=False,
        removal_check=("rpm", "-e", "--test"),
    ),
}


def family(os_family: str) -> Family:
    """Return the family of a node.

    Raises:
        VcoreError: the family is unknown.
    """
    if os_family not in FAMILIES:
        raise VcoreError(
            tr(
                "logins are not supported on {os_family}; they are on: {families}",
                os_family=os_family,
                families=", ".join(FAMILIES),
            )
        )
    return FAMILIES[os_family]


# --- comparing and carrying out -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """What Salt's own modules do on a node: packages and services of any distribution."""

    #: The names of all packages that are there.
    installed: Callable[[], Collection[str]]
    install: Callable[[Sequence[str], Mapping[str, Any]], None]
    remove: Callable[[Sequence[str]], None]
    running: Callable[[str], bool]
    enabled: Callable[[str], bool]
    #: ``service(function, name)``: start, stop, restart, reload, enable, disable.
    service: Callable[[str, str], None]
    #: Runs a command, or raises with the end of its output.
    run: Callable[[Sequence[str]], None]


RECORD = "logins.json"


def read_record(state: Path) -> dict[str, Any]:
    """Return what :func:`apply_present` has noted to undo.

    That is the ``packages`` that it brought, whether it changed ``pam`` and ``nsswitch`` and, while packages are being
    installed, those that were there ``before``.
    """
    try:
        record = json.loads((state / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(state: Path, record: Mapping[str, Any]) -> None:
    state.mkdir(parents=True, exist_ok=True)
    write_atomic(state / RECORD, json.dumps(record, indent=1).encode(), mode=0o600)


def _with_packages(record: Mapping[str, Any], system: System) -> dict[str, Any]:
    """Return a record with all packages that came since ``before``, also those that others brought along."""
    noted = {"packages": [], "nsswitch": False, "pam": False, **record}
    if "before" in noted:
        came = set(system.installed()) - set(noted.pop("before"))
        noted["packages"] = sorted({*noted["packages"], *came})
    return noted


def _removable(record: Mapping[str, Any], kind: Family, system: System) -> tuple[list[str], str]:
    """Return the packages of a record that are still there, and why they have to stay, or an empty string."""
    packages = sorted(set(record["packages"]) & set(system.installed()))
    try:
        if packages:
            system.run((*kind.removal_check, *packages))
    except VcoreError as error:
        lines = str(error).splitlines()
        return packages, next(
            (line for line in lines if " depends on " in line or " needed by " in line), lines[-1]
        ).strip()
    return packages, ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _masked(text: str) -> list[str]:
    return [f"{SECRET} = (hidden)" if line.startswith(f"{SECRET} ") else line for line in text.splitlines()]


def lines_difference(old: str | None, new: str | None) -> list[str]:
    """Return the lines that are removed from (``- ``) and added to (``+ ``) a file, with passwords hidden."""
    before, after = _masked(old or ""), _masked(new or "")
    lines = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    if not lines and old != new:
        lines = ["+ a new password" if new else "- the file"]
    return lines


def owned_files(access: Access, password: str, kind: Family) -> dict[Path, tuple[str, int]]:
    """Return the files that are wholly the core's: content and mode by path."""
    return {
        SSSD_CONF: (sssd_conf(access, password), 0o600),
        MESSAGE_FILE: (PASSWORD_MESSAGE, 0o644),
        **{path: (text, 0o644) for path, text in kind.pam_files.items()},
    }


def _pam_active(kind: Family) -> bool:
    return all(all(text in (_read(path) or "") for text in texts) for path, texts in kind.pam.items())


def _closed(path: Path) -> bool:
    """Return whether only root, or root's group, can read a file; the unit of Debian's sssd opens it to that group."""
    status = path.stat()
    return status.st_uid == 0 and status.st_gid == 0 and not status.st_mode & 0o037


def present_difference(access: Access, password: str, kind: Family, system: System, state: Path) -> Changes:
    """Return what has to change so that people can log in.

    Raises:
        VcoreError: sssd or sshd is set up for something else, which the core must not replace.
    """
    changes: Changes = {}
    current = _read(SSSD_CONF)
    if current is not None and not current.startswith(MARK):
        raise VcoreError(
            tr(
                "{sssd_conf} is not the core's: move it away, or take logins off this node in the site file",
                sssd_conf=SSSD_CONF,
            )
        )
    if missing := sorted(set(kind.packages) - set(system.installed())):
        changes["packages"] = {"old": "missing", "new": ", ".join(missing)}
    restart = False
    for path, (wanted, mode) in owned_files(access, password, kind).items():
        found = _read(path)
        if found != wanted:
            changes[str(path)] = lines_difference(found, wanted)
        elif mode == 0o600 and not _closed(path):
            changes[str(path)] = {"old": "open to others", "new": "closed"}
        restart = restart or (path == SSSD_CONF and str(path) in changes)
    if not _pam_active(kind) or any(str(path) in changes for path in kind.pam_files):
        changes["PAM"] = {"old": "without the core's people", "new": "with the core's people"}
    if kind.pam_block and kind.pam_block.exists():
        found = kind.pam_block.read_text()
        if found != with_block(found, _pam_block(), before="password"):
            changes[str(kind.pam_block)] = [f"+ {line}" for line in _pam_block()]
    names = _read(NSSWITCH) or ""
    if kind.nsswitch and nsswitch_with(names, "sss") != names:
        changes[str(NSSWITCH)] = [f"+ sss for {', '.join(DATABASES)}"]
    for path, text in _sshd_difference(on=True).items():
        changes[str(path)] = lines_difference(_read(path), text)
    for service in kind.services:
        if not (system.running(service) and system.enabled(service)):
            changes[f"service {service}"] = {"old": "not running, or not enabled", "new": "running and enabled"}
        elif restart and service == "sssd":
            changes[f"service {service}"] = {"old": "running", "new": "restarted"}
    if not changes and not (state / RECORD).exists():
        changes[str(state / RECORD)] = {"old": None, "new": "what there is to undo"}
    return changes


def _pam_block() -> tuple[str, ...]:
    return tuple(f"password {line}" for line in pam_password_lines(str(MESSAGE_FILE)))


def _sshd_difference(*, on: bool) -> dict[Path, str | None]:
    config = _read(SSHD_CONFIG)
    if config is None:
        return {}
    for path in (SSHD_CONFIG, *sorted(SSHD_DROP_IN.parent.glob("*.conf"))) if on else ():
        other = OTHER_KEYS.search(without_block(_read(path) or ""))
        if other and path != SSHD_DROP_IN:
            raise VcoreError(
                tr(
                    "{path} has an AuthorizedKeysCommand of its own ({other}): remove it there, or take "
                    "logins off this node in the site file",
                    path=path,
                    other=other[1],
                )
            )
    return {path: text for path, text in sshd_wanted(config, on=on).items() if _read(path) != text}


def check_candidate(conf: str, run: Callable[[Sequence[str]], None]) -> None:
    """Have sssd check a configuration before it replaces the running one.

    Raises:
        VcoreError: sssd refuses it; the message is sssd's.
    """
    # Root's own folder: the candidate holds the password, and sssctl wants a file that only root reads.
    with tempfile.TemporaryDirectory(prefix="virtual-core-") as folder:
        candidate, snippets = Path(folder, "sssd.conf"), Path(folder, "conf.d")
        snippets.mkdir()
        write_atomic(candidate, conf.encode(), mode=0o600)
        run(("sssctl", "config-check", "-c", str(candidate), "-s", str(snippets)))


def apply_present(
    access: Access, password: str, kind: Family, system: System, state: Path, changes: Mapping[str, Any]
) -> None:
    """Carry out what :func:`present_difference` found."""
    if not Path("/run/systemd/system").is_dir():
        raise VcoreError(tr("logins need systemd, which does not run on this host"))
    if not Path(access.authority).is_file():
        raise VcoreError(
            tr(
                "the authority's certificate {authority} is not there: apply all states of this node",
                authority=access.authority,
            )
        )
    record = _with_packages(read_record(state), system)
    before = system.installed()
    if missing := [name for name in kind.packages if name not in before]:
        # Noted first: what is there after a power cut can still be removed.
        _write_record(state, {**record, "before": sorted(before)})
        system.install(missing, kind.install_options)
        record = _with_packages({**record, "before": before}, system)
    files = owned_files(access, password, kind)
    check_candidate(files[SSSD_CONF][0], system.run)
    names = _read(NSSWITCH) or ""
    more_names = kind.nsswitch and nsswitch_with(names, "sss") != names
    pam = not _pam_active(kind)
    record["nsswitch"] = record["nsswitch"] or more_names
    record["pam"] = True
    _write_record(state, record)
    for path, (text, mode) in files.items():
        if str(path) in changes:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(path, text.encode(), mode=mode)
    for socket in kind.sockets:
        if system.enabled(socket):
            system.service("disable", socket)
            system.service("stop", socket)
    for service in kind.services:
        if not system.enabled(service):
            system.service("enable", service)
        if not system.running(service):
            system.service("start", service)
        elif service == "sssd" and f"service {service}" in changes:
            system.service("restart", service)
    if more_names:
        write_atomic(NSSWITCH, nsswitch_with(names, "sss").encode(), mode=0o644)
    if pam or "PAM" in changes:
        kept = kind.pam_backup is not None and kind.pam_backup.exists()
        for command in kind.pam_on:
            # What was there before us is backed up only once: another run would back up our own.
            system.run([word for word in command if not (kept and word.startswith("--backup="))])
    if kind.pam_block and str(kind.pam_block) in changes:
        text = with_block(kind.pam_block.read_text(), _pam_block(), before="password")
        write_atomic(kind.pam_block, text.encode(), mode=0o644)
    _write_sshd(kind, system, on=True)
    if left := present_difference(access, password, kind, system, state):
        hint = tr("; PAM's files were edited by hand: run pam-auth-update --force") if "PAM" in left else ""
        raise VcoreError(
            tr("all commands succeeded, and yet these are not in order: {left}{hint}", left=", ".join(left), hint=hint)
        )


def _write_sshd(kind: Family, system: System, *, on: bool) -> None:
    """Write sshd's files, have sshd check them, and go back to the former ones if it objects."""
    wanted = _sshd_difference(on=on)
    former = {path: _read(path) for path in wanted}
    if not wanted:
        return
    _write_files(wanted)
    try:
        system.run(("/usr/sbin/sshd", "-t"))
    except VcoreError:
        _write_files(former)
        raise
    if system.running(kind.sshd):
        system.service("reload", kind.sshd)


def _write_files(files: Mapping[Path, str | None]) -> None:
    for path, text in files.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
            write_atomic(path, text.encode(), mode=mode)


def absent_difference(kind: Family, system: System, state: Path) -> Changes:
    """Return what has to change so that a node is as it was before people could log in; nothing if they never could."""
    if not (state / RECORD).exists():
        return {}
    record = _with_packages(read_record(state), system)
    changes: Changes = {str(state / RECORD): {"old": "what there is to undo", "new": None}}
    packages, needed = _removable(record, kind, system)
    for service in kind.services:
        if system.running(service):
            changes[f"service {service}"] = {"old": "running", "new": "stopped"}
    if packages:
        new = f"stay, others need them by now: {needed}" if needed else "removed"
        changes["packages"] = {"old": ", ".join(packages), "new": new}
    for path in (SSSD_CONF, MESSAGE_FILE, *kind.pam_files):
        if (text := _read(path)) is not None and (path != SSSD_CONF or text.startswith(MARK)):
            changes[str(path)] = {"old": "written", "new": None}
    if _pam_active(kind):
        changes["PAM"] = {"old": "with the core's people", "new": "without the core's people"}
    for path, text in _sshd_difference(on=False).items():
        changes[str(path)] = lines_difference(_read(path), text)
    return changes


def apply_absent(kind: Family, system: System, state: Path) -> None:
    """Undo what :func:`apply_present` did; homes of people stay."""
    record = _with_packages(read_record(state), system)
    _write_record(state, record)
    _write_sshd(kind, system, on=False)
    if record["pam"] and (kind.pam_backup is None or kind.pam_backup.exists()):
        for command in kind.pam_off:
            system.run(command)
    for path in (*kind.pam_files, MESSAGE_FILE):
        path.unlink(missing_ok=True)
    if kind.pam_block and kind.pam_block.exists():
        text = kind.pam_block.read_text()
        if without_block(text) != text:
            write_atomic(kind.pam_block, without_block(text).encode(), mode=0o644)
    if record["nsswitch"] and (names := _read(NSSWITCH)):
        write_atomic(NSSWITCH, nsswitch_without(names, "sss").encode(), mode=0o644)
    for service in kind.services:
        if system.running(service):
            system.service("stop", service)
        if system.enabled(service):
            system.service("disable", service)
    if (_read(SSSD_CONF) or "").startswith(MARK):
        SSSD_CONF.unlink()
    packages, needed = _removable(record, kind, system)
    if packages and not needed:
        system.remove(packages)
    if MESSAGE_FILE.parent.is_dir() and not any(MESSAGE_FILE.parent.iterdir()):
        MESSAGE_FILE.parent.rmdir()
    # Last, so that after a power cut the next run finds it and goes on.
    (state / RECORD).unlink(missing_ok=True)


def run(command: Sequence[str]) -> None:
    """Run a program of the host.

    Raises:
        NotFound: it is not there.
        VcoreError: it ended with an error; the message has its last lines.
    """
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise NotFound(tr("{command} is not there", command=command[0])) from None
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise VcoreError(tr("{command} failed: {lines}", command=" ".join(command[:2]), lines=lines))
