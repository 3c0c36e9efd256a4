"""Asks for a POSIX lock on a whole file and says "got" or "refused"; holds it until its input ends.

Usage: guest_lock.py FILE. Runs in the guest and on servers.
"""

import errno
import fcntl
import sys
from pathlib import Path

with Path(sys.argv[1]).open("r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        print("refused" if error.errno in (errno.EACCES, errno.EAGAIN) else error, flush=True)
        sys.exit(1)
    print("got", flush=True)
    sys.stdin.read()
