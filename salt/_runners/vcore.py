"""
The front door on the master: check and look at the site's configuration
========================================================================
"""

from pathlib import Path

# The one exception whose message alone a runner prints; of any other, salt-run shows a traceback.
from salt.exceptions import NotImplemented as Refused

try:
    from vcore import clients, core, directory, logins
    from vcore.errors import NotFound, VcoreError
    from vcore.paths import Paths
    from vcore.secrets import Store
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
    paths = _paths()
    names = [name.strip() for name in groups.split(",")] if isinstance(groups, str) else list(groups or ())
    try:
        clients.kind(os)
        pillar = core.resolved(paths)
        root = paths.authority / "ca.crt"
        if not root.is_file():
            raise NotFound(f"there is no certificate authority in {root} yet; apply the states on the head")
        password = Store(paths.secrets).read("ldap", "readonly-password").decode()
        made = clients.core(pillar, root.read_text(), password, names)
        if names:
            with directory.open_administrator(pillar, paths) as connection:
                found = connection.search(made.access.group_base, "(objectClass=posixGroup)", ["cn"])
                known = [entry["cn"][0] for _, entry in found]
            logins.check_groups(names, known, pillar["accounts"]["group"])
        target = Path(file or f"/root/virtual-core-logins-{os}.tar.gz")
        clients.write(os, made, paths.checkout, target)
    except (VcoreError, OSError) as error:
        raise Refused(str(error)) from None
    return {
        "file": str(target),
        "for": clients.kind(os).title,
        "secret": f"It holds the password of {made.access.bind_dn}: copy it by ssh, delete it when the host is done.",
    }
