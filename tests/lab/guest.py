"""A guest with a kernel of its own, emulated by qemu, for features that the kernel of this machine lacks.

It is a minimal Debian with that release's kernel, systemd and sshd; KVM is not needed. It sees this machine as 10.0.2.2
and reaches everything that this machine reaches, Docker's networks included; servers see this machine's address. With a
bridge of this machine, such as a lab's, it is also on that network, with an address of its own.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from lab import machine
from lab.image import SUITE
from lab.machine import LabError, progress

SOURCES = Path(__file__).parent / "guest"
CACHE = Path("/var/cache/vcore-lab/guest")
#: Programs that are needed on this machine, and the Debian packages that contain them.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ip": "iproute2",
}
FILES = {
    "init": "usr/local/sbin/guest-init",
    "sshd_config": "etc/ssh/sshd_config",
    "ssh.conf": "etc/systemd/system/ssh.service.d/guest.conf",
}
# Nobody reads documentation in the guest, and most of the build's time is unpacking.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*")
DISK_SIZE = "6G"
BOOT_TIMEOUT = 180
READY = "guest: ready "


class CommandFailed(LabError):
    """A command in the guest failed; the message has the command, its exit code, and the end of its output."""


def require_programs() -> None:
    """Raise LabError if a program is missing, with the command that installs it."""
    if missing := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        command = "apt-get install --no-install-recommends " + " ".join(missing)
        raise LabError(f"the guest needs programs that are missing: `{command}`")


def listed(name: str) -> list[str]:
    """Return the lines of one of the guest's lists."""
    lines = (SOURCES / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def recipe() -> list[str]:
    """Return the mmdebstrap command, without its target and its mirrors."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"]
    command.append(f"--include={','.join(listed('packages'))}")
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    return [*command, "--dpkgopt=force-unsafe-io", SUITE]


def disk() -> tuple[Path, Path]:
    """Return the guest's disk and kernel, which are built unless those of the same recipe exist."""
    content = b"".join((SOURCES / name).read_bytes() for name in sorted(FILES))
    digest = hashlib.sha256(
        repr((recipe(), listed("masked"), listed("disabled"), DISK_SIZE, FILES)).encode() + content
    ).hexdigest()[:12]
    folder = CACHE / digest
    paths = folder / "disk.raw", folder / "vmlinuz"
    if folder.is_dir():
        return paths
    machine.require_root("building the guest's disk")
    CACHE.mkdir(parents=True, exist_ok=True)
    with machine.one_at_a_time("guest-disk"):
        if not folder.is_dir():
            build(folder)
    return paths


def build(folder: Path) -> None:
    """Make disk and kernel in a new folder, which replaces those of former recipes."""
    for former in CACHE.iterdir():
        if former.is_dir():  # a guest that runs from it keeps its disk open
            shutil.rmtree(former)
    with tempfile.TemporaryDirectory(prefix="building-", dir=CACHE) as temporary:
        root, made = Path(temporary, "root"), Path(temporary, "made")
        made.mkdir()
        progress(f"making the guest's disk: Debian {SUITE} with a kernel, by mmdebstrap (about 40 s, once)")
        settings = Path(temporary, "apt.conf")
        settings.write_text(machine.apt_settings())
        mirror, _ = machine.mirrors()
        # The disk is mounted by the kernel itself: no initial RAM disk.
        machine.run(*recipe(), f"--aptopt={settings}", str(root), mirror, variables={"INITRD": "No"})
        for name, target in FILES.items():
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCES / name, root / target)
        for name in listed("masked"):
            mask = root / "etc/systemd" / ("system-generators" if name.endswith("-generator") else "system") / name
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.unlink(missing_ok=True)
            mask.symlink_to("/dev/null")
        for name in listed("disabled"):
            for link in (root / "etc/systemd/system").glob(f"*.wants/{name}"):
                link.unlink()
        for path in (root / "etc/ssh").glob("ssh_host_*"):
            path.unlink()  # each guest makes its own
        # The guest contacts no public servers, and linking their authorities again would take it two minutes.
        (root / "etc/ca-certificates.conf").write_text("")
        for path in (root / "etc/ssl/certs").iterdir():
            path.unlink()
        (root / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n10.0.2.2 machine\n")
        shutil.copy(next((root / "boot").glob("vmlinuz-*")), made / "vmlinuz")
        progress("writing the guest's disk")
        write_disk(root, made / "disk.raw")
        made.rename(folder)
    progress("the guest's disk is made")


def write_disk(folder: Path, disk: Path) -> None:
    """Make a disk with a folder's content, of the same size as a guest's own."""
    # Without a journal and with tables filled in later: it lives as long as the guest runs.
    options = ("-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-m", "0", "-L", "guest")
    machine.run("mke2fs", *options, "-d", str(folder), str(disk), DISK_SIZE)


def drop_cache() -> None:
    """Remove the disks from which guests start."""
    shutil.rmtree(CACHE, ignore_errors=True)


def free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guest:
    """One guest: ``with Guest() as guest: guest.run("uname -r")``. Changes to its disks are lost when it ends."""

    def __init__(
        self,
        *,
        name: str = "guest",
        memory: int = 1024,
        processors: int = 1,
        bridge: str | None = None,
        address: str | None = None,
        disks: Mapping[str, Path] | None = None,
        kernel: str = "",
    ) -> None:
        """Describe a guest with `memory` MiB and `processors` processors; `start` starts it.

        With `bridge`, a bridge of this machine, it has a second interface there, with `address` such as 10.213.0.9/24.
        `disks`, made by `write_disk`, are mounted at these folders; like its own disk, they are not changed. `kernel`
        is added to the kernel's command line.
        """
        self.kernel = kernel
        self.disks = dict(disks or {})
        self.name, self.memory, self.processors = name, memory, processors
        self.bridge, self.address = bridge, address
        self.tap = f"vcg{secrets.token_hex(4)}" if bridge else ""
        self.folder = Path()
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the guest on a fresh disk, and wait until it can be used."""
        require_programs()
        image, kernel = disk()
        self.folder = Path(tempfile.mkdtemp(prefix="vcore-guest-"))
        try:
            self._boot(image, kernel)
            self._connect(self._wait_ready())
        except BaseException:
            self.close()
            raise

    def _boot(self, image: Path, kernel: Path) -> None:
        """Start qemu with a key pair made for this start."""
        machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(self.folder / "key"))
        key = (self.folder / "key.pub").read_text().split()[1]
        self.port = free_port()
        network: list[str] = []
        named = f"guest.name={self.name}"
        if self.bridge:
            machine.run("ip", "tuntap", "add", "dev", self.tap, "mode", "tap")
            machine.run("ip", "link", "set", "dev", self.tap, "master", self.bridge, "up")
            mac = f"52:54:00:{':'.join(f'{octet:02x}' for octet in secrets.token_bytes(3))}"
            network = ["-netdev", f"tap,id=lan,ifname={self.tap},script=no,downscript=no"]
            network += ["-device", f"virtio-net-pci,netdev=lan,mac={mac}"]
            named += f" guest.address={self.address}"
        drives: list[str] = []
        for number, path in enumerate(self.disks.values()):
            drives += ["-drive", f"if=none,id=disk{number},file={path},format=raw,snapshot=on,cache=unsafe"]
            drives += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        if self.disks:
            named += f" guest.disks={','.join(self.disks)}"
        progress("starting the guest")
        # fmt: off
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35",
            # Without cmpxchg16b: qemu 7.2 garbles the flags after it. When an interrupt comes right then, the guest's
            # kernel ends with a double fault in __kmalloc.
            "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-cx16",
            "-smp", str(self.processors), "-m", str(self.memory), "-pidfile", str(self.folder / "pid"),
            "-serial", f"file:{self.folder / 'console.log'}",
            # Both are built into Debian's kernel, and so is the file system. Writes go to an unlinked temporary file.
            "-drive", f"if=none,id=disk,file={image},format=raw,snapshot=on,cache=unsafe",
            "-device", "nvme,drive=disk,serial=guest",
            *drives,
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22", "-device", "virtio-net-pci,netdev=net",
            *network,
            "-device", "virtio-rng-pci",
            "-kernel", str(kernel),
            "-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off cryptomgr.notests "
                       "root=/dev/nvme0n1 rw "
                       f"init=/{FILES['init']} guest.authorized={key} {named} {self.kernel}",
        ]
        # fmt: on
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_ready(self) -> str:
        """Wait until the console says that sshd listens, and return the host key that it names."""
        began = reported = time.monotonic()
        while time.monotonic() - began < BOOT_TIMEOUT:
            for line in self.console().splitlines():
                if READY in line:  # systemd may have sent a terminal's control codes before
                    return line.partition(READY)[2].strip()
            if not self.running:
                raise LabError(f"the guest ended while it started; its console ends with:\n{self._end()}")
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                progress(f"the guest is starting: {reported - began:.0f} s")
            time.sleep(0.1)
        raise LabError(f"the guest is not ready after {BOOT_TIMEOUT} s; its console ends with:\n{self._end()}")

    def _connect(self, host_key: str) -> None:
        """Open the one connection that all commands share."""
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} ssh-ed25519 {host_key}\n")
        with (self.folder / "ssh.log").open("wb") as log:
            self.connection = subprocess.Popen(
                [*self._ssh(), "-o", "ControlMaster=yes", "-N", "root@127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (self.folder / "control").is_socket():
            if self.connection.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"no ssh connection to the guest: {(self.folder / 'ssh.log').read_text().strip()}")
            time.sleep(0.05)
        progress("the guest is up")

    def _ssh(self) -> list[str]:
        """Return the ssh command with its options, without a host."""
        options = {
            "ControlPath": self.folder / "control",
            "IdentityFile": self.folder / "key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 60,
            "LogLevel": "ERROR",
        }
        pairs = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", "-p", str(self.port), *pairs]

    @property
    def running(self) -> bool:
        """Whether qemu runs."""
        return self.process is not None and self.process.poll() is None

    def console(self) -> str:
        """Return the output on the guest's console."""
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def _end(self) -> str:
        """Return the last lines of the console, and of qemu's own messages."""
        messages = (self.folder / "qemu.log").read_text(errors="replace")
        return "\n".join((self.console() + messages).splitlines()[-25:])

    def run(
        self, command: str | list[str], *, check: bool = True, timeout: float = 60, input: str | bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root: a string in bash, a list as it is.

        After `timeout` seconds it is ended (exit code 124). With `check`, an exit code other than 0 raises.
        """
        arguments = ["bash", "--norc", "-c", command] if isinstance(command, str) else command
        limited = ["timeout", "--kill-after=5", f"{timeout:g}", *arguments]
        data = input.encode() if isinstance(input, str) else input or b""
        remote = [*self._ssh(), "-o", "ControlMaster=no", "root@127.0.0.1", "--", shlex.join(limited)]
        try:
            # A process that hangs in the kernel, because a file server is gone for instance, outlives even SIGKILL.
            done = subprocess.run(remote, input=data, capture_output=True, check=False, timeout=timeout + 15)
            code, output, errors = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            code, output, errors = 124, error.stdout or b"", error.stderr or b""
        text = [part.decode(errors="replace") for part in (output, errors)]
        if code == 255 and not (self.running and self.connection and self.connection.poll() is None):
            raise LabError(f"the connection to the guest is gone; its console ends with:\n{self._end()}")
        if check and code:
            lines = "\n".join("".join(text).splitlines()[-40:])
            raise CommandFailed(f"guest: `{shlex.join(arguments)}` exits with {code}:\n{lines}")
        return subprocess.CompletedProcess(arguments, code, *text)

    @contextmanager
    def background(self, command: str | list[str]) -> Iterator[subprocess.Popen[str]]:
        """Run a command in parallel, with pipes. The end of the block closes its input, and it has to end then."""
        arguments = ["bash", "--norc", "-c", command] if isinstance(command, str) else command
        remote = [*self._ssh(), "-o", "ControlMaster=no", "root@127.0.0.1", "--", shlex.join(arguments)]
        pipe = subprocess.PIPE
        with subprocess.Popen(remote, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                assert process.stdin
                with suppress(OSError):
                    process.stdin.close()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()

    def copy(self, source: Path, target: str) -> None:
        """Copy a file or a folder of this machine into a folder of the guest, which is created."""
        archive = subprocess.run(["tar", "-C", source.parent, "-c", source.name], capture_output=True, check=True)
        self.run(["mkdir", "-p", target])
        self.run(["tar", "--no-same-owner", "-C", target, "-x"], input=archive.stdout, timeout=300)

    def keep_log(self, path: Path) -> str:
        """Write console and kernel messages to a file, and return the last 25 lines."""
        kernel = self.run(["dmesg"], check=False, timeout=20).stdout if self.running and self.connection else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.console()}\n=== dmesg\n{kernel}")
        return "\n".join(path.read_text().splitlines()[-25:])

    def power_off(self) -> None:
        """Shut the guest down properly."""
        self.run(["systemctl", "--no-block", "poweroff"])
        assert self.process
        try:
            self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            raise LabError(f"the guest does not switch off; its console ends with:\n{self._end()}") from None

    def kill(self) -> None:
        """End the guest as a power cut does."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the guest, and remove everything of it from this machine."""
        self.kill()
        if self.connection:
            self.connection.kill()
            self.connection.wait()
            self.connection = None
        if self.tap:
            subprocess.run(["ip", "link", "delete", "dev", self.tap], capture_output=True, check=False)
        if self.folder.name:
            shutil.rmtree(self.folder, ignore_errors=True)
