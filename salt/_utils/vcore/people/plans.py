"""Plans for people and groups: what the directory should have, and how that differs from what it has.

Every change is such a plan. Declarations in the site file, lines of a CSV file and commands of an administrator all
become the same mapping of names to data (:class:`vcore.people.settings.Person` as plain data). Entries that an
interruption left incomplete, or that were created elsewhere and are incomplete, are differences like any other. Ids and
members follow from one read of the directory. :mod:`vcore.people.accounts` carries plans out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..base.errors import Invalid, NotFound, VcoreError
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..base.secrets import Store
from ..directory import entries, samba_ids
from ..directory.client import Directory
from ..directory.entries import Attributes
from .homes import Homes
from .settings import ACCOUNT_NAME, ADMINISTRATORS

PERSON_CLASSES = ["inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey", "sambaSamAccount"]
GROUP_CLASSES = ["posixGroup", "vcoreMemberGroup"]

#: The lock that only an administrator lifts (slapo-ppolicy(5)); a lock after wrong passwords has their time instead.
LOCKED = "000001010000Z"
#: Day after 1 January 1970 on which a locked account expired: logins by ssh key do not ask the password policy.
EXPIRED = "1"

#: Folder of first passwords in the secret store, and their minimum length.
FIRST_PASSWORDS = "first-passwords"
FIRST_PASSWORD_LENGTH = 16

#: Columns of people that correspond to one attribute with one value.
SINGLE = {
    "given_name": "givenName",
    "surname": "sn",
    "mail": "mail",
    "telephone": "telephoneNumber",
    "shell": "loginShell",
}
#: The attributes that are read; not all, because people may put photographs of megabytes into their own entries.
PERSON_ATTRIBUTES = [
    "objectClass", "uid", "uidNumber", "gidNumber", "homeDirectory", "cn", *SINGLE.values(), "sshPublicKey",
    "shadowExpire", "sambaSID", "sambaAcctFlags", "sambaPwdLastSet", "pwdChangedTime", "pwdReset",
    "pwdAccountLockedTime", "sambaBadPasswordCount", "sambaBadPasswordTime",
]  # fmt: skip


# --- what is there --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An entry of the directory."""

    dn: str
    attributes: Attributes

    def first(self, name: str, default: str = "") -> str:
        """Return the first value of an attribute."""
        return (self.attributes.get(name) or [default])[0]

    def is_a(self, name: str) -> bool:
        """Return whether the entry has this object class."""
        return name.lower() in map(str.lower, self.attributes.get("objectClass", []))

    @property
    def locked(self) -> bool:
        """Whether an administrator locked this account; setting a password clears only the directory's own mark."""
        return self.first("shadowExpire") == EXPIRED or self.first("pwdAccountLockedTime") == LOCKED


@dataclass(frozen=True)
class Present:
    """All people and groups in the directory, by name, and other accounts (instruments) by uid."""

    people: Mapping[str, Entry] = field(default_factory=dict)
    groups: Mapping[str, Entry] = field(default_factory=dict)
    others: Mapping[int, str] = field(default_factory=dict)

    def uids(self) -> dict[int, str]:
        """Return the uids in use, each with the account's name."""
        used = {int(entry.first("uidNumber")): name for name, entry in self.people.items()}
        return {**self.others, **used}

    def gids(self) -> dict[int, str]:
        """Return the gids in use, each with the group's name."""
        return {int(entry.first("gidNumber")): name for name, entry in self.groups.items()}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {_same(entry.dn): name for name, entry in self.people.items()}

    @cached_property
    def _members(self) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        found = {}
        for group, entry in self.groups.items():
            names = (self._names.get(_same(dn)) for dn in entry.attributes.get("member", []))
            found[group] = (frozenset(entry.attributes.get("memberUid", [])), frozenset(name for name in names if name))
        return found

    def members(self, group: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return who is in a group: by ``memberUid``, and by ``member`` as far as these are people."""
        return self._members.get(group, (frozenset(), frozenset()))


def _same(dn: str) -> str:
    return dn.lower().replace(", ", ",")


def look(connection: Directory, base: str) -> Present:
    """Read all people, groups and other accounts from the directory, with one search each."""
    people = {}
    for dn, attributes in connection.search(f"ou=people,{base}", "(objectClass=posixAccount)", PERSON_ATTRIBUTES):
        people[attributes["uid"][0]] = Entry(dn, attributes)
    groups = {}
    for dn, attributes in connection.search(f"ou=groups,{base}", "(objectClass=posixGroup)"):
        groups[attributes["cn"][0]] = Entry(dn, attributes)
    others = {}
    for _, attributes in connection.search(f"ou=instruments,{base}", "(uidNumber=*)", ["uid", "uidNumber"]):
        others[int(attributes["uidNumber"][0])] = attributes["uid"][0]
    return Present(people, groups, others)


@dataclass(frozen=True)
class Taken:
    """Names and ids that nobody new may get, apart from those in the directory.

    These are this host's own accounts (``uids``, ``gids``), and ids that somebody had once (``past_uids``,
    ``past_gids``), whose files may still exist.
    """

    uids: Mapping[int, str] = field(default_factory=dict)
    gids: Mapping[int, str] = field(default_factory=dict)
    past_uids: frozenset[int] = frozenset()
    past_gids: frozenset[int] = frozenset()


def ever_had(values: Iterable[str]) -> dict[str, frozenset[int]]:
    """Return the ids that people and groups ever had, by attribute, from values such as ``uidNumber 10001``."""
    found: dict[str, set[int]] = {"uidNumber": set(), "gidNumber": set()}
    for value in values:
        attribute, _, number = value.partition(" ")
        if attribute in found and number.isdecimal():
            found[attribute].add(int(number))
    return {attribute: frozenset(numbers) for attribute, numbers in found.items()}


def host_accounts(passwd: Path = Path("/etc/passwd"), group: Path = Path("/etc/group")) -> Taken:
    """Return the accounts in this host's own files."""

    def read(path: Path) -> dict[int, str]:
        rows = (line.split(":") for line in path.read_text(errors="replace").splitlines())
        return {int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdigit()}

    return Taken(read(passwd), read(group))


def next_free(first: int, last: int, used: Collection[int], past: Collection[int]) -> int:
    """Return the smallest number of the range that nobody ever had or, if there is none, that nobody has now.

    Raises:
        VcoreError: all numbers are in use.
    """
    for avoided in ({*used, *past}, used):
        for number in range(first, last + 1):
            if number not in avoided:
                return number
    raise VcoreError(
        tr("no number from {first} to {last} is free; raise vcore.accounts.last_id", first=first, last=last)
    )


# --- what is wanted -------------------------------------------------------------------------------------------------


@dataclass
class Members:
    """People to add to and remove from a group, in each of the two attributes that list members."""

    add_uid: set[str] = field(default_factory=set)
    add_dn: set[str] = field(default_factory=set)
    remove_uid: set[str] = field(default_factory=set)
    remove_dn: set[str] = field(default_factory=set)

    @property
    def added(self) -> list[str]:
        return sorted(self.add_uid | self.add_dn)

    @property
    def removed(self) -> list[str]:
        return sorted(self.remove_uid | self.remove_dn)


@dataclass
class Plan:
    """What has to change; all keys are names.

    ``people`` and ``groups`` are entries (``dn``; ``old`` and ``new`` as in :func:`vcore.directory.entries.diff`).
    ``passwords`` are people who get a first password, ``homes`` those who get a home, with their uids. ``removed`` are
    people who are removed, and ``problems`` those for whom nothing is done, with the reason.
    """

    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, Members] = field(default_factory=dict)
    passwords: list[str] = field(default_factory=list)
    homes: dict[str, int] = field(default_factory=dict)
    removed: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed_groups: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    dns: dict[str, str] = field(default_factory=dict)
    group_dns: dict[str, str] = field(default_factory=dict)

    def touched(self) -> set[str]:
        """Return the names of people for whom anything is done."""
        members = (name for group in self.members.values() for name in (*group.added, *group.removed))
        return {*self.people, *self.passwords, *self.homes, *self.removed, *members}

    def changes(self, paths: Paths, homes: Homes) -> dict[str, Any]:
        """Return the plan as the changes of a state; a first password is shown as the path of its file."""
        changes: dict[str, Any] = {}
        for change in (*self.groups.values(), *self.people.values()):
            changes[change["dn"]] = {"old": change["old"], "new": dict(change["new"])}
        for name, members in self.members.items():
            changes[f"members of {name}"] = {"old": members.removed, "new": members.added}
        for name in self.passwords:
            changes[f"first password of {name}"] = {"old": None, "new": str(first_password(paths, name))}
        for name in self.homes:
            changes[f"home of {name}"] = {"old": None, "new": str(homes.path(name))}
        for name, removal in self.removed.items():
            changes[removal["entry"].dn if removal["entry"] else f"home of {name}"] = {
                "old": removal["old"],
                "new": None,
            }
        for name, dn in self.removed_groups.items():
            changes[dn] = {"old": {"cn": [name]}, "new": None}
        return changes


def first_password(paths: Paths, name: str) -> Path:
    """Return the path of the file with a person's first password, which only root can read.

    It exists until the person has chosen another one.
    """
    return Store(paths.secrets).path(FIRST_PASSWORDS, name)


def samba_flags(flags: str, locked: bool) -> str:
    """Return Samba's account flags of a person, based on the present ones.

    L is Samba's own lock after wrong passwords. It belongs to Samba until an administrator unlocks the account, and is
    not a difference from the site.
    """
    kept = "".join(flag for flag in flags.strip("[] ") if flag not in "DUL")
    return f"[{('DU' if locked else 'U') + kept:<11}]"


def locks_of_wrong_passwords(there: Entry) -> Attributes:
    """Return the attributes that lift the locks which the directory and Samba each set after wrong passwords."""
    lifted: Attributes = {}
    if there.first("pwdAccountLockedTime") not in ("", LOCKED):
        lifted["pwdAccountLockedTime"] = []
    flags = there.first("sambaAcctFlags")
    if "L" in flags:
        lifted["sambaAcctFlags"] = [samba_flags(flags, locked=False)]
        # Otherwise the next wrong password would lock the account again.
        lifted |= {name: [] for name in ("sambaBadPasswordCount", "sambaBadPasswordTime") if there.first(name)}
    return lifted


def person_attributes(
    name: str, data: Mapping[str, Any], *, number: int, pillar: Mapping[str, Any], there: Entry | None
) -> Attributes:
    """Return the attributes of a person that follow from data and uid (``number``).

    For a new person these are all attributes; for an existing one those that the data set (an empty string removes an
    attribute) and those that every account needs.
    """
    accounts, suffix = pillar["accounts"], entries.suffix(pillar)
    wanted: Attributes = {"objectClass": list(PERSON_CLASSES)}
    if there is None:
        wanted |= {
            "uid": [name],
            "uidNumber": [str(number)],
            "gidNumber": [str(accounts["first_id"])],
            "homeDirectory": [f"/home/{name}"],
            "loginShell": [accounts["shell"]],
            "sn": [name],
            "cn": [name],
        }
    elif not there.first("loginShell"):
        wanted["loginShell"] = [accounts["shell"]]
    for column, attribute in SINGLE.items():
        if column in data:
            wanted[attribute] = [data[column]] if data[column] else []
    if "given_name" in data or "surname" in data:
        given, surname = (
            (wanted.get(attribute) or [there.first(attribute) if there and attribute not in wanted else ""])[0]
            for attribute in ("givenName", "sn")
        )
        wanted["cn"] = [f"{given} {surname}".strip()]
    if "ssh_keys" in data:
        wanted["sshPublicKey"] = list(data["ssh_keys"])
    wanted["sambaSID"] = [samba_ids.person_sid(suffix, number)]
    flags = there.first("sambaAcctFlags") if there else ""
    locked = data.get("locked", there.locked if there else False)
    if not flags or ("D" in flags) != locked:
        wanted["sambaAcctFlags"] = [samba_flags(flags, locked)]
    if locked:
        wanted |= {"shadowExpire": [EXPIRED], "pwdAccountLockedTime": [LOCKED]}
    elif there is not None and there.locked:
        wanted |= {name: [] for name, mark in (("shadowExpire", EXPIRED), ("pwdAccountLockedTime", LOCKED))
                   if there.first(name) == mark}  # fmt: skip
    if there is not None and there.first("pwdReset") == "TRUE":
        # Samba's equivalent of pwdReset is a password from the year 1970: the person has to change it.
        wanted["sambaPwdLastSet"] = ["0"]
    return wanted


def agreed_members(by_uid: Set[str], by_dn: Set[str], before: Set[str]) -> Set[str]:
    """Return the members of a group whose two attributes may disagree because somebody changed only one of them.

    ``before`` are the members when both last agreed: whoever is new in either is in, whoever is missing in either is
    out.
    """
    return (by_uid | by_dn) - (before - (by_uid & by_dn))


class Planner:
    """Works out a plan from what exists; it changes nothing itself.

    Args:
        pillar: the resolved pillar of the head.
        present: the content of the directory.
        taken: other names and ids that are in use.
        homes: the homes, whose owners are looked up.
        unfinished: people for whom a first password is stored.
    """

    def __init__(
        self,
        pillar: Mapping[str, Any],
        present: Present,
        taken: Taken,
        homes: Homes,
        unfinished: Collection[str] = (),
    ) -> None:
        self.pillar, self.present, self.taken, self.homes = pillar, present, taken, homes
        self.unfinished = frozenset(unfinished)
        self.base = entries.suffix(pillar)
        self.plan = Plan()
        accounts = pillar["accounts"]
        self.range = (accounts["first_id"], accounts["last_id"])
        self.common: str = accounts["group"]
        self.uids = {**taken.uids, **present.uids()}
        self.gids = {accounts["first_id"]: self.common, **taken.gids, **present.gids()}
        # An id that the site assigns is reserved, even before its owner exists.
        self.promised_uids = {p["uid"]: n for n, p in pillar["people"].items() if "uid" in p and not p.get("removed")}
        self.promised_gids = {g["gid"]: n for n, g in pillar["groups"].items() if "gid" in g}
        self.joining: dict[str, set[str]] = {}
        self.leaving: dict[str, set[str]] = {}

    def dn(self, name: str) -> str:
        """Return the DN of a person who exists or is added."""
        there = self.present.people.get(name)
        return there.dn if there else f"uid={name},ou=people,{self.base}"

    # Groups

    def group(self, name: str, data: Mapping[str, Any]) -> None:
        """Plan that a group exists and is as the data say.

        Raises:
            Invalid: it cannot be; the message says why.
        """
        there = self.present.groups.get(name)
        if there is None and name in self.taken.gids.values():
            raise Invalid(tr("{name} is already a group of this host", name=name))
        number = data.get("gid")
        if there is not None and number is not None and number != int(there.first("gidNumber")):
            raise Invalid(
                tr(
                    "the group {name} has the gid {first}, which cannot change",
                    name=name,
                    first=there.first("gidNumber"),
                )
            )
        if there is None:
            number = self._number("gid", name, number)
        wanted: Attributes = {"objectClass": list(GROUP_CLASSES)}
        if there is None:
            wanted |= {"cn": [name], "gidNumber": [str(number)]}
        if "description" in data:
            wanted["description"] = [data["description"]] if data["description"] else []
        dn = there.dn if there else f"cn={name},ou=groups,{self.base}"
        found = entries.diff({dn: there.attributes if there else None}, {dn: wanted})
        if found:
            self.plan.groups[name] = {"dn": dn, **found[dn]}

    def remove_group(self, name: str) -> None:
        """Plan that a group is removed.

        Raises:
            Invalid: it is the core's own, or the primary group of people.
            NotFound: there is no such group.
        """
        if name in (self.common, ADMINISTRATORS):
            raise Invalid(tr("the group {name} belongs to the core and cannot be removed", name=name))
        there = self.present.groups.get(name)
        if there is None:
            raise NotFound(tr("there is no group {name}", name=name))
        first = [p for p, entry in self.present.people.items() if entry.first("gidNumber") == there.first("gidNumber")]
        if first:
            raise Invalid(
                tr(
                    "the group {name} is the primary group of {some}; they cannot be without",
                    name=name,
                    some=some(first),
                )
            )
        self.plan.removed_groups[name] = there.dn

    # People

    def person(self, name: str, data: Mapping[str, Any], *, password: bool = True) -> None:
        """Plan that a person exists and is as the data say; with ``password``, one who never had a password gets one.

        Raises:
            Invalid: that is not possible; the message says why, and the plan is unchanged.
        """
        there = self.present.people.get(name)
        if there is None:
            self._new_name(name)
        number = data.get("uid")
        if there is not None and number is not None and number != int(there.first("uidNumber")):
            raise Invalid(
                tr(
                    "{name} has the uid {first}, which cannot change: files belong to it",
                    name=name,
                    first=there.first("uidNumber"),
                )
            )
        for group in data.get("groups") or ():
            self._known_group(group)
        if number is None and there is not None:
            number = int(there.first("uidNumber"))
        if there is None:
            given = number
            number = self._number("uid", name, given)
        assert number is not None
        try:
            self._person(name, data, number, there, password=password)
        except Invalid:
            if there is None:
                del self.uids[number]
            raise

    def _person(self, name: str, data: Mapping[str, Any], number: int, there: Entry | None, *, password: bool) -> None:
        if self.homes.served:
            if problem := self.homes.problem(name, number):
                raise Invalid(problem)
            if self.homes.owner(name) is None:
                self.plan.homes[name] = number
        dn = self.dn(name)
        wanted = person_attributes(name, data, number=number, pillar=self.pillar, there=there)
        wanted = {key: values for key, values in wanted.items() if values or there is not None}
        found = entries.diff({dn: there.attributes if there else None}, {dn: wanted})
        if found:
            self.plan.people[name] = {"dn": dn, **found[dn]}
        if there is None or (not there.first("pwdChangedTime") and (password or name in self.unfinished)):
            self.plan.passwords.append(name)
        if data.get("groups") is not None:
            self._belongs(name, set(data["groups"]))

    def _belongs(self, name: str, groups: set[str]) -> None:
        for group in groups:
            self.joining.setdefault(group, set()).add(name)
        for group in self.present.groups:
            by_uid, by_dn = self.present.members(group)
            if (name in by_uid or name in by_dn) and group not in groups and group != self.common:
                self.leaving.setdefault(group, set()).add(name)

    def remove(self, name: str, *, archive: bool = True) -> None:
        """Plan that a person's entry, memberships and home are removed, as far as there are any."""
        there = self.present.people.get(name)
        home = self.homes.owner(name) is not None
        if there is None and not home:
            return
        old: dict[str, Any] = {}
        if there is not None:
            old = {"dn": there.dn, "uidNumber": there.first("uidNumber")}
            self._belongs(name, set())
        if home:
            old["home"] = str(self.homes.path(name))
            old["archive"] = str(self.homes.archive) if archive else "none"
        self.plan.removed[name] = {"entry": there, "archive": archive, "old": old}

    def _new_name(self, name: str) -> None:
        if self.pillar["people"].get(name, {}).get("removed"):
            raise Invalid(tr("the site file says that {name} is removed; delete that entry first", name=name))
        if name in self.pillar["instruments"]:
            raise Invalid(tr("{name} is already an instrument", name=name))
        if name in self.taken.uids.values():
            raise Invalid(tr("{name} is already an account of this host", name=name))

    def _known_group(self, group: str) -> None:
        if group == self.common:
            raise Invalid(tr("everybody is in {group} already", group=group))
        if group not in self.present.groups and group not in self.plan.groups:
            raise Invalid(tr("there is no group {group}; add it with vcore.group_add", group=quoted(group)))

    def _number(self, kind: str, name: str, given: int | None) -> int:
        used, promised, past = (
            (self.uids, self.promised_uids, self.taken.past_uids)
            if kind == "uid"
            else (self.gids, self.promised_gids, self.taken.past_gids)
        )
        if given is None:
            given = next((number for number, owner in promised.items() if owner == name), None)
        if given is None:
            given = next_free(*self.range, promised.keys() | used.keys(), past)
        for holder in (used.get(given), promised.get(given)):
            if holder not in (None, name):
                raise Invalid(
                    tr(
                        "the {kind} {given} of {name} belongs to {holder}",
                        kind=kind,
                        given=given,
                        name=name,
                        holder=holder,
                    )
                )
        used[given] = name
        return given

    # Members

    def join(self, group: str, names: Iterable[str]) -> None:
        """Plan that existing people join a group.

        Raises:
            Invalid: the group does not exist, or everybody is in it.
            NotFound: there is no such person.
        """
        self._known_group(group)
        for name in names:
            if name not in self.present.people:
                raise NotFound(tr("there is nobody called {name}", name=quoted(name)))
            self.joining.setdefault(group, set()).add(name)

    def leave(self, group: str, names: Iterable[str]) -> None:
        """Plan that people leave a group."""
        self.leaving.setdefault(group, set()).update(names)

    def everybody(self, agreed: Mapping[str, Sequence[str]], declared: Collection[str]) -> None:
        """Plan that people and groups which were created or changed elsewhere are completed.

        ``agreed`` are the members of each group when its two attributes last agreed; ``declared`` are the people of the
        site file.
        """
        for name in self.present.people:
            if name not in declared and name not in self.plan.removed and ACCOUNT_NAME.fullmatch(name):
                try:
                    self.person(name, {}, password=False)
                except Invalid as error:
                    self.plan.problems[name] = str(error)
        for group in self.present.groups:
            if group not in self.plan.groups:
                self.group(group, {})
            by_uid, by_dn = self.present.members(group)
            right = agreed_members(by_uid, by_dn, set(agreed.get(group, ()))) & set(self.present.people)
            decided = self.joining.get(group, set()) | self.leaving.get(group, set())
            if group == self.common:
                right = frozenset()
            self.joining.setdefault(group, set()).update(right - decided)
            self.leaving.setdefault(group, set()).update((by_uid | by_dn) - right - decided)

    def done(self) -> Plan:
        """Return the finished plan, with members."""
        for group in sorted({*self.joining, *self.leaving}):
            by_uid, by_dn = self.present.members(group)
            joining, leaving = self.joining.get(group, set()), self.leaving.get(group, set())
            members = Members(joining - by_uid, joining - by_dn, leaving & by_uid, leaving & by_dn)
            if members.added or members.removed:
                self.plan.members[group] = members
                there = self.present.groups.get(group)
                self.plan.group_dns[group] = there.dn if there else self.plan.groups[group]["dn"]
        self.plan.dns = {name: self.dn(name) for name in self.plan.touched()}
        return self.plan


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
