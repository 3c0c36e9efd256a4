"""
The external pillar: the site, merged with the catalogue, validated, and resolved for the minion that asks
===========================================================================================================

A mistake in the site file fails the pillar of every minion, and with it every state run, before anything is touched.

.. code-block:: yaml

    # master configuration
    ext_pillar:
      - vcore: {}
"""

import salt.exceptions
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.paths import Paths
    from vcore.kernel import pillar as kernel_pillar


def ext_pillar(minion_id, pillar, **_):
    """Return ``{"vcore": ...}`` for a node that the site names, nothing for any other minion."""
    paths = Paths.from_opts(__opts__)
    try:
        data = kernel_pillar.pillar(paths, minion_id)
    except VcoreError as error:
        raise salt.exceptions.SaltRenderError(str(error)) from None
    return {"vcore": data} if data else {}
