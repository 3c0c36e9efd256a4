"""People and groups in the site file, and the names and ids that they may have.

Their entries in the directory are in :mod:`vcore.people.plans`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints

from ..base.messages import tr
from ..kernel.documents import Location, Problem
from ..kernel.models import SSH_KEY, AbsolutePath, Mode, Model, field
from ..kernel.sections import Section
from ..kernel.site import Configuration

#: Names that people, groups and instruments may have; Debian's adduser(8) allows the same by default.
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


#: The core's own group of those who manage people and groups.
ADMINISTRATORS = "administrators"


#: The largest id that people and groups may have; 2^32-1, for instance, means "none".
LARGEST_ID = 2_000_000_000


SMALLEST_ID = 9001


def name_problem(name: str) -> str | None:
    """Return why nobody may be called ``name``, or None."""
    if not ACCOUNT_NAME.fullmatch(name):
        return tr("a name has at most 31 characters of a-z, 0-9, - and _, and begins with a letter")
    if name in RESERVED_NAMES:
        return tr("{name} is a name that the system uses", name=name)
    return None


def _name(value: str) -> str:
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


def _group(value: str) -> str:
    return value if value == ADMINISTRATORS else _name(value)


def _line(value: str) -> str:
    if any(not character.isprintable() for character in value) or value != value.strip():
        raise ValueError(tr("has to be text on one line, without spaces at its ends"))
    return value


def _no_formula(value: str) -> str:
    if value.startswith(("=", "+", "-", "@")):
        raise ValueError(
            tr("may not begin with =, +, - or @: a spreadsheet that opens an export takes it for a formula")
        )
    return value


def _public_key(value: str) -> str:
    if not SSH_KEY.fullmatch(value):
        raise ValueError(tr("has to be a public ssh key, such as 'ssh-ed25519 AAAA... name'"))
    return value


AccountName = Annotated[str, StringConstraints(pattern=rf"^{ACCOUNT_NAME.pattern}$"), AfterValidator(_name)]


#: A group that people can be in, including the administrators, which a site cannot declare.
GroupName = Annotated[str, StringConstraints(pattern=rf"^{ACCOUNT_NAME.pattern}$"), AfterValidator(_group)]


#: Text on one line, such as people's names and descriptions.
Line = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_line)]


#: A person's given name or surname.
PersonalName = Annotated[Line, AfterValidator(_no_formula)]


#: ASCII, as the directory's schema has it (IA5).
MailAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9.-]{1,253}$")]


TelephoneNumber = Annotated[str, StringConstraints(pattern=r"^[+0-9][0-9 ()/.-]{1,31}$")]


#: The shells that images/people has: sshd refuses people whose shell does not exist.
Shell = Literal["/bin/bash", "/bin/sh", "/bin/csh", "/bin/tcsh", "/bin/zsh"]


SHELLS: tuple[str, ...] = get_args(Shell)


PublicKey = Annotated[str, AfterValidator(_public_key)]


IdNumber = Annotated[int, Field(ge=SMALLEST_ID, le=LARGEST_ID)]


class AccountSettings(Model):
    """Settings for all accounts."""

    first_id: IdNumber = field(
        10000,
        description="Smallest uid or gid that new people and groups get; smaller ones are the system's.",
        example=20000,
    )
    last_id: IdNumber = field(59999, description="Largest uid or gid that new people and groups get.", example=29999)
    group: AccountName = field(
        "people", description="Primary group of all people; its gid is first_id.", example="genomics"
    )
    shell: Shell = field("/bin/bash", description="Login shell of new people.", example="/bin/zsh")
    skeleton: AbsolutePath = field(
        "/etc/skel", description="Folder on the head whose files a new home starts with.", example="/srv/skeleton"
    )
    home_mode: Mode = field("0700", description="Mode of a new home.", example="0750")
    archive: AbsolutePath | None = field(
        None,
        description="Folder on the head for archives of removed people's homes; by default the folder archive below "
        "the file router's data.",
        example="/backup/homes",
    )


class Group(Model):
    """A group of people, keyed by its name."""

    gid: IdNumber | None = field(None, description="Its gid; by default the next free one.", example=10500)
    description: Line | None = field(None, description="Purpose of the group.", example="Sequencing")


class Person(Model):
    """A person, keyed by login name. Values that are left out stay as they are in the directory."""

    given_name: PersonalName | None = field(None, description="Given name.", example="Ada")
    surname: PersonalName | None = field(None, description="Surname; by default the login name.", example="Lovelace")
    mail: MailAddress | None = field(None, description="Mail address.", example="ada@example.org")
    telephone: TelephoneNumber | None = field(None, description="Telephone number.", example="+44 20 7946 0000")
    uid: IdNumber | None = field(None, description="Uid of the account; by default the next free one.", example=10042)
    groups: list[GroupName] | None = field(
        None,
        description="All groups of the person, apart from the primary group of all people.",
        example=["sequencing"],
    )
    shell: Shell | None = field(None, description="Login shell.", example="/bin/zsh")
    ssh_keys: list[PublicKey] | None = field(
        None, description="Public ssh keys for logins.", example=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada"]
    )
    locked: bool | None = field(None, description="Whether the person is locked out everywhere.", example=True)
    removed: bool = field(
        False, description="Remove the account and archive the home; the entry can then be deleted.", example=True
    )


ACCOUNTS: Section[AccountSettings] = Section("accounts", AccountSettings, description="Settings for all accounts.")
GROUPS: Section[dict[str, Group]] = Section(
    "groups", dict[AccountName, Group], description="Groups that the site declares; the directory can have more."
)
PEOPLE: Section[dict[str, Person]] = Section(
    "people", dict[AccountName, Person], description="People whom the site declares; the directory can have more."
)

SECTIONS = (ACCOUNTS, GROUPS, PEOPLE)


def problems(configuration: Configuration) -> list[Problem]:
    """Return the problems of people and groups beyond those of each entry by itself."""
    site, document = configuration.site, configuration.document
    accounts, people, groups = ACCOUNTS.of(site), PEOPLE.of(site), GROUPS.of(site)
    found: list[Problem] = []
    if accounts.last_id - accounts.first_id < 99:
        found.append(
            document.problem(("accounts", "last_id"), tr("has to leave at least 100 numbers from first_id on"))
        )
    if accounts.group in groups:
        message = tr(
            "{group} is the primary group of all people (vcore.accounts.group); its gid is first_id",
            group=accounts.group,
        )
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
            found.append(
                document.problem(
                    location, tr("{number} is already the {key} of {other}", number=number, key=key, other=other)
                )
            )
        numbers[key][number] = name
    known = {*groups, ADMINISTRATORS}
    for name, person in people.items():
        for index, group in enumerate(person.groups or []):
            if group == accounts.group:
                message = tr("everybody is in {group} already", group=group)
            elif group not in known:
                message = tr("no group {group} below vcore.groups", group=group)
            else:
                continue
            found.append(document.problem(("people", name, "groups", index), message))
    return found


def plain(value: Model) -> dict[str, Any]:
    """Return a model as plain data, without values that were left out."""
    return value.model_dump(mode="json", exclude_none=True)
