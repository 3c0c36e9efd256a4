"""
Entries of the LDAP directory that the core owns
================================================
"""

import contextlib

try:
    from vcore import adapter, directory
    from vcore.errors import NotFound, VcoreError
    from vcore.paths import Paths

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


@contextlib.contextmanager
def _remedies():
    """Say what to do about a directory that does not answer, or does not let us in."""
    try:
        yield
    except directory.Unreachable as error:
        raise VcoreError(f"{error}; see docker service ps ldap and docker service logs ldap.") from None
    except directory.Refused as error:
        raise VcoreError(
            f"{error}; the running service has another administrator's password than the secret store."
        ) from None


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

    @_remedies()
    def difference():
        nonlocal pillar, connection, planned
        pillar = adapter.head(__pillar__)
        try:
            connection = directory.open_administrator(pillar, paths, wait=0 if test else directory.START_TIME)
        except (directory.Unreachable, NotFound) as error:
            if not test:
                raise
            if directory.has_been_up(pillar, paths):
                return f"Its data exist, but {error}: its entries are compared when it runs."
        except directory.Refused:
            from vcore import swarm_services

            if not (test and swarm_services.mounts_another("ldap", "admin-password", paths)):
                raise
            return "The administrator's password is rotated in this run: its entries are compared when it runs."
        planned = directory.plan(pillar, paths, connection)
        changes = planned.changes()
        if not changes and not test:
            directory.apply(pillar, paths, connection, planned)  # remembers what the comparison has found out
        return changes

    @_remedies()
    def apply(changes):
        directory.apply(pillar, paths, connection, planned)
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
