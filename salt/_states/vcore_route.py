"""
Routes from other file servers
==============================
"""

try:
    from vcore import adapter
    from vcore.base.errors import VcoreError
    from vcore.base.files import write_atomic
    from vcore.base.paths import Paths
    from vcore.file_router import container, routes

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def configured(name):
    """
    Tell the file router that runs on this node what to pull; it notices by itself, and ends pulls that are not wanted.

    name
        A sentence; there is one file router.
    """
    path = content = None

    def difference():
        nonlocal path, content
        pillar = adapter.node(__pillar__)
        path, content = container.folder(pillar) / routes.CONFIGURATION, routes.configuration(pillar)
        old = path.read_bytes() if path.exists() else b""
        return {} if old == content else {path.name: {"old": old.decode() or None, "new": content.decode()}}

    def apply(_):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, content, mode=0o600)

    return adapter.converge(
        name,
        test=__opts__["test"],
        difference=difference,
        apply=apply,
        unchanged="The file router knows what to pull.",
        planned="The file router would be told what to pull.",
        done="The file router was told what to pull.",
    )


def absent(name):
    """
    Unmount all routes of this node, and take their units, credentials and folders away: for a node that the file
    router does not run on.

    name
        A sentence; one state is for all routes of a node.
    """
    host = routes.Host(Paths.from_opts(__opts__), __grains__["os_family"])
    planned = routes.Plan(routes.difference({}, host), {}, {}, pending=False)

    return adapter.converge(
        name,
        test=__opts__["test"],
        difference=lambda: planned.changes,
        apply=lambda _: routes.apply(planned, host, install=lambda _: None),
        unchanged="No routes are mounted here.",
        planned=lambda changes: f"{len(changes)} routes would be taken away.",
        done="The routes were taken away.",
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
    planned = None

    def difference():
        nonlocal planned
        planned = routes.plan(adapter.node(__pillar__), paths, host)
        lines = "\n".join(routes.problem_lines(planned.problems))
        if lines and not planned.changes:
            if test and planned.pending:
                return lines
            raise VcoreError(lines)
        return planned.changes

    def install(package):
        __salt__["pkg.install"](package)

    return adapter.converge(
        name,
        test=test,
        difference=difference,
        apply=lambda _: routes.apply(planned, host, install),
        unchanged="The routes are mounted.",
        planned=lambda changes: "\n".join(
            [f"{len(changes)} things would be changed.", *routes.problem_lines(planned.problems)]
        ),
        done="The routes were mounted.",
    )
