"""
The LDAP directory of the core
==============================

For administrators on the head: these functions bind as the directory's administrator.
"""

from salt.exceptions import SaltInvocationError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import Invalid, VcoreError
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.directory import client, entries, health


def _open():
    pillar = adapter.head(__pillar__)
    if "ldap" not in pillar["services"]:
        raise VcoreError(tr("the service ldap is not switched on in the site file"))
    return client.open_administrator(pillar, Paths.from_opts(__opts__))


def whoami():
    """
    Bind to the directory as its administrator and return the DN that it knows us by.

    Raises CommandExecutionError when the directory does not answer or does not accept the stored password.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_directory.whoami
    """
    with adapter.salt_errors(), _open() as connection:
        return connection.whoami()


def search(filter="(objectClass=*)", attributes=None):
    """
    Search the whole directory; returns a mapping of DNs to attributes, each a list of values.

    filter
        A search filter (RFC 4515).

    attributes
        A list of attributes, or one; all that are not operational if left out. ``+`` stands for the operational ones.

    Values that are not text come as ``base64:`` and their encoding. Hashes of passwords are never returned, and
    asking for them raises SaltInvocationError, as a malformed filter does.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_directory.search '(memberUid=ada)' cn
        salt-call vcore_directory.search '(uid=ada)' '[mail, memberOf]'
    """
    names = [attributes] if isinstance(attributes, str) else list(attributes or ["*"])
    hashes = [name for name in names if entries.is_hash(name)]
    if hashes:
        raise SaltInvocationError(tr("{hashes}: hashes of passwords are never returned", hashes=", ".join(hashes)))
    with adapter.salt_errors(), _open() as connection:
        try:
            return dict(connection.search(entries.suffix(adapter.head(__pillar__)), filter, names))
        except Invalid as error:
            raise SaltInvocationError(str(error)) from None


def status():
    """
    Show how many entries there are, how full the database is (bytes), and the policy for people's passwords.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_directory.status
    """
    with adapter.salt_errors(), _open() as connection:
        return health.status(adapter.head(__pillar__), connection)
