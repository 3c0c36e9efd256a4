"""
Entries of the LDAP directory that the core owns
================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.directory import client


def base_present(name):
    """
    Make sure that the directory has the core's own entries: tree, password policies, service accounts with their
    stored passwords, the group of administrators.

    name
        A sentence; there is one directory.

    Attributes that the core owns are corrected. Other attributes and entries are left as they are.
    """
    paths, test = Paths.from_opts(__opts__), __opts__["test"]

    def steps():
        pillar = adapter.head(__pillar__)
        with client.connected_for_state(pillar, paths, test=test) as opened:
            planned = client.plan(pillar, paths, opened)
            changes = planned.changes()
            if not changes and not test:
                client.apply(pillar, paths, opened, planned)  # remembers what the comparison has found out
            yield changes, tr("{count} entries would be put in place.", count=len(changes))
            client.apply(pillar, paths, opened, planned)
            return tr("{count} entries were put in place.", count=len(changes))

    return adapter.converge(name, steps(), test=test, unchanged=tr("The directory has the core's entries."))
