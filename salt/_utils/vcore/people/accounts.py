"""People and groups of a core, from its head: lists them, and carries out the plans of :mod:`vcore.people.plans`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from ..base import locks as base_locks
from ..base.errors import Busy, Invalid, NotFound, Unreachable, VcoreError
from ..base.files import write_atomic
from ..base.messages import quoted, tr
from ..base.paths import Paths
from ..base.progress import report
from ..base.secrets import Store, generate
from ..directory import client
from ..directory import entries as directory_entries
from ..directory.client import Directory
from ..kernel import areas
from . import csv_lines
from .csv_lines import check_name, check_person
from .homes import Homes
from .plans import (
    EXPIRED,
    FIRST_PASSWORD_LENGTH,
    FIRST_PASSWORDS,
    LOCKED,
    SINGLE,
    Entry,
    Members,
    Plan,
    Planner,
    Present,
    Taken,
    ever_had,
    first_password,
    host_accounts,
    locks_of_wrong_passwords,
    look,
    some,
)
from .settings import ACCOUNT_NAME, Group, plain

log = logging.getLogger(__name__)


#: How many people are created at a time: an interruption leaves at most this many incomplete for the next run.
CHUNK = 50


#: How long to wait for another change of accounts on this head, in seconds.
LOCK_TIME = 300.0


class Accounts:
    """People and groups of a core, from its head.

    Args:
        pillar: the resolved pillar of the head.
        paths: the head's folders.
        connection: bound as the directory's administrator; None for planning on a directory that has no entries yet.
    """

    def __init__(self, pillar: Mapping[str, Any], paths: Paths, connection: Directory | None) -> None:
        self.pillar, self.paths = pillar, paths
        self._connection = connection
        #: Whether people or groups were changed, so that the areas that depend on them have to follow.
        self.changed = False
        self.base = directory_entries.suffix(pillar)
        self.store = Store(paths.secrets)
        self.homes = Homes.of(pillar)

    @property
    def connection(self) -> Directory:
        """The connection, for operations that need one."""
        assert self._connection is not None
        return self._connection

    @contextmanager
    def exclusive(self, test: bool = False, *, wait: float = LOCK_TIME) -> Iterator[None]:
        """Lock out other changes of accounts on this head; a plan (``test``) needs no lock.

        Raises:
            Busy: another change takes longer than ``wait`` seconds.
        """
        if test:
            yield
            return
        self.paths.state.mkdir(parents=True, exist_ok=True)
        busy = "accounts are being changed by another command; try again later"
        with base_locks.exclusive(self.paths.state / "accounts.lock", wait=wait, busy=busy):
            yield

    # Memory: the ids that were ever in use are in the directory, where the web page sees them, too; the members that
    # groups had when their two attributes last agreed are in a file on this head.

    def _ever_had(self) -> dict[str, frozenset[int]]:
        entry = (
            self._connection.read(directory_entries.numbers_dn(self.base), ["description"])
            if self._connection
            else None
        )
        return ever_had(value.decode() for value in (entry or {}).get("description", []))

    @property
    def _memory(self) -> Path:
        return self.paths.state / "accounts.json"

    def _remembered(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._memory.read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def remember(self, present: Present | None = None) -> None:
        """Record ids and members for later plans."""
        memory, present = self._remembered(), present or self.look()
        before, now = self._ever_had(), {"uidNumber": present.uids(), "gidNumber": present.gids()}
        numbers = [f"{name} {number}" for name, used in now.items() for number in sorted(used.keys() - before[name])]
        if numbers:
            self.connection.change_values(directory_entries.numbers_dn(self.base), {"description": numbers}, {})
        agreed = {
            group: sorted(present.members(group)[0])
            for group in present.groups
            if present.members(group)[0] == present.members(group)[1]
        }
        new = {"members": {**memory.get("members", {}), **agreed}}
        if new != memory:
            write_atomic(self._memory, json.dumps(new).encode(), mode=0o600)

    # Looking

    def look(self) -> Present:
        """Return the people and groups in the directory."""
        return look(self._connection, self.base) if self._connection else Present()

    def planner(self, present: Present) -> Planner:
        """Return a planner that starts from ``present``."""
        past, host = self._ever_had(), host_accounts()
        taken = Taken(host.uids, host.gids, past["uidNumber"], past["gidNumber"])
        return Planner(self.pillar, present, taken, self.homes, self._first_passwords())

    def _first_passwords(self) -> list[str]:
        try:
            names = [path.name for path in (self.store.folder / FIRST_PASSWORDS).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if ACCOUNT_NAME.fullmatch(name))

    def clean(self, present: Present) -> None:
        """Delete the stored first passwords of people who have chosen their own or no longer exist."""
        for name in self._first_passwords():
            there = present.people.get(name)
            if there is None or (there.first("pwdChangedTime") and there.first("pwdReset") != "TRUE"):
                first_password(self.paths, name).unlink(missing_ok=True)

    # Applying

    def apply(self, plan: Plan, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """Carry out a plan; a failure for one person does not stop the others.

        Returns:
            The people (or ids) for whom something failed, and why. What was done for them stays; the next plan has the
            rest.

        Raises:
            Unreachable: the directory no longer answers.
        """
        failures: dict[str, str] = {}
        self.changed = True
        for change in plan.groups.values():
            if change["old"] is None:
                self.connection.add(change["dn"], change["new"])
            else:
                self.connection.replace(change["dn"], change["new"])
        people = list(dict.fromkeys([*plan.people, *plan.passwords, *plan.homes]))
        for start in range(0, len(people), CHUNK):
            chunk = people[start : start + CHUNK]
            self._people(plan, chunk, failures)
            self._members(plan, chunk, failures)
            if progress:
                progress(min(start + CHUNK, len(people)), len(people))
        self._members(plan, None, failures)
        for name, removal in plan.removed.items():
            try:
                self._remove(name, removal["entry"], archive=removal["archive"])
            except Unreachable:
                raise
            except (VcoreError, OSError) as error:
                failures[name] = str(error)
        for dn in plan.removed_groups.values():
            self.connection.delete(dn)
        return failures

    def _people(self, plan: Plan, names: Sequence[str], failures: dict[str, str]) -> None:
        entries = {name: plan.people[name] for name in names if name in plan.people}
        passwords = {name: self._first_password(name) for name in names if name in plan.passwords}
        locks = {
            name: {"pwdAccountLockedTime": [LOCKED]}
            for name, entry in entries.items()
            if entry["new"].get("pwdAccountLockedTime") == [LOCKED]
        }

        def run(operations: Iterable[tuple[str, client.Operation]]) -> None:
            for name, error in self.connection.run((name, op) for name, op in operations if name not in failures):
                if error:
                    failures[name] = str(error)

        def entry_operation(name: str, entry: Mapping[str, Any]) -> client.Operation:
            if entry["old"] is not None:
                return client.replacing(entry["dn"], entry["new"])
            # Setting a password would lift an existing lock, so the lock comes after it.
            new = {key: values for key, values in entry["new"].items() if key != "pwdAccountLockedTime"}
            return client.adding(entry["dn"], new)

        run((name, entry_operation(name, entry)) for name, entry in entries.items())
        run((name, client.setting_password(plan.dns[name], password)) for name, password in passwords.items())
        run(
            (name, client.replacing(plan.dns[name], {"sambaPwdLastSet": ["0"], **locks.get(name, {})}))
            for name in passwords
        )
        for name in names:
            if name in plan.homes and name not in failures:
                try:
                    self.homes.make(name, plan.homes[name])
                except (VcoreError, OSError) as error:
                    failures[name] = str(error)

    def _first_password(self, name: str, *, renew: bool = False) -> str:
        """Return the first password, generated if there is none; the store has it before the directory does."""
        if renew or not self.store.exists(FIRST_PASSWORDS, name):
            minimum = self.pillar["services"]["ldap"]["settings"]["password_minimum_length"]
            self.store.write(FIRST_PASSWORDS, name, generate("password", max(FIRST_PASSWORD_LENGTH, minimum)))
        return self.store.read(FIRST_PASSWORDS, name).decode()

    def _members(self, plan: Plan, names: Collection[str] | None, failures: dict[str, str]) -> None:
        """Change members of groups as far as the plan still has them, of all or only ``names``, and update the plan."""
        for group, members in plan.members.items():
            part = Members()
            for kind in ("add_uid", "add_dn", "remove_uid", "remove_dn"):
                everyone: set[str] = getattr(members, kind)
                chosen = (everyone if names is None else everyone & set(names)) - failures.keys()
                setattr(part, kind, chosen)
            if not (part.added or part.removed):
                continue
            try:
                self.connection.change_values(
                    plan.group_dns[group],
                    {"memberUid": sorted(part.add_uid), "member": [plan.dns[name] for name in sorted(part.add_dn)]},
                    {
                        "memberUid": sorted(part.remove_uid),
                        "member": [plan.dns[name] for name in sorted(part.remove_dn)],
                    },
                )
            except Unreachable:
                raise
            except VcoreError as error:
                failures |= dict.fromkeys((*part.added, *part.removed), f"group {group}: {error}")
            else:
                for kind in ("add_uid", "add_dn", "remove_uid", "remove_dn"):
                    setattr(members, kind, getattr(members, kind) - getattr(part, kind))

    def _remove(self, name: str, entry: Entry | None, *, archive: bool) -> None:
        """Remove a person, who is locked out first so that nothing new is written while the home is archived."""
        if entry is not None:
            expired = {"shadowExpire": [EXPIRED]} if entry.is_a("shadowAccount") else {}
            self.connection.replace(entry.dn, {"pwdAccountLockedTime": [LOCKED], **expired})
        if archive and self.homes.owner(name) is not None:
            report(self.paths, "accounts", tr("archiving the home of {name}", name=name))
            self.homes.store(name)
        self.homes.delete(name)
        if entry is not None:
            self.connection.delete(entry.dn)
        first_password(self.paths, name).unlink(missing_ok=True)

    # What the site file declares

    def plan_site(self, *, tidy: bool = False) -> Plan:
        """Return the plan that brings the site's people and groups into the directory and completes entries of others.

        ``tidy`` also deletes first passwords that are no longer needed, and records what later plans need to know.

        Raises:
            Invalid: the site and the directory contradict each other; the message names every contradiction.
        """
        present, memory = self.look(), self._remembered()
        planner = self.planner(present)
        if not self._connection:
            # The core's own groups will be there by the time this plan is applied.
            for dn, attributes in directory_entries.wanted_entries(self.pillar).items():
                if "posixGroup" in attributes["objectClass"]:
                    planner.present = Present(
                        {}, {**planner.present.groups, attributes["cn"][0]: Entry(dn, attributes)}, {}
                    )
            planner.gids |= planner.present.gids()
        problems = []
        for name, data in self.pillar["groups"].items():
            try:
                planner.group(name, data)
            except Invalid as error:
                problems.append(f"vcore.groups.{name}: {error}")
        people = sorted(self.pillar["people"].items(), key=lambda item: "uid" not in item[1])
        for name, data in people:
            try:
                if data.get("removed"):
                    planner.remove(name)
                else:
                    planner.person(name, data)
            except Invalid as error:
                problems.append(f"vcore.people.{name}: {error}")
        if problems:
            raise Invalid("; ".join(problems))
        planner.everybody(memory.get("members", {}), self.pillar["people"])
        if tidy:
            self.clean(present)
            self.remember(present)
        plan = planner.done()
        if plan.problems and not plan.changes(self.paths, self.homes):
            raise Invalid("; ".join(f"{name}: {problem}" for name, problem in sorted(plan.problems.items())))
        return plan

    def apply_site(self, plan: Plan) -> None:
        """Carry out a plan of :meth:`plan_site`.

        Raises:
            VcoreError: some people failed; the others are done.
        """

        def progress(done: int, total: int) -> None:
            if total > CHUNK:
                report(self.paths, "accounts", tr("{done} of {total} people", done=done, total=total))

        self._all_done({**plan.problems, **self.apply(plan, progress)})

    def _all_done(self, failures: Mapping[str, str]) -> None:
        self.remember()
        if failures:
            raise VcoreError("; ".join(f"{name}: {reason}" for name, reason in sorted(failures.items())))

    # What administrators ask for

    def _commit(self, planner: Planner, *, test: bool) -> dict[str, Any]:
        plan = planner.done()
        changes = plan.changes(self.paths, self.homes)
        if not test:
            self._all_done(self.apply(plan))
        return changes

    def _somebody(self, present: Present, name: str) -> Entry:
        there = present.people.get(name)
        if there is None:
            raise NotFound(tr("there is nobody called {name}", name=quoted(name)))
        return there

    def add(self, name: str, data: Mapping[str, Any], *, test: bool = False) -> dict[str, Any]:
        """Add a person, or complete one whose creation was interrupted.

        Raises:
            Invalid: the name or the data are not acceptable, or the person exists already.
        """
        check_name(name)
        checked = check_person(data)
        with self.exclusive(test):
            present = self.look()
            planner = self.planner(present)
            planner.person(name, {key: value for key, value in checked.items() if key in data})
            there = present.people.get(name)
            if there is not None and name not in planner.plan.passwords and name not in planner.plan.homes:
                raise Invalid(tr("{name} exists already; to change it, use vcore.user_modify", name=name))
            entry = (
                Entry(planner.dn(name), planner.plan.people.get(name, {}).get("new", {})) if there is None else there
            )
            result = self._result(name, "added", self._commit(planner, test=test), test)
            return result | {"uid": int(entry.first("uidNumber")), "home": entry.first("homeDirectory")}

    def _result(self, name: str, done: str, changes: Mapping[str, Any], test: bool) -> dict[str, Any]:
        verb = f"would be {done}" if test else f"is {done}"
        ret: dict[str, Any] = {
            "comment": f"{name} {verb}." if changes else f"{name} needs no change.",
            "changes": changes,
            "test": test,
        }
        if f"first password of {name}" in changes:
            ret["first_password"] = str(first_password(self.paths, name))
        return ret

    def modify(self, name: str, data: Mapping[str, Any], *, test: bool = False) -> dict[str, Any]:
        """Change a person as ``data`` says; an empty string removes a value.

        Raises:
            NotFound: there is nobody of this name.
            Invalid: as for :meth:`add`, or ``data`` is empty.
        """
        given = {key: value for key, value in data.items() if value is not None}
        if not given:
            raise Invalid(tr("say what to change, such as mail=ada@example.org"))
        emptied = {key: "" for key in ("given_name", "mail", "telephone") if given.get(key) == ""}
        checked = check_person({key: value for key, value in given.items() if key not in emptied})
        with self.exclusive(test):
            present = self.look()
            self._somebody(present, name)
            planner = self.planner(present)
            planner.person(
                name, {**{key: value for key, value in checked.items() if key in given}, **emptied}, password=False
            )
            return self._result(name, "changed", self._commit(planner, test=test), test)

    def set_locked(self, name: str, locked: bool, *, test: bool = False) -> dict[str, Any]:
        """Lock a person's account, or unlock it; unlocking also lifts locks after wrong passwords.

        Raises:
            NotFound: there is nobody of this name.
        """
        with self.exclusive(test):
            present = self.look()
            there = self._somebody(present, name)
            planner = self.planner(present)
            planner.person(name, {"locked": locked}, password=False)
            if not locked and (lifted := locks_of_wrong_passwords(there)):
                # An administrator who unlocks an account means those locks, too.
                change = planner.plan.people.setdefault(name, {"dn": there.dn, "old": {}, "new": {}})
                change["old"] |= {attribute: there.attributes[attribute] for attribute in lifted}
                change["new"] |= lifted
            return self._result(name, "locked" if locked else "unlocked", self._commit(planner, test=test), test)

    def reset_password(self, name: str, *, test: bool = False) -> dict[str, Any]:
        """Give a person a new first password, which has to be changed at first use.

        An incomplete account, such as one that was created on the web page, is completed first.

        Raises:
            NotFound: there is nobody of this name.
        """
        with self.exclusive(test):
            present = self.look()
            there = self._somebody(present, name)
            if not there.is_a("sambaSamAccount"):
                # Samba only gets the password if its part of the entry exists before.
                planner = self.planner(present)
                planner.person(name, {}, password=False)
                self._commit(planner, test=test)
            path = str(first_password(self.paths, name))
            if not test:
                password = self._first_password(name, renew=True)
                self.connection.set_password(there.dn, password)
                locked = {"pwdAccountLockedTime": [LOCKED]} if there.locked else {}
                self.connection.replace(there.dn, {"sambaPwdLastSet": ["0"], **locked})
            return {"comment": f"{name} {'would get' if test else 'has'} a new first password.", "first_password": path}

    def remove(self, name: str, *, archive: bool = True, test: bool = False) -> dict[str, Any]:
        """Remove a person; the home is archived first, or with ``archive=False`` only deleted.

        Raises:
            NotFound: there is neither a person nor a home of this name.
            Invalid: the name is not valid.
        """
        if not ACCOUNT_NAME.fullmatch(name):
            raise Invalid(tr("{name} is not a valid account name", name=quoted(name)))
        with self.exclusive(test):
            present = self.look()
            planner = self.planner(present)
            planner.remove(name, archive=archive)
            if name not in planner.plan.removed:
                raise NotFound(tr("there is nobody called {name}, and no home", name=name))
            if not test:
                self.remember(present)
            result = self._result(name, "removed", self._commit(planner, test=test), test)
        if self.homes.elsewhere:
            result["comment"] += f" The home stays on {self.homes.elsewhere}, in {self.homes.path(name)}."
        return result

    def show(self, name: str) -> dict[str, Any]:
        """Return everything about a person except hashes.

        Raises:
            NotFound: there is nobody of this name.
        """
        present = self.look()
        self._somebody(present, name)
        return self._person(name, present, _groups(present))

    def _person(self, name: str, present: Present, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        there = present.people[name]
        data: dict[str, Any] = {"name": there.first("cn"), "uid": int(there.first("uidNumber"))}
        data |= {column: there.first(attribute) for column, attribute in SINGLE.items() if there.first(attribute)}
        data |= {"groups": list(groups.get(name, [])), "ssh_keys": there.attributes.get("sshPublicKey", [])}
        data |= {"home": there.first("homeDirectory"), "locked": there.locked}
        changed = there.first("pwdChangedTime")
        data["password"] = (
            "none" if not changed else "to be changed at first use" if there.first("pwdReset") == "TRUE" else changed
        )
        if first_password(self.paths, name).is_file():
            data["first_password"] = str(first_password(self.paths, name))
        return data

    def everybody(self) -> dict[str, dict[str, Any]]:
        """Return all people in short, after deleting first passwords that are no longer needed."""
        try:
            # During another change there can be first passwords whose owners do not exist yet.
            with self.exclusive(wait=0):
                present = self.look()
                self.clean(present)
        except Busy:
            present = self.look()
        groups = _groups(present)
        return {
            name: {
                "name": entry.first("cn"),
                "uid": int(entry.first("uidNumber")),
                "groups": groups.get(name, []),
                "locked": entry.locked,
                "first_password": first_password(self.paths, name).is_file(),
            }
            for name, entry in sorted(present.people.items())
        }

    # Many at once

    def import_csv(
        self, content: bytes, *, test: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Add and change the people of a CSV file; a line that is wrong or refused does not stop the others.

        Returns:
            How many were ``added``, ``changed``, ``unchanged`` and ``failed``, where ``first_passwords`` are, and the
            result of each line in ``lines``.

        Raises:
            Invalid: it is not such a file at all.
        """
        lines = csv_lines.parse(content)
        with self.exclusive(test):
            present = self.look()
            planner = self.planner(present)
            problems: dict[str, str] = {}
            # Ids that lines ask for come before those that can be chosen freely.
            for line in sorted(lines, key=lambda line: "uid" not in (line.person or {})):
                if line.person is None:
                    continue
                try:
                    planner.person(line.name, line.person)
                except VcoreError as error:
                    problems[line.name] = str(error)
            plan = planner.done()
            touched = plan.touched()
            if not test and touched:
                failures = self.apply(plan, progress)
                problems |= failures
                self.remember()
        count = dict.fromkeys(("added", "changed", "unchanged", "failed"), 0)
        told = []
        for line in lines:
            problem = line.problem or problems.get(line.name, "")
            if problem:
                result = "failed"
            elif line.name not in touched:
                result = "unchanged"
            else:
                result = "changed" if line.name in present.people else "added"
            count[result] += 1
            shown = line.name if ACCOUNT_NAME.fullmatch(line.name) else quoted(line.name)
            reason = f": {problem.removeprefix(f'{shown}: ')}" if problem else ""
            told.append(f"line {line.number}: {shown}: {result}{reason}")
        return {**count, "first_passwords": str(self.store.folder / FIRST_PASSWORDS), "lines": told}

    def export_csv(self) -> bytes:
        """Return all people as a CSV file that :meth:`import_csv` reads."""
        present = self.look()
        groups = _groups(present)
        return csv_lines.write(
            (name, self._person(name, present, groups))
            for name in sorted(present.people)
            if ACCOUNT_NAME.fullmatch(name)
        )

    # Groups

    def group_add(self, name: str, data: Mapping[str, Any], *, test: bool = False) -> dict[str, Any]:
        """Add a group.

        Raises:
            Invalid: the name or the data are not acceptable, or the group exists already.
        """
        check_name(name)
        checked = _group_data(data)
        with self.exclusive(test):
            present = self.look()
            if name in present.groups:
                raise Invalid(tr("the group {name} exists already; to change it, use vcore.group_modify", name=name))
            planner = self.planner(present)
            planner.group(name, checked)
            return self._result(name, "added", self._commit(planner, test=test), test)

    def group_modify(
        self,
        name: str,
        data: Mapping[str, Any],
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        test: bool = False,
    ) -> dict[str, Any]:
        """Change the data and the members of a group.

        Raises:
            NotFound: there is no such group or person.
            Invalid: nothing is to be changed, or the group's members cannot be changed.
        """
        add, remove = list(add), list(remove)
        given = {key: value for key, value in data.items() if value is not None}
        if not (given or add or remove):
            raise Invalid(tr("say what to change, such as add=ada"))
        if both := set(add) & set(remove):
            raise Invalid(tr("{some} cannot be added and removed at once", some=some(sorted(both))))
        emptied = {key: "" for key, value in given.items() if value == ""}
        checked = _group_data({key: value for key, value in given.items() if key not in emptied})
        with self.exclusive(test):
            present = self.look()
            if name not in present.groups:
                raise NotFound(tr("there is no group {name}", name=quoted(name)))
            planner = self.planner(present)
            planner.group(name, {**checked, **emptied})
            planner.join(name, add)
            planner.leave(name, remove)
            return self._result(name, "changed", self._commit(planner, test=test), test)

    def group_remove(self, name: str, *, test: bool = False) -> dict[str, Any]:
        """Remove a group; its files keep its gid, which no other group gets.

        Raises:
            NotFound: there is no such group.
            Invalid: the group cannot be removed.
        """
        with self.exclusive(test):
            present = self.look()
            planner = self.planner(present)
            planner.remove_group(name)
            if not test:
                self.remember(present)
            return self._result(name, "removed", self._commit(planner, test=test), test)

    def group_list(self) -> dict[str, dict[str, Any]]:
        """Return all groups, with gid, description and members."""
        present = self.look()
        return {
            name: {
                "gid": int(entry.first("gidNumber")),
                "description": entry.first("description"),
                "members": sorted(entry.attributes.get("memberUid", [])),
            }
            for name, entry in sorted(present.groups.items())
        }

    def group_show(self, name: str) -> dict[str, Any]:
        """Return one group, with gid, description and members.

        Raises:
            NotFound: there is no group of this name.
        """
        try:
            return self.group_list()[name]
        except KeyError:
            raise NotFound(tr("there is no group {name}", name=quoted(name))) from None


def _group_data(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return plain(Group.model_validate({key: value for key, value in data.items() if value is not None}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = csv_lines.MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        raise Invalid(f"{first['loc'][0]} {quoted(first['input'])}: {message}") from None


def _groups(present: Present) -> dict[str, list[str]]:
    """Return the groups of each person who is in any, without the primary group of all people."""
    groups: dict[str, list[str]] = {}
    for group, entry in sorted(present.groups.items()):
        for name in entry.attributes.get("memberUid", []):
            groups.setdefault(name, []).append(group)
    return groups


@areas.face("follow")
class Follows(Protocol):
    """How an area reacts when people or groups have changed."""

    def follow(self, pillar: Mapping[str, Any], paths: Paths, look: Callable[[], Present]) -> None:
        """Take the change over at once; ``look`` returns people and groups. It is done, so failures must not raise."""


@contextmanager
def opened(pillar: Mapping[str, Any], paths: Paths) -> Iterator[Accounts]:
    """Open the accounts of a core, from its head; when done, tell the areas that follow people about changes.

    Raises:
        VcoreError: the site has no directory.
        NotFound, Unreachable, Refused: as for :func:`vcore.directory.client.open_administrator`.
    """
    if "ldap" not in pillar["services"]:
        raise VcoreError(tr("the service ldap is not switched on in the site file"))
    with client.open_administrator(pillar, paths) as connection:
        ours = Accounts(pillar, paths, connection)
        yield ours
        if ours.changed:
            for area in areas.asked(Follows).values():
                area.follow(pillar, paths, ours.look)
