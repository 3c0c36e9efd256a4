"""The parts of bootstrap.sh that need Python: ``python -m vcore.bootstrap COMMAND``.

bootstrap.sh can only use them once Salt's environment is installed; everything before that it does in the shell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .base.errors import VcoreError
from .base.files import write_atomic
from .base.messages import tr
from .base.paths import Paths
from .kernel import site
from .kernel.documents import SiteError
from .services import catalogue

PKI = Path("/etc/salt/pki")


def read(paths: Paths, site_file: Path) -> site.Configuration:
    """Validate a site file and return its configuration.

    Raises:
        VcoreError: the file has problems; the message has one line for each.
    """
    return site.load(paths, site_file=site_file)


def data(configuration: site.Configuration) -> list[Path]:
    """Return the folders below the base directory of all services in the catalogue, whether they are on or off."""
    return [Path(configuration.site.base_directory) / name for name in sorted(catalogue.of(configuration))]


def keys(minion: str, pki: Path = PKI) -> str:
    """Create the master's and the minion's keys, accept exactly this minion key, and return the master's fingerprint.

    This happens before either daemon starts, so that no key is ever accepted over the network and the minion never
    talks to another master.

    Raises:
        VcoreError: the master has accepted another key for this minion.
    """
    from salt.crypt import write_keys
    from salt.utils.crypt import pem_finger

    for role in ("master", "minion"):
        folder = pki / role
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, public = folder / f"{role}.pem", folder / f"{role}.pub"
        if not (private.is_file() and public.is_file()):
            # An interrupted run leaves half a pair; nobody has seen its public key yet.
            private.unlink(missing_ok=True)
            public.unlink(missing_ok=True)
            write_keys(str(folder), role, 4096)
    own, accepted = pki / "minion" / "minion.pub", pki / "master" / "minions" / minion
    accepted.parent.mkdir(mode=0o700, exist_ok=True)
    if accepted.exists():
        if pem_finger(str(accepted)) != pem_finger(str(own)):
            raise VcoreError(
                tr(
                    "the master knows the minion {minion} by another key than {own}; if that is expected, "
                    "delete the old key with: salt-key -d {minion}",
                    minion=minion,
                    own=own,
                )
            )
    else:
        write_atomic(accepted, own.read_bytes(), mode=0o644)
    return str(pem_finger(str(pki / "master" / "master.pub")))


class Follower:
    """Reads the progress messages that are written from now on."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.progress
        self.position = self.path.stat().st_size if self.path.exists() else 0

    def lines(self) -> Iterator[str]:
        """Yield the progress messages that were written since the last call."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self.position:
            self.position = 0  # the file was replaced
        with self.path.open() as stream:
            stream.seek(self.position)
            for line in stream:
                if not line.endswith("\n"):
                    return
                self.position += len(line.encode())
                entry = json.loads(line)
                yield f"{entry['step']}: {entry['message']}"


def failures(states: Any) -> list[str]:
    """Return the failures of a convergence, one or more lines each, without those that only follow from others."""
    if not isinstance(states, dict):
        return [str(line) for line in states] if isinstance(states, list) else [str(states)]
    failed = [state for state in states.values() if state["result"] is False]
    return [
        f"{state['__id__']}: {state['comment']}"
        for state in sorted(failed, key=lambda state: int(state.get("__run_num__", 0)))
        if not str(state["comment"]).startswith("One or more requisite failed")
    ]


def converge(paths: Paths, *, indent: str = "      ") -> int:
    """Apply all states of this node, print progress, changes and failures, and return salt-call's exit code."""
    command = [str(Path(sys.executable).with_name("salt-call")), "--retcode-passthrough", "--out=json"]
    follower, start = Follower(paths), time.monotonic()
    with (
        subprocess.Popen(
            [*command, "state.apply", "queue=True"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process,
        # Read while waiting: a long return would fill the pipe and block Salt.
        ThreadPoolExecutor(1) as reader,
    ):
        output = reader.submit(process.stdout.read)  # type: ignore[union-attr]
        while process.poll() is None:
            time.sleep(0.3)
            for line in follower.lines():
                print(f"{indent}{time.monotonic() - start:5.0f} s  {line[:110]}", flush=True)
    try:
        states = json.loads(output.result())["local"]
    except (ValueError, KeyError):
        states = [output.result().strip() or "salt-call ended without output; see /var/log/salt/minion"]
    for failure in failures(states) if process.returncode else []:
        print(textwrap.indent(failure, indent + "! "), file=sys.stderr, flush=True)
    if isinstance(states, dict):
        changed = [state for state in states.values() if state.get("changes")]
        print(f"{indent}{len(changed)} of {len(states)} states changed something", flush=True)
    return process.returncode


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 1 for a problem, which is printed on standard error."""
    parser = argparse.ArgumentParser(prog="python -m vcore.bootstrap")
    parser.add_argument("--checkout", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("validate", help="check a site file, print its head").add_argument("site", type=Path)
    commands.add_parser("data", help="print the folders that services keep data in").add_argument("site", type=Path)
    commands.add_parser("keys").add_argument("minion")
    commands.add_parser("converge", help="apply all states of this node, with progress")
    chosen = parser.parse_args(arguments)
    paths = Paths(checkout=chosen.checkout)
    try:
        if chosen.command == "validate":
            print(read(paths, chosen.site).head)
        elif chosen.command == "data":
            print("\n".join(map(str, data(read(paths, chosen.site)))))
        elif chosen.command == "keys":
            print(keys(chosen.minion))
        else:
            return converge(paths)
    except SiteError as error:
        print("\n".join(str(problem) for problem in error.problems), file=sys.stderr)
        return 1
    except VcoreError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
