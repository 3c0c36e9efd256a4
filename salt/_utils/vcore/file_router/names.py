"""The files of the file router's configuration, which the core writes and its image reads.

Needs the standard library only: it runs in the image file-router.
"""

from __future__ import annotations

#: What the image proves.
PROVEN_FILES = ("smb.conf", "ganesha.conf", "passwd", "group")
#: The file with hashes that can be logged in with.
SECRET_FILE = "instruments"
#: All files of the configuration. What else lies there, such as the routes, is read by whoever it is for.
FILES = (*PROVEN_FILES, "domain-sid", "settle.json", SECRET_FILE)
