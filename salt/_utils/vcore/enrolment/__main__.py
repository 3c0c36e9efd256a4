"""The program that bootstrap.sh runs on a joining machine: proofs, fingerprints, and the version of its modules."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..base.errors import VcoreError
from ..nodes.code import code
from .tokens import fingerprint, prove


def main(arguments: list[str] | None = None) -> int:
    """Run one command (``python -m vcore.enrolment``) and return its exit code; problems go to standard error."""
    parser = argparse.ArgumentParser(prog="python -m vcore.enrolment")
    commands = parser.add_subparsers(dest="command", required=True)
    proving = commands.add_parser("prove", help="turn the token on standard input into the proof of this machine")
    proving.add_argument("minion")
    proving.add_argument("key", type=Path)
    commands.add_parser("finger", help="print a public key's fingerprint").add_argument("key", type=Path)
    commands.add_parser("code", help="print which modules a minion has").add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "code":
            print(code(chosen.folder, ""))
            return 0
        key = chosen.key.read_text()
        print(prove(sys.stdin.read().strip(), chosen.minion, key) if chosen.command == "prove" else fingerprint(key))
    except (VcoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
