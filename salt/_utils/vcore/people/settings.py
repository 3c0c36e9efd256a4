"""People and groups as a site writes them, and the names and numbers that they may have.

The directory's half, entries and how they differ, is in :mod:`vcore.people.plans`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints

from ..kernel.documents import Location, Problem
from ..kernel.models import SSH_KEY, AbsolutePath, Mode, Model, field
from ..kernel.sections import Section
from ..kernel.site import Configuration

#: What a person, group or instrument may be called; adduser(8) of Debian allows the same by default.
ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


_RESERVED = """
adm admin administrator administrators anonymous audio avahi backup bin cdrom crontab daemon dialout dip disk docker
everyone fax floppy games ganesha guest input irc kmem kvm list lp lxd mail man messagebus munge mysql netdev
network news nobody nogroup nslcd nscd openldap operator plugdev polkitd postgres proxy readonly registry render
root salt samba sambashare sasl self shadow slurm src ssh sshd sssd staff statd sudo sync sys system systemd-journal
systemd-network systemd-resolve systemd-timesync tape tcpdump tss tty users utmp uucp uuidd vcore video voice wheel
www-data zabbix
"""


#: Accounts and groups of Debian and its packages, of Samba and Windows, and of the core itself.
RESERVED_NAMES = frozenset(_RESERVED.split())


#: Group that the core itself makes, of those who manage people and groups.
ADMINISTRATORS = "administrators"


#: Numbers beyond this mean something else somewhere: 65534 is nobody, 2^32-1 is "none".
LARGEST_ID = 2_000_000_000


SMALLEST_ID = 9001


def name_problem(name: str) -> str | None:
    """Why nobody may be called ``name``, or None."""
    if not ACCOUNT_NAME.fullmatch(name):
        return "a name is at most 31 of a-z, 0-9, - and _, a letter first"
    if name in RESERVED_NAMES:
        return f"{name} is a name that the system uses"
    return None


def _name(value: str) -> str:
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


def _group(value: str) -> str:
    return value if value == ADMINISTRATORS else _name(value)


def _line(value: str) -> str:
    if any(not character.isprintable() for character in value) or value != value.strip():
        raise ValueError("has to be text on one line, without space at its ends")
    return value


def _no_formula(value: str) -> str:
    if value.startswith(("=", "+", "-", "@")):
        raise ValueError("may not begin with =, +, - or @: a spreadsheet that opens an export takes it for a formula")
    return value


def _public_key(value: str) -> str:
    if not SSH_KEY.fullmatch(value):
        raise ValueError("has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'")
    return value


AccountName = Annotated[str, StringConstraints(pattern=rf"^{ACCOUNT_NAME.pattern}$"), AfterValidator(_name)]


#: A group that people can be in: the administrators, too, which nobody may make anew.
GroupName = Annotated[str, StringConstraints(pattern=rf"^{ACCOUNT_NAME.pattern}$"), AfterValidator(_group)]


#: Text on one line, as names of people and descriptions are.
Line = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_line)]


#: What a person is called.
PersonalName = Annotated[Line, AfterValidator(_no_formula)]


#: ASCII, as the directory's schema has it (IA5).
MailAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9.-]{1,253}$")]


TelephoneNumber = Annotated[str, StringConstraints(pattern=r"^[+0-9][0-9 ()/.-]{1,31}$")]


#: Those that images/people has: sshd refuses whose shell is not there.
Shell = Literal["/bin/bash", "/bin/sh", "/bin/csh", "/bin/tcsh", "/bin/zsh"]


SHELLS: tuple[str, ...] = get_args(Shell)


PublicKey = Annotated[str, AfterValidator(_public_key)]


IdNumber = Annotated[int, Field(ge=SMALLEST_ID, le=LARGEST_ID)]


class AccountSettings(Model):
    """What all accounts share."""

    first_id: IdNumber = field(
        10000,
        description="Least number that a new person or group gets; numbers below are the system's.",
        example=20000,
    )
    last_id: IdNumber = field(59999, description="Greatest number that a new person or group gets.", example=29999)
    group: AccountName = field(
        "people", description="Group that everybody belongs to first; it has the number first_id.", example="genomics"
    )
    shell: Shell = field("/bin/bash", description="Login shell of new people.", example="/bin/zsh")
    skeleton: AbsolutePath = field(
        "/etc/skel", description="Folder on the head whose files a new home starts with.", example="/srv/skeleton"
    )
    home_mode: Mode = field("0700", description="Mode of a new home.", example="0750")
    archive: AbsolutePath | None = field(
        None,
        description="Folder on the head that homes of removed people are archived in; by default archive, "
        "below the file router's data.",
        example="/backup/homes",
    )


class Group(Model):
    """A group of people, keyed by its name."""

    gid: IdNumber | None = field(None, description="Its number; by default the next free one.", example=10500)
    description: Line | None = field(None, description="What it is for.", example="Sequencing")


class Person(Model):
    """A person, keyed by the name to log in with. What is left out is left as it is in the directory."""

    given_name: PersonalName | None = field(None, description="Given name.", example="Ada")
    surname: PersonalName | None = field(None, description="Surname; by default the login name.", example="Lovelace")
    mail: MailAddress | None = field(None, description="Mail address.", example="ada@example.org")
    telephone: TelephoneNumber | None = field(None, description="Telephone number.", example="+44 20 7946 0000")
    uid: IdNumber | None = field(
        None, description="Number of the account; by default the next free one.", example=10042
    )
    groups: list[GroupName] | None = field(
        None,
        description="All groups that the person belongs to, beside the one that everybody does.",
        example=["sequencing"],
    )
    shell: Shell | None = field(None, description="Login shell.", example="/bin/zsh")
    ssh_keys: list[PublicKey] | None = field(
        None, description="Public ssh keys to log in with.", example=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada"]
    )
    locked: bool | None = field(None, description="Whether the person cannot log in anywhere.", example=True)
    removed: bool = field(
        False, description="Take the account away and archive the home; the entry can then be deleted.", example=True
    )


ACCOUNTS: Section[AccountSettings] = Section("accounts", AccountSettings, description="What all accounts share.")
GROUPS: Section[dict[str, Group]] = Section(
    "groups", dict[AccountName, Group], description="Groups that the site file keeps; more can be in the directory."
)
PEOPLE: Section[dict[str, Person]] = Section(
    "people", dict[AccountName, Person], description="People whom the site file keeps; more can be in the directory."
)

SECTIONS = (ACCOUNTS, GROUPS, PEOPLE)


def problems(configuration: Configuration) -> list[Problem]:
    """Return what is wrong with people and groups that are each valid in themselves."""
    site, document = configuration.site, configuration.document
    accounts, people, groups = ACCOUNTS.of(site), PEOPLE.of(site), GROUPS.of(site)
    found: list[Problem] = []
    if accounts.last_id - accounts.first_id < 99:
        found.append(document.problem(("accounts", "last_id"), "has to leave at least 100 numbers from first_id on"))
    if accounts.group in groups:
        message = f"{accounts.group} is the group of everybody (vcore.accounts.group) and has the number first_id"
        found.append(document.problem(("groups", accounts.group), message))
    numbers: dict[str, dict[int, str]] = {"uid": {}, "gid": {accounts.first_id: accounts.group}}
    named: list[tuple[str, str, str, int | None]] = [
        *(("people", name, "uid", person.uid) for name, person in people.items()),
        *(("groups", name, "gid", group.gid) for name, group in groups.items()),
    ]
    for section, name, key, number in named:
        location: Location = (section, name, key)
        if number is None:
            continue
        if other := numbers[key].get(number):
            found.append(document.problem(location, f"{number} is the {key} of {other} already"))
        numbers[key][number] = name
    known = {*groups, ADMINISTRATORS}
    for name, person in people.items():
        for index, group in enumerate(person.groups or []):
            if group == accounts.group:
                message = f"everybody is in {group} already"
            elif group not in known:
                message = f"no group {group} below vcore.groups"
            else:
                continue
            found.append(document.problem(("people", name, "groups", index), message))
    return found


def plain(value: Model) -> dict[str, Any]:
    """A model as plain data, without what was left out."""
    return value.model_dump(mode="json", exclude_none=True)
