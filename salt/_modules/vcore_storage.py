"""
Homes and data on a node: how they are
======================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.storage import health, mounting


def status():
    """
    Say how homes and data are on this node: mounted, answering, and this core's. It takes some seconds where a server
    does not answer, and never longer.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_storage.status

    Returns ``ok``, ``problems`` (sentences) and ``roots``, a mapping from ``home`` and ``data`` to ``path``,
    ``source``, ``ok`` and ``message``. On an error (the site has a mistake) it says which one.
    """
    with adapter.salt_errors("the storage cannot be looked at"):
        return health.look(adapter.node(__pillar__))


def mark():
    """
    Write the markers of homes and data anew, on the node that they lie on: after a restore that left them out, say.
    Look first that these are the right files: nodes will work with them.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_storage.mark

    Returns the folders that were marked. On an error (they lie on another node, or people could take the marker away)
    it says which one.
    """
    with adapter.salt_errors("the storage cannot be marked"):
        return mounting.mark_all(adapter.node(__pillar__))
