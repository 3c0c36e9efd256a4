"""
Routes from other file servers
==============================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.files import write_atomic
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.file_router import container, routes


def configured(name):
    """
    Tell the file router that runs on this node what to pull; it notices by itself, and ends pulls that are not wanted.

    name
        A sentence; there is one file router.
    """

    def steps():
        pillar = adapter.node(__pillar__)
        path, content = container.folder(pillar) / routes.CONFIGURATION, routes.configuration(pillar)
        old = path.read_bytes() if path.exists() else b""
        yield {} if old == content else {path.name: {"old": old.decode() or None, "new": content.decode()}}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, content, mode=0o600)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("The file router knows what to pull."),
        planned=tr("The file router would be told what to pull."),
        done=tr("The file router was told what to pull."),
    )


def absent(name):
    """
    Unmount all routes of this node, and take their units, credentials and folders away: for a node that the file
    router does not run on.

    name
        A sentence; one state is for all routes of a node.
    """
    host = routes.Host(Paths.from_opts(__opts__), __grains__["os_family"])

    def steps():
        planned = routes.Plan(routes.difference({}, host), {}, {}, pending=False)
        yield planned.changes, f"{len(planned.changes)} routes would be taken away."
        return routes.apply(planned, host, install=lambda _: None)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("No routes are mounted here."),
        done=tr("The routes were taken away."),
    )


def mounted(name):
    """
    Mount the routes of kind ``mount`` on this node, and unmount those that the site no longer has.

    name
        A sentence; one state is for all routes of a node.

    Where systemd runs, each has a mount and an automount unit: a server that is down holds up no boot, and is mounted
    when it is back. Elsewhere they are mounted at each apply. A route that cannot be mounted fails the state with a
    line of its own, after the others were.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]
    host = routes.Host(paths, __grains__["os_family"])

    def install(package):
        __salt__["pkg.install"](package)

    def steps():
        planned = routes.plan(adapter.node(__pillar__), paths, host)
        lines = routes.problem_lines(planned.problems)
        if lines and not planned.changes:
            if not (test and planned.pending):
                raise VcoreError("\n".join(lines))
            yield "\n".join(lines)
            return
        yield planned.changes, "\n".join([f"{len(planned.changes)} things would be changed.", *lines])
        return routes.apply(planned, host, install)

    return adapter.converge(
        name, steps(), test=test, unchanged=tr("The routes are mounted."), done=tr("The routes were mounted.")
    )
