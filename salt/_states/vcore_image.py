"""
Container images of the core
============================
"""

from salt.exceptions import CommandExecutionError


def __virtual__():
    return True if "vcore_image.build" in __salt__ else (False, "the module vcore_image is not available")


def built(name):
    """
    Make sure that an image is built from its files as they are now and, if nodes pull it, is in the registry.

    name
        Folder of the image below ``images/``.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"The image {name} is up to date."}
    try:
        changes = __salt__["vcore_image.difference"](name)
        if changes and __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"The image {name} would be brought up to date.")
        elif changes:
            # What was done is what was planned, unless another build of it has ended meanwhile.
            __salt__["vcore_image.build"](name)
            ret.update(changes=changes, comment=f"The image {name} was brought up to date.")
    except CommandExecutionError as error:
        ret.update(result=False, comment=str(error))
    return ret


def pruned(name):
    """
    Make sure that the registry and this host's Docker keep no images of the core that no service uses.

    name
        Nothing depends on it; the state is about all images.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "There are no images that no service uses."}
    try:
        changes = __salt__["vcore_image.superseded"]()
        if changes and __opts__["test"]:
            ret.update(result=None, changes=changes, comment="Images that no service uses would be removed.")
        elif changes:
            freed = __salt__["vcore_image.prune"]()["freed"]
            comment = f"Images that no service uses were removed; the registry freed {freed / 1e6:.1f} MB."
            ret.update(changes=changes, comment=comment)
    except CommandExecutionError as error:
        ret.update(result=False, comment=str(error))
    return ret
