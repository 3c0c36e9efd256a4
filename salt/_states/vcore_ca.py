"""
Certificate authority of the core
=================================
"""

from vcore import adapter
from vcore.base.messages import tr


def _converge(name, steps, what):
    return adapter.converge(
        name,
        steps,
        test=__opts__["test"],
        unchanged=tr("{what} in order.", what=what),
        planned=tr("{what} not in order yet.", what=what),
        done=tr("{what} in order now.", what=what),
    )


def root_present(name):
    """
    Make sure that the head has a certificate authority: its own, or the one that the site supplies.

    It is renewed before it ends, its revocation list is kept current, and nobody but root can read its folder.
    Fails where the authority that the site supplies cannot be used, or the one in the store is damaged.

    name
        A sentence.
    """

    def steps():
        yield __salt__["vcore_ca.root_difference"]()
        __salt__["vcore_ca.ensure_root"]()

    return _converge(name, steps(), "The authority is")


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

    def steps():
        changes = __salt__["vcore_ca.difference"](names)
        yield changes
        for certificate in changes:
            __salt__["vcore_ca.issue"](certificate)

    return _converge(name, steps(), "The certificates are")


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

    def steps():
        yield __salt__["vcore_ca.trust_difference"](**arguments)
        __salt__["vcore_ca.trust"](**arguments)

    return _converge(name, steps(), "Trust in the root is")


def untrusted(name, registry=None):
    """
    Make sure that a node no longer trusts the root of the core, nor its Docker: the opposite of ``trusted``.

    name
        A sentence.

    registry
        ``host:port``; by default this core's.
    """

    def steps():
        yield __salt__["vcore_ca.distrust_difference"](registry=registry)
        __salt__["vcore_ca.distrust"](registry=registry)

    return _converge(name, steps(), "The end of trust in the root is")
