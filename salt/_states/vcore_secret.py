"""
Secrets of the core
===================
"""

from vcore import adapter
from vcore.base.messages import tr

#: What is done about what is wrong with a secret.
REMEDIES = {
    "missing": {"old": "missing", "new": "generated"},
    "permissions": {"old": "permissions open", "new": "permissions closed"},
}


def present(name, secrets=None):
    """
    Make sure that secrets have a value and are readable by root only.

    name
        A secret, ``service/secret``, or a sentence when ``secrets`` is given.

    secrets
        A list of such names, checked in one go.

    The changes name the secret and what was wrong with it, never its value.
    """

    def steps():
        found = {secret: __salt__["vcore_secret.difference"](secret) for secret in (secrets or [name])}
        changes = {secret: REMEDIES[problem] for secret, problem in found.items() if problem}
        yield changes
        for secret in changes:
            __salt__["vcore_secret.ensure"](secret)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("All secrets are in place."),
        planned=tr("Secrets would be put in place."),
        done=tr("Secrets were put in place."),
    )
