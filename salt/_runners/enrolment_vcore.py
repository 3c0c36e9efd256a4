"""
The front door on the master: tokens, by which new machines join
================================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.enrolment import issue

    __virtualname__ = "vcore"


def enrol_token(ttl="1h", node=None, role=None):
    """
    Make an enrolment token, and print the one line to run on a new machine, which makes it a compute node.

    Whoever has the line can make a machine a node until the token ends: hand it on as you would a password.

    ttl
        How long the token lives: a number with s, m, h or d behind it, at most ``7d``.

    node
        Name of the node that it is for; by default it is for any new node. A node that the site file gives a service
        of its own needs one for its name.

    role
        The role that a new node gets; there is only ``compute``, which is the default.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.enrol_token
        salt-run vcore.enrol_token ttl=2d
        salt-run vcore.enrol_token ttl=30m node=gpu-1
    """
    with adapter.runner_errors():
        return issue.invite(Paths.from_opts(__opts__), ttl=ttl, node=node, role=role)


def enrol_revoke():
    """
    End all enrolment tokens that were made so far. Nodes that have joined stay.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.enrol_revoke
    """
    with adapter.runner_errors():
        issue.revoke(Paths.from_opts(__opts__))
    return "All tokens that were made so far have ended."
