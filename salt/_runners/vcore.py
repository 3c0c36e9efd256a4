"""
The front door on the master: check and look at the site's configuration
========================================================================
"""

import sys
import time
from pathlib import Path

# The one exception whose message alone a runner prints; of any other, salt-run shows a traceback.
from salt.exceptions import NotImplemented as RunnerError
from vcore import adapter

with adapter.imports() as __virtual__:
    from vcore.base.errors import NotFound, VcoreError
    from vcore.base.paths import Paths
    from vcore.base.secrets import Store, generate
    from vcore.directory import client
    from vcore.enrolment import bundle, tokens
    from vcore.kernel import pillar as kernel_pillar
    from vcore.kernel import site
    from vcore.logins import bundles, sssd
    from vcore.nodes import decisions, overview, retirement, rounds
    from vcore.nodes.master import Master


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
    problems = kernel_pillar.problems(_paths())
    if problems:
        raise RunnerError("\n".join(problems))
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
    try:
        data = kernel_pillar.resolved(_paths())
    except VcoreError as error:
        raise RunnerError(str(error)) from None
    if service is None:
        return data
    if service not in data["services"]:
        raise RunnerError(f"no service {service!r} is switched on; there are: {', '.join(data['services'])}")
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
        bundles.kind(os)
        pillar = kernel_pillar.resolved(paths)
        root = paths.authority / "ca.crt"
        if not root.is_file():
            raise NotFound(f"there is no certificate authority in {root} yet; apply the states on the head")
        password = Store(paths.secrets).read("ldap", "readonly-password").decode()
        made = bundles.core(pillar, root.read_text(), password, names)
        if names:
            with client.open_administrator(pillar, paths) as connection:
                found = connection.search(made.access.group_base, "(objectClass=posixGroup)", ["cn"])
                known = [entry["cn"][0] for _, entry in found]
            sssd.check_groups(names, known, pillar["accounts"]["group"])
        target = Path(file or f"/root/virtual-core-logins-{os}.tar.gz")
        bundles.write(os, made, paths.checkout, target)
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    return {
        "file": str(target),
        "for": bundles.kind(os).title,
        "secret": f"It holds the password of {made.access.bind_dn}: copy it by ssh, delete it when the host is done.",
    }


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
    paths = _paths()
    try:
        scope, expiry = tokens.scope_of(node, role), int(time.time()) + tokens.seconds(ttl)
        pillar = kernel_pillar.resolved(paths)
        if node == pillar["head"]["name"]:
            raise VcoreError(f"{node} is the head itself; choose another name")
        service = pillar["services"].get("enrolment")
        if service is None:
            raise VcoreError(
                "the service enrolment is off, which new machines join by; with vcore.slurm.mode: managed it is on, "
                "or switch it on with vcore.services.enrolment.enabled"
            )
        root, store = paths.authority / "ca.crt", Store(paths.secrets)
        if not root.is_file() or not store.exists(*tokens.TOKEN_KEY):
            raise VcoreError(
                "the service enrolment is not there yet; apply the states on the head: salt-call state.apply"
            )
        token = tokens.make_token(store.read(*tokens.TOKEN_KEY), scope, expiry)
        port = service["ports"]["https"]["number"]
        line = bundle.command(token, pillar["head"]["address"], port, root.read_bytes())
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    who = f"the node {node}" if node else "any new machine, under a name of its own"
    return f"Run this on the new machine. It is good for {who}, until {tokens.moment(expiry)}.\n\n{line}"


def enrol_revoke():
    """
    End all enrolment tokens that were made so far. Nodes that have joined stay.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.enrol_revoke
    """
    try:
        Store(_paths().secrets).write(*tokens.TOKEN_KEY, generate("bytes", tokens.KEY_LENGTH))
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    return "All tokens that were made so far have ended."


def roll_compute(node=None, patience=604800):
    """
    Bring a new compute image, or another changed setting of it, to the compute nodes, one after another.

    Each is drained, waited for until its jobs have ended, changed over, looked at, and takes jobs again. A node that
    does not come back gets the image before again, and ends the roll. What a person has drained stays drained.

    node
        The nodes to update, with commas between them; by default all that are behind.

    patience
        Seconds to wait for the jobs of a node.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.roll_compute
        salt-run vcore.roll_compute node=compute-3
    """
    from vcore.swarm import rolling  # with docker it takes a while to load

    paths = _paths()
    try:
        pillar = kernel_pillar.pillar(paths, kernel_pillar.resolved(paths)["head"]["name"])
        if "slurm-compute" not in pillar["services"]:
            raise VcoreError("the core runs no compute nodes of SLURM; see vcore.slurm.mode of the site file")
        done = rolling.roll(
            "slurm-compute",
            pillar=pillar,
            paths=paths,
            nodes=node.split(",") if node else None,
            patience=float(patience),
            say=lambda message: __jid_event__.fire_event({"message": message}, "progress"),
        )
    except (VcoreError, OSError, ValueError) as error:
        raise RunnerError(str(error)) from None
    return f"Updated: {', '.join(done)}." if done else "All compute nodes run the newest one."


def rotate_join_token():
    """
    Have Docker make a new token to join the swarm by, and keep it for new nodes. Nodes that have joined stay.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.rotate_join_token
    """
    from vcore.swarm.membership import Swarm  # with docker it takes a while to load

    try:
        Swarm().rotate_join_token(Store(_paths().secrets))
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    return "The swarm has a new join token; the old one is worth nothing any more."


def _shown(data):
    """Have salt-run print this with salt/_output/vcore.py, unless --out says otherwise."""
    return {"outputter": "vcore", "data": data}


def _ended(told):
    """What was done, with exit code 1 where not all of it is ok: salt-run takes that from here only."""
    return _shown(told if told["ok"] else {**told, "retcode": 1})


def _say(message):
    """Progress, beside what is returned."""
    print(message, file=sys.stderr, flush=True)


def reconcile(node=None, wait=600):
    """
    Bring compute nodes to work now: the code, their states, the swarm, SLURM. The master does this by itself, too.

    node
        Converge this node, whether that is due or not; by default all nodes are looked at, and those converged that
        are due.

    wait
        Seconds that it waits for nodes at most; what is not finished then goes on without it.

    Returns what was done for each node, and what it took in seconds. The exit code is 0 only when nothing failed.
    Raises an error, and does nothing, for a node that takes no part, with the reason.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.reconcile
        salt-run vcore.reconcile compute-1
        salt-run vcore.reconcile --out json
    """
    paths, master, end = _paths(), Master(__opts__), time.monotonic() + float(wait)
    try:
        if node is not None:
            overview.check_takes_part(paths, master, str(node))
        forced, results = [str(node)] if node is not None else [], []
        while True:
            left = max(end - time.monotonic(), 0)
            full = not results
            results.append(rounds.run(paths, master, forced=forced, full=full, wait=left, say=_say))
            waiting = set(results[-1]["waiting"])
            if node is not None:
                waiting &= {str(node)}
            if not waiting or time.monotonic() >= end:
                break
            forced = []
            time.sleep(decisions.QUIET)
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    return _ended(overview.told(results, decisions.load(paths).nodes, None if node is None else str(node)))


def nodes():
    """
    Every node of the core: roles, key, place in the swarm, state in SLURM with its reason, and how its last convergence
    went. Times are in seconds since 1970.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.nodes
        salt-run vcore.nodes --out json
    """
    try:
        return _shown(overview.nodes(_paths(), Master(__opts__)))
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None


def retire(nodes, dead=False, cancel=False, timeout=86400):
    """
    Take compute nodes out of the core. They are drained, and as their jobs end they leave SLURM and the swarm, the core
    is taken off them with all secrets, and their keys are deleted. Run it again to go on from where it was cut off.

    nodes
        A node, or several as SLURM writes them: ``compute-[1-8,12]``.

    dead
        The machines are gone for good: they are not waited for, and not touched. Their jobs are SLURM's to requeue.

    cancel
        Keep the nodes after all, as long as they have not left SLURM.

    timeout
        Seconds that their jobs may still take; who has some then stays drained, and this ends with exit code 1.

    Returns what was done with each, why one goes no further, and what remains to do: a node that the site file names
    has to be taken out there, too. Raises an error for a node that runs services of its own; then nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt-run vcore.retire compute-1
        salt-run vcore.retire compute-[1-8] timeout=600
        salt-run vcore.retire compute-1 dead=True
        salt-run vcore.retire compute-1 cancel=True
    """
    try:
        leaving = retirement.Retirement(_paths(), Master(__opts__), str(nodes), _say)
        told = leaving.cancel() if cancel is True else leaving.run(dead=dead is True, timeout=float(timeout))
    except (VcoreError, OSError) as error:
        raise RunnerError(str(error)) from None
    return _ended(told)
