"""Making tokens on the head, with the line that a new machine joins by, and ending them."""

from __future__ import annotations

import time

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from ..base.secrets import Store, generate
from ..kernel import pillar as kernel_pillar
from . import bundle, tokens


def invite(paths: Paths, *, ttl: object, node: object = None, role: object = None) -> str:
    """Make a token, and return the line to run on a new machine, with a sentence about what it is good for.

    ``ttl``, ``node`` and ``role`` are as an administrator writes them: see :func:`vcore.enrolment.tokens.seconds` and
    :func:`vcore.enrolment.tokens.scope_of`.

    Raises:
        VcoreError: there can be no such token, or the service that new machines join by is not there.
    """
    scope, expiry = tokens.scope_of(node, role), int(time.time()) + tokens.seconds(ttl)
    pillar = kernel_pillar.resolved(paths)
    if node == pillar["head"]["name"]:
        raise VcoreError(tr("{node} is the head itself; choose another name", node=node))
    service = pillar["services"].get("enrolment")
    if service is None:
        raise VcoreError(
            tr(
                "the service enrolment is off, which new machines join by; with vcore.slurm.mode: "
                "managed it is on, or switch it on with vcore.services.enrolment.enabled"
            )
        )
    root, store = paths.authority / "ca.crt", Store(paths.secrets)
    if not root.is_file() or not store.exists(*tokens.TOKEN_KEY):
        raise VcoreError(
            tr("the service enrolment is not there yet; apply the states on the head: salt-call state.apply")
        )
    token = tokens.make_token(store.read(*tokens.TOKEN_KEY), scope, expiry)
    port = service["ports"]["https"]["number"]
    line = bundle.command(token, pillar["head"]["address"], port, root.read_bytes())
    who = f"the node {node}" if node else "any new machine, under a name of its own"
    return f"Run this on the new machine. It is good for {who}, until {tokens.moment(expiry)}.\n\n{line}"


def revoke(paths: Paths) -> None:
    """End all tokens that were made so far, by another key to make them with."""
    Store(paths.secrets).write(*tokens.TOKEN_KEY, generate("bytes", tokens.KEY_LENGTH))
