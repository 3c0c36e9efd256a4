"""The lab's command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from lab.hosts import SHARED, SOURCE, Lab, drop_caches
from lab.machine import CHECKOUT, LabError, ensure_docker, progress

DESCRIPTION = """A lab of docker-in-docker hosts with systemd, on a private network of this machine:
`head` and, if asked for, `compute-1` … They are what a fresh Debian 13 server is, with this
checkout in /srv/virtual-core/source. It needs Docker only."""
EPILOG = """examples:
  ./lab up                              a head, with Virtual Core on it
  ./lab up --compute 2                  beside it two machines that join by themselves, and a batch queue
  ./lab up --bare --compute 2           three bare hosts
  ./lab exec head -- salt-call vcore.status
  ./lab shell compute-1
  ./lab down
"""


def lab_name(text: str) -> str:
    """Check a lab's name: it becomes part of Docker's names."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", text):
        raise argparse.ArgumentTypeError("a lab is named with a-z, 0-9 and -, a letter first, at most 31 characters")
    return text


def count(text: str) -> int:
    """Check a number of compute nodes."""
    if not text.isdecimal() or int(text) > 200:
        raise argparse.ArgumentTypeError("between 0 and 200 compute nodes")
    return int(text)


def compute_name(text: str) -> str:
    """Check the name of a new host, whose number becomes part of its address."""
    if not re.fullmatch(r"compute-[1-9][0-9]{0,2}", text) or int(text.partition("-")[2]) > 200:
        raise argparse.ArgumentTypeError("a host is named compute-1 to compute-200")
    return text


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        "lab", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("VCORE_LAB", "lab")
    top.add_argument(
        "--name", type=lab_name, default=default, help="which of several labs (default: $VCORE_LAB or 'lab')"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    yes = argparse.ArgumentParser(add_help=False)
    yes.add_argument("--yes", action="store_true", help="answer yes to questions (install Docker, mmdebstrap)")

    up = commands.add_parser("up", parents=[yes], help="start the hosts; the head becomes a core, the others join")
    up.add_argument("--compute", type=count, default=0, metavar="N", help="how many compute nodes (default: 0)")
    up.add_argument("--fresh", action="store_true", help="remove this lab, the host image and the package caches first")
    up.add_argument(
        "--site", type=Path, metavar="FILE", help="site file (default: the example; with slurm, if --compute)"
    )
    up.add_argument("--bare", action="store_true", help="start the hosts only, without bootstrap.sh")

    status = commands.add_parser("status", help="list the hosts; exit code 1 unless all of them run")
    status.add_argument("--json", action="store_true", help="for programs")

    shell = commands.add_parser("shell", help="open a root shell on a host")
    shell.add_argument("host", metavar="HOST")

    execute = commands.add_parser("exec", help="run a command on a host; input, output and exit code pass through",
                                  usage="lab exec HOST -- COMMAND [ARGUMENT ...]")  # fmt: skip
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND")

    copy = commands.add_parser("copy", help=f"bring the checkout in {SOURCE} on the hosts up to date")
    copy.add_argument("host", nargs="*", metavar="HOST", help="these hosts only")

    clone = commands.add_parser("clone", help="make more hosts of one that is there, with all that is on it")
    clone.add_argument("source", metavar="SOURCE", help="a host; it is powered off meanwhile")
    clone.add_argument("host", nargs="+", type=compute_name, metavar="compute-N")

    down = commands.add_parser("down", help="remove the hosts, their disks and the network")
    down.add_argument("host", nargs="*", metavar="HOST", help="these hosts only")
    down.add_argument("--caches", action="store_true", help="also remove the host image and the package caches")

    commands.add_parser("docker", parents=[yes], help="only see that Docker is installed and runs")
    return top


#: Additions to the example site for labs with compute nodes. Lab hosts cannot mount the file router's exports, and
#: share a folder instead.
CLUSTER = f"""
  slurm: {{mode: managed}}
  storage: {{kind: path, path: {SHARED}}}
"""


def site(options: argparse.Namespace) -> bytes | None:
    """Return the site file for the head; None if bootstrap.sh makes it from the example."""
    if options.site:
        return options.site.read_bytes()
    if options.compute:
        return (CHECKOUT / "pillar" / "site.sls.example").read_bytes() + CLUSTER.encode()
    return None


def enter(lab: Lab, host: str, *command: str) -> None:
    """Replace this process by `docker exec` of a command on a host, with a terminal if there is one."""
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    os.execvp("docker", ["docker", "exec", "--interactive", *terminal, lab.require(host), *command])


def execute(options: argparse.Namespace) -> int:
    """Run one command and return its exit code."""
    lab = Lab(options.name)
    ensure_docker(getattr(options, "yes", False))
    if options.command == "up":
        if options.site and not options.site.is_file():
            raise LabError(f"--site {options.site}: there is no such file.")
        if options.fresh:
            drop_caches(lab)
        lab.up(options.compute, options.yes)
        if options.bare:
            progress("the hosts are up")
            return 0
        code = lab.bootstrap(site(options))
        if code == 0 and options.compute:
            code = lab.join(options.compute)
        progress("the lab is up" if code == 0 else f"bootstrap.sh failed with exit code {code}; the hosts stay up")
        return code
    if options.command == "status":
        rows = lab.status()
        if options.json:
            print(json.dumps(rows, indent=2))
        else:
            for row in rows or [{"host": f"lab {lab.name!r} is not up", "state": "", "address": ""}]:
                print(f"{row['host']:<12} {row['state']:<10} {row['address']}".rstrip())
        return 0 if rows and all(row["state"] == "running" for row in rows) else 1
    if options.command == "shell":
        enter(lab, options.host, "bash", "--login")
    if options.command == "exec":
        command = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        if not command:
            raise LabError("exec needs a command: ./lab exec HOST -- COMMAND")
        enter(lab, options.host, *command)
    if options.command == "copy":
        for host in options.host or lab.hosts():
            lab.require(host)
            lab.copy(host)
    if options.command == "clone":
        lab.clone(options.source, options.host)
    if options.command == "down":
        if options.host:
            lab.remove(options.host)
        else:
            drop_caches(lab) if options.caches else lab.down()
    return 0


def main() -> int:
    """Run the command line and return its exit code; LabError is one sentence on standard error and exit code 1."""
    try:
        return execute(parser().parse_args())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
