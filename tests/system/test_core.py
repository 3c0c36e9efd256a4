"""A head made from a bare machine: what bootstrap.sh leaves, what an administrator then changes, and what survives."""

import json
import time

import pytest
import sitefile
import yaml

AUTHORITY = "/etc/virtual-core/authority/ca.crt"
STORE = "/etc/virtual-core/secrets"
DEBIAN_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
SUFFIX = "dc=vcore,dc=test"
SOURCE = "/srv/virtual-core/source"


@pytest.fixture(scope="module")
def directory_client(head, client):
    """Return the other host, with LDAP's tools, the site's authority and the administrator's password in a file."""
    client.run(
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends ldap-utils",
        timeout=600,
    )
    client.run("cat > /root/ca.crt", input=head.run(["cat", AUTHORITY]).stdout)
    client.run("umask 077; cat > /root/password", input=head.run(["cat", f"{STORE}/ldap/admin-password"]).stdout)
    client.run(f"echo {head.address} ldap.vcore.test >> /etc/hosts")
    return client


def whoami(client, options="", *, authority="/root/ca.crt", url="ldaps://ldap.vcore.test"):
    return client.run(f"LDAPTLS_CACERT={authority} ldapwhoami -x -H {url} -o nettimeout=5 {options}", check=False)


def in_container(head, service, what):
    """Return a part of ``docker inspect`` of a service's running container."""
    container = f"$(docker ps --quiet --filter label=com.docker.swarm.service.name={service})"
    return head.run(f"docker inspect {container} --format '{what}'").stdout.strip()


AS_ADMINISTRATOR = f"-D cn=admin,{SUFFIX} -y /root/password"


# --- what bootstrap.sh leaves ------------------------------------------------------------------------------------


def test_bootstrap_reports_its_steps(head, timings):
    for step, seconds in json.loads(head.run("cat /var/lib/virtual-core/bootstrap.json").stdout).items():
        timings.record(f"bootstrap: {step}", seconds)


def test_everything_is_healthy(head):
    status = head.salt_call("vcore.status")
    assert status["ok"] is True, status["problems"]
    assert {service["state"] for service in status["services"].values()} == {"settled"}
    assert status["nodes"]["head"]["state"] == "ready"
    assert status["convergence"]["ok"] is True
    assert all(certificate["days_left"] > 300 for certificate in status["certificates"].values())


def test_people_see_a_table(head):
    table = head.run("salt-call vcore.status").stdout
    assert "All is well." in table
    assert any(line.startswith("ldap ") and "healthy" in line for line in table.splitlines())


def test_every_end_to_end_check_passes(head):
    checks = head.salt_call("vcore.doctor")
    assert [check for check in checks if not check["ok"]] == []
    assert any("administrator binds" in check["check"] for check in checks)


def test_the_directory_answers_a_verified_client(directory_client):
    done = whoami(directory_client, AS_ADMINISTRATOR)
    assert done.stdout.strip() == f"dn:cn=admin,{SUFFIX}", done.stderr


@pytest.mark.parametrize(
    ("what", "options", "arguments", "says"),
    [
        (
            "without the authority",
            AS_ADMINISTRATOR,
            {"authority": DEBIAN_AUTHORITIES},
            "Can't contact",
        ),
        ("anonymously", "", {}, "anonymous bind disallowed"),
        ("in the clear", AS_ADMINISTRATOR, {"url": "ldap://ldap.vcore.test"}, "Can't contact"),
        ("with a wrong password", f"-D cn=admin,{SUFFIX} -w wrong", {}, "Invalid credentials"),
    ],
)
def test_the_directory_refuses(directory_client, what, options, arguments, says):
    done = whoami(directory_client, options, **arguments)
    assert done.returncode != 0, f"{what} the bind succeeds"
    assert says in done.stderr


def test_images_come_from_the_registry_and_strangers_get_none(head, client):
    # The client's own trust store does not know the core; the certificate is not what is tested here.
    address = f"https://{head.address}:5000/v2/"
    client.run("command -v curl || DEBIAN_FRONTEND=noninteractive apt-get install -qq curl", timeout=300)
    refused = client.run(f"curl -sk -o /dev/null -w '%{{http_code}}' {address}ldap/tags/list").stdout
    assert refused == "401"
    images = head.run("docker service ls --format '{{.Image}}'").stdout.split()
    assert len(images) == 4
    assert all(image.startswith("registry.vcore.test:5000/") for image in images)


# --- applying again, and a change --------------------------------------------------------------------------------


def test_a_second_apply_changes_nothing_and_is_quick(head, timings):
    started = time.monotonic()
    states = sitefile.apply(head)
    timings.record("second apply, no change", time.monotonic() - started, limit=8)
    assert sitefile.changes(states) == {}
    assert sitefile.failed(states) == {}


def test_a_second_bootstrap_changes_nothing(head, timings):
    with timings.step("second bootstrap"):
        output = head.run(f"{SOURCE}/bootstrap.sh", timeout=300).stdout
    assert "0 of " in output
    assert output.count("done already") == 5
    # The end of its output: the table, its addresses, the next steps.
    assert any(line.startswith("ldap ") and "ldaps://ldap.vcore.test:636" in line for line in output.splitlines())
    assert "All is well." in output
    assert "salt '*' state.apply test=True" in output.partition("The core is up")[2]


def test_a_dry_run_on_a_head_says_what_is_done_and_changes_nothing(head):
    before = footprint(head)
    output = head.run(f"{SOURCE}/bootstrap.sh --dry-run").stdout
    assert output.count("done already") == 5
    head.run("cat > /root/bad.sls", input="vcore: {nodez: {}}\n")
    done = head.run(f"{SOURCE}/bootstrap.sh --dry-run --site /root/bad.sls", check=False)
    assert done.returncode == 4
    assert "vcore.nodez: unknown key; did you mean nodes?" in done.stderr
    assert footprint(head) == before


def test_taking_the_core_off_is_asked_for_first(head):
    before = footprint(head)
    done = head.run(f"{SOURCE}/bootstrap.sh --uninstall --purge", check=False)
    assert done.returncode == 2
    assert "DELETE its data, certificate authority and secrets. Give --yes" in done.stderr
    answered = f"echo n | script --quiet --return --command '{SOURCE}/bootstrap.sh --uninstall' /dev/null"
    done = head.run(answered, check=False)
    assert done.returncode == 1
    assert "Nothing was changed." in done.stdout
    assert footprint(head) == before


#: A machine that looks to bootstrap.sh as if systemd did not run; processes started in it live on.
WITHOUT_SYSTEMD = "unshare --mount sh -c 'mount -t tmpfs none /run/systemd && exec {}'"


def test_without_systemd_bootstrap_starts_salt_itself_and_says_so(head):
    units = "systemctl is-active salt-master salt-minion"
    daemons = "ps axo args | grep -cE '^/opt/virtual-core/venv/bin/python[^ ]* /opt/virtual-core/venv/bin/salt-m'"
    head.run("systemctl stop salt-minion salt-master")
    assert head.run(daemons, check=False).stdout.strip() == "0"
    try:
        output = head.run(WITHOUT_SYSTEMD.format(f"{SOURCE}/bootstrap.sh")).stdout
        assert "no systemd runs here: bootstrap.sh starts the daemons itself" in output
        assert "0 of " in output
        assert output.count("done already") == 4
        assert head.run(units, check=False).stdout.split() == ["inactive", "inactive"]
        assert int(head.run(daemons).stdout) >= 2
        output = head.run(WITHOUT_SYSTEMD.format(f"{SOURCE}/bootstrap.sh")).stdout
        assert output.count("done already") == 5
    finally:
        head.run("pkill -f 'bin/salt-m[ai]'; while pgrep -f 'bin/salt-m[ai]'; do sleep 0.2; done", check=False)
        head.run("systemctl start salt-master salt-minion")
        head.run("until salt -t 5 head test.ping; do sleep 1; done", timeout=120)


def test_the_plan_of_a_change_is_what_the_apply_then_does(head, directory_client, timings):
    wanted = {"ldap": {"memory": {"limit": "768M"}, "settings": {"password_minimum_length": 14}}}
    with sitefile.changed(head, services=wanted):
        plan = sitefile.apply(head, test=True)
        assert sitefile.changes(sitefile.apply(head, test=True)) == sitefile.changes(plan), "a plan changed something"
        with timings.step("apply of a changed setting"):
            done = sitefile.apply(head)
        assert sitefile.changes(plan) == sitefile.changes(done) != {}
        assert [name for name, state in plan.items() if state["result"] is None] == list(sitefile.changes(done))
        assert sitefile.changes(sitefile.apply(head)) == {}
        assert int(in_container(head, "ldap", "{{.HostConfig.Memory}}")) == 768 * 2**20
        assert whoami(directory_client, AS_ADMINISTRATOR).returncode == 0
    assert sitefile.changes(sitefile.apply(head)) != {}, "the old settings were not brought back"


# --- mistakes ----------------------------------------------------------------------------------------------------


def footprint(head):
    """Return what a refused run must not change: services with their versions, the core's files, names, images."""
    return head.run(
        "docker service ls -q | xargs docker service inspect -f '{{.Spec.Name}} {{.Version.Index}}'; docker images -q;"
        "docker config ls -q; docker secret ls -q; cat /etc/hosts; find /etc/virtual-core /srv/virtual-core/data/ldap"
        " -type f ! -name '*.mdb' -exec sha256sum {} +"
    ).stdout


def supplied(name):
    """Return a site that brings its own certificate for the directory."""
    pair = {"certificate": f"/root/{name}.pem", "key": "/root/old.key"}
    return {"services": {"ldap": {"certificates": {"tls": pair}}}}


TLS = "vcore.services.ldap.certificates.tls"
#: Mistakes of administrators: the keys of the site, and the resulting line.
MISTAKES = {
    "a wrong type": ({"site": {"domain": 7}}, "vcore.site.domain: has to be text"),
    "an unknown key": ({"netwrok": {}}, "vcore.netwrok: unknown key; did you mean network?"),
    "a subnet of the host": ({"network": {"subnet": "LAB/16"}}, "vcore.network.subnet: LAB/16 overlaps"),
    "an unknown role": (
        {"nodes": {"head": {"roles": ["hed"]}}},
        "vcore.nodes.head.roles.0: has to be 'head' or 'compute'",
    ),
    "two heads": (
        {"nodes": {"head": {"roles": ["head"]}, "b": {"roles": ["head"]}}},
        "vcore.nodes: exactly one node has the role head",
    ),
    "a required service off": (
        {"services": {"registry": {"enabled": False}}},
        "vcore.services.registry.enabled: the services directory-web, file-router, ldap require registry",
    ),
    "a missing certificate": (supplied("none"), f"{TLS}: /root/none.pem does not exist"),
    "an expired certificate": (supplied("old"), f"{TLS}: /root/old.pem: CN=ldap.vcore.test expired on 2021-01-01"),
}


@pytest.fixture(scope="module")
def expired_certificate(head):
    head.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /root/old.key -out /root/old.pem "
        "-subj /CN=ldap.vcore.test -addext subjectAltName=DNS:ldap.vcore.test "
        "-not_before 20200101000000Z -not_after 20210101000000Z"
    )


@pytest.fixture(scope="module")
def untouched(head, expired_certificate):
    """Check at the end that none of the refused runs has changed anything."""
    return footprint(head)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(head, untouched, mistake):
    lab = ".".join(head.address.split(".")[:2]) + ".0.0"
    keys, says = json.loads(json.dumps(MISTAKES[mistake]).replace("LAB", lab))
    with sitefile.changed(head, **keys):
        done = head.run("salt '*' state.apply", check=False)
        checked = head.run("salt-run vcore.validate", check=False)
    assert done.returncode != 0
    assert checked.returncode != 0
    (line,) = checked.stdout.splitlines()
    assert says in line
    assert says in done.stdout.replace("\n", " "), done.stdout
    assert footprint(head) == untouched


def test_a_site_file_that_is_no_yaml_is_one_line(head):
    before = sitefile.read(head)
    sitefile.write(head, "vcore: [\n")
    try:
        done = head.run("salt '*' state.apply", check=False)
        offered = head.run(f"{SOURCE}/bootstrap.sh", check=False)
    finally:
        sitefile.write(head, before)
    assert done.returncode != 0
    assert "site.sls:2: not valid YAML" in done.stdout
    assert offered.returncode == 4
    assert "site.sls:2: not valid YAML" in offered.stderr


def test_a_bad_file_offered_to_bootstrap_does_not_replace_the_site(head):
    before = sitefile.read(head)
    head.run("cat > /root/bad.sls", input="vcore: {nodez: {}}\n")
    done = head.run(f"{SOURCE}/bootstrap.sh --site /root/bad.sls", check=False)
    assert done.returncode == 4
    assert "/root/bad.sls:1: vcore.nodez: unknown key; did you mean nodes?" in done.stderr
    assert sitefile.read(head) == before


#: A machine that lacks everything at once while a command runs; it has a network of its own, too.
UNFIT = r"""
cd /root && rm -rf unfit && mkdir -p unfit/bin && cd unfit
sed 's/^VERSION_ID=.*/VERSION_ID="10"/; s/^PRETTY_NAME=.*/PRETTY_NAME="Debian 10"/' /etc/os-release > os-release
sed 's/^MemTotal:.*/MemTotal: 1000000 kB/' /proc/meminfo > meminfo
program() { printf '#!/bin/sh\n%s\n' "$2" > "bin/$1" && chmod 755 "bin/$1"; }
program df 'printf "Filesystem 1M-blocks Used Available Capacity Mounted\n/dev/a 900 800 100 90%% /\n"'
program uname 'if [ "$1" = -m ]; then echo riscv64; else exec /usr/bin/uname "$@"; fi'
program dockerd 'echo Docker version 19.3.1, build 1'
program salt-call 'exit 0'
echo 'Acquire::Retries "0";' > apt.conf
mkdir -p /etc/salt/pki
exec unshare --mount --net bash -c '
    mount --bind os-release "$(readlink -f /etc/os-release)" && mount --bind meminfo /proc/meminfo
    ip link add clash type bridge && ip address add 172.18.0.9/16 dev clash && ip link set clash up
    PATH=/root/unfit/bin:$PATH APT_CONFIG=/root/unfit/apt.conf PIP_INDEX_URL=http://127.0.0.1:9/simple "$0"' "$0"
"""
#: What it says about each lack.
LACKS = (
    "operating system: Debian 10 is not supported; take Debian 12 or 13, or Ubuntu 22.04 or 24.04",
    "processor: riscv64 is not supported",
    "memory: 976 MiB; at least 1800 MiB are needed",
    "disk: 100 MiB free below /var; at least 8000 MiB are needed",
    "network 172.18.0.0/24: overlaps 172.18.0.0/16, which this host reaches by clash; set vcore.network in",
    "Docker 19.3.1: older than 20.10.0; upgrade or remove it",
    "Salt: another installation is at /root/unfit/bin/salt-call; remove it, the core brings its own",
    "Salt: /etc/salt/pki belongs to another installation; move /etc/salt/pki away if nothing needs it",
    "package mirror: none of apt's mirrors has trixie; check the network, apt's proxy and /etc/apt",
    "Python package index http://127.0.0.1:9/simple: not reachable; check the network and PIP_INDEX_URL",
)


def test_everything_that_a_machine_lacks_is_listed_at_once(client):
    done = client.run(["bash", "-c", UNFIT, f"{SOURCE}/bootstrap.sh"], check=False)
    client.run("rm -r /root/unfit /etc/salt")
    assert done.returncode == 3, done.stderr
    assert "This machine does not meet the requirements yet; nothing was changed." in done.stderr
    for problem in LACKS:
        assert f"  - {problem}" in done.stderr
    assert client.run("ls -d /opt/virtual-core /var/lib/virtual-core", check=False).stdout == ""


def test_only_root_can_make_a_core(client):
    done = client.run(f"runuser --user nobody -- {SOURCE}/bootstrap.sh", check=False)
    assert done.returncode == 3
    assert "root: run this as root, with: sudo ./bootstrap.sh" in done.stderr


def test_a_machine_that_is_not_fit_is_left_alone(client):
    client.run("systemd-run --unit=blocker --socket-property=ListenStream=5000 --socket-property=Accept=no cat")
    try:
        done = client.run(f"{SOURCE}/bootstrap.sh", check=False)
    finally:
        client.run("systemctl stop blocker.socket")
    assert done.returncode == 3
    assert "port 5000: used by systemd" in done.stderr
    assert client.run("ls -d /opt/virtual-core /var/lib/virtual-core /etc/salt", check=False).stdout == ""


def test_a_dry_run_changes_nothing(client):
    done = client.run(f"{SOURCE}/bootstrap.sh --dry-run")
    assert "[6/6] Convergence" in done.stdout
    assert client.run("ls -d /opt/virtual-core /var/lib/virtual-core /etc/salt", check=False).stdout == ""


# --- failures ----------------------------------------------------------------------------------------------------


def test_an_image_that_is_not_healthy_is_rolled_back_and_the_state_says_so(head, directory_client, timings):
    probe = f"{SOURCE}/images/ldap/rootfs/usr/sbin/probe.sh"
    good = head.run("docker service inspect ldap -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}'").stdout
    head.run(f"cp -p {probe} /root/probe.good && printf '#!/bin/sh\\necho broken on purpose; exit 1\\n' > {probe}")
    try:
        with timings.step("apply of an unhealthy image, with its rollback"):
            states = sitefile.apply(head, check=False)
    finally:
        head.run(f"cp -p /root/probe.good {probe}")
    (comment,) = sitefile.failed(states).values()
    assert "went back to the specification before" in comment
    assert "broken on purpose" in comment
    assert head.run("docker service inspect ldap -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}'").stdout == good
    assert whoami(directory_client, AS_ADMINISTRATOR).returncode == 0
    ill = head.run("salt-call vcore.status", check=False)
    assert ill.returncode != 0
    assert "the last convergence failed: The service ldap runs" in ill.stdout
    sitefile.apply(head)
    assert head.salt_call("vcore.status")["ok"] is True


# --- secrets -----------------------------------------------------------------------------------------------------


#: While secrets are made and rolled out: the command line of every process, and every event of Salt's bus.
WATCHES = {
    "arguments": "while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; sleep 0.05; done",
    "events": "salt-run state.event pretty=True",
}
#: What everybody can look at.
VIEWS = {
    "resolved": "salt-run vcore.show; salt-call pillar.items; salt-call vcore.status; salt-call vcore_secret.list",
    "inspected": "docker ps -aq | xargs docker inspect; docker service ls -q | xargs docker service inspect;"
    " docker images -q | sort -u | xargs docker image inspect; docker secret ls -q | xargs docker secret inspect",
    "configs": "docker config ls -q | xargs -n1 docker config inspect --format '{{json .Spec.Data}}'"
    " | tr -d '\"' | base64 -d",
    "history": "docker images -q | xargs -n1 docker history --no-trunc",
    "logs": "docker ps -aq | xargs -n1 docker logs 2>&1",
    "journal": "journalctl --no-pager",
}


def secrets(head):
    """Return every line of the store's files that is too long to occur elsewhere by chance."""
    lines = head.run(f"find {STORE} -type f -exec cat {{}} \\; -exec echo \\;").stdout.split()
    return {line for line in lines if len(line) >= 16 and line.isascii()}


def test_no_secret_is_anywhere_that_it_should_not_be(head):
    head.run("mkdir -p /root/seen")
    for name, command in WATCHES.items():
        head.run(["systemd-run", f"--unit=watch-{name}", "bash", "-c", f"exec > /root/seen/{name}; {command}"])
    head.run("until grep -q salt-run /root/seen/arguments; do sleep 0.2; done", timeout=30)
    known = secrets(head)
    rotated = ("ldap/admin-password", "ldap/readonly-password", "registry/push", "registry/pull")
    for secret in rotated:
        head.salt_call("vcore_secret.rotate", secret)
    assert sitefile.failed(sitefile.apply(head)) == {}
    for name, command in VIEWS.items():
        head.run(f"({command}) > /root/seen/{name}")
    head.run("systemctl stop watch-arguments watch-events; systemctl reset-failed")
    assert len(secrets(head) - known) == len(rotated)
    known |= secrets(head)
    known |= set(head.run("sed -n 2p /etc/virtual-core/authority/ca.key").stdout.split())
    # The patterns come from standard input, or they would be found in grep's own arguments.
    places = "/root/seen /var/cache/salt /var/log /var/lib/virtual-core"
    found = head.run(f"grep -rlaF -f - {places}", check=False, input="\n".join(known) + "\n")
    assert found.stdout == ""
    assert found.returncode == 1, found.stderr
    assert int(head.run("wc -c < /root/seen/arguments").stdout) > 10_000
    assert "salt/job" in head.run("cat /root/seen/events").stdout
    rolled = whoami(head, f"-D cn=admin,{SUFFIX} -y {STORE}/ldap/admin-password", authority=AUTHORITY)
    assert rolled.returncode == 0, rolled.stderr


def test_keys_and_secrets_are_for_root_only(head):
    # The names of keys are links, so that a key and its certificate change in a single step.
    kept = f"find -L /etc/virtual-core -type f \\( -name '*.key' -o -path '{STORE}/*' \\)"
    assert len(head.run(kept).stdout.split()) >= 8
    assert head.run(f"{kept} ! -perm 0600").stdout == ""


# --- off and on --------------------------------------------------------------------------------------------------

ENTRY = f"""dn: cn=keepsake,ou=groups,{SUFFIX}
objectClass: posixGroup
cn: keepsake
gidNumber: 12345
"""


def test_a_service_that_is_switched_off_goes_and_its_data_stays(head):
    administrator = f"-x -H ldaps://ldap.vcore.test -D cn=admin,{SUFFIX} -y {STORE}/ldap/admin-password"
    head.run(f"LDAPTLS_CACERT={AUTHORITY} ldapadd {administrator}", input=ENTRY)
    off = {name: {"enabled": False} for name in ("ldap", "file-router", "directory-web")}
    with sitefile.changed(head, services=off):
        plan = sitefile.apply(head, test=True)
        done = sitefile.apply(head)
        assert sitefile.changes(plan) == sitefile.changes(done) != {}
        assert head.run("docker service ls --format '{{.Name}}'").stdout.split() == ["registry"]
        assert head.run("docker ps --format '{{.Names}}'").stdout.count("ldap") == 0
        assert whoami(head, f"-D cn=admin,{SUFFIX} -y {STORE}/ldap/admin-password", authority=AUTHORITY).returncode != 0
        assert head.salt_call("vcore.status")["ok"] is True
        assert head.run("ls /srv/virtual-core/data/ldap/data").stdout
        assert sitefile.changes(sitefile.apply(head)) == {}
    assert sitefile.failed(sitefile.apply(head)) == {}
    search = f"ldapsearch -LLL {administrator} -b {SUFFIX} cn=keepsake gidNumber"
    assert "gidNumber: 12345" in head.run(f"LDAPTLS_CACERT={AUTHORITY} {search}").stdout


def test_the_resolved_site_is_what_was_written(head):
    shown = json.loads(head.run("salt-run vcore.show --out=json").stdout)
    written = yaml.safe_load(sitefile.read(head))["vcore"]
    assert shown["site"]["domain"] == written["site"]["domain"]
