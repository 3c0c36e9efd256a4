"""
People and groups of the site file, in the directory
====================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.directory import client
    from vcore.people import accounts


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

    def steps():
        pillar = adapter.head(__pillar__)
        with client.connected_for_state(pillar, paths, test=test) as opened:
            ours = accounts.Accounts(pillar, paths, opened)
            with ours.exclusive(test):
                planned = ours.plan_site(tidy=not test)
                changes = planned.changes(paths, ours.homes)
                yield changes, tr("{count} things would be put in place.", count=len(changes))
                ours.apply_site(planned)
                return tr("{count} things were put in place.", count=len(changes))

    return adapter.converge(
        name, steps(), test=test, unchanged=tr("The directory has the people and groups of the site file.")
    )
