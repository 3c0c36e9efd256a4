"""
The front door for people: how the core is, and whether it works
================================================================

Both run on the head. Their tables are for people; ``--out json`` gives programs the same facts.
"""

try:
    from vcore import adapter
    from vcore import doctor as vcore_doctor
    from vcore import status as vcore_status
    from vcore.paths import Paths

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package cannot be imported: {MISSING}")


def status():
    """
    How the core is: services, nodes, certificates, disk, the last convergence, and what of it is not well.

    The exit code is 0 only when all is well. Sizes are in bytes, ``ended`` is in seconds since 1970.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.status
        salt-call vcore.status --out json
    """
    with adapter.salt_errors():
        facts = vcore_status.collect(adapter.head(__pillar__), Paths.from_opts(__opts__))
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
        checks = vcore_doctor.examine(adapter.head(__pillar__), Paths.from_opts(__opts__))
    if not all(check["ok"] for check in checks):
        __context__["retcode"] = 1
    return checks


# Salt prints the return of these functions with salt/_output/vcore.py, unless --out says otherwise.
status.__outputter__ = "vcore"
doctor.__outputter__ = "vcore"
