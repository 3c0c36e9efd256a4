"""
Routes from other file servers
==============================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.file_router import routes


def status():
    """
    How the routes are: whether they are mounted, and how the last pull of each went or gets on.

    Sizes are in bytes, times in seconds since 1970. On a node that the file router does not run on, ``ok`` is None.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_route.status
    """
    with adapter.salt_errors():
        return routes.status(adapter.node(__pillar__))


def pull(name):
    """
    Have the file router pull a route of kind ``sync`` now; returns at once, ``vcore_route.status`` shows the progress.

    name
        The route. One whose login was refused too often is tried once.

    Raises CommandExecutionError when there is no such route, or the file router does not run on this node.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_route.pull nas
    """
    with adapter.salt_errors("the pull cannot be asked for"):
        routes.ask_for_pull(adapter.node(__pillar__), str(name))
    return f"The file router pulls {name}; salt-call vcore_route.status shows how it gets on."
