"""Make the images and the disk of guests, which several tests use and which take long, before the tests need them.

python -m support.prepare functional system
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from lab import guest, image

from support import dockerd
from support.images import build, build_client, machine

#: What each folder of tests needs, the slowest first.
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
    """Make everything, print how long it took, and return the exit code; failures are left to the tests."""
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
