"""What a synchronised route decides while it pulls: which names, which files, from where on, and when again.

Pure, and of the standard library only: the file router's container runs it (images/file-router, routes.py), the head
reads what it writes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Digests are kept for pieces of this size, in bytes: a pull that was broken off goes on behind the last good piece.
PIECE = 16 * 1024 * 1024
#: Length of a digest (SHA-256), in bytes.
DIGEST = 32
#: A file that was written to within this time is left for the next pull, in seconds.
SETTLE = 60
#: Refused logins after which nothing is tried by itself, before the other server locks the account.
REFUSALS = 3
#: Folders within folders that are followed.
DEPTH = 64
#: Skipped files that a pull's record names.
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
        """The path as people write it."""
        return "/".join(self.path)

    @property
    def key(self) -> str:
        """What its unfinished copy is called: no name of the other server's becomes one in the work folder."""
        return hashlib.sha256("/".join(self.path).encode()).hexdigest()[:32]


def shown(name: str) -> str:
    """A name of the other server's for a log line or a message: one line, and text."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in name)[:200]


def name_problem(name: str) -> str | None:
    """Why a name that the other server says cannot be one here, or None."""
    if name in ("", ".", ".."):
        return "is no name of a file"
    if "/" in name or "\\" in name:
        return "has a slash in it"
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "has a control character in it"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is no valid Unicode"
    return "is longer than 255 bytes" if length > 255 else None


def decode_name(octets: bytes) -> str:
    """A name as SMB sends it; what is no UTF-16 keeps its halves, and :func:`name_problem` refuses it."""
    return octets.decode("utf-16-le", errors="surrogatepass") if len(octets) % 2 == 0 else ""


def is_current(there: os.stat_result | None, source: Source) -> bool:
    """Whether the file here is the source's: its size and its time are."""
    return there is not None and there.st_size == source.size and there.st_mtime_ns // 1000 == source.written


def is_settled(source: Source, now: float, settle: float, seen: Mapping[str, Any]) -> bool:
    """Whether nobody writes to the file any more, as far as can be told.

    Its time is ``settle`` seconds ago; or, where the other server's clock is ahead, an earlier pull saw it just so
    (``seen``, from :func:`seen_entry`) that long ago.
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
    """What is noted of a file that waits: how it looked, and since when it has."""
    earlier = seen.get(source.name)
    same = earlier and earlier["size"] == source.size and earlier["written"] == source.written
    return {"size": source.size, "written": source.written, "since": earlier["since"] if same and earlier else now}


# --- going on with a file ----------------------------------------------------------------------------------------


def header(source: Source) -> bytes:
    """The first line of the list of digests: of which file, as it was then."""
    return json.dumps([source.name, source.size, source.written]).encode() + b"\n"


def usable_digests(listed: bytes, source: Source, partial_size: int) -> list[bytes]:
    """The digests of the pieces of an unfinished copy that may still be good: those of this very source.

    Whether the pieces are what the digests say has to be read. None, if the source has changed since.
    """
    expected = header(source)
    if not listed.startswith(expected):
        return []
    digests = listed[len(expected) :]
    whole = min(len(digests) // DIGEST, partial_size // PIECE)
    return [digests[index * DIGEST : (index + 1) * DIGEST] for index in range(whole)]


# --- when --------------------------------------------------------------------------------------------------------


def is_due(every: int, record: Mapping[str, Any] | None, now: float) -> bool:
    """Whether ``every`` minutes have gone by since the last pull ended; a clock that was set back counts as that."""
    if not record or record.get("ended") is None:
        return True
    return now >= record["ended"] + 60 * every or now < record["ended"] - 60


def account_check(salt: bytes, *parts: str) -> str:
    """A costly hash of the account and its password, to notice that one of them is another."""
    return hashlib.scrypt("\0".join(parts).encode(), salt=salt, n=2**14, r=8, p=1).hex()


def refused(refusals: Mapping[str, Any] | None, parts: Iterable[str], salt: bytes) -> dict[str, Any]:
    """The note of one more refused login of this account; another account or password starts at one."""
    parts = list(parts)
    count = refusals["count"] if refusals and is_same_account(refusals, parts) else 0
    return {"count": count + 1, "salt": salt.hex(), "check": account_check(salt, *parts)}


def is_same_account(refusals: Mapping[str, Any], parts: Iterable[str]) -> bool:
    """Whether a note of refused logins is of this account with this password."""
    return hmac.compare_digest(account_check(bytes.fromhex(refusals["salt"]), *parts), str(refusals["check"]))


def is_stopped(refusals: Mapping[str, Any] | None, parts: Iterable[str]) -> bool:
    """Whether so many logins were refused that the next one might lock the account at the other server."""
    return refusals is not None and refusals["count"] >= REFUSALS and is_same_account(refusals, parts)


# --- the record --------------------------------------------------------------------------------------------------


def read_record(text: str) -> dict[str, Any] | None:
    """The record of a route's last pull, or None where it is none."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "started" in record else None


def is_good(route: Mapping[str, Any], record: Mapping[str, Any] | None, now: float) -> bool:
    """Whether a route is well: its last pull was, or it pulls and gets on, or it is too new to tell."""
    if record is None:
        return True
    if record["result"] in ("running", "stopped"):
        return bool(now - record["updated"] < 300)
    # Twice its time without a pull: nobody pulls any more.
    return bool(record["result"] == "ok" and now - record["ended"] < 120 * route["every"] + 600)


def sentence(record: Mapping[str, Any] | None, good: bool) -> str:
    """What the record says, for people."""
    if record is None:
        return "no pull yet"
    done, todo = record["files"]["done"], record["files"]["todo"]
    size, whole = record["bytes"]["done"], record["bytes"]["todo"]
    if record["result"] in ("running", "stopped"):
        text = f"{done} of {todo} files, {_size(size)} of {_size(whole)}"
        text += f", now {record['current']}" if record.get("current") else ""
        return text if good else f"{text}; it gets no further: see docker service logs file-router"
    if record["result"] != "ok":
        return str(record["error"])
    if not good:
        return "its time has come and nothing was pulled: see docker service ps file-router"
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
