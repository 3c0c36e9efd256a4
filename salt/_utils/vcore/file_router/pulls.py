"""Decide for synchronised routes which names and files to pull, where to resume a file, and when to pull again.

Everything here is pure and needs only the standard library: the file router's container runs it (images/file-router,
routes.py), and the head reads the records of pulls.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.messages import tr

#: Digests are kept for pieces of this size, in bytes: an interrupted pull resumes after the last good piece.
PIECE = 16 * 1024 * 1024
#: Length of a digest (SHA-256), in bytes.
DIGEST = 32
#: A file that was written to within this many seconds is left for a later pull.
SETTLE = 60
#: The number of refused logins after which automatic pulls stop, so that the other server does not lock the account.
REFUSALS = 3
#: The deepest nesting of folders that is followed.
DEPTH = 64
#: The most skipped files that a pull's record names.
EXAMPLES = 20
#: FILE_ATTRIBUTE_DIRECTORY and FILE_ATTRIBUTE_REPARSE_POINT ([MS-FSCC] 2.6).
DIRECTORY, REPARSE_POINT = 0x10, 0x400


@dataclass(frozen=True)
class Source:
    """A file on the other server: its path, its size in bytes, and when it was written, in microseconds since 1970."""

    path: tuple[str, ...]
    size: int
    written: int

    @property
    def name(self) -> str:
        """The path with slashes."""
        return "/".join(self.path)

    @property
    def key(self) -> str:
        """The name of its unfinished copy: a hash, so that no name of the other server's is used in the work folder."""
        return hashlib.sha256("/".join(self.path).encode()).hexdigest()[:32]


def shown(name: str) -> str:
    """Return a name of the other server's as one printable line of at most 200 characters, for logs and messages."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in name)[:200]


def name_problem(name: str) -> str | None:
    """Return why a name on the other server cannot be used here, or None if it can."""
    if name in ("", ".", ".."):
        return tr("is not the name of a file")
    if "/" in name or "\\" in name:
        return tr("has a slash in it")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return tr("has a control character in it")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return tr("is not valid Unicode")
    return tr("is longer than 255 bytes") if length > 255 else None


def decode_name(octets: bytes) -> str:
    """Decode a name that SMB sent in UTF-16.

    Unpaired surrogates are kept, and an odd number of bytes gives an empty name; :func:`name_problem` refuses both.
    """
    return octets.decode("utf-16-le", errors="surrogatepass") if len(octets) % 2 == 0 else ""


def is_current(there: os.stat_result | None, source: Source) -> bool:
    """Return whether the file here is up to date: its size and its time, to the microsecond, are the source's."""
    return there is not None and there.st_size == source.size and there.st_mtime_ns // 1000 == source.written


def is_settled(source: Source, now: float, settle: float, seen: Mapping[str, Any]) -> bool:
    """Return whether nobody seems to write to the file any more.

    That is so if it was last written ``settle`` seconds ago or, where the other server's clock is ahead, if an earlier
    pull saw it with the same size and time that long ago (``seen``, from :func:`seen_entry`).
    """
    if source.written / 1e6 <= now - settle:
        return True
    earlier = seen.get(source.name)
    return bool(
        earlier
        and earlier["size"] == source.size
        and earlier["written"] == source.written
        and earlier["since"] <= now - settle
    )


def seen_entry(source: Source, now: float, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the note about a file that waits: its size and time, and since when pulls have seen it with these."""
    earlier = seen.get(source.name)
    same = earlier and earlier["size"] == source.size and earlier["written"] == source.written
    return {"size": source.size, "written": source.written, "since": earlier["since"] if same and earlier else now}


# --- resuming a file ---------------------------------------------------------------------------------------------


def header(source: Source) -> bytes:
    """Return the first line of a file's list of digests: the file's name, size and time when the copy was begun."""
    return json.dumps([source.name, source.size, source.written]).encode() + b"\n"


def usable_digests(listed: bytes, source: Source, partial_size: int) -> list[bytes]:
    """Return the digests of the pieces of an unfinished copy that may still be good; none if the source has changed.

    The caller has to read the pieces and compare them with their digests. ``partial_size`` is in bytes.
    """
    expected = header(source)
    if not listed.startswith(expected):
        return []
    digests = listed[len(expected) :]
    whole = min(len(digests) // DIGEST, partial_size // PIECE)
    return [digests[index * DIGEST : (index + 1) * DIGEST] for index in range(whole)]


# --- when --------------------------------------------------------------------------------------------------------


def is_due(every: int, record: Mapping[str, Any] | None, now: float) -> bool:
    """Return whether ``every`` minutes have passed since the last pull ended, or the clock was set back since."""
    if not record or record.get("ended") is None:
        return True
    return now >= record["ended"] + 60 * every or now < record["ended"] - 60


def account_check(salt: bytes, *parts: str) -> str:
    """Return a deliberately slow hash of account and password, which shows whether one of them has changed."""
    return hashlib.scrypt("\0".join(parts).encode(), salt=salt, n=2**14, r=8, p=1).hex()


def refused(refusals: Mapping[str, Any] | None, parts: Iterable[str], salt: bytes) -> dict[str, Any]:
    """Return the note about one more refused login; the count starts at one when account or password has changed."""
    parts = list(parts)
    count = refusals["count"] if refusals and is_same_account(refusals, parts) else 0
    return {"count": count + 1, "salt": salt.hex(), "check": account_check(salt, *parts)}


def is_same_account(refusals: Mapping[str, Any], parts: Iterable[str]) -> bool:
    """Return whether a note about refused logins is about this account with this password."""
    return hmac.compare_digest(account_check(bytes.fromhex(refusals["salt"]), *parts), str(refusals["check"]))


def is_stopped(refusals: Mapping[str, Any] | None, parts: Iterable[str]) -> bool:
    """Return whether so many logins were refused that the next one might lock the account on the other server."""
    return refusals is not None and refusals["count"] >= REFUSALS and is_same_account(refusals, parts)


# --- the record --------------------------------------------------------------------------------------------------


def read_record(text: str) -> dict[str, Any] | None:
    """Read the record of a route's last pull; None if the text is not a record."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "started" in record else None


def is_good(route: Mapping[str, Any], record: Mapping[str, Any] | None, now: float) -> bool:
    """Return whether a route is well: its last pull succeeded, the current one progresses, or there was none yet."""
    if record is None:
        return True
    if record["result"] in ("running", "stopped"):
        return bool(now - record["updated"] < 300)
    # No pull for twice its interval (and 10 minutes) means that nobody pulls any more.
    return bool(record["result"] == "ok" and now - record["ended"] < 120 * route["every"] + 600)


def sentence(record: Mapping[str, Any] | None, good: bool) -> str:
    """Return the record in words, for people."""
    if record is None:
        return "no pull yet"
    done, todo = record["files"]["done"], record["files"]["todo"]
    size, whole = record["bytes"]["done"], record["bytes"]["todo"]
    if record["result"] in ("running", "stopped"):
        text = f"{done} of {todo} files, {_size(size)} of {_size(whole)}"
        text += f", now {record['current']}" if record.get("current") else ""
        return text if good else f"{text}; it makes no progress: see docker service logs file-router"
    if record["result"] != "ok":
        return str(record["error"])
    if not good:
        return "its next pull is overdue: see docker service ps file-router"
    notes = [f"{done} files, {_size(size)}" if todo else "nothing new"]
    if record["waiting"]:
        notes.append(f"{record['waiting']} are still being written")
    if record["skipped"]["count"]:
        notes.append(f"{record['skipped']['count']} skipped: {record['skipped']['examples'][0]}")
    return ", ".join(notes)


def _size(octets: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if octets >= size:
            return f"{octets / size:.1f} {unit}"
    return f"{octets} bytes"
