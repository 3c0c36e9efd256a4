"""
Container images of the core
============================
"""

from vcore import adapter
from vcore.base.messages import tr


def built(name):
    """
    Make sure that an image is built from its files as they are now and, if nodes pull it, is in the registry.

    name
        Folder of the image below ``images/``.
    """

    def steps():
        yield __salt__["vcore_image.difference"](name)
        # What was done is what was planned, unless another build of it has ended meanwhile.
        __salt__["vcore_image.build"](name)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("The image {name} is up to date.", name=name),
        planned=tr("The image {name} would be brought up to date.", name=name),
        done=tr("The image {name} was brought up to date.", name=name),
    )


def pruned(name):
    """
    Make sure that the registry and this host's Docker keep no images of the core that no service uses.

    A registry that this run starts, or gives another credential, could not be asked when the run was planned. It
    keeps what it has until the next run.

    name
        Nothing depends on it; the state is about all images.
    """
    plans = __context__.get("vcore_swarm.plans", {})
    # A plan comes before the updates that the run makes, an apply behind them.
    updated = [service for service, plan in plans.items() if plan.different] if __opts__["test"] else []
    registry = plans["registry"].changes if "registry" in plans else {}
    ask_registry = "service" not in registry and not {"push", "pull"} & set(registry.get("secrets", {}))

    def steps():
        yield __salt__["vcore_image.superseded"](updated=updated, ask_registry=ask_registry)
        freed = __salt__["vcore_image.prune"](ask_registry=ask_registry)["freed"]
        return f"Images that no service uses were removed; the registry freed {freed / 1e6:.1f} MB."

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("There are no images that no service uses."),
        planned=tr("Images that no service uses would be removed."),
    )
