"""
The front door on the master: check and look at the site's configuration
========================================================================

What belongs to one area is in ``<area>_vcore.py``, which Salt takes for more of this module.
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import VcoreError
    from vcore.base.messages import quoted, tr
    from vcore.base.paths import Paths
    from vcore.kernel import pillar as kernel_pillar
    from vcore.kernel import site


def validate():
    """
    Check pillar/site.sls with its flavors and the catalogue, and this host's network and the files that it names.

    Prints one line for each problem: file, line, key, what is wrong. Ends with exit code 1 when there is one.
    Changes nothing.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.validate
    """
    with adapter.runner_errors():
        if problems := kernel_pillar.problems(Paths.from_opts(__opts__)):
            raise VcoreError("\n".join(problems))
    return "The configuration is valid."


def schema():
    """
    The JSON Schema (draft 2020-12) of the ``vcore:`` mapping of pillar/site.sls.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.schema --out json
    """
    return site.model().model_json_schema()


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
    with adapter.runner_errors():
        data = kernel_pillar.resolved(Paths.from_opts(__opts__))
        if service is None:
            return data
        if service not in data["services"]:
            raise VcoreError(
                tr(
                    "no service {service} is switched on; there are: {services}",
                    service=quoted(service),
                    services=", ".join(data["services"]),
                )
            )
        return data["services"][service]
