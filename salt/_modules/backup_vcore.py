"""
Dumps of the core, and putting them back
========================================

Part of the front door for people, ``vcore``: on the head.
"""

from pathlib import Path as FilePath

from salt.exceptions import SaltInvocationError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.backup import parts as backup_parts
    from vcore.base.messages import tr
    from vcore.base.paths import Paths

    __virtualname__ = "vcore"


def _names(parts):
    """Names of parts: a list, or several with commas between them; None stands for all."""
    names = parts.split(",") if isinstance(parts, str) else parts
    return None if names is None else [str(name).strip() for name in names]


def _folder(folder):
    path = FilePath(str(folder))
    if not path.is_absolute():
        raise SaltInvocationError(
            tr("{folder}: name the dump's folder by its whole path, such as /root/dump", folder=folder)
        )
    return path


def backup_dump(folder, parts=None):
    """
    Write a dump of the core, while its services run, as a new folder that only root can read. It holds secrets.

    folder
        The whole path of a folder that does not exist yet; the one above it does.

    parts
        Names of parts, with commas between them; all that the core has if left out.

    Returns ``dump``, ``domain``, ``version``, ``time`` and ``parts``, each with ``name``, ``title``, ``bytes`` and
    ``state``. It raises CommandExecutionError where a part cannot be dumped; then there is no dump.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.backup_dump folder=/root/dump
        salt-call vcore.backup_dump folder=/root/dump parts=directory
    """
    path = _folder(folder)
    with adapter.salt_errors("the dump cannot be written"):
        return backup_parts.dump(adapter.head(__pillar__), Paths.from_opts(__opts__), path, _names(parts))


def backup_check(folder, parts=None):
    """
    Look whether a dump is whole, by its manifest and by what each part knows of itself. No service is asked.

    folder
        The whole path of the dump.

    parts
        Names of parts, with commas between them; all of the dump if left out.

    Returns the same as ``vcore.backup_dump``. It raises CommandExecutionError where the dump is not whole.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.backup_check folder=/root/dump
    """
    path = _folder(folder)
    with adapter.salt_errors("the dump cannot be read"):
        adapter.head(__pillar__)
        return backup_parts.check(path, _names(parts))


def backup_put_back(folder, parts=None, test=False):
    """
    Put a dump back, in place of what there is now. What has changed since the dump is lost.

    folder
        The whole path of the dump.

    parts
        Names of parts, with commas between them; all of the dump if left out.

    test
        Only look whether the dump is whole and this core's, and say what would be put back.

    Returns the same as ``vcore.backup_dump``, with the parts in the order in which they were put back. It raises
    CommandExecutionError where the dump is not whole or of another domain, and then has changed nothing; and where a
    part cannot be put back, with the parts that were.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.backup_put_back folder=/root/dump test=True
        salt-call vcore.backup_put_back folder=/root/dump
    """
    path = _folder(folder)
    with adapter.salt_errors("the dump cannot be put back"):
        pillar, paths = adapter.head(__pillar__), Paths.from_opts(__opts__)
        return backup_parts.put_back(pillar, paths, path, _names(parts), test=test)


for _function in (backup_dump, backup_check, backup_put_back):
    _function.__outputter__ = "vcore"
