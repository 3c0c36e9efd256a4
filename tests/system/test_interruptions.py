"""A first convergence that is killed half-way, and a core that is removed: the next run completes the work."""

import json
import time

import pytest
import sitefile
import yaml

SOURCE = "/srv/virtual-core/source"
#: What cannot be made again, with its content. A swarm's token is removed with the swarm.
SECRETS = (
    "find /etc/virtual-core/authority /etc/virtual-core/secrets -type f ! -name join-token | sort | xargs sha256sum"
)
PROGRESS = "/var/lib/virtual-core/progress.jsonl"

#: What is killed, one run after the other, and at which line of progress. Each stands for something else that is half
#: done.
#: Processes that bootstrap.sh started outlive it and would complete the run, so it comes last.
KILLS = {
    "the minion, at the start of a service": ("pkill -9 -f 'bin/salt-(minion|call)'", "service registry: is created"),
    "dockerd, during an image build": ("kill -9 $(cat /run/docker.pid)", "image ldap: step 3"),
    "bootstrap.sh, during an image build": ("pkill -9 -f bootstrap.sh", "image ldap: step 3"),
}


@pytest.fixture(scope="module", autouse=True)
def small(head):
    """Reduce the site to two services, which are enough to interrupt, so that the next runs build no others."""
    site = yaml.safe_load(sitefile.read(head))
    site["vcore"] = {
        "nodes": {"head": {"roles": ["head"]}},
        "services": {name: {"enabled": False} for name in ("file-router", "directory-web")},
    }
    sitefile.write(head, yaml.safe_dump(site))


def start(head):
    """Run bootstrap.sh in the background; its child processes survive it, as when a terminal is lost."""
    head.run("systemctl reset-failed first-run", check=False)
    head.run(["systemd-run", "--unit=first-run", "--property=KillMode=process", f"{SOURCE}/bootstrap.sh"])


def progress(head):
    """Return the lines of progress so far."""
    return head.run(f"cat {PROGRESS}", check=False).stdout.splitlines()


def wait_for(head, line, before, timeout=300):
    """Wait until a line of progress appears after those of ``before``: ``step: beginning of the message``."""
    step, _, message = line.partition(": ")
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        entries = [json.loads(entry) for entry in progress(head)[len(before) :] if entry.endswith("}")]
        if any(entry["step"] == step and entry["message"].startswith(message) for entry in entries):
            return
        assert head.run("systemctl is-active first-run", check=False).returncode == 0, "bootstrap.sh ended too early"
        time.sleep(0.2)
    raise AssertionError(f"{line} did not come within {timeout} s")


def settle(head):
    """Wait until the killed run has ended; its child processes may still be at work."""
    head.run("while systemctl is-active -q first-run; do sleep 0.5; done", timeout=600, check=False)


def is_whole(head):
    """Assert that everything is healthy, and that nothing exists twice."""
    status = head.salt_call("vcore.status")
    assert status["ok"] is True, status["problems"]
    services = head.run("docker service ls --format '{{.Name}} {{.Replicas}}'").stdout.split("\n")
    assert sorted(filter(None, services)) == ["ldap 1/1", "registry 1/1"]
    running = head.run("docker ps --format '{{.Label \"com.docker.swarm.service.name\"}}'").stdout.split()
    assert sorted(running) == ["ldap", "registry"]
    assert head.run("docker network ls --format '{{.Name}}'").stdout.split().count("virtual_core") == 1
    configs = head.run("docker config ls --format '{{.Name}}'; docker secret ls --format '{{.Name}}'").stdout.split()
    items = [name.rsplit("-", 1)[0] for name in configs]
    assert len(items) == len(set(items)), f"superseded configs or secrets are left: {configs}"


def test_taking_the_core_off_keeps_what_cannot_be_made_again(head, timings):
    kept = head.run(SECRETS).stdout
    with timings.step("uninstall"):
        head.run(f"{SOURCE}/bootstrap.sh --uninstall --yes")
    assert head.run("docker service ls", check=False).returncode != 0, "the swarm is still there"
    assert head.run("ls -d /opt/virtual-core /usr/local/bin/salt /etc/salt/pki", check=False).stdout == ""
    assert head.run("systemctl is-active salt-minion salt-master docker", check=False).stdout.split() == [
        "inactive", "inactive", "active",
    ]  # fmt: skip
    assert "Virtual Core" not in head.run("cat /etc/hosts").stdout
    trusted = "find /etc/docker/certs.d /usr/local/share/ca-certificates -name '*vcore*' -o -name '*virtual*'"
    assert head.run(trusted, check=False).stdout == ""
    assert head.run("docker network ls --format '{{.Name}}'").stdout.split().count("docker_gwbridge") == 0
    assert head.run(SECRETS).stdout == kept
    assert head.run("ls /srv/virtual-core/data/ldap/data/data.mdb").returncode == 0
    with timings.step("bootstrap after an uninstall that kept the data"):
        head.run(f"{SOURCE}/bootstrap.sh", timeout=900)
    assert head.run(SECRETS).stdout == kept
    is_whole(head)


def test_a_first_convergence_that_is_killed_again_and_again_is_completed_by_the_next_run(head, timings):
    """Each run continues the killed ones' work until one completes: nothing is lost, nothing exists twice."""
    head.run(f"{SOURCE}/bootstrap.sh --uninstall --purge --yes", timeout=300)
    assert head.run("ls -d /etc/virtual-core /var/lib/virtual-core /srv/virtual-core/data", check=False).stdout == ""
    assert head.run("docker images --quiet").stdout == ""
    made = set()
    for what, (command, line) in KILLS.items():
        before = progress(head)
        start(head)
        wait_for(head, line, before)
        made |= set(head.run(SECRETS).stdout.splitlines())
        assert made
        head.run(command, check=False)
        settle(head)
        result = head.run("systemctl show --property=Result --value first-run").stdout.strip()
        assert result in ("exit-code", "signal"), f"the kill of {what} interrupted nothing: {result}"
    with timings.step("bootstrap after kill -9 of the minion, dockerd and bootstrap.sh, one after the other"):
        head.run(f"{SOURCE}/bootstrap.sh", timeout=900)
    is_whole(head)
    after = head.run(SECRETS).stdout.splitlines()
    rewritten = ("/index.json", "/crl.pem")
    lost = [entry for entry in made if entry not in after and not entry.endswith(rewritten)]
    assert lost == [], "a run made anew what one before had made"
