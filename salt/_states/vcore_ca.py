"""
Certificate authority of the core
=================================
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def __virtual__():
    return True if "vcore_ca.issue" in __salt__ else (False, "the module vcore_ca is not available")


def _converge(name, difference, apply, unchanged):
    """The result of a state from two functions that return the same changes: one looks, the other acts."""
    ret = {"name": name, "result": True, "changes": {}, "comment": unchanged}
    try:
        if __opts__["test"]:
            ret["changes"] = difference()
            if ret["changes"]:
                ret.update(result=None, comment=f"Would change {', '.join(ret['changes'])}.")
        else:
            ret["changes"] = apply()
            if ret["changes"]:
                ret["comment"] = f"Changed {', '.join(ret['changes'])}."
    except (CommandExecutionError, SaltInvocationError) as error:
        ret.update(result=False, changes={}, comment=str(error))
    return ret


def root_present(name):
    """
    Make sure that the head has a certificate authority: its own, or the one that the site supplies.

    It is renewed before it ends, its revocation list is kept current, and nobody but root can read its folder.
    Fails where the authority that the site supplies cannot be used, or the one in the store is damaged.

    name
        A sentence.
    """
    return _converge(
        name, __salt__["vcore_ca.root_difference"], __salt__["vcore_ca.ensure_root"], "The authority is in order."
    )


def issued(name, certificates=None):
    """
    Make sure that certificates of services are there, valid for long enough, and for the right names.

    A certificate that the site supplies is checked and copied into the store. Everything is checked before the first
    one is issued.

    name
        A certificate, ``service/name``, or a sentence when ``certificates`` is given.

    certificates
        A list of such names, checked in one go.
    """
    names = certificates or [name]

    def apply():
        changes = __salt__["vcore_ca.difference"](names)
        for certificate in changes:
            __salt__["vcore_ca.issue"](certificate)
        return changes

    return _converge(name, lambda: __salt__["vcore_ca.difference"](names), apply, "All certificates are in order.")


def trusted(name, certificate=None, registry=None):
    """
    Make sure that a node, and its Docker towards the core's registry, trust the root of the core.

    name
        A sentence.

    certificate
        PEM; by default that in the store on the head, and elsewhere the pillar's ``authority_certificate``.

    registry
        ``host:port``; by default this core's.
    """
    arguments = {"certificate": certificate, "registry": registry}
    return _converge(
        name,
        lambda: __salt__["vcore_ca.trust_difference"](**arguments),
        lambda: __salt__["vcore_ca.trust"](**arguments),
        "The root is trusted.",
    )


def untrusted(name, registry=None):
    """
    Make sure that a node no longer trusts the root of the core, nor its Docker: the opposite of ``trusted``.

    name
        A sentence.

    registry
        ``host:port``; by default this core's.
    """
    return _converge(
        name,
        lambda: __salt__["vcore_ca.distrust_difference"](registry=registry),
        lambda: __salt__["vcore_ca.distrust"](registry=registry),
        "The root is not trusted.",
    )
