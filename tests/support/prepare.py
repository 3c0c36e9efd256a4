"""Make what several tests use and what takes long, before they ask for it: images, and the disk of guests.

python -m support.prepare functional system
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from lab import guest, image

from support import dockerd
from support.images import build, build_client, machine

#: By folder of tests: what it needs, what takes longest first.
WANTED: dict[str, dict[str, Callable[[], object]]] = {
    "functional": {
        "host of dockerd": lambda: dockerd.build_image(machine()),
        "ldap": lambda: build("ldap"),
        "file-router": lambda: build("file-router"),
        "directory-web": lambda: build("directory-web"),
        "client": build_client,
    },
    "system": {
        "host of the lab": lambda: image.ensure_image(yes=True),
        "disk of guests": guest.disk,
        "ldap": lambda: build("ldap"),
        "file-router": lambda: build("file-router"),
        "client": build_client,
    },
}


def main(folders: list[str]) -> int:
    """Make it, and say how long it took; what cannot be made is left to the test that needs it."""
    failed = 0
    for name, make in {name: make for folder in folders for name, make in WANTED[folder].items()}.items():
        began = time.monotonic()
        try:
            make()
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        except BaseException as error:
            failed += 1
            print(f"{name}: {error}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
