"""
What is measured in the core
============================

Part of the front door for people, ``vcore``: on the head.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.monitoring import measuring

    __virtualname__ = "vcore"


def measurements():
    """
    Measure what there is to measure in the core, and say what of it is bad: ``ok``, ``level``, and a list with
    ``key``, ``service``, ``title``, ``value``, ``unit``, limits (``warning``, ``severe``) and ``level`` of each.

    The levels are ``ok``, ``unknown`` (it could not be measured, and ``error`` says why), ``warning`` and ``severe``.
    The exit code is 1 when something is severe. Nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.measurements
        salt-call vcore.measurements --out json
    """
    with adapter.salt_errors():
        found = measuring.collect(adapter.head(__pillar__), Paths.from_opts(__opts__))
    if found["level"] == "severe":
        __context__["retcode"] = 1
    return found


measurements.__outputter__ = "vcore"
