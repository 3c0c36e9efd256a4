"""
Enrolment: what new machines fetch from the head
================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.enrolment import admission


def offered(name):
    """
    Put what a new machine needs to join into the folder of the service ``enrolment``: the authority's certificate, and
    an archive with bootstrap.sh, what that reads, and the master's fingerprint. The same files make the same archive.

    name
        A sentence; it changes nothing.
    """

    def steps():
        offer = admission.Offer(adapter.head(__pillar__), Paths.from_opts(__opts__))
        yield offer.changes()
        offer.write()

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("New machines are offered what they need."),
        planned=tr("What new machines are offered would be changed."),
        done=tr("New machines are offered what they need now."),
    )
