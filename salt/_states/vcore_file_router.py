"""
The file router: its configuration, and the instruments' accounts
=================================================================
"""

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.file_router import configuration, instruments

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


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
    pillar = planned = None

    def difference():
        nonlocal pillar, planned
        pillar = adapter.node(__pillar__)
        planned = configuration.plan(pillar, paths, test=test)
        return planned.changes

    return adapter.converge(
        name,
        test=test,
        difference=difference,
        apply=lambda _: configuration.apply(pillar, paths, planned),
        unchanged="The file router has its configuration.",
        planned="The file router's configuration would be changed.",
        done="The file router's configuration was changed.",
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

    def difference():
        pillar = adapter.node(__pillar__)
        if not test:
            return configuration.settle(pillar, paths) or {}
        return {}

    return adapter.converge(
        name,
        test=test,
        difference=difference,
        apply=lambda _: None,
        unchanged="The file router serves its configuration.",
        planned="",
        done="",
    )


def instruments_present(name):
    """
    Make sure that the directory has the site's instruments, with their stored passwords, and no others.

    name
        A sentence; there is one directory.

    In the scheme ``tdbsam`` the directory has none; the file router takes them from its configuration.
    """
    from vcore.directory import client

    paths, test = Paths.from_opts(__opts__), __opts__["test"]
    connection = writes = None

    @client.remedies()
    def difference():
        nonlocal connection, writes
        pillar = adapter.head(__pillar__)
        opened = client.open_for_state(pillar, paths, test=test)
        if isinstance(opened, str):
            return opened
        connection = opened
        changes, writes = instruments.instrument_changes(pillar, paths, connection, test=test)
        return changes

    @client.remedies()
    def apply(changes):
        instruments.write_instruments(connection, changes, writes)
        return f"{len(changes)} instruments were put in place."

    try:
        return adapter.converge(
            name,
            test=test,
            difference=difference,
            apply=apply,
            unchanged="The directory has the instruments.",
            planned=lambda changes: f"{len(changes)} instruments would be put in place.",
            done="The instruments were put in place.",
        )
    finally:
        if connection is not None:
            connection.close()
