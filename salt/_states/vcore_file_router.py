"""
The file router: its configuration, and the instruments' accounts
=================================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.file_router import configuration, instruments


def configured(name):
    """
    Bring the configuration of the file router that runs on this node into place: shares, exports, instruments.

    name
        A sentence; there is one file router.

    Where it runs, and goes on to run, it proves the new configuration first, and then reads it without ending sessions.
    What it refuses, or does not serve afterwards, fails the state; the old configuration is then in place and serves.
    A container that is about to start, for instance with another image, proves it when it does: see ``serving``.

    Changes are unified diffs, by file; of the instruments' passwords it is only said that they change.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]

    def steps():
        pillar = adapter.node(__pillar__)
        planned = configuration.plan(pillar, paths, test=test)
        yield planned.changes
        return configuration.apply(pillar, paths, planned)

    return adapter.converge(
        name,
        steps(),
        test=test,
        unchanged=tr("The file router has its configuration."),
        planned=tr("The file router's configuration would be changed."),
        done=tr("The file router's configuration was changed."),
    )


def serving(name):
    """
    Wait until the file router that runs on this node serves the configuration that is in place.

    name
        A sentence; there is one file router.

    It changes nothing that a plan could announce: what a container has not read when it started, for instance since a
    group was not in the directory yet, it reads again. It fails where a container that started refused the
    configuration; the one before is then in place and serves.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]

    def steps():
        pillar = adapter.node(__pillar__)
        yield (not test and configuration.settle(pillar, paths)) or {}

    return adapter.converge(name, steps(), test=test, unchanged=tr("The file router serves its configuration."))


def instruments_present(name):
    """
    Make sure that the directory has the site's instruments, with their stored passwords, and no others.

    name
        A sentence; there is one directory.

    In the scheme ``tdbsam`` the directory has none; the file router takes them from its configuration.
    """
    from vcore.directory import client

    paths, test = Paths.from_opts(__opts__), __opts__["test"]

    def steps():
        pillar = adapter.head(__pillar__)
        with client.connected_for_state(pillar, paths, test=test) as opened:
            changes, writes = instruments.instrument_changes(pillar, paths, opened, test=test)
            yield changes, tr("{count} instruments would be put in place.", count=len(changes))
            instruments.write_instruments(opened, changes, writes)
            return tr("{count} instruments were put in place.", count=len(changes))

    return adapter.converge(name, steps(), test=test, unchanged=tr("The directory has the instruments."))
