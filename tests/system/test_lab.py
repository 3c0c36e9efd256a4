"""The lab's hosts are what other system tests expect: bare machines with systemd, on which Docker runs."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pexpect
import pytest

SWARM_NETWORK = "docker network create --driver overlay --attachable --subnet 192.168.77.0/24 crossing"
# An image of one static program: no registry needed.
TINY = "mkdir -p /tmp/tiny && cp $(command -v busybox) /tmp/tiny && tar -C /tmp/tiny -c . | docker import - tiny"


@pytest.fixture(scope="module")
def hosts(make_lab):
    """Make a lab for these tests, which reboot hosts and install Docker by hand."""
    lab = make_lab("hosts")
    lab.up("--bare", "--compute=1")
    return lab


def test_down_leaves_nothing_behind(make_lab):
    def left():
        kinds = ("ps --all --format {{.Names}}", "volume ls --format {{.Name}}", "network ls --format {{.Name}}")
        listed = [
            subprocess.run(["docker", *kind.split()], capture_output=True, text=True, check=True) for kind in kinds
        ]
        return sorted(name for done in listed for name in done.stdout.split() if "vcore-gone" in name)

    lab = make_lab("gone")
    lab.up("--bare")
    assert len(left()) >= 3
    assert lab.call("status").returncode == 0
    lab.down()
    assert left() == []
    assert lab.call("status").returncode == 1


@pytest.fixture(scope="module")
def first(hosts):
    return hosts.host("head")


@pytest.fixture(scope="module")
def second(hosts):
    return hosts.host("compute-1")


@pytest.fixture(scope="module")
def docker_hosts(first, second):
    """Return both hosts, with Debian's Docker."""

    def install(host):
        host.run(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "
            "docker.io docker-cli iptables busybox-static",
            timeout=600,
        )
        host.run(TINY)

    with ThreadPoolExecutor() as pool:
        list(pool.map(install, (first, second)))
    return first, second


def test_a_host_is_a_running_machine(second):
    assert second.run("systemctl is-system-running").stdout.strip() == "running"
    assert second.run("cat /proc/1/comm").stdout.strip() == "systemd"
    assert second.run("hostname").stdout.strip() == "compute-1"


@pytest.mark.parametrize("program", ["docker", "dockerd", "salt-call", "python3"])
def test_a_bare_host_has_nothing_of_virtual_core(second, program):
    assert second.run(f"command -v {program}", check=False).returncode != 0


def test_a_host_has_the_checkout(second, checkout):
    assert second.run("cat /srv/virtual-core/source/versions.yaml").stdout == (checkout / "versions.yaml").read_text()
    assert second.run("find /srv/virtual-core ! -user root").stdout == ""


def test_copy_takes_away_what_the_checkout_no_longer_has(second, hosts):
    source = "/srv/virtual-core/source"
    second.run(f"echo gone.txt >> /var/lib/lab/copied; touch {source}/gone.txt {source}/pillar/site.sls")
    assert hosts.call("copy").returncode == 0
    assert second.run(f"ls {source}/gone.txt", check=False).returncode != 0
    assert second.run(f"rm {source}/pillar/site.sls").returncode == 0


def test_commands_pass_through(second):
    done = second.run("cat; echo beside >&2; exit 7", check=False, input="words\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "words\n", "beside\n")
    assert second.run("sleep 60", check=False, timeout=0.5).returncode == 124


def test_a_shell_has_a_terminal_on_the_host(hosts, checkout):
    shell = pexpect.spawn(str(checkout / "lab"), ["--name", hosts.name, "shell", "head"], timeout=30, encoding="utf-8")
    shell.sendline("tty; hostname; id -un; exit 5")
    shell.expect(r"/dev/pts/\d+\s+head\s+root")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 5


@pytest.mark.parametrize("command", [("down", "--caches"), ("up", "--bare", "--fresh")], ids=" ".join)
def test_caches_are_not_dropped_under_another_lab(hosts, make_lab, command):
    done = make_lab("gone").call(*command)
    assert done.returncode == 1
    assert done.stderr.startswith("lab: lab '")
    assert "still uses the caches" in done.stderr


def test_files_of_the_host_are_its_own(second):
    for name in ("hosts", "hostname", "resolv.conf"):
        second.run(f"cp /etc/{name} /etc/{name}.new && mv /etc/{name}.new /etc/{name}")


def test_a_host_comes_back_from_a_reboot_with_its_files(hosts, second):
    before = second.run("echo 192.0.2.7 noted >> /etc/hosts; cat /proc/1/stat").stdout
    second.run("systemctl reboot", check=False)
    hosts.up("--bare", "--compute=1")
    assert second.run("cat /proc/1/stat").stdout != before
    assert "192.0.2.7 noted" in second.run("cat /etc/hosts").stdout


def test_hosts_have_a_folder_in_common(first, second):
    first.run("echo of the head > /shared/file && mkdir /shared/folder && chmod 0700 /shared/folder")
    assert second.run("cat /shared/file; stat -c %a /shared/folder").stdout == "of the head\n700\n"


def test_names_of_the_hosts_resolve(first, second):
    assert second.run("getent hosts head").stdout.split()[0] == first.address


def test_errors_are_one_sentence(hosts):
    done = hosts.call("exec", "nobody", "--", "true")
    assert done.returncode == 1
    assert done.stderr == "lab: lab 'hosts' has no host 'nobody'; it has head, compute-1.\n"


def test_a_memory_limit_of_a_container_holds(docker_hosts):
    first, _ = docker_hosts
    eat = "docker run --rm --memory 32m tiny /busybox dd if=/dev/zero of=/dev/null count=1 bs="
    assert first.run(f"{eat}16M", check=False).returncode == 0
    assert first.run(f"{eat}256M", check=False).returncode == 137


def test_containers_survive_a_crash_of_dockerd_as_on_any_machine(docker_hosts):
    first, _ = docker_hosts
    first.run("docker run --detach --name survivor --restart always --stop-signal KILL tiny /busybox sleep 100000")
    first.run("kill -9 $(cat /run/docker.pid)")
    first.run("until docker exec survivor /busybox true; do sleep 0.5; done", timeout=60)
    assert first.run("docker run --rm tiny /busybox echo ran").stdout == "ran\n"
    first.run("docker rm --force survivor")


def test_an_overlay_network_crosses_hosts(docker_hosts):
    first, second = docker_hosts
    first.run(f"docker swarm init --advertise-addr {first.address} && {SWARM_NETWORK}")
    token = first.run("docker swarm join-token --quiet worker").stdout.strip()
    second.run(f"docker swarm join --token {token} {first.address}:2377")
    first.run("docker run --detach --name target --network crossing tiny /busybox sleep 100000")
    address = first.run("docker inspect target --format '{{.NetworkSettings.Networks.crossing.IPAddress}}'").stdout
    ping = f"docker run --rm --network crossing tiny /busybox ping -c 1 -w 20 {address.strip()}"
    assert "1 packets received" in second.run(ping).stdout
