"""
Entries of the LDAP directory that the core owns
================================================
"""

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.directory import client

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def base_present(name):
    """
    Make sure that the directory has the core's own entries: tree, password policies, service accounts with their
    stored passwords, the group of administrators.

    name
        A sentence; there is one directory.

    Attributes that the core owns are corrected. Other attributes and entries are left as they are.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]
    pillar = connection = planned = None

    @client.remedies()
    def difference():
        nonlocal pillar, connection, planned
        pillar = adapter.head(__pillar__)
        opened = client.open_for_state(pillar, paths, test=test)
        if isinstance(opened, str):
            return opened
        connection = opened
        planned = client.plan(pillar, paths, connection)
        changes = planned.changes()
        if not changes and not test:
            client.apply(pillar, paths, connection, planned)  # remembers what the comparison has found out
        return changes

    @client.remedies()
    def apply(changes):
        client.apply(pillar, paths, connection, planned)
        return f"{len(changes)} entries were put in place."

    try:
        return adapter.converge(
            name,
            test=test,
            difference=difference,
            apply=apply,
            unchanged="The directory has the core's entries.",
            planned=lambda changes: f"{len(changes)} entries would be put in place.",
            done="Entries were put in place.",
        )
    finally:
        if connection is not None:
            connection.close()
