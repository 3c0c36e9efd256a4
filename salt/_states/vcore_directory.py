"""
Entries of the LDAP directory that the core owns
================================================
"""

try:
    from vcore import directory
    from vcore.errors import NotFound, VcoreError
    from vcore.paths import Paths

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package or python-ldap cannot be imported: {MISSING}")


def base_present(name):
    """
    Make sure that the directory has the core's own entries: tree, password policies, service accounts with their
    stored passwords, the group of administrators.

    name
        A sentence; there is one directory.

    Attributes that the core owns are corrected. Other attributes and entries are left as they are.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The directory has the core's entries."}
    pillar, paths, test = __pillar__["vcore"], Paths.from_opts(__opts__), __opts__["test"]
    connection = None
    try:
        try:
            connection = directory.open_administrator(pillar, paths, wait=0 if test else directory.START_TIME)
        except (directory.Unreachable, NotFound) as error:
            if not test:
                raise
            if directory.has_been_up(pillar, paths):
                ret["comment"] = f"Its data exist, but {error}: its entries are compared when it runs."
                return ret
        planned = directory.plan(pillar, paths, connection)
        changes = planned.changes()
        if changes and test:
            ret.update(result=None, changes=changes, comment=f"{len(changes)} entries would be put in place.")
        elif not test:
            directory.apply(pillar, paths, connection, planned)
            if changes:
                ret.update(changes=changes, comment=f"{len(changes)} entries were put in place.")
    except directory.Unreachable as error:
        ret.update(result=False, comment=f"{error}; see docker service ps ldap and docker service logs ldap.")
    except directory.Refused as error:
        ret.update(
            result=False,
            comment=f"{error}; the running service has another administrator's password than the secret store.",
        )
    except VcoreError as error:
        ret.update(result=False, comment=str(error))
    finally:
        if connection is not None:
            connection.close()
    return ret
