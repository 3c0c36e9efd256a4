"""What lies in a configuration folder that a container proves, and what tells one configuration from another.

:mod:`vcore.swarm.proving` says how such a folder is used; its other half runs in the images that prove one, which have
this file. Needs the standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

#: The file that says which configuration is in force (:func:`fingerprint`), and the folder with one to be proven.
APPLIED, CANDIDATE = "applied", ".candidate"
#: The folder with the configuration that was in force before, while nobody knows whether the new one serves; the file
#: with the reason for which a container that started took that one.
PREVIOUS, REFUSED = ".previous", "refused"
#: Marks a configuration that a container which was about to start is to read, until somebody has asked that container.
WRITTEN = ".written"


def fingerprint(content: Mapping[str, bytes]) -> str:
    """Return what tells one configuration from another."""
    lines = (f"{name} {hashlib.sha256(content[name]).hexdigest()}\n" for name in sorted(content))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
