"""Progress of long steps: states write lines here, bootstrap.sh and the wizard show them.

Salt returns a state's result only when it ends. In a first convergence some states take minutes (an image build),
so they append to one file that whoever is watching can follow.
"""

from __future__ import annotations

import contextlib
import json
import time

from .paths import Paths

#: Beyond this size the file starts anew; it is a live view, not a log.
MAXIMUM_SIZE = 1024 * 1024


def report(paths: Paths, step: str, message: str) -> None:
    """Append one line: what is being worked on (``step``, such as ``image ldap``) and what happens now.

    A line that cannot be written (a full disk, say) is dropped: it must not fail what it reports.
    """
    line = json.dumps({"time": round(time.time(), 3), "step": step, "message": message[:500]})
    with contextlib.suppress(OSError):
        paths.state.mkdir(parents=True, exist_ok=True)
        fresh = paths.progress.exists() and paths.progress.stat().st_size > MAXIMUM_SIZE
        with paths.progress.open("w" if fresh else "a") as stream:
            stream.write(line + "\n")
