"""
The front door for people: how the core is, and whether it works
================================================================

All run on the head. What is printed is for people; ``--out json`` gives programs the same facts. What belongs to one
area is in ``<area>_vcore.py``, which Salt takes for more of this module.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.kernel import doctor as kernel_doctor
    from vcore.kernel import status as kernel_status


def status():
    """
    How the core is: services, nodes, certificates, disk, the last convergence, and what of it is not well; and the
    minions whose keys wait for somebody to accept them, with the reason why they were not.

    The exit code is 0 only when all is well. Sizes are in bytes, ``ended`` is in seconds since 1970.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.status
        salt-call vcore.status --out json
    """
    with adapter.salt_errors():
        facts = kernel_status.collect(adapter.head(__pillar__), Paths.from_opts(__opts__))
    if not facts["ok"]:
        __context__["retcode"] = 1
    return facts


def doctor():
    """
    Check the core from end to end: what was tried, what was seen, and the remedy where it is not well.

    The exit code is 0 only when every check passes. Nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.doctor
        salt-call vcore.doctor --out json
    """
    with adapter.salt_errors():
        checks = kernel_doctor.examine(adapter.head(__pillar__), Paths.from_opts(__opts__))
    if not all(check["ok"] for check in checks):
        __context__["retcode"] = 1
    return checks


# Salt prints the return of these functions with salt/_output/vcore.py, unless --out says otherwise.
for _function in (status, doctor):
    _function.__outputter__ = "vcore"
