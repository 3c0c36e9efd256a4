"""Samba's configuration, its identifiers and its password hash, from the resolved pillar. Everything here is pure.

:mod:`vcore.file_router.configuration` brings the configuration into force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import quoted, tr
from ..base.names import FILE_ROUTER as SERVICE
from ..base.names import within_one_another
from ..directory.samba_ids import person_sid

#: The folders of shares and homes in the file router's container.
DATA, HOMES = "/data", "/home"


#: The name that Samba gives itself; clients that use another name are served all the same.
NETBIOS_NAME = "FILE-ROUTER"


#: The group of the instruments. No site can have a group of this name, since those begin with a letter.
INSTRUMENTS = "_instruments"


INSTRUMENTS_GID = 2_147_000_001


#: The numbers of instruments are greater than those that people may have (vcore.people.LARGEST_ID).
FIRST_INSTRUMENT, LAST_INSTRUMENT = 2_000_000_001, 2_147_000_000


#: The flags of an instrument's account: a user (U) whose password does not expire (X).
FLAGS = "[UX         ]"


#: Characters that values from the site must not have in smb.conf: a line break would end the value, a backslash would
#: join it with the next line, and a percent sign begins a variable. Values with variables of our own are not checked.
UNSAFE = frozenset("\r\n\x00\\%\u0085\u2028\u2029")


Section = dict[str, str]


def instrument_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the user numbers of instruments, which own the files that they write.

    A number follows from the name alone, by SHA-256: nothing has to be remembered, and no instrument inherits the files
    of a former one. The range is so wide (147 million) that among 1000 instruments two collide at one site in 300.

    Raises:
        VcoreError: two names have the same number.
    """
    numbers: dict[int, str] = {}
    for name in sorted(names):
        digest = hashlib.sha256(f"vcore instrument {name}".encode()).digest()
        number = FIRST_INSTRUMENT + int.from_bytes(digest[:8], "big") % (LAST_INSTRUMENT - FIRST_INSTRUMENT + 1)
        if number in numbers:
            raise VcoreError(
                tr(
                    "the instruments {numbers} and {name} get the same number; rename one of them",
                    numbers=numbers[number],
                    name=name,
                )
            )
        numbers[number] = name
    return {name: number for number, name in numbers.items()}


def nt_hash(password: str) -> str:
    """Return the NT hash of a password, in hexadecimal digits; it is as good as the password ([MS-NLMP], 3.3.1)."""
    from Cryptodome.Hash import MD4  # comes with Salt; not every host of the core computes hashes

    return MD4.new(password.encode("utf-16-le")).hexdigest().upper()


# --- smb.conf -------------------------------------------------------------------------------------------------------


def smb_conf(pillar: Mapping[str, Any]) -> str:
    """Return Samba's configuration, smb.conf(5)."""
    settings = pillar["services"][SERVICE]["settings"]
    sections: dict[str, Section] = {"global": _global(pillar, settings)}
    if settings["homes"]:
        sections["homes"] = _homes(pillar)
    for name, instruments in offered(pillar).items():
        share = pillar["shares"][name]
        remote = any(
            route["kind"] == "mount" and within_one_another(route["path"], share["path"])
            for route in pillar["routes"].values()
        )
        sections[name] = _share(share, instruments, pillar["accounts"]["group"], remote)
    lines = ["# Written by Salt from the site file; changes made here are lost."]
    for name, section in sections.items():
        lines += ["", f"[{_safe(name)}]", *(f"   {key} = {value}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def offered(pillar: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the shares that are offered by SMB, those that somebody may use, each with its instruments."""
    found = {}
    for name, share in sorted(pillar["shares"].items()):
        instruments = sorted(key for key, entry in pillar["instruments"].items() if entry["share"] == name)
        if share["smb"] and (share["read"] or share["write"] or instruments):
            found[name] = instruments
    return found


def policies(pillar: Mapping[str, Any]) -> dict[str, int]:
    """Return Samba's own password policy, by the names of pdbedit(8), from the directory's settings.

    Samba needs it because, in both schemes, wrong passwords given by SMB are seen only by Samba; in tdbsam, Samba also
    accepts new ones.
    """
    directory = pillar["directory"]["policy"]
    duration = directory["lockout_duration"]
    # Samba counts in minutes; -1 means until somebody unlocks the account.
    minutes = -(-duration // 60) if duration else -1
    found = {
        "bad lockout attempt": directory["lockout_failures"],
        "lockout duration": minutes,
        "reset count minutes": max(minutes, 1),
    }
    if pillar["services"][SERVICE]["settings"]["password_scheme"] == "tdbsam":
        found["min password length"] = directory["password_minimum_length"]
        # The directory is asked first and keeps the history for both. If it refuses a change after all, the old
        # password is set in Samba again, which a history of Samba's own would not allow.
        found["password history"] = 0
    return found


def _safe(value: str) -> str:
    """Return a value from the site unchanged, after checking it again without relying on the models.

    Raises:
        VcoreError: the value could mean something else in smb.conf.
    """
    if UNSAFE & set(value) or not value.isprintable() or value != value.strip() or set("[]") & set(value):
        raise VcoreError(tr("{value} is not allowed in smb.conf", value=quoted(value)))
    return value


def _principal(value: str) -> str:
    # With +, Samba asks the name service only; with @, it would look for a netgroup first.
    name = f"+{value[1:]}" if value.startswith("@") else value
    if set(_safe(name)) & set(" ,;\"'&"):
        raise VcoreError(tr("{value} is not allowed in smb.conf", value=quoted(value)))
    return name


def _global(pillar: Mapping[str, Any], settings: Mapping[str, Any]) -> Section:
    section = {
        "workgroup": _safe(settings["workgroup"]),
        "netbios name": NETBIOS_NAME,
        "server string": "Virtual Core",
        "server role": "standalone server",
        # Port 445 and nothing else: no NetBIOS, no browsing, no WINS.
        "disable netbios": "yes",
        "smb ports": "445",
        "dns proxy": "no",
        # SMB3 in smb.conf means 3.1.1, which Windows before 10 does not support.
        "server min protocol": {"SMB3": "SMB3_00", "SMB2": "SMB2_10"}[settings["minimum_protocol"]],
        "server signing": "mandatory",
        # Encrypts wherever the client can; clients with SMB2 cannot.
        "server smb encrypt": "desired",
        "ntlm auth": "ntlmv2-only",
        "map to guest": "never",
        "guest ok": "no",
        "restrict anonymous": "2",
        "invalid users": "root",
        # Passwords are changed by Samba's own protocol and by vcore.sync_password, in both stores or neither.
        "unix password sync": "no",
        "pam password change": "no",
        "obey pam restrictions": "no",
        "logging": "file",
        "log level": "1",
        "max log size": "0",
        "load printers": "no",
        "printing": "bsd",
        "printcap name": "/dev/null",
        "disable spoolss": "yes",
        "usershare max shares": "0",
        "registry shares": "no",
        "access based share enum": "yes",
        "hide unreadable": "yes",
        # Links work if they stay within their share; clients cannot make links.
        "follow symlinks": "yes",
        "wide links": "no",
        "allow insecure wide links": "no",
        "unix extensions": "no",
        "smb3 unix extensions": "no",
        # Keeps DOS attributes outside of the permission bits, so that those mean only permissions.
        "store dos attributes": "yes",
        "map archive": "no",
        "map hidden": "no",
        "map system": "no",
        "map readonly": "no",
    }
    if settings["password_scheme"] == "tdbsam":
        return {**section, "passdb backend": "tdbsam"}
    suffix = _safe(str(pillar["directory"]["suffix"]))
    return {
        **section,
        "passdb backend": "ldapsam:ldaps://ldap",
        # This turns off StartTLS only; ldaps is encrypted from its first byte.
        "ldap ssl": "off",
        "ldap suffix": suffix,
        # Samba would make entries here; it searches below the suffix itself, and so finds instruments, too.
        "ldap user suffix": "ou=people",
        "ldap group suffix": "ou=groups",
        "ldap machine suffix": "ou=people",
        "ldap admin dn": f"cn=samba,ou=services,{suffix}",
        # Samba leaves a change of password to one operation of the directory, which sets both hashes or refuses.
        "ldap passwd sync": "only",
        "ldap delete dn": "no",
        "ldap timeout": "5",
        "ldap connection timeout": "5",
    }


def _homes(pillar: Mapping[str, Any]) -> Section:
    return {
        "comment": "Home",
        # Not the directory's homeDirectory, so that a changed entry cannot lead Samba to another folder.
        "path": f"{HOMES}/%S",
        "valid users": "%S",
        "invalid users": f"root +{INSTRUMENTS}",
        "browseable": "no",
        "read only": "no",
        "create mask": "0700",
        "directory mask": "0700",
        "root preexec": "/usr/lib/virtual-core/make-home '%u'",
        "root preexec close": "yes",
    }


def _share(share: Mapping[str, Any], instruments: list[str], everybody: str, remote: bool) -> Section:
    """Return the section of a share; ``remote`` says that files of another server are mounted in it."""
    writers = [*(_principal(who) for who in share["write"]), *map(_principal, instruments)]
    readers = [_principal(who) for who in share["read"]]
    mode = int(share["mode"], 8)
    section = {
        "path": f"{DATA}/{_safe(share['path'])}",
        **({"comment": _comment(share["description"])} if share["description"] else {}),
        "valid users": " ".join(dict.fromkeys([*readers, *writers])),
        "read only": "yes",
        "browseable": "yes" if share["visible"] else "no",
        "force group": _principal(share["group"] or everybody),
        # New files and folders follow the mode of the share's folder.
        "create mask": f"{mode & 0o666:04o}",
        "force create mode": f"{mode & 0o666:04o}",
        "directory mask": f"{mode & 0o2777:04o}",
        "force directory mode": f"{mode & 0o2777:04o}",
    }
    if writers:
        section["write list"] = " ".join(dict.fromkeys(writers))
    if share["nfs"] or remote:
        # A client that caches a file would not notice writes to it by NFS, or on the other server.
        section |= {"oplocks": "no", "level2 oplocks": "no"}
    if share["recycle"]:
        section |= {
            "vfs objects": "recycle",
            "recycle:repository": ".recycle/%U",
            "recycle:keeptree": "yes",
            "recycle:versions": "yes",
            "recycle:touch": "yes",
            "recycle:directory_mode": "0700",
            "recycle:subdir_mode": "0700",
        }
    return section


def _comment(text: str) -> str:
    """Return a description without characters that have a meaning in smb.conf."""
    kept = "".join(" " if character in UNSAFE or not character.isprintable() else character for character in text)
    return " ".join(kept.split())


# --- instruments ----------------------------------------------------------------------------------------------------


def passwd(pillar: Mapping[str, Any]) -> str:
    """Return the instruments as system accounts that nobody can log in to, passwd(5)."""
    return "".join(
        f"{_field(name)}:x:{number}:{INSTRUMENTS_GID}:instrument:/nonexistent:/usr/sbin/nologin\n"
        for name, number in sorted(instrument_numbers(pillar["instruments"]).items())
    )


def group(pillar: Mapping[str, Any]) -> str:
    """Return the group of the instruments, group(5)."""
    return f"{INSTRUMENTS}:x:{INSTRUMENTS_GID}:\n"


def smbpasswd(hashes: Mapping[str, str]) -> str:
    """Return the instruments with their NT hashes, smbpasswd(5), from which they are imported into tdbsam."""
    numbers = instrument_numbers(hashes)
    return "".join(
        f"{_field(name)}:{numbers[name]}:{'X' * 32}:{hashes[name]}:{FLAGS}:LCT-00000001:\n" for name in sorted(hashes)
    )


def instrument_entry(suffix: str, name: str, number: int) -> dict[str, list[str]]:
    """Return an instrument's entry in the directory without its password: Samba finds it, but nobody can bind as it."""
    return {
        "objectClass": ["account", "sambaSamAccount"],
        "uid": [_field(name)],
        "sambaSID": [person_sid(suffix, number)],
        "sambaAcctFlags": [FLAGS],
        # The time at which the password was set; without it, Samba demands a new password at once.
        "sambaPwdLastSet": ["1"],
    }


def _field(value: str) -> str:
    if set(_safe(value)) & set(": ,"):
        raise VcoreError(tr("{value} cannot be the name of an account", value=quoted(value)))
    return value
