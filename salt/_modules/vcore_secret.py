"""
Secrets of the core, kept in a root-only store on the head
===========================================================

Values never appear in arguments, returns or logs: they are generated, or asked for at a prompt.
"""

import getpass
import sys

from salt.exceptions import CommandExecutionError, SaltInvocationError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.messages import quoted, tr
    from vcore.base.paths import Paths
    from vcore.base.secrets import Store, generate


def _services():
    """The services that are switched on."""
    with adapter.salt_errors():
        return adapter.head(__pillar__)["services"]


def _definition(name):
    """The catalogue's definition of ``service/secret``."""
    service, _, item = name.partition("/")
    services = _services()
    definition = services.get(service, {"secrets": {}})["secrets"].get(item)
    if definition is None or definition["service"]:
        raise SaltInvocationError(tr("no service that is switched on has a secret {name}", name=quoted(name)))
    return service, item, definition


def _store():
    return Store(Paths.from_opts(__opts__).secrets)


def list_():
    """
    List the secrets of the services that are switched on: kind, and whether each has a value.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_secret.list
    """
    store = _store()
    return {
        f"{service}/{name}": {
            "kind": definition["kind"],
            "description": definition["description"],
            "state": "present" if store.exists(service, name) else "missing",
        }
        for service, data in _services().items()
        for name, definition in data["secrets"].items()
        if not definition["service"]
    }


__func_alias__ = {"list_": "list", "set_": "set"}


def difference(name):
    """
    Say what is wrong with the stored secret ``service/name``: ``missing``, ``permissions`` or nothing (None).

    CLI Example:

    .. code-block:: bash

        salt-call vcore_secret.difference ldap/admin-password
    """
    service, item, definition = _definition(name)
    with adapter.salt_errors():
        return _store().difference(service, item, definition)


def ensure(name):
    """
    Generate the secret ``service/name`` where it is missing; close its permissions where they are open.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_secret.ensure ldap/admin-password
    """
    service, item, definition = _definition(name)
    with adapter.salt_errors():
        _store().ensure(service, item, definition)
    return True


def set_(name):
    """
    Give the secret ``service/name`` a value, typed twice at a prompt, or one line on standard input.

    The next ``state.apply`` on the head brings it to the services that use it.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_secret.set mail/relay-password
    """
    service, item, _ = _definition(name)
    if sys.stdin.isatty():
        value = getpass.getpass(f"{name}: ")
        if value != getpass.getpass(f"{name}, once more: "):
            raise CommandExecutionError(tr("the two values differ; nothing was changed"))
    else:
        value = sys.stdin.readline().rstrip("\n")
    if not value:
        raise CommandExecutionError(tr("an empty value was given; nothing was changed"))
    _store().write(service, item, value.encode())
    return True


def rotate(name):
    """
    Replace the generated secret ``service/name`` by a new one; the next ``state.apply`` rolls its services.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_secret.rotate ldap/admin-password
    """
    service, item, definition = _definition(name)
    with adapter.salt_errors():
        _store().write(service, item, generate(definition["kind"], definition["length"]))
    return True
