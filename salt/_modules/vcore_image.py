"""
Container images of the core: built on the head, kept in its registry
=====================================================================

An image is a folder below ``images/``; docs/images.md tells what it has to hold.
"""

from datetime import UTC, datetime

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.host import docker_client
    from vcore.images import builder

__func_alias__ = {"list_": "list"}


def _builder():
    # Connecting costs as much as everything else that an unchanged image needs: one client for all states of a run.
    if "vcore_image.api" not in __context__:
        __context__["vcore_image.api"] = docker_client.connect()
    return builder.Builder(adapter.head(__pillar__), Paths.from_opts(__opts__), __context__["vcore_image.api"])


def list_():
    """
    List the images of the services that are switched on, and those that they build on.

    Each has ``tag`` (what was built last), ``wanted`` (what the files ask for now), ``digest`` (in the registry),
    ``size`` in bytes and ``built``, the time in UTC; what is not known is None.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.list
    """
    with adapter.salt_errors():
        listing = _builder().listing()
    for image in listing.values():
        if image["built"] is not None:
            image["built"] = datetime.fromtimestamp(image["built"], tz=UTC).isoformat()
    return listing


def difference(name):
    """
    Say what building the image ``name`` would change; an empty answer means nothing.

    Keys of the answer: ``tag`` and ``digest`` (``old`` and ``new``), ``image`` (built), ``registry`` (pushed).

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.difference ldap
    """
    with adapter.salt_errors():
        return _builder().plan(name).changes


def build(name):
    """
    Build the image ``name`` and push it to the registry, as far as its files have changed; what was done.

    A failed build leaves everything running as it was, and its error carries the build's last lines.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.build ldap
    """
    with adapter.salt_errors():
        return _builder().ensure(name).changes


def reference(name):
    """
    Give the reference by which a service runs the image ``name``: with its digest, once it is in the registry.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.reference ldap
    """
    with adapter.salt_errors():
        return builder.reference(name, adapter.head(__pillar__), Paths.from_opts(__opts__))


def superseded(updated=None, ask_registry=True):
    """
    List the images that no service uses, by where they are: ``registry`` and ``docker`` on this host.

    Of each image the wanted tag and the one before it are in use, for a way back, and so is what runs or what swarm
    can go back to.

    updated
        Services that are updated before anything is removed: these will be able to go back to what they run now.

    ask_registry
        Whether to look into the registry.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.superseded
    """
    with adapter.salt_errors():
        return _builder().prune_plan(updated or (), ask_registry=ask_registry)


def prune(ask_registry=True):
    """
    Remove the images that no service uses, and free their space in the registry.

    ask_registry
        Whether to remove images from the registry, too.

    Answers ``removed`` (as :py:func:`superseded` lists them) and ``freed``, in bytes of the registry's volume.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_image.prune
    """
    with adapter.salt_errors():
        removed, freed = _builder().prune(ask_registry=ask_registry)
    return {"removed": removed, "freed": freed}
