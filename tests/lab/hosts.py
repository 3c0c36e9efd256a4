"""Create, fill, watch and remove the hosts of a lab. Docker's labels are the only record of them."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab import guest, machine
from lab.image import archive, ensure_image, remove_images
from lab.machine import CHECKOUT, LabError, docker, inspect, progress

SOURCE = "/srv/virtual-core/source"
CACHE = "vcore-lab-cache"
# A folder that all hosts of a lab have in common, as machines with a parallel file system do.
SHARED = "/shared"
LABEL = "vcore.lab"
# The parts of a host that are on the machine's own file system, as on a real disk.
VOLUMES = {"docker": "/var/lib/docker", "srv": "/srv"}
# The capabilities that systemd and dockerd need in a container; --privileged asks for more than some machines can give.
# fmt: off
CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "LEASE", "MKNOD",
    "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT",
    "SYS_CHROOT", "SYS_NICE", "SYS_PTRACE", "SYSLOG",
)
# fmt: on
# Virtual Core's own default networks, and Docker's, which the hosts use inside.
TAKEN_INSIDE = ("172.17.0.0/16", "172.18.0.0/16")


class Lab:
    """One lab, by name: hosts `head` and `compute-1` … on a network of their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.network = f"vcore-{name}"

    def container(self, host: str) -> str:
        """Return the name of a host's container."""
        return f"vcore-{self.name}-{host}"

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Return the hosts that exist, head first: host → Docker's description of its container."""
        names = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self.name}").stdout.split()
        found = {entry["Config"]["Hostname"]: entry for entry in inspect("container", *names)}
        return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition("-")[2]) if "-" in item[0] else 0))

    def address(self, host: str) -> str:
        """Return a host's address, which stays the same for the lab's life: the head has .10, compute-1 has .11."""
        number = int(host.rpartition("-")[2]) if "-" in host else 0
        return str(self.subnet()[10 + number])

    def subnet(self) -> ipaddress.IPv4Network:
        """Return the lab network's addresses."""
        found = inspect("network", self.network)
        if not found:
            raise LabError(f"there is no lab {self.name!r}: `./lab up` starts one.")
        return ipaddress.IPv4Network(found[0]["IPAM"]["Config"][0]["Subnet"])

    def bridge(self) -> str:
        """Return the bridge of the lab's network on this machine, to which a guest can be connected."""
        self.subnet()
        return f"br-{inspect('network', self.network)[0]['Id'][:12]}"

    def disks(self, host: str, folder: Path) -> dict[str, Path]:
        """Write disks with a host's Docker images and Salt environment, so that a guest need not make them.

        Returns the disk files by the folders to which they belong. Docker on the host must not run meanwhile.
        """
        machine.require_root("reading a host's disks")
        container, disks = self.container(host), {}
        docker("cp", f"{container}:/opt/virtual-core", str(folder / "opt"))
        data = inspect("volume", f"{container}-docker")[0]["Mountpoint"]
        for place, source in {"/opt/virtual-core": folder / "opt", "/var/lib/docker": Path(data)}.items():
            disks[place] = folder / f"{source.name}.raw"
            guest.write_disk(source, disks[place])
        return disks

    def require(self, host: str) -> str:
        """Return the container of a running host; raise LabError, with the hosts that exist, if it does not run."""
        hosts = self.hosts()
        if host not in hosts:
            there = f"it has {', '.join(hosts)}" if hosts else "it is not up: `./lab up` starts it"
            raise LabError(f"lab {self.name!r} has no host {host!r}; {there}.")
        if not hosts[host]["State"]["Running"]:
            raise LabError(f"host {host} is powered off: `docker start {self.container(host)}` starts it.")
        return self.container(host)

    def create_network(self) -> None:
        """Create the lab's network on a subnet that no route of this machine and no network inside the hosts uses."""
        if inspect("network", self.network):
            return
        for subnet in self.free_subnets():
            progress(f"creating network {self.network} ({subnet})")
            command = ["network", "create", "--subnet", str(subnet), "--label", f"{LABEL}={self.name}", self.network]
            done = docker(*command, check=False)
            if done.returncode == 0:
                return
            if "overlaps" not in done.stderr:  # an overlap means that somebody took the subnet meanwhile
                raise LabError(f"the network {self.network} cannot be created: {done.stderr.strip()}")
        raise LabError("no subnet in 10.213.0.0/16 is free of this machine's routes: the lab needs one /24.")

    def free_subnets(self) -> list[ipaddress.IPv4Network]:
        """Return the subnets that a lab's network can have."""
        networks = docker("network", "ls", "--quiet").stdout.split()
        taken = [pool["Subnet"] for entry in inspect("network", *networks) for pool in entry["IPAM"]["Config"] or ()]
        used = [ipaddress.ip_network(name, strict=False) for name in (*taken, *machine.routes(), *TAKEN_INSIDE)]
        candidates = ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=24)
        return [one for one in candidates if not any(other.version == 4 and one.overlaps(other) for other in used)]

    def create_host(self, host: str, image: str, names: dict[str, str]) -> None:
        """Create one host's container, not yet started, with its own files on its disk; `names` is host → address."""
        environment = machine.environment(",".join([str(self.subnet()), *names]))
        command = ["create", "--name", self.container(host), "--hostname", host, "--label", f"{LABEL}={self.name}"]
        command += ["--network", self.network, "--ip", names[host], "--cgroupns", "private"]
        command += [
            "--restart",
            "unless-stopped",
            "--stop-timeout",
            "120",
        ]  # a reboot comes back; shutting down takes time
        command += ["--tmpfs", "/run:exec,mode=755", "--tmpfs", "/run/lock", "--volume", f"{CACHE}:/var/cache/lab"]
        command += [f"--cap-add={name}" for name in CAPABILITIES]
        command += [f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]
        command += ["--device", "/dev/fuse"] if Path("/dev/fuse").exists() else []
        command += [f"--env={name}" for name in environment]
        mounted = {f"{self.container(host)}-{name}": folder for name, folder in VOLUMES.items()}
        mounted[f"{self.network}-shared"] = SHARED
        for volume, folder in mounted.items():
            docker("volume", "create", "--label", f"{LABEL}={self.name}", volume)
            command += ["--volume", f"{volume}:{folder}"]
        docker(*command, image, variables=environment)  # by name: a proxy's password is none of `ps`'s business
        resolvers = machine.resolvers() or ["127.0.0.11"]  # Docker's own, which containers inside the host cannot use
        hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        pairs = sorted(environment.items())
        defaults = "".join(f'DefaultEnvironment="{name}={value}"\n' for name, value in pairs).replace("%", "%%")
        files = {
            "var/lib/lab/hostname": f"{host}\n",
            "var/lib/lab/hosts": hosts + "".join(f"{address} {name}\n" for name, address in names.items()),
            "var/lib/lab/resolv.conf": "".join(f"nameserver {server}\n" for server in resolvers),
            "etc/environment": "".join(f'{name}="{value}"\n' for name, value in pairs),
            "etc/systemd/system.conf.d/lab.conf": f"[Manager]\n{defaults}",
        }
        data = archive({name: (text.encode(), 0o644) for name, text in files.items()})
        docker("cp", "-", f"{self.container(host)}:/", data=data)

    def wait(self, host: str) -> None:
        """Wait until systemd has started everything on a host, and name the units that failed."""
        container = self.container(host)
        restarts = inspect("container", container)[0]["RestartCount"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            state = docker("exec", container, "systemctl", "is-system-running", "--wait", check=False).stdout.strip()
            if state == "running":
                return
            if state == "degraded":
                failed = docker("exec", container, "systemctl", "--failed", "--plain", "--no-legend").stdout
                units = " ".join(line.split()[0] for line in failed.splitlines())
                progress(f"{host}: systemd runs, but these units failed: {units}")
                return
            # One restart may be a reboot that is under way.
            if inspect("container", container)[0]["RestartCount"] > restarts + 2:
                log = docker("logs", "--tail", "10", container, check=False)
                raise LabError(f"host {host} does not start:\n{log.stdout}{log.stderr}")
            time.sleep(0.2)
        raise LabError(f"systemd on {host} has not started after 120 s: see `docker logs {container}`.")

    def copy(self, host: str) -> None:
        """Bring the checkout in SOURCE on a host up to date; files that only the host has (its site file) stay."""
        container = self.container(host)
        stream = io.BytesIO()
        names = machine.checkout_files()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name in names:
                entry = tar.gettarinfo(CHECKOUT / name, str(Path(SOURCE, name).relative_to("/")))
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = "root"
                entry.mode &= 0o755
                if entry.isfile():
                    with (CHECKOUT / name).open("rb") as content:
                        tar.addfile(entry, content)
                else:
                    tar.addfile(entry)
        listing = "".join(f"{name}\n" for name in names).encode()
        docker("cp", "-", f"{container}:/", data=stream.getvalue())
        script = f"cd {SOURCE} && sort > /var/lib/lab/copied.new && touch /var/lib/lab/copied && cd /var/lib/lab"
        script += f" && comm -23 copied copied.new | (cd {SOURCE} && xargs --no-run-if-empty -d '\\n' rm -f --)"
        script += " && mv copied.new copied"
        docker("exec", "--interactive", "--env", "LC_ALL=C", container, "sh", "-c", script, data=listing)

    def up(self, compute: int, yes: bool) -> None:
        """Create and start the head and ``compute`` compute nodes; existing hosts are kept and started."""
        image = ensure_image(yes)
        self.create_network()
        docker("volume", "create", CACHE)
        present = self.hosts()
        wanted = ["head", *(f"compute-{number}" for number in range(1, compute + 1))]
        names = {host: self.address(host) for host in dict.fromkeys([*present, *wanted])}
        new = [host for host in wanted if host not in present]

        def start(host: str) -> None:
            if host in new:
                self.create_host(host, image, names)
            docker("start", self.container(host))
            self.wait(host)
            self.copy(host)
            if host in present:
                self.introduce(host, {other: names[other] for other in new})
            progress(f"{host} runs at {names[host]}")

        progress("starting " + " ".join(names))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(start, names))

    def clone(self, source: str, hosts: list[str]) -> None:
        """Copy an existing host to new ones, with its packages, images and files, without its identity.

        The source is powered off while it is copied. Copies also inherit a place in a core, so the source should be a
        host that never joined one, or has left it.
        """
        container, present = self.container(source), self.hosts()
        if source not in present:
            raise LabError(f"lab {self.name!r} has no host {source!r}; it has {', '.join(present)}.")
        if taken := [host for host in hosts if host in present]:
            raise LabError(f"lab {self.name!r} has {', '.join(taken)} already.")
        names = {host: self.address(host) for host in (*present, *hosts)}
        progress(f"copying {source} to {' '.join(hosts)}")
        docker("stop", container)
        image = docker("commit", "--change", f"LABEL {LABEL}={self.name}", container).stdout.strip()
        try:
            for host in hosts:
                self.create_host(host, image, names)
                for name in VOLUMES:
                    mounts = [f"--volume={container}-{name}:/from:ro", f"--volume={self.container(host)}-{name}:/to"]
                    script = "cp -a /from/. /to && rm -f /to/engine-id"
                    docker("run", "--rm", "--network=none", "--entrypoint=sh", *mounts, image, "-c", script)
                docker("cp", "-", f"{self.container(host)}:/", data=archive({"etc/machine-id": (b"", 0o444)}))
        finally:
            docker("start", container)
        self.wait(source)
        for other in present:
            if other != source and present[other]["State"]["Running"]:
                self.introduce(other, {host: names[host] for host in hosts})

        def start(host: str) -> None:
            docker("start", self.container(host))
            self.wait(host)
            progress(f"{host} runs at {names[host]}")

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(start, hosts))

    def introduce(self, host: str, names: dict[str, str]) -> None:
        """Add other hosts (name → address) to a host's /etc/hosts."""
        for name, address in names.items():
            script = f"grep -qx '{address} {name}' /etc/hosts || echo '{address} {name}' >> /etc/hosts"
            docker("exec", self.container(host), "sh", "-c", script)

    def bootstrap(self, site: bytes | None) -> int:
        """Run bootstrap.sh in the head, with live output and this site file if any, and return its exit code."""
        if not (CHECKOUT / "bootstrap.sh").is_file():
            raise LabError(f"{CHECKOUT}/bootstrap.sh is missing; `./lab up --bare` starts the hosts only.")
        terminal = ["--tty"] if sys.stdout.isatty() else []
        command = ["docker", "exec", *terminal, self.container("head"), f"{SOURCE}/bootstrap.sh"]
        if site is not None:
            docker("cp", "-", f"{self.container('head')}:/root", data=archive({"site.sls": (site, 0o600)}))
            command += ["--site", "/root/site.sls"]
        progress("running bootstrap.sh on head")
        sys.stdout.flush()
        return os.spawnvp(os.P_WAIT, "docker", command)

    def join(self, compute: int) -> int:
        """Make `compute-1` … join the head's core, all at once, by the line that it prints; return 1 if any failed."""
        command = ("exec", self.container("head"), "salt-run", "--out=json", "vcore.enrol_token")
        line = json.loads(docker(*command).stdout).splitlines()[-1]

        def one(host: str) -> bool:
            # The line contains a token, so it goes through standard input, which no list of processes shows.
            done = docker("exec", "-i", self.container(host), "bash", data=line.encode(), check=False)
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            progress(f"{host} {'has joined' if done.returncode == 0 else 'has not joined'}: {' '.join(last)}")
            return done.returncode == 0

        hosts = [f"compute-{number}" for number in range(1, compute + 1)]
        progress(f"joining {' '.join(hosts)}")
        with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
            return 0 if all(list(pool.map(one, hosts))) else 1

    def status(self) -> list[dict[str, Any]]:
        """Return the hosts: name, address, container, state (the container's, or systemd's if it runs), start time."""
        rows = []
        for host, entry in self.hosts().items():
            state = entry["State"]["Status"]
            if entry["State"]["Running"]:
                answer = docker("exec", entry["Name"].lstrip("/"), "systemctl", "is-system-running", check=False)
                state = answer.stdout.strip() or "starting"
            address = next(iter(entry["NetworkSettings"]["Networks"].values()))["IPAddress"]
            row = {"host": host, "address": address, "container": entry["Name"].lstrip("/")}
            rows.append(row | {"state": state, "since": entry["State"]["StartedAt"]})
        return rows

    def remove(self, hosts: list[str]) -> None:
        """Remove these hosts with their disks; the others stay."""
        present = self.hosts()
        if missing := [host for host in hosts if host not in present]:
            raise LabError(f"lab {self.name!r} has no {', '.join(missing)}; it has {', '.join(present)}.")
        docker("rm", "--force", "--volumes", *map(self.container, hosts))
        docker("volume", "rm", *(f"{self.container(host)}-{name}" for host in hosts for name in VOLUMES))

    def down(self) -> None:
        """Remove the lab wholly: hosts, their volumes, the network. Image and caches stay for the next lab."""
        if containers := docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self.name}").stdout.split():
            progress(f"removing {len(containers)} hosts")
            docker("rm", "--force", "--volumes", *containers)
        if volumes := docker("volume", "ls", "--quiet", "--filter", f"label={LABEL}={self.name}").stdout.split():
            docker("volume", "rm", *volumes)
        if images := docker("image", "ls", "--quiet", "--filter", f"label={LABEL}={self.name}").stdout.split():
            docker("image", "rm", "--force", *sorted(set(images)))
        if inspect("network", self.network):
            docker("network", "rm", self.network)


def drop_caches(lab: Lab) -> None:
    """Remove a lab wholly, and with it the images and the package caches, which all labs of this machine share."""
    names = docker("ps", "--all", "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}').stdout.split()
    if others := {*names} - {lab.name}:
        other = min(others)
        raise LabError(f"lab {other!r} still uses the caches: `./lab --name {other} down` first.")
    lab.down()
    progress("dropping the host image, the disk of guests and the package caches")
    if inspect("volume", CACHE):
        docker("volume", "rm", CACHE)
    remove_images()
    guest.drop_cache()
