"""
A record of each convergence, for ``vcore.status``
==================================================

The minion's configuration names this returner (``return: vcore_convergence``), so every job passes by here; only a
whole ``state.apply`` that was no plan is recorded, and only how it went: no names of changed things, no values.
"""

import time

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.kernel import convergence


def returner(ret):
    """Record a convergence; anything else passes by."""
    for function, arguments, returned in convergence.functions(ret):
        if convergence.is_whole(function, arguments):
            convergence.record(Paths.from_opts(__opts__), convergence.summary(returned, now=time.time()))
