"""
The front door for people: their accounts and groups
====================================================

All run on the head. What is printed is for people; ``--out json`` gives programs the same facts.
"""

import contextlib
import sys
from pathlib import Path as FilePath

from salt.exceptions import SaltInvocationError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import Invalid
    from vcore.base.files import write_atomic
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.base.progress import report
    from vcore.people import accounts

    __virtualname__ = "vcore"


@contextlib.contextmanager
def _accounts():
    """The accounts of this core; what is wrong with arguments becomes Salt's error for that."""
    with adapter.salt_errors():
        try:
            with accounts.opened(adapter.head(__pillar__), Paths.from_opts(__opts__)) as ours:
                yield ours
        except Invalid as error:
            raise SaltInvocationError(str(error)) from None


def _text(value):
    """An argument of the command line as it was written, more or less: Salt has read it as YAML."""
    return value if value is None else str(value)


def _list(value):
    """An argument that is a list, or several with commas between them."""
    if value is None:
        return None
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return [str(item).strip() for item in items if str(item).strip()]


def _keys(value):
    """Public ssh keys: a list, or one."""
    return [value] if isinstance(value, str) and value else [str(key) for key in value or []]


def _person(given_name, surname, mail, telephone, uid, groups, shell, ssh_keys):
    data = {"given_name": given_name, "surname": surname, "mail": mail, "telephone": telephone, "shell": shell}
    data = {key: _text(value) for key, value in data.items()}
    data |= {"uid": uid, "groups": _list(groups), "ssh_keys": None if ssh_keys is None else _keys(ssh_keys)}
    return {key: value for key, value in data.items() if value is not None}


def user_add(
    name,
    given_name=None,
    surname=None,
    mail=None,
    telephone=None,
    uid=None,
    groups=None,
    shell=None,
    ssh_keys=None,
    test=False,
):
    """
    Add a person: an account in the directory, a home, and a first password that has to be changed at first use.

    name
        Name to log in with: at most 31 of a-z, 0-9, - and _, a letter first.

    given_name, surname, mail, telephone
        About the person. Put quotes inside quotes around a telephone number of digits alone.

    uid
        Number of the account; the next free one if left out.

    groups
        Groups beside the one of everybody, with commas between them.

    shell
        Login shell.

    ssh_keys
        Public ssh keys to log in with, a list or one.

    test
        Say what would be done, and do nothing.

    Returns what changed and the file, readable by root only, that holds the first password. Adding somebody whose
    making was interrupted completes it. Raises SaltInvocationError, before anything is done, when the name or something
    else is not acceptable, or somebody of that name or number is there already.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_add ada given_name=Ada surname=Lovelace mail=ada@example.org groups=sequencing
        salt-call vcore.user_add ada ssh_keys='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEx ada' test=True
    """
    data = _person(given_name, surname, mail, telephone, uid, groups, shell, ssh_keys)
    with _accounts() as ours:
        return ours.add(adapter.name(name), data, test=test)


def user_show(name):
    """
    Show a person: names, number, groups, keys, whether the account is locked, and when the password was chosen.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_show ada
    """
    with _accounts() as ours:
        return ours.show(adapter.name(name))


def user_list():
    """
    Show everybody in short: name, number, groups, locked or not, and whether the first password is still in use.

    Files of first passwords whose owners have chosen their own are deleted.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_list
    """
    with _accounts() as ours:
        return ours.everybody()


def user_modify(
    name,
    given_name=None,
    surname=None,
    mail=None,
    telephone=None,
    groups=None,
    shell=None,
    ssh_keys=None,
    test=False,
):
    """
    Change what is given of a person; arguments as of ``vcore.user_add``, and what is left out stays.

    An empty ``given_name``, ``mail`` or ``telephone`` takes it away; ``groups`` and ``ssh_keys`` replace the lists that
    there are. What the site file says of a person comes back at the next state run: change it there.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_modify ada mail=ada@example.org
        salt-call vcore.user_modify ada groups=sequencing,statistics test=True
    """
    data = _person(given_name, surname, mail, telephone, None, groups, shell, ssh_keys)
    with _accounts() as ours:
        return ours.modify(adapter.name(name), data, test=test)


def user_lock(name, test=False):
    """
    Lock a person out of everything: the directory, file sharing, and ssh, keys included. Sessions are not ended.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_lock ada
    """
    with _accounts() as ours:
        return ours.set_locked(adapter.name(name), True, test=test)


def user_unlock(name, test=False):
    """
    Let a person in again, who was locked by an administrator or by wrong passwords.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_unlock ada
    """
    with _accounts() as ours:
        return ours.set_locked(adapter.name(name), False, test=test)


def user_remove(name, archive=True, test=False):
    """
    Remove a person: archive the home, then delete it, the memberships and the account.

    archive
        False deletes the home without an archive.

    The archive is ``<name>-<time>.tar.gz`` in the folder ``vcore.accounts.archive``, readable by root only.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_remove ada
        salt-call vcore.user_remove ada archive=False
    """
    with _accounts() as ours:
        return ours.remove(adapter.name(name), archive=bool(archive), test=test)


def user_reset_password(name, test=False):
    """
    Give a person a new first password, which has to be changed at first use.

    Returns the file, readable by root only, that holds it.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_reset_password ada
    """
    with _accounts() as ours:
        return ours.reset_password(adapter.name(name), test=test)


def user_import(file, test=False):
    """
    Add and change people from a CSV file, UTF-8, with a header line.

    file
        Absolute path. Columns are name (required), given_name, surname, mail, telephone, uid, groups, shell and
        ssh_keys, in any order; lists have ``;`` between their items. An empty cell leaves things as they are.

    test
        Say what would be done, and do nothing.

    Returns how many were added, changed, unchanged and failed, and a line for each. A line that fails keeps none of the
    others back, and an import that was interrupted goes on when it is run again. The exit code is 0 only when no line
    failed.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_import /root/people.csv test=True
        salt-call vcore.user_import /root/people.csv
    """
    with _accounts() as ours:
        facts = ours.import_csv(FilePath(_text(file)).read_bytes(), test=test, progress=_progress(ours))
    if facts["failed"]:
        __context__["retcode"] = 1
    return facts


def _progress(ours):
    """Show how far an import is: to whoever follows the progress, and in a terminal."""

    def show(done, total):
        message = tr("{done} of {total} people", done=done, total=total)
        report(ours.paths, "accounts", message)
        if sys.stderr.isatty():
            print(message, file=sys.stderr)

    return show


def user_export(file):
    """
    Write everybody into a CSV file, readable by root only, that ``vcore.user_import`` reads. It holds no password.

    file
        Absolute path; a file that is there is replaced.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.user_export /root/people.csv
    """
    with _accounts() as ours:
        content = ours.export_csv()
        write_atomic(FilePath(_text(file)), content, mode=0o600)
    return {"comment": f"{content.count(10) - 1} people are in {file}."}


def group_add(name, gid=None, description=None, test=False):
    """
    Add a group of people.

    gid
        Its number; the next free one if left out.

    description
        What it is for.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.group_add sequencing description='People of the sequencing room'
    """
    with _accounts() as ours:
        return ours.group_add(adapter.name(name), {"gid": gid, "description": _text(description)}, test=test)


def group_show(name):
    """
    Show a group: number, description, members.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.group_show sequencing
    """
    with _accounts() as ours:
        return ours.group_show(adapter.name(name))


def group_list():
    """
    Show all groups: number, description, members. Everybody's first group names no members.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.group_list
    """
    with _accounts() as ours:
        return ours.group_list()


def group_modify(name, description=None, add=None, remove=None, test=False):
    """
    Change what a group is for, and who is in it.

    description
        What it is for; an empty one takes it away.

    add, remove
        People who come and go, with commas between them.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.group_modify sequencing add=ada,grace remove=charles
        salt-call vcore.group_modify administrators add=ada
    """
    with _accounts() as ours:
        return ours.group_modify(
            adapter.name(name),
            {"description": _text(description)},
            add=_list(add) or [],
            remove=_list(remove) or [],
            test=test,
        )


def group_remove(name, test=False):
    """
    Remove a group. Its members stay, and no other group gets its number.

    CLI Example:

    .. code-block:: bash

        salt-call vcore.group_remove sequencing
    """
    with _accounts() as ours:
        return ours.group_remove(adapter.name(name), test=test)


# Salt prints the return of these functions with salt/_output/vcore.py, unless --out says otherwise.
for _function in (
    user_add, user_list, user_modify, user_lock, user_unlock, user_remove, user_import, group_add, group_list,
    group_modify, group_remove,
):  # fmt: skip
    _function.__outputter__ = "vcore"
