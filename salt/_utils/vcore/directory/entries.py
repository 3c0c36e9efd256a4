"""The entries that the core keeps in the directory, and how they differ from the existing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Attributes = dict[str, list[str]]


Entries = dict[str, Attributes]


#: Attributes that hold hashes, which searches never return.
HASHES = frozenset(
    name.lower()
    for name in ("userPassword", "pwdHistory", "sambaNTPassword", "sambaLMPassword", "sambaPasswordHistory")
)


#: The accounts with which services bind. Each has a secret ``<name>-password`` in the store.
SERVICE_ACCOUNTS = {
    "readonly": "Looks people and groups up for the services",
    "samba": "Checks and changes passwords for the file server",
}


#: Group id of the administrators: below those of people's groups, above those that Debian assigns by itself.
ADMINISTRATORS_GID = 9000


# --- what is wanted -------------------------------------------------------------------------------------------------


def suffix(pillar: Mapping[str, Any]) -> str:
    """Return the base DN of the directory."""
    return str(pillar["services"]["ldap"]["settings"]["suffix"])


def administrator(pillar: Mapping[str, Any]) -> str:
    """Return the DN that may do everything; it is set in slapd's configuration and has no entry."""
    return f"cn=admin,{suffix(pillar)}"


def uri(pillar: Mapping[str, Any]) -> str:
    """Return the URI of the directory, with the address of its node, which its certificate names."""
    service = pillar["services"]["ldap"]
    address = pillar["nodes"][service["node"]]["address"]
    host = f"[{address}]" if ":" in address else address
    return f"ldaps://{host}:{service['ports']['ldaps']['number']}"


def service_accounts(pillar: Mapping[str, Any]) -> dict[str, str]:
    """Return the DNs of the service accounts, each with the name of its secret."""
    return {f"cn={name},ou=services,{suffix(pillar)}": f"{name}-password" for name in SERVICE_ACCOUNTS}


def numbers_dn(base: str) -> str:
    """Return the DN of the entry that lists the ids which are never assigned again."""
    return f"ou=numbers,{base}"


def wanted_entries(pillar: Mapping[str, Any]) -> Entries:
    """Return the entries that the core owns, with the attributes that it owns in them, parents first.

    The core does not own passwords and the members of the administrators' group.
    """
    base, settings = suffix(pillar), pillar["services"]["ldap"]["settings"]
    entries: Entries = {
        base: {
            "objectClass": ["dcObject", "organization"],
            "dc": [base.split(",")[0].removeprefix("dc=")],
            "o": [pillar["site"]["organization"]],
        }
    }
    for name in ("people", "groups", "instruments", "services", "policies"):
        entries[f"ou={name},{base}"] = {"objectClass": ["organizationalUnit"], "ou": [name]}
    # slapo-ppolicy(5). Durations are in seconds. With pwdMustChange, a password that the root DN sets is marked by
    # pwdReset in the same write, and its owner can do nothing but change it. A change by anybody else removes the mark,
    # so a change that Samba makes for a person counts as the person's own.
    entries[f"cn=default,ou=policies,{base}"] = {
        "objectClass": ["namedObject", "pwdPolicy"],
        "cn": ["default"],
        "description": ["Passwords of people"],
        "pwdAttribute": ["userPassword"],
        "pwdMinLength": [str(settings["password_minimum_length"])],
        # 2 refuses passwords that cannot be checked because they arrive hashed.
        "pwdCheckQuality": ["2"],
        "pwdInHistory": [str(settings["password_history"])],
        # Without it an administrator's lock would have no effect either; a maximum of 0 failures locks nobody.
        "pwdLockout": ["TRUE"],
        "pwdMaxFailure": [str(settings["lockout_failures"])],
        "pwdLockoutDuration": [str(settings["lockout_duration"])],
        "pwdFailureCountInterval": [str(settings["lockout_duration"])],
        "pwdMustChange": ["TRUE"],
        "pwdSafeModify": ["FALSE"],
        "pwdAllowUserChange": ["TRUE"],
    }
    # Service accounts have long generated passwords; wrong guesses must not lock a service out.
    entries[f"cn=service,ou=policies,{base}"] = {
        "objectClass": ["namedObject", "pwdPolicy"],
        "cn": ["service"],
        "description": ["Passwords of service accounts"],
        "pwdAttribute": ["userPassword"],
        "pwdLockout": ["FALSE"],
        "pwdAllowUserChange": ["FALSE"],
    }
    for name, description in SERVICE_ACCOUNTS.items():
        entries[f"cn={name},ou=services,{base}"] = {
            "objectClass": ["organizationalRole", "simpleSecurityObject"],
            "cn": [name],
            "description": [description],
            "pwdPolicySubentry": [f"cn=service,ou=policies,{base}"],
        }
    entries[f"cn=administrators,ou=groups,{base}"] = {
        "objectClass": ["posixGroup", "vcoreMemberGroup"],
        "cn": ["administrators"],
        "description": ["Members manage people and groups"],
        "gidNumber": [str(ADMINISTRATORS_GID)],
    }
    # Everybody's primary group: people's entries have its gid, so it lists no members.
    accounts = pillar["accounts"]
    entries[f"cn={accounts['group']},ou=groups,{base}"] = {
        "objectClass": ["posixGroup", "vcoreMemberGroup"],
        "cn": [accounts["group"]],
        "description": ["Everybody"],
        "gidNumber": [str(accounts["first_id"])],
    }
    # The ids that people and groups ever had; vcore.people.accounts adds them.
    entries[numbers_dn(base)] = {"objectClass": ["organizationalUnit"], "ou": ["numbers"]}
    return entries


def diff(current: Mapping[str, Mapping[str, Sequence[str]] | None], wanted: Entries) -> dict[str, dict[str, Any]]:
    """Return the changes that make ``current`` as ``wanted``, by DN.

    ``{"old": None, "new": attributes}`` for an entry that is missing, otherwise ``old`` and ``new`` with the owned
    attributes that differ. An owned attribute has exactly the wanted values, in any order. Object classes are the
    exception: additional ones stay, because an administrator's extra attributes may need them. Attributes and entries
    that ``wanted`` does not name are left alone. LDAP compares object class names without case (RFC 4512, 2.5).
    """
    changes: dict[str, dict[str, Any]] = {}
    for dn, attributes in wanted.items():
        there = current.get(dn)
        if there is None:
            changes[dn] = {"old": None, "new": {name: list(values) for name, values in attributes.items()}}
            continue
        found = {name.lower(): list(values) for name, values in there.items()}
        old: Attributes = {}
        new: Attributes = {}
        for name, values in attributes.items():
            have = found.get(name.lower(), [])
            if name == "objectClass":
                known = {value.lower() for value in have}
                values = have + [value for value in values if value.lower() not in known]
            if sorted(have) != sorted(values):
                old[name], new[name] = sorted(have), list(values)
        if new:
            changes[dn] = {"old": old, "new": new}
    return changes


def is_hash(attribute: str) -> bool:
    """Return whether an attribute, with or without options in its name, holds hashes."""
    return attribute.split(";")[0].lower() in HASHES
