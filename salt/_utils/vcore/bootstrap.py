"""The parts of bootstrap.sh that need Python: ``python -m vcore.bootstrap COMMAND``.

bootstrap.sh can only use them once Salt's environment is there; what comes before it does in the shell.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import site
from .documents import SiteError
from .errors import VcoreError
from .files import write_atomic
from .paths import Paths

PKI = Path("/etc/salt/pki")


def read(paths: Paths, site_file: Path) -> site.Configuration:
    """Check a site file and return what it says.

    Raises:
        VcoreError: with one line for each problem.
    """
    return site.load(site_file, services=paths.services, flavors=paths.flavors)[0]


def keys(minion: str, pki: Path = PKI) -> str:
    """Make the master's and the minion's keys, accept exactly that minion key, return the master's fingerprint.

    Done before either daemon starts, so that no key is ever accepted over the network and the minion
    never speaks to another master.

    Raises:
        VcoreError: the master knows the minion by another key.
    """
    from salt.crypt import write_keys
    from salt.utils.crypt import pem_finger

    for role in ("master", "minion"):
        folder = pki / role
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, public = folder / f"{role}.pem", folder / f"{role}.pub"
        if not (private.is_file() and public.is_file()):
            # Half a pair is what an interrupted run leaves; nobody has seen its public part.
            private.unlink(missing_ok=True)
            public.unlink(missing_ok=True)
            write_keys(str(folder), role, 4096)
    own, accepted = pki / "minion" / "minion.pub", pki / "master" / "minions" / minion
    accepted.parent.mkdir(mode=0o700, exist_ok=True)
    if accepted.exists():
        if pem_finger(str(accepted)) != pem_finger(str(own)):
            raise VcoreError(
                f"the master knows the minion {minion} by another key than {own}; "
                f"if that is right, take the old one away with: salt-key -d {minion}"
            )
    else:
        write_atomic(accepted, own.read_bytes(), mode=0o644)
    return str(pem_finger(str(pki / "master" / "master.pub")))


def follow(paths: Paths) -> None:
    """Print the lines of progress that appear from now on, until this process is ended."""
    start = time.time()
    position = paths.progress.stat().st_size if paths.progress.exists() else 0
    shown = None
    while True:
        time.sleep(0.3)
        if not paths.progress.exists():
            continue
        if paths.progress.stat().st_size < position:
            position = 0
        with paths.progress.open() as stream:
            stream.seek(position)
            for line in stream:
                if not line.endswith("\n"):
                    break
                position += len(line.encode())
                entry = json.loads(line)
                text = f"{entry['step']}: {entry['message']}"
                if text != shown:
                    print(f"      {time.time() - start:5.0f} s  {text[:110]}", flush=True)
                    shown = text


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a problem is printed on standard error and gives exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m vcore.bootstrap")
    parser.add_argument("--checkout", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("validate", help="check a site file, print its head").add_argument("site", type=Path)
    commands.add_parser("data", help="print the site's base directory").add_argument("site", type=Path)
    commands.add_parser("keys").add_argument("minion")
    commands.add_parser("follow")
    chosen = parser.parse_args(arguments)
    paths = Paths(checkout=chosen.checkout)
    try:
        if chosen.command == "validate":
            print(read(paths, chosen.site).head)
        elif chosen.command == "data":
            print(read(paths, chosen.site).site.base_directory)
        elif chosen.command == "keys":
            print(keys(chosen.minion))
        else:
            follow(paths)
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
