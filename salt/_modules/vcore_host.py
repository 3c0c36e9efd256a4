"""
What the core puts on every host: names of its services, and folders for their data
====================================================================================
"""

from pathlib import Path

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.host import network


def names_difference(names):
    """
    The lines that would leave (``-``) and enter (``+``) /etc/hosts.

    names
        A mapping from an address to the names that it has.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_host.names_difference '{"10.0.0.1": ["ldap.vcore.test"]}'
    """
    return network.hosts_difference(names)


def write_names(names):
    """
    Replace the core's block in /etc/hosts, in one step.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_host.write_names '{"10.0.0.1": ["ldap.vcore.test"]}'
    """
    with adapter.salt_errors("/etc/hosts cannot be written"):
        network.write_hosts(names)


def directory_difference(path, wanted):
    """
    What of a folder's owner, group and mode is not as wanted.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_host.directory_difference /srv/data '{"owner": 0, "group": 0, "mode": "0750"}'
    """
    return network.directory_difference(Path(path), wanted)


def make_directory(path, wanted):
    """
    Create a folder, or correct its owner, group and mode; its content is left alone.

    CLI Example:

    .. code-block:: bash

        salt-call vcore_host.make_directory /srv/data '{"owner": 0, "group": 0, "mode": "0750"}'
    """
    with adapter.salt_errors(f"the folder {path} cannot be made"):
        network.make_directory(Path(path), wanted)
