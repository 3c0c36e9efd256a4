"""
Homes and data on a node
========================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.storage import mounting


def present(name):
    """
    Have people's homes and the shared data on this node, as the site's ``storage`` says: mounted, and told by their
    marker to be this core's. Where the files lie, the marker is written.

    name
        A sentence; one state is for all storage of a node.

    It fails where something else is there, or nothing answers. Where systemd runs, a timer goes on trying.
    """
    test = __opts__["test"]
    host = mounting.Host(Paths.from_opts(__opts__), __grains__["os_family"])

    def steps():
        roots = mounting.wanted(adapter.node(__pillar__))
        changes = mounting.difference(roots, host)
        if not changes and (lines := mounting.problem_lines(roots, host)):
            raise VcoreError("\n".join(lines))
        yield changes
        return mounting.apply(roots, changes, host, __salt__["pkg.install"])

    return adapter.converge(
        name,
        steps(),
        test=test,
        unchanged=tr("The storage is as it should be."),
        planned=tr("The storage would be mounted."),
        done=tr("The storage was mounted."),
    )


def absent(name):
    """
    Unmount homes and data from this node. The files stay where they are, with their marker.

    name
        A sentence; one state is for all storage of a node.
    """
    host = mounting.Host(Paths.from_opts(__opts__), __grains__["os_family"])

    def steps():
        changes = mounting.difference({}, host)
        yield changes
        return mounting.apply({}, changes, host, __salt__["pkg.install"])

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("No storage is mounted here."),
        planned=tr("The storage would be unmounted."),
        done=tr("The storage was unmounted."),
    )
