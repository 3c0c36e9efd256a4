"""
Secrets of the core
===================
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def __virtual__():
    return True if "vcore_secret.ensure" in __salt__ else (False, "the module vcore_secret is not available")


def present(name, secrets=None):
    """
    Make sure that secrets have a value and are readable by root only.

    name
        A secret, ``service/secret``, or a sentence when ``secrets`` is given.

    secrets
        A list of such names, checked in one go.

    The changes name the secret and what was wrong with it, never its value.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "All secrets are in place."}
    try:
        found = {secret: __salt__["vcore_secret.difference"](secret) for secret in (secrets or [name])}
        changes = {
            secret: {"old": "missing", "new": "generated"}
            if problem == "missing"
            else {"old": "permissions open", "new": "permissions closed"}
            for secret, problem in found.items()
            if problem
        }
        if not changes:
            return ret
        ret["changes"] = changes
        if __opts__["test"]:
            ret.update(result=None, comment=f"{len(changes)} secrets would be put in place.")
            return ret
        for secret in changes:
            __salt__["vcore_secret.ensure"](secret)
        ret["comment"] = f"{len(changes)} secrets were put in place."
    except (CommandExecutionError, SaltInvocationError) as error:
        ret.update(result=False, changes={}, comment=str(error))
    return ret
