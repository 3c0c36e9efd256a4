"""
People and groups of the site file, in the directory
====================================================
"""

import contextlib

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.directory import client
    from vcore.people import accounts

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def people_present(name):
    """
    Make sure that the directory has the people and groups of the site file (``people``, ``groups``) as they stand
    there, with homes and first passwords, and that people and groups which were made elsewhere are complete.

    name
        A sentence; there is one directory.

    What the site file says nothing of is left as it is. People with ``removed: true`` go: the home is archived, then
    entry and memberships are deleted. Numbers never change; a site that says otherwise fails before anything is done.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]
    ours = planned = None

    with contextlib.ExitStack() as stack:

        @client.remedies()
        def difference():
            nonlocal ours, planned
            pillar = adapter.head(__pillar__)
            opened = client.open_for_state(pillar, paths, test=test)
            if isinstance(opened, str):
                return opened
            if opened is not None:
                stack.enter_context(opened)
            ours = accounts.Accounts(pillar, paths, opened)
            stack.enter_context(ours.exclusive(test))
            planned = ours.plan_site(tidy=not test)
            return planned.changes(paths, ours.homes)

        @client.remedies()
        def apply(changes):
            ours.apply_site(planned)
            return f"{len(changes)} things were put in place."

        return adapter.converge(
            name,
            test=test,
            difference=difference,
            apply=apply,
            unchanged="The directory has the people and groups of the site file.",
            planned=lambda changes: f"{len(changes)} things would be put in place.",
            done="People and groups were put in place.",
        )
