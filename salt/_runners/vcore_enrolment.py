"""
Enrolment, the half that reacts: a new machine's key is accepted when its proof holds
=====================================================================================

Tokens are made by ``salt-run vcore.enrol_token``; :mod:`vcore.enrolment.tokens` says what they are.
"""

import logging
import time

import salt.key
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.paths import Paths
    from vcore.enrolment import admission, health

log = logging.getLogger(__name__)


class _Keys:
    """The master's keys, one minion at a time: never by a pattern, which an id could be."""

    def __init__(self, opts):
        self.keys = salt.key.get_key(opts)

    def find(self, minion):
        entry = self.keys.cache.fetch("keys", minion)
        return (entry["state"], entry["pub"]) if entry else None

    def accept(self, minion):
        self.keys.accept(match_dict={self.keys.PEND: [minion]})

    def reject(self, minion):
        self.keys.reject(match_dict={self.keys.ACC: [minion]}, include_accepted=True)


def review(id, pub, proof, code=None):
    """
    Accept the pending key of a minion whose proof holds, and note it as a node; the reactor calls this.

    Returns ``{"id": ..., "accepted": ...}`` with its ``roles``, or with the ``reason`` why not, which
    ``vcore.status`` shows, too. The same once more changes nothing.

    id
        The minion's id.

    pub
        Its public key, PEM.

    proof
        The grain that it was given by ``bootstrap.sh --join``.

    code
        Which of the core's code it says that it has.

    CLI Example:

    .. code-block:: bash

        salt-run vcore_enrolment.review compute-1 "$(cat compute-1.pub)" vc1.role=compute...
    """
    try:
        roles = admission.review(Paths.from_opts(__opts__), _Keys(__opts__), id, pub, proof, code, now=time.time())
    except VcoreError as error:
        shown = health.printable(str(id))
        log.warning("The key of %s was not accepted: %s", shown, error)
        return {"id": shown, "accepted": False, "reason": str(error)}
    return {"id": id, "accepted": True, "roles": roles}
