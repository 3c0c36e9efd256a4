"""
Docker Swarm: what runs on the core
===================================
"""

from salt.exceptions import SaltInvocationError
from vcore import adapter

# vcore.swarm.membership is imported where it is used: with docker it takes 70 ms to load.
with adapter.imports("docker") as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.swarm import specification


def status():
    """
    Nodes and services of the swarm that this machine manages.

    Returns ``{swarm: active|inactive, nodes: [...], services: {<name>: {...}}}``: of each node its name, hostname,
    roles, state, availability, whether it leads and its engine's version; of each service the image as
    ``name:tag``, the numbers of desired, running and healthy tasks, the time (UTC) since which it runs, its state
    and what swarm says of it.

    Errors: no Docker daemon answers, or this machine is only a worker of its swarm.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_swarm.status
    """
    from vcore.swarm import membership

    with adapter.salt_errors():
        return membership.overview()


def services():
    """
    Services of the core that run on the swarm: ``{<name>: <image:tag>}``.

    Errors: as of ``vcore_swarm.status``.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_swarm.services
    """
    return {name: service["image"] for name, service in status()["services"].items()}


def inspect(name):
    """
    The swarm specification that the site wants for a service, as the Docker API takes it. It names configs and
    secrets and holds the value of none.

    name
        The service, such as ``ldap``.

    Errors: the site has no such service, or one of its templates is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_swarm.inspect ldap
    """
    from vcore.swarm import deployment

    with adapter.salt_errors():
        pillar = adapter.head(__pillar__)
        if name not in pillar["services"]:
            known = ", ".join(sorted(pillar["services"]))
            raise SaltInvocationError(tr("the site has no service {name}; it has {known}", name=name, known=known))
        # As a plan: what does not exist yet shows as unknown.
        spec = deployment.wanted(name, pillar=pillar, paths=Paths.from_opts(__opts__), plan=True).spec
    # The label repeats the specification.
    return {**spec, "Labels": {key: value for key, value in spec["Labels"].items() if key != specification.SPEC_LABEL}}
