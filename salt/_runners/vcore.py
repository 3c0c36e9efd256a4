"""
The front door on the master: check and look at the site's configuration
========================================================================
"""

# The one exception whose message alone a runner prints; of any other, salt-run shows a traceback.
from salt.exceptions import NotImplemented as Refused

try:
    from vcore import core
    from vcore.errors import VcoreError
    from vcore.paths import Paths
    from vcore.site import Site

    HAS_VCORE = True
except ImportError as error:
    HAS_VCORE, MISSING = False, str(error)


def __virtual__():
    return True if HAS_VCORE else (False, f"the vcore package is not installed beside Salt: {MISSING}")


def _paths():
    return Paths.from_opts(__opts__)


def validate():
    """
    Check pillar/site.sls with its flavors and the catalogue, and this host's network and the files that it names.

    Prints one line for each problem: file, line, key, what is wrong. Ends with exit code 1 when there is one.
    Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.validate
    """
    problems = core.problems(_paths())
    if problems:
        raise Refused("\n".join(problems))
    return "The configuration is valid."


def schema():
    """
    The JSON Schema (draft 2020-12) of the ``vcore:`` mapping of pillar/site.sls.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.schema --out json
    """
    return Site.model_json_schema()


def show(service=None):
    """
    The resolved configuration, or that of one service. It holds no secrets: states read those from the store.

    service
        Name of a service that is switched on.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.show
        salt-run vcore.show ldap
    """
    try:
        data = core.resolved(_paths())
    except VcoreError as error:
        raise Refused(str(error)) from None
    if service is None:
        return data
    if service not in data["services"]:
        raise Refused(f"no service {service!r} is switched on; there are: {', '.join(data['services'])}")
    return data["services"][service]
