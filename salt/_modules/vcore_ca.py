"""
Certificate authority of the core
=================================

Shows and works the authority on the head: the root, the certificates of the services, revocation.
What is about trust also works on nodes other than the head, which have no M2Crypto.
"""

from salt.exceptions import SaltInvocationError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.certificates import trust as certificates_trust
    from vcore.certificates import x509
    from vcore.certificates.authority import Authority

__func_alias__ = {"list_": "list"}


def _authority():
    return Authority(Paths.from_opts(__opts__).authority, x509.policy(adapter.head(__pillar__)))


def _leaves(name):
    """The wanted certificates that ``name`` means; None means all."""
    pillar = adapter.head(__pillar__)
    return x509.wanted_all(pillar) if name is None else [x509.wanted(pillar, name)]


def root():
    """
    The authority: subject, key type, days left, SHA-256 fingerprint of the root (hexadecimal), and where it lies.

    Fails where there is no authority: on nodes other than the head, and before the first convergence.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.root
    """
    with adapter.salt_errors():
        return _authority().information()


def list_():
    """
    Every certificate by ``service/name``: status, whole days left, date of its end, date from which it is renewed,
    names, addresses, key type, issuer and serial (hexadecimal).

    The status is ``valid``, ``renewal due``, ``expired``, ``revoked``, ``supplied`` (by the site), ``untrusted`` (of
    another authority), ``key does not match``, ``unused`` (no service wants it) or ``not issued``.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.list
        salt-call vcore_ca.list --out json
    """
    with adapter.salt_errors():
        return _authority().leaves(_leaves(None))


def verify(name=None):
    """
    Check one certificate, or all: that key and certificate are a pair, names, validity, and with OpenSSL's strict
    checks the chain and the revocation list. Returns ``valid`` or what is wrong, by ``service/name``.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.verify
        salt-call vcore_ca.verify ldap/tls
    """
    with adapter.salt_errors():
        authority = _authority()
        return {leaf.name: "; ".join(authority.verify(leaf)) or "valid" for leaf in _leaves(name)}


def difference(names=None):
    """
    What ``issue`` would change, as ``{"ldap/tls": {"old": why, "new": "issued"}}``; empty when all is as wanted.

    names
        A list of certificates; without it all.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.difference
    """
    with adapter.salt_errors():
        authority = _authority()
        leaves = _leaves(None) if names is None else [leaf for name in names for leaf in _leaves(name)]
        return authority.plan_leaves(leaves)


def issue(name=None):
    """
    Issue one certificate, or all, where it is missing, due for renewal, or not as wanted. Returns what it changed.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.issue
        salt-call vcore_ca.issue ldap/tls
    """
    with adapter.salt_errors():
        authority, changes = _authority(), {}
        for leaf in _leaves(name):
            changes.update(authority.issue(leaf))
        return changes


def renew(name):
    """
    Issue one certificate anew, with a new key, though the present one is still good. Returns what it changed.

    The service gets it with the next ``state.apply``. The old one stays valid until it ends; to end it, revoke it.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.renew ldap/tls
    """
    with adapter.salt_errors():
        authority, (leaf,) = _authority(), _leaves(name)
        if leaf.supplied:
            raise SaltInvocationError(
                tr(
                    "{name} is supplied by the site: put the new one at {supplied}",
                    name=name,
                    supplied=leaf.supplied[0],
                )
            )
        return authority.issue(leaf, force=True)


def revoke(name, reason="unspecified"):
    """
    Revoke the present certificate of a service, or any by its serial, and sign a new revocation list.

    The next ``state.apply`` issues another one.

    name
        ``service/name``, or a serial in hexadecimal, in quotes.

    reason
        ``unspecified``, ``keyCompromise``, ``affiliationChanged``, ``superseded`` or ``cessationOfOperation``
        (RFC 5280, 5.3.1).

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.revoke ldap/tls reason=keyCompromise
    """
    with adapter.salt_errors():
        authority = _authority()
        authority.revoke(str(name), reason)
        return authority.revocation_list()


def crl():
    """
    The revocation list: path of the PEM file, date of its end, days left, and the serials that it revokes.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.crl
    """
    with adapter.salt_errors():
        return _authority().revocation_list()


def root_difference():
    """
    What ``ensure_root`` would change: ``authority``, ``crl`` and ``permissions``, each from old to new.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.root_difference
    """
    with adapter.salt_errors():
        return _authority().plan()


def ensure_root():
    """
    Make, renew or take over the authority, and sign the revocation list, as far as needed. Returns what it changed.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.ensure_root
    """
    with adapter.salt_errors():
        return _authority().ensure()


def _trusted_root(certificate):
    """The root to trust (PEM, bytes), or None on a head whose authority is yet to be made."""
    if not certificate:
        pillar = adapter.node(__pillar__)
        # The head asks its store: its pillar was made before this run, which may have replaced the root.
        if "certificate_authority" in pillar:
            return _authority().anchor()
        certificate = pillar.get("authority_certificate") or ""
    return certificates_trust.root_of(certificate.encode())


def _trust_files(registry):
    # Given a registry, this also works on a node that has lost its pillar.
    return certificates_trust.trust_files(__grains__["os_family"], registry or adapter.node(__pillar__).get("registry"))


def _trusted_files(registry):
    # What a node was trusted by, it finds by itself where it no longer has a pillar that names the core.
    if registry or __pillar__.get("vcore") or "_errors" in __pillar__:
        return _trust_files(registry)
    return certificates_trust.trust_files(__grains__["os_family"], certificates_trust.known_registry())


def _run(command):
    if not __salt__["cmd.which"](command[0]):
        raise VcoreError(tr("{command} is not there: install the package ca-certificates", command=command[0]))
    done = __salt__["cmd.run_all"](list(command), python_shell=False)
    if done["retcode"]:
        raise VcoreError(tr("{command} failed: {stderr}", command=command[0], stderr=done["stderr"] or done["stdout"]))


def trust_difference(certificate=None, registry=None):
    """
    What ``trust`` would change on this node, by path; empty when it trusts the root already.

    The arguments are those of ``trust``.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.trust_difference
    """
    with adapter.salt_errors():
        store, files = _trust_files(registry)
        return certificates_trust.trust_difference(_trusted_root(certificate), store, files)


def trust(certificate=None, registry=None):
    """
    Make this node, and its Docker towards the core's registry, trust the root. Returns what it changed.

    certificate
        PEM of the root, or of a chain that ends in it; by default that of this core.

    registry
        ``host:port``; by default this core's.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.trust
    """
    with adapter.salt_errors():
        store, files = _trust_files(registry)
        pem = _trusted_root(certificate)
        if pem is None:
            raise VcoreError(tr("there is no certificate authority yet: apply the head's states, which make it"))
        changes = certificates_trust.trust_difference(pem, store, files)
        certificates_trust.trust(pem, store, changes, _run)
        return changes


def distrust_difference(registry=None):
    """
    What ``distrust`` would change on this node, by path; empty when it holds nothing of this core.

    The argument is that of ``distrust``.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.distrust_difference
    """
    with adapter.salt_errors():
        return certificates_trust.distrust_difference(*_trusted_files(registry))


def distrust(registry=None):
    """
    Take back what ``trust`` did: the root leaves this node's trust store and its Docker. Returns what it changed.

    registry
        ``host:port``; by default this core's.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_ca.distrust
        salt-call vcore_ca.distrust registry=registry.vcore.test:5000
    """
    with adapter.salt_errors():
        store, files = _trusted_files(registry)
        changes = certificates_trust.distrust_difference(store, files)
        certificates_trust.distrust(store, changes, _run)
        return changes
