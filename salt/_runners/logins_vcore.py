"""
The front door on the master: logins on hosts that are not under Salt
=====================================================================
"""

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.paths import Paths
    from vcore.logins import bundles

    __virtualname__ = "vcore"


def client_bundle(os=None, file=None, groups=None):
    """
    Write a bundle with which a host that is not under Salt lets the core's people log in: ready files, an install
    script and an undo script. Ask without arguments for the kinds of hosts.

    It holds the password of ``cn=readonly`` and is readable by root only: copy it by ssh, and delete it afterwards.

    os
        The kind of host: debian, ubuntu, debian-ldapd, centos5, centos6, centos6-pam_ldap, centos7, rhel8, rhel9.

    file
        Where to write it; by default /root/virtual-core-logins-<os>.tar.gz.

    groups
        Groups whose members may log in there, a list or separated by commas; by default everybody of the core.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.client_bundle
        salt-run vcore.client_bundle os=debian
        salt-run vcore.client_bundle os=rhel9 file=/root/microscope.tar.gz groups=imaging,genomics
    """
    names = [name.strip() for name in groups.split(",")] if isinstance(groups, str) else list(groups or ())
    with adapter.runner_errors():
        return bundles.make(Paths.from_opts(__opts__), os, file, names)
