"""
Docker Swarm: the swarm, its overlay network, node labels and the core's services
=================================================================================
"""

import os

from vcore import adapter

# vcore.swarm.membership is imported where it is used: with docker it takes 70 ms to load.
with adapter.imports("docker") as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.base.secrets import Store
    from vcore.swarm import specification


def _swarm():
    """The connection to the daemon: one for all states of a run, which also shares what it has listed."""
    from vcore.swarm.membership import Swarm

    key = f"vcore_swarm {os.environ.get('DOCKER_HOST', '')}"
    if key not in __context__:
        __context__[key] = Swarm()
    return __context__[key]


def _pillar():
    return adapter.head(__pillar__)


def _converge(name, steps, **comments):
    return adapter.converge(name, steps, test=__opts__["test"], **comments)


def initialised(name):
    """
    Make this machine the manager of a swarm, and put ``docker_gwbridge`` and the ingress network where the site
    wants them (``network.bridge_subnet``, ``network.ingress_subnet``).

    A swarm that this machine manages already is kept as it is; where its bridge or ingress network is another one
    than the site's, the state fails and says what to do. So it does on a machine that is a worker of another swarm.

    name
        A sentence; it changes nothing.
    """

    def steps():
        changes = _swarm().swarm_changes(_pillar())
        yield changes
        _swarm().initialise(_pillar(), changes)

    return _converge(
        name,
        steps(),
        unchanged=tr("This machine manages a swarm."),
        done=tr("This machine now manages a new swarm."),
        planned=tr("A swarm would be started."),
    )


def join_token_kept(name):
    """
    Keep the token that nodes join the swarm by in the secret store (``swarm/join-token``), as Docker has it. Nodes that
    have not joined yet get it with their pillar. What it is shows nowhere.

    name
        A sentence; it changes nothing.
    """
    store = Store(Paths.from_opts(__opts__).secrets)

    def steps():
        _pillar()  # on the head only
        yield _swarm().join_token_changes(store)
        _swarm().keep_join_token(store)

    return _converge(
        name,
        steps(),
        unchanged=tr("The swarm's join token is kept."),
        done=tr("The swarm's join token was put into the secret store."),
        planned=tr("The swarm's join token would be put into the secret store."),
    )


def joined(name):
    """
    Make this machine, a node other than the head, a worker of the head's swarm, with ``docker_gwbridge`` where the
    site wants it (``network.bridge_subnet``).

    It fails on a machine that is in another swarm, and where the pillar holds no join token: it does only while the
    head does not count this node among its swarm.

    name
        A sentence; it changes nothing.
    """
    paths = Paths.from_opts(__opts__)

    def steps():
        changes = _swarm().join_changes(adapter.node(__pillar__), paths)
        yield changes
        _swarm().join(adapter.node(__pillar__), paths, changes)

    return _converge(
        name,
        steps(),
        unchanged=tr("This machine is in the swarm of the head."),
        done=tr("This machine joined the swarm of the head."),
        planned=tr("This machine would join the swarm of the head."),
    )


def parted(name):
    """
    Take this machine, a node other than the head, out of the swarm that the core had it join. It needs no pillar.

    A machine that was made to join a swarm by somebody else stays there, and the comment says so.

    name
        A sentence; it changes nothing.
    """
    paths = Paths.from_opts(__opts__)

    def steps():
        changes = _swarm().part_changes(paths)
        yield changes
        _swarm().part(paths, changes)

    return _converge(
        name,
        steps(),
        unchanged=tr("This machine is in no swarm."),
        done=tr("This machine left the swarm."),
        planned=tr("This machine would leave the swarm."),
    )


def left(name):
    """
    Take the core's services off this machine and end its swarm, with its networks, configs and secrets. Data stays.

    A swarm with services, configs or secrets that are not the core's stays, and the comment says which these are: of
    it go the core's services, configs and secrets, its overlay network and its labels of nodes.

    It fails, and does nothing, while other nodes are in a swarm that it would end.

    name
        A sentence; it changes nothing.
    """

    def kept():
        foreign = _swarm().foreign()
        return f"The swarm stays, others use it: {', '.join(foreign)}." if foreign else ""

    def steps():
        changes = _swarm().leave_changes()
        if not changes:
            yield kept()
            return
        yield changes, f"The core would leave the swarm. {kept()}".rstrip()
        _swarm().leave(changes)
        return f"The core left the swarm. {kept()}".rstrip()

    return _converge(name, steps(), unchanged=tr("This machine is in no swarm."))


def network_present(name):
    """
    Make sure that the core's attachable overlay network exists (``network.name`` with ``network.subnet``).

    A network of that name with other settings is made again when nothing uses it; otherwise the state fails and
    says what uses it.

    name
        A sentence; it changes nothing.
    """

    def steps():
        changes = _swarm().network_changes(_pillar())
        yield changes
        _swarm().create_network(_pillar(), changes)

    return _converge(
        name,
        steps(),
        unchanged=tr("The overlay network is there."),
        done=tr("The overlay network was created."),
        planned=tr("The overlay network would be created."),
    )


def node_labelled(name, nodes=None):
    """
    Give nodes of the swarm the labels that services are placed by: ``vcore.node=<minion id>`` and
    ``vcore.role.<role>=true`` for each role; labels of roles that a node lost go.

    name
        A sentence; it changes nothing.

    nodes
        Minion ids; by default all nodes of the site that have joined the swarm.
    """

    def steps():
        changes = _swarm().label_changes(_pillar(), nodes)
        yield changes
        _swarm().label(_pillar(), changes)

    return _converge(
        name,
        steps(),
        unchanged=tr("The nodes carry their labels."),
        done=tr("The nodes now carry their labels."),
        planned=tr("Nodes would be labelled."),
    )


def service_running(name, timeout=None):
    """
    Make sure that a service of the catalogue runs as the resolved pillar describes it, and is healthy.

    A change rolls exactly this service. When the new tasks do not become healthy, swarm goes back to the
    specification before and the state fails with the task's error and the last lines of its log; so does every
    apply until the cause is mended.

    name
        The service, such as ``ldap``.

    timeout
        Seconds that the service has to become healthy, the pull of its image and a rollback included; by default
        it follows from the limits of the service's health check.
    """
    from vcore.swarm import deployment

    paths = Paths.from_opts(__opts__)

    def steps():
        plans = __context__.setdefault("vcore_swarm.plans", {})  # vcore_image.pruned asks what this run changes
        plans.pop(name, None)
        plan = plans[name] = _swarm().plan(
            deployment.wanted(name, pillar=_pillar(), paths=paths, plan=__opts__["test"])
        )
        if not plan.changes and not __opts__["test"]:
            _swarm().prune(name)  # what an interrupted run left behind
        yield plan.changes
        service = _pillar()["services"][name]
        image = plan.wanted.spec["TaskTemplate"]["ContainerSpec"]["Image"]
        _swarm().apply(
            plan,
            paths=paths,
            authorization=deployment.registry_authorization(image, _pillar(), paths),
            timeout=timeout or specification.patience(service),
        )

    return _converge(
        name,
        steps(),
        unchanged=tr("The service {name} runs and is healthy.", name=name),
        done=tr("The service {name} now runs as wanted and is healthy.", name=name),
        planned=tr("The service {name} would be changed.", name=name),
    )


def service_offered(name):
    """
    Make sure that a service which is updated node by node is offered as the resolved pillar describes it.

    Nodes that have none of it get it. Nodes that run an older one keep that, with all that runs in it, until
    ``salt-run vcore.roll_compute`` changes them over; the comment names them. It waits for no node.

    name
        The service, such as ``slurm-compute``.
    """
    from vcore.swarm import deployment, rolling

    paths = Paths.from_opts(__opts__)

    def steps():
        plan = rolling.plan(_swarm(), deployment.wanted(name, pillar=_pillar(), paths=paths, plan=__opts__["test"]))
        if not plan.changes:
            if not __opts__["test"]:
                rolling.tidy(_swarm(), name, plan.generation)
            yield rolling.pending(name, plan.behind)
            return
        yield plan.changes
        image = plan.wanted.spec["TaskTemplate"]["ContainerSpec"]["Image"]
        authorization = deployment.registry_authorization(image, _pillar(), paths)
        return rolling.apply(_swarm(), plan, authorization=authorization)

    return _converge(
        name,
        steps(),
        unchanged=tr("The service {name} is offered to its nodes.", name=name),
        done=tr("The service {name} is offered to its nodes.", name=name),
        planned=tr("The service {name} would be offered to its nodes.", name=name),
    )


def services_absent(name, keep=None):
    """
    Remove services of the core that the site does not want any more, with their configs and secrets, and wait until
    their containers are gone. Their data stays.

    name
        A sentence; it changes nothing.

    keep
        Names of further services to keep.
    """

    def steps():
        changes = _swarm().absent_changes({*_pillar()["services"], *(keep or [])})
        yield changes
        _swarm().remove(set(changes))

    return _converge(
        name,
        steps(),
        unchanged=tr("No other services of the core run here."),
        done=tr("Services that the site does not want were removed; their data was kept."),
        planned=tr("Services that the site does not want would be removed; their data would be kept."),
    )
