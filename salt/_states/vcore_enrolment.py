"""
Enrolment: what new machines fetch from the head
================================================
"""

try:
    from vcore import adapter
    from vcore.base.paths import Paths
    from vcore.enrolment import admission

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def offered(name):
    """
    Put what a new machine needs to join into the folder of the service ``enrolment``: the authority's certificate, and
    an archive with bootstrap.sh, what that reads, and the master's fingerprint. The same files make the same archive.

    name
        A sentence; it changes nothing.
    """
    offer = admission.Offer(adapter.head(__pillar__), Paths.from_opts(__opts__))
    return adapter.converge(
        name,
        test=__opts__["test"],
        difference=offer.changes,
        apply=lambda changes: offer.write(),
        unchanged="New machines are offered what they need.",
        planned="What new machines are offered would be changed.",
        done="New machines are offered what they need now.",
    )
