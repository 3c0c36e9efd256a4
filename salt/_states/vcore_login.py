"""
Logins of the core's people on a node itself
============================================
"""

import contextlib
from pathlib import Path

from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import Postponed, VcoreError
    from vcore.base.messages import tr
    from vcore.base.paths import Paths
    from vcore.base.secrets import Store, node_secret
    from vcore.certificates import trust
    from vcore.logins import sssd


def _system():
    """The node, by Salt's own modules for packages and services."""

    def install(names, options):
        # An old list of packages names files that the mirror no longer has.
        __salt__["pkg.install"](pkgs=list(names), refresh=True, **options)
        if left := set(names) - installed():
            raise VcoreError(
                tr("the package manager did not install {left}; see /var/log", left=", ".join(sorted(left)))
            )

    def installed():
        return set(__salt__["pkg.list_pkgs"]())

    def remove(names):
        purge = "pkg.purge" if "pkg.purge" in __salt__ else "pkg.remove"
        __salt__[purge](pkgs=list(names))

    def service(function, name):
        if not __salt__[f"service.{function}"](name):
            raise VcoreError(
                tr("the service {name} does not {function}; see journalctl -u {name}", name=name, function=function)
            )

    return sssd.System(
        installed=installed,
        install=install,
        remove=remove,
        running=lambda name: bool(__salt__["service.status"](name)),
        enabled=lambda name: bool(__salt__["service.enabled"](name)),
        service=service,
        run=sssd.run,
    )


def _state_folder():
    return Path(Paths.from_opts(__opts__).state)


def _check_groups(groups, pillar, paths, *, before):
    """Refuse groups that nobody made. The head asks the directory itself, before anything changes; other nodes have
    only sssd to ask, before where that runs already, and behind in any case.
    """
    if "head" not in pillar["node"]["roles"]:
        if not before or __salt__["service.status"]("sssd"):
            sssd.check_groups_by_sssd(groups, sssd.run)
    elif before and groups:
        from vcore.directory import client, entries

        # A plan does without a directory that is not up.
        with contextlib.suppress(Postponed):
            if opened := client.open_for_state(pillar, paths, test=__opts__["test"]):
                with opened as connection:
                    base = f"ou=groups,{entries.suffix(pillar)}"
                    found = connection.search(base, "(objectClass=posixGroup)", ["cn"])
                    known = [entry["cn"][0] for _, entry in found]
                sssd.check_groups(groups, known, pillar["accounts"]["group"])


def present(name, groups=None, made_elsewhere=None):
    """
    Let people of the core log in on this node: name service, passwords and ssh keys from the directory, by sssd.

    sssd's configuration is proven before it replaces the running one. Whoever has logged in before can also while the
    directory does not answer.

    name
        A sentence.

    groups
        A list of groups whose members may; by default everybody of the core.

    made_elsewhere
        Those of them that the site file does not make. The state fails where the directory has no such group, since
        nobody could log in: before anything changes, or on a node that never asked the directory before, at its end.
    """
    paths, folder = Paths.from_opts(__opts__), _state_folder()

    def steps():
        pillar = adapter.node(__pillar__)
        family, system = sssd.family(__grains__["os_family"]), _system()
        authority = trust.TRUST_STORES[__grains__["os_family"]].anchors / "virtual-core.crt"
        access = sssd.access(pillar, authority, groups or ())
        try:
            password = node_secret(pillar, Store(paths.secrets), "ldap", "readonly-password")
        except VcoreError:
            # On the head the secret is made in the very run that this is the plan of.
            if not __opts__["test"]:
                raise
            password = ""
        _check_groups(made_elsewhere or (), pillar, paths, before=True)
        changes = sssd.present_difference(access, password, family, system, folder)
        yield changes
        sssd.apply_present(access, password, family, system, folder, changes)
        _check_groups(made_elsewhere or (), pillar, paths, before=False)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("People of the core can log in."),
        planned=tr("People of the core would be let in."),
        done=tr("People of the core can log in now."),
    )


def absent(name):
    """
    Take logins of the core's people off this node again, with all that ``present`` did; homes stay.

    Nothing happens where ``present`` never was.

    name
        A sentence.
    """
    folder = _state_folder()

    def steps():
        if not sssd.read_record(folder):
            yield {}
            return
        family, system = sssd.family(__grains__["os_family"]), _system()
        yield sssd.absent_difference(family, system, folder)
        sssd.apply_absent(family, system, folder)

    return adapter.converge(
        name,
        steps(),
        test=__opts__["test"],
        unchanged=tr("People of the core do not log in here."),
        planned=tr("People of the core would no longer log in here."),
        done=tr("People of the core no longer log in here."),
    )
