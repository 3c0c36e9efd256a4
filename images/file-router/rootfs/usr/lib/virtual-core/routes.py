#!/opt/virtual-core/salt/bin/python
"""Pulls the files of other file servers, by SMB and on a schedule, as routes.json of the configuration says.

Without arguments it runs for ever and starts a process for each pull; ``--pull NAME`` pulls one route once. What other
machines send (names, listings, sizes) and what lies in the destination, where people may write, may be hostile: names
are checked, folders are opened without following links, and files are made in a closed work folder.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import errno
import fcntl
import grp
import hashlib
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from vcore.base.errors import Busy, Refused, VcoreError
from vcore.base.files import write_atomic
from vcore.file_router import pulls
from vcore.file_router.pulls import Source

#: Pulls that run at the same time.
PARALLEL = 2
#: Bytes of one read request, and the number of requests that are under way at a time.
REQUEST, WINDOW = 1024 * 1024, 4
#: Room that stays free on the file system, in bytes.
RESERVE = 512 * 1024 * 1024
#: Modes of what is made: its group can read it.
FILE_MODE, FOLDER_MODE = 0o640, 0o2750
#: Below the data, out of every share's reach: no name of a share's folder starts with a dot.
WORK = ".routes"
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Places:
    """Where things lie in the container; tests have them elsewhere."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.configuration: Path = arguments.configuration
        self.state: Path = arguments.state
        self.data: Path = arguments.data
        self.secrets: Path = arguments.secrets

    def record(self, name: str) -> Path:
        return self.state / f"{name}.json"

    def asked(self, name: str) -> Path:
        return self.state / f"{name}.pull"

    def password(self, name: str) -> str:
        try:
            return (self.secrets / f"route-{name}").read_text().rstrip("\r\n")
        except OSError as error:
            raise VcoreError(
                f"the secret route-{name} cannot be read ({error.strerror}); supply it and apply"
            ) from None


def say(name: str, message: str) -> None:
    """Print one line for docker service logs."""
    print(f"route {name}: {message}", flush=True)


# --- the other server --------------------------------------------------------------------------------------------


class Remote:
    """A folder of a share of another server, over SMB 3: signed always, encrypted where the server can."""

    def __init__(self, route: dict[str, Any], password: str) -> None:
        # The library gives up on a silent server after twice this, in seconds; it reads it once.
        os.environ["SMB_EXPERIMENTAL_TRANSPORT_RECEIVE_TIMEOUT"] = "45"
        from smbprotocol import connection, exceptions, session, tree

        self.server = route["server"]
        share, _, folder = route["source"].partition("/")
        self.share, self.folder = share, folder.replace("/", "\\")
        self._errors = exceptions
        self.connection = connection.Connection(uuid.uuid4(), self.server, int(route.get("port", 445)))
        try:
            self.connection.connect(timeout=20)
        except (ValueError, OSError, exceptions.SMBException) as error:
            raise VcoreError(f"{self.server} does not answer by SMB 3 ({_reason(error)})") from None
        if self.connection.dialect < connection.Dialects.SMB_3_0_0:
            raise VcoreError(f"{self.server} does not speak SMB 3, which routes need")
        user = f"{route['domain']}\\{route['user']}" if route["domain"] else route["user"]
        self.encrypted = bool(self.connection.supports_encryption)
        login = session.Session(
            self.connection, user, password, require_encryption=self.encrypted, auth_protocol="negotiate"
        )
        try:
            login.connect()
        except exceptions.SMBConnectionClosed as error:
            raise VcoreError(f"{self.server} ended the connection ({_reason(error)})") from None
        except exceptions.SMBException as error:
            raise Refused(
                f"{self.server} refuses the login of {route['user']} ({_reason(error)}); "
                f"salt-call vcore_secret.set file-router/route-{route['name']}, and apply"
            ) from None
        self._tree = tree.TreeConnect(login, rf"\\{self.server}\{share}")
        with self.translated(f"the share {share}"):
            # In 3.1.1 the negotiation is protected anyway; before, a check of it has to be asked for.
            self._tree.connect(require_secure_negotiate=self.connection.dialect < connection.Dialects.SMB_3_1_1)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.connection.disconnect(close=True, timeout=5)

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Turn errors into messages about ``what``; a lost connection ends the whole pull."""
        try:
            yield
        except self._errors.SMBResponseException as error:
            raise FileProblem(f"{what}: {_reason(error)}") from None
        except (self._errors.SMBException, OSError, ValueError) as error:
            raise VcoreError(f"the connection to {self.server} was lost at {what} ({_reason(error)})") from None

    def _open(self, path: str, *, folder: bool) -> Any:
        from smbprotocol import open as smb

        opened = smb.Open(self._tree, path)
        access = smb.FilePipePrinterAccessMask.FILE_READ_DATA | smb.FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
        sort = smb.CreateOptions.FILE_DIRECTORY_FILE if folder else smb.CreateOptions.FILE_NON_DIRECTORY_FILE
        opened.create(
            smb.ImpersonationLevel.Impersonation,
            access,
            0,
            # Others there may go on writing, moving and deleting it.
            smb.ShareAccess.FILE_SHARE_READ | smb.ShareAccess.FILE_SHARE_WRITE | smb.ShareAccess.FILE_SHARE_DELETE,
            smb.CreateDisposition.FILE_OPEN,
            sort | smb.CreateOptions.FILE_OPEN_REPARSE_POINT,
        )
        return opened

    def path(self, parts: tuple[str, ...]) -> str:
        return "\\".join((*([self.folder] if self.folder else []), *parts))

    def entries(self, parts: tuple[str, ...]) -> list[tuple[str, int, int, int, int]]:
        """Return what a folder holds: name, attributes, size, time (microseconds since 1970) and number of each."""
        from smbprotocol.file_info import FileInformationClass

        found = []
        with self.translated(pulls.shown("/".join(parts)) or f"the folder {self.folder or self.share}"):
            opened = self._open(self.path(parts), folder=True)
            try:
                while True:
                    kind = FileInformationClass.FILE_ID_FULL_DIRECTORY_INFORMATION
                    for entry in opened.query_directory("*", kind):
                        found.append(
                            (
                                pulls.decode_name(entry["file_name"].get_value()),
                                int(entry["file_attributes"].get_value()),
                                int(entry["end_of_file"].get_value()),
                                _microseconds(entry["last_write_time"]),
                                int(entry["file_id"].get_value()),
                            )
                        )
            except (self._errors.NoMoreFiles, self._errors.NoSuchFile):
                pass
            finally:
                opened.close()
        return found

    def read(self, source: Source, offset: int) -> Iterator[bytes]:
        """Read the file from ``offset`` on.

        Raises:
            FileProblem: it is not what the listing said, or no longer so at the end.
        """
        with self.translated(pulls.shown(source.name)):
            opened = self._open(self.path(source.path), folder=False)
            pending: collections.deque[tuple[Any, Any]] = collections.deque()
            try:
                self._unchanged(opened, source)
                while offset < source.size or pending:
                    while offset < source.size and len(pending) < WINDOW:
                        length = min(REQUEST, source.size - offset, self.connection.max_read_size)
                        room = self.connection.sequence_window["high"] - self.connection.sequence_window["low"]
                        if room < -(-length // 65536):
                            if pending:
                                break
                            length = min(length, 65536 * max(room, 1))
                        request, receive = opened.read(offset, length, send=False)
                        sent = self.connection.send(
                            request, self._tree.session.session_id, self._tree.tree_connect_id, credit_request=64
                        )
                        pending.append((length, (sent, receive)))
                        offset += length
                    length, (sent, receive) = pending.popleft()
                    data = receive(sent)
                    if len(data) != length:
                        raise FileProblem(f"{pulls.shown(source.name)}: changed while it was read")
                    yield data
            except self._errors.EndOfFile:
                raise FileProblem(f"{pulls.shown(source.name)}: changed while it was read") from None
            finally:
                for _, (sent, receive) in pending:
                    with contextlib.suppress(self._errors.SMBException):
                        receive(sent)
                with contextlib.suppress(self._errors.SMBException):
                    opened.close(get_attributes=True)
            self._unchanged(opened, source)

    def _unchanged(self, opened: Any, source: Source) -> None:
        if (opened.end_of_file, _microseconds_of(opened.last_write_time)) != (source.size, source.written):
            raise Changing(f"{pulls.shown(source.name)}: is being written")


class FileProblem(VcoreError):
    """One file cannot be had; the others can."""


class Changing(FileProblem):
    """A file that is being written there; the next pull looks again."""


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error)
    # Some of the library's messages are whole packets.
    return pulls.shown(text.split(" - ")[0].split(". ")[0].rstrip("."))


def _microseconds(value: Any) -> int:
    return _microseconds_of(value.get_value())


def _microseconds_of(moment: Any) -> int:
    """Return a time of SMB in microseconds since 1970; what is earlier becomes 1970."""
    from datetime import UTC, datetime, timedelta

    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


# --- the destination ---------------------------------------------------------------------------------------------


class Destination:
    """The folder of a route here: opened step by step, so that no link in it can lead a write elsewhere."""

    def __init__(self, data: Path, path: str, owner: int, group: int) -> None:
        self.owner, self.group = owner, group
        self._open: collections.OrderedDict[tuple[str, ...], int] = collections.OrderedDict()
        self._changed: set[int] = set()
        top = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = path.split("/")
        for index, part in enumerate(parts):
            try:
                below = self._enter(top, part, own=index == len(parts) - 1)
            except OSError as error:
                raise VcoreError(f"the folder {path} of the data cannot be opened ({error.strerror})") from None
            finally:
                os.close(top)
            top = below
        self.top = top

    def _enter(self, folder: int, name: str, *, own: bool) -> int:
        """Open a folder in a folder; make it if there is none."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
            made = os.open(name, OPEN_FOLDER, dir_fd=folder)
            if own:
                os.fchown(made, self.owner, self.group)
            os.fchmod(made, FOLDER_MODE if own else 0o755)
            return made
        return os.open(name, OPEN_FOLDER, dir_fd=folder)

    def folder(self, parts: tuple[str, ...]) -> int:
        """Return the descriptor of a folder; this object closes it."""
        if not parts:
            return self.top
        if parts in self._open:
            self._open.move_to_end(parts)
            return self._open[parts]
        try:
            found = self._enter(self.folder(parts[:-1]), parts[-1], own=True)
        except OSError as error:
            reason = "there is a file or a link of this name here" if error.errno in LINKS else error.strerror
            raise FileProblem(f"{pulls.shown('/'.join(parts))}: {reason}") from None
        if len(self._open) >= pulls.DEPTH + 8:
            self.sync()
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        self._open[parts] = found
        return found

    def status(self, source: Source) -> os.stat_result | None:
        """Return the status of what lies where the file goes, None if nothing does."""
        try:
            return os.stat(source.path[-1], dir_fd=self.folder(source.path[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def put(self, work: int, source: Source) -> None:
        """Move the finished copy into place, in one step."""
        folder = self.folder(source.path[:-1])
        os.rename(f"{source.key}.part", source.path[-1], src_dir_fd=work, dst_dir_fd=folder)
        self._changed.add(folder)

    def sync(self) -> None:
        """Sync the new names to disk. A file that a power cut takes before is simply pulled again."""
        for folder in self._changed:
            os.fsync(folder)
        self._changed.clear()


LINKS = (errno.ELOOP, errno.ENOTDIR)


def numbers(route: dict[str, Any]) -> tuple[int, int]:
    """Return owner and group of what is pulled, by their ids in the directory."""
    try:
        owner = pwd.getpwnam(route["owner"]).pw_uid if route["owner"] else 0
    except KeyError:
        raise VcoreError(f"there is no person {route['owner']}: add the person, or change the route") from None
    try:
        return owner, grp.getgrnam(route["group"]).gr_gid
    except KeyError:
        raise VcoreError(f"there is no group {route['group']}: add the group, or change the route") from None


# --- one pull ----------------------------------------------------------------------------------------------------


class Pull:
    """One pull of one route, with its record."""

    def __init__(self, places: Places, name: str, route: dict[str, Any]) -> None:
        self.places, self.name, self.route = places, name, route
        earlier = read_record(places.record(name)) or {}
        self.refusals = earlier.get("refusals")
        self.record: dict[str, Any] = {
            "started": time.time(),
            "ended": None,
            "updated": time.time(),
            "result": "running",
            "error": None,
            "encrypted": None,
            "files": {"done": 0, "todo": 0},
            "bytes": {"done": 0, "todo": 0},
            "current": None,
            "waiting": 0,
            "skipped": {"count": 0, "examples": []},
            "last_good": earlier.get("last_good"),
            "refusals": self.refusals,
        }
        self._written = 0.0

    def note(self, *, now: bool = False) -> None:
        """Write the record, at most once a second unless ``now`` is set."""
        if now or time.monotonic() - self._written >= 1:
            self.record["updated"] = time.time()
            write_atomic(self.places.record(self.name), json.dumps(self.record, indent=1).encode(), mode=0o600)
            self._written = time.monotonic()

    def skip(self, message: str) -> None:
        skipped = self.record["skipped"]
        skipped["count"] += 1
        if len(skipped["examples"]) < pulls.EXAMPLES:
            skipped["examples"].append(message)
            say(self.name, f"skipped {message}")

    def run(self, asked: bool) -> None:
        """Pull the whole route; what goes wrong is in the record."""
        lock = os.open(self.places.state / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"the route {self.name} is being pulled") from None
        result, problem = "ok", None
        try:
            self.note(now=True)
            self._login_and_pull(asked)
        except Refused as error:
            result, problem = "refused", str(error)
        except (VcoreError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            result, problem = "failed", "the file system of the data is full" if full else str(error)
        except SystemExit:
            # The container stops, or the route was changed: the pull goes on as soon as it can.
            result, problem = "stopped", "broken off"
            raise
        except BaseException as error:
            result, problem = "failed", f"broken off by an error in this program ({type(error).__name__})"
            raise
        finally:
            ended = None if result == "stopped" else time.time()
            self.record.update(result=result, error=problem, ended=ended, current=None)
            if result == "ok":
                self.record["last_good"] = self.record["ended"]
            self.note(now=True)
            say(self.name, problem or pulls.sentence(self.record, True))
            os.close(lock)

    def _login_and_pull(self, asked: bool) -> None:
        password = self.places.password(self.name)
        account = [self.route["server"], self.route["domain"] or "", self.route["user"], password]
        if not asked and pulls.is_stopped(self.refusals, account):
            raise Refused(
                f"{self.route['server']} has refused the login of {self.route['user']} {pulls.REFUSALS} times: nothing "
                f"is tried until its password is another (salt-call vcore_secret.set file-router/route-{self.name}, "
                f"and apply), or salt-call vcore_route.pull {self.name}"
            )
        owner, group = numbers(self.route)
        destination = Destination(self.places.data, self.route["path"], owner, group)
        try:
            remote = Remote({**self.route, "name": self.name}, password)
        except Refused:
            self.record["refusals"] = pulls.refused(self.refusals, account, os.urandom(16))
            raise
        try:
            self.record.update(refusals=None, encrypted=remote.encrypted)
            self._pull(remote, destination)
        finally:
            remote.close()

    def _pull(self, remote: Remote, destination: Destination) -> None:
        work = self._work_folder(destination)
        seen = self._read_seen(work)
        waiting: dict[str, Any] = {}
        todo: list[Source] = []
        now = time.time()
        for source in self._listing(remote, destination):
            try:
                there = destination.status(source)
                if there is not None and not stat.S_ISREG(there.st_mode):
                    raise FileProblem(f"{pulls.shown(source.name)}: what has this name here is no file")
            except FileProblem as error:
                self.skip(str(error))
                continue
            if pulls.is_current(there, source):
                continue
            if pulls.is_settled(source, now, self.route["settle"], seen):
                todo.append(source)
            else:
                waiting[source.name] = pulls.seen_entry(source, now, seen)
            self.note()
        self._clean(work, {source.key for source in todo})
        self.record["files"]["todo"] = len(todo)
        self.record["bytes"]["todo"] = total = sum(source.size for source in todo)
        self.note(now=True)
        self._room(work, total - self._present(work, todo))
        for source in todo:
            self.record["current"] = pulls.shown(source.name)
            self.note(now=source.size > pulls.PIECE)
            try:
                self._fetch(remote, destination, work, source)
            except Changing:
                waiting[source.name] = pulls.seen_entry(source, now, {})
            except FileProblem as error:
                self.skip(str(error))
            else:
                self.record["files"]["done"] += 1
            self.note()
        destination.sync()
        self.record["waiting"] = len(waiting)
        write_atomic(self._work_path() / "seen.json", json.dumps(waiting).encode(), mode=0o600)

    def _listing(self, remote: Remote, destination: Destination) -> Iterator[Source]:
        """Return all files there, folder by folder, and make the folders here on the way, empty ones, too."""
        folders: list[tuple[tuple[str, ...], frozenset[int]]] = [((), frozenset())]
        while folders:
            parts, above = folders.pop()
            try:
                destination.folder(parts)
                entries = remote.entries(parts)
            except FileProblem as error:
                if not parts:
                    raise
                self.skip(str(error))
                continue
            above |= {number for name, _, _, _, number in entries if name == "." and number}
            for name, attributes, size, written, number in sorted(entries):
                if name in (".", ".."):
                    continue
                path = (*parts, name)
                whole = pulls.shown("/".join(path))
                if problem := pulls.name_problem(name):
                    self.skip(f"{whole}: {problem}")
                elif attributes & pulls.REPARSE_POINT:
                    self.skip(f"{whole}: is a link or a mount point there")
                elif not attributes & pulls.DIRECTORY:
                    yield Source(path, size, written)
                elif number and number in above:
                    self.skip(f"{whole}: leads back to a folder above it")
                elif len(path) >= pulls.DEPTH:
                    self.skip(f"{whole}: more than {pulls.DEPTH} folders deep")
                else:
                    folders.append((path, above))
            self.note()

    # The work folder

    def _work_path(self) -> Path:
        return self.places.data / WORK / self.name

    def _work_folder(self, destination: Destination) -> int:
        """Open the closed folder in which files grow, on the file system of their destination."""
        for folder in (self.places.data / WORK, self._work_path()):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                raise VcoreError(f"{folder} is not this program's own; move it away")
            folder.chmod(0o700)
        work = os.open(self._work_path(), OPEN_FOLDER)
        if os.fstat(work).st_dev != os.fstat(destination.top).st_dev:
            raise VcoreError(
                f"the folder {self.route['path']} is another file system than the data: files could not appear whole"
            )
        return work

    def _read_seen(self, work: int) -> dict[str, Any]:
        try:
            with os.fdopen(os.open("seen.json", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=work)) as stream:
                return dict(json.load(stream))
        except (OSError, ValueError):
            return {}

    def _clean(self, work: int, keys: set[str]) -> None:
        """Remove what is left of files that are no longer wanted."""
        for entry in os.listdir(work):
            if entry != "seen.json" and entry.rpartition(".")[0] not in keys:
                os.unlink(entry, dir_fd=work)

    def _present(self, work: int, todo: list[Source]) -> int:
        there = set(os.listdir(work))
        return sum(
            os.stat(f"{source.key}.part", dir_fd=work).st_blocks * 512
            for source in todo
            if f"{source.key}.part" in there
        )

    def _room(self, work: int, wanted: int) -> None:
        there = os.fstatvfs(work)
        free = there.f_bavail * there.f_frsize
        if wanted > 0 and wanted + RESERVE > free:
            raise VcoreError(
                f"no room: {wanted / 2**20:.0f} MiB are to come, {free / 2**20:.0f} MiB are free, "
                f"of which {RESERVE / 2**20:.0f} MiB are kept"
            )

    # One file

    def _fetch(self, remote: Remote, destination: Destination, work: int, source: Source) -> None:
        part, digests_name = f"{source.key}.part", f"{source.key}.digests"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(os.fdopen(os.open(part, flags, 0o600, dir_fd=work), "r+b", buffering=0))
            # No digests are kept of a small file: reading it again is quicker than looking them up.
            notes = None
            digests: list[bytes] = []
            if source.size > pulls.PIECE:
                notes = os.fdopen(os.open(digests_name, flags, 0o600, dir_fd=work), "r+b", buffering=0)
                stack.enter_context(notes)
                size = os.fstat(stream.fileno()).st_size
                digests = self._good_pieces(stream, pulls.usable_digests(notes.read(), source, size))
                notes.truncate(0)
                notes.seek(0)
                notes.write(pulls.header(source) + b"".join(digests))
            offset = len(digests) * pulls.PIECE
            if offset:
                say(self.name, f"{pulls.shown(source.name)}: goes on at {offset} bytes")
            stream.truncate(offset)
            stream.seek(offset)
            before = self.record["bytes"]["done"]
            self.record["bytes"]["done"] += offset
            try:
                digest, filled = hashlib.sha256(), 0
                for data in remote.read(source, offset):
                    view = memoryview(data)
                    while view:
                        step = view[: pulls.PIECE - filled]
                        digest.update(step)
                        _write(stream, step)
                        filled += len(step)
                        view = view[len(step) :]
                        if filled == pulls.PIECE:
                            digests.append(digest.digest())
                            if notes:
                                notes.write(digests[-1])
                            digest, filled = hashlib.sha256(), 0
                    self.record["bytes"]["done"] += len(data)
                    self.note()
                if filled:
                    digests.append(digest.digest())
                os.fsync(stream.fileno())
                # Read back what lies on the disk, not what memory still has of it.
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if self._good_pieces(stream, digests) != digests:
                    raise FileProblem(f"{pulls.shown(source.name)}: the disk does not hold what was written to it")
            except FileProblem:
                self.record["bytes"]["done"] = before
                for name in (part, digests_name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=work)
                raise
            os.fchown(stream.fileno(), destination.owner, destination.group)
            os.fchmod(stream.fileno(), FILE_MODE)
            os.utime(stream.fileno(), ns=(source.written * 1000, source.written * 1000))
            try:
                destination.put(work, source)
            except IsADirectoryError:
                raise FileProblem(f"{pulls.shown(source.name)}: what has this name here is no file") from None
        if notes:
            os.unlink(digests_name, dir_fd=work)

    def _good_pieces(self, stream: Any, digests: list[bytes]) -> list[bytes]:
        """Return the digests of the first pieces, as far as the file holds these."""
        stream.seek(0)
        for index, digest in enumerate(digests):
            found, left = hashlib.sha256(), pulls.PIECE
            while left and (data := stream.read(min(left, REQUEST))):
                found.update(data)
                left -= len(data)
            if found.digest() != digest:
                return digests[:index]
            self.note()
        return digests


def _write(stream: Any, view: memoryview) -> None:
    while view:
        view = view[stream.write(view) :]


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of a route's last pull, or None."""
    try:
        return pulls.read_record(path.read_text())
    except OSError:
        return None


# --- all routes --------------------------------------------------------------------------------------------------


class Routes:
    """Starts each pull when it is due, and ends those whose route was removed or changed."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.routes: dict[str, dict[str, Any]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._identity: tuple[int, ...] | None = None
        self._read = False

    def read(self) -> None:
        """Read routes.json if it has changed."""
        path = self.places.configuration / "routes.json"
        try:
            status = path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            identity = None
        if self._read and identity == self._identity:
            return
        try:
            wanted = json.loads(path.read_text())["routes"] if identity else {}
        except (OSError, ValueError, KeyError) as error:
            print(f"{path} cannot be read: {error}", flush=True)
            wanted = self.routes
        for name in list(self.running):
            if wanted.get(name) != self.routes.get(name):
                self.running[name].terminate()
        if identity:
            self._forget(set(wanted))
        self.routes, self._identity, self._read = wanted, identity, True

    def _forget(self, names: set[str]) -> None:
        """Remove what is kept of routes that no longer exist. The files that they brought stay."""
        import shutil

        for path in self.places.state.iterdir():
            if path.name.partition(".")[0] not in names:
                path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            for path in (self.places.data / WORK).iterdir():
                if path.name not in names:
                    shutil.rmtree(path, ignore_errors=True)

    def step(self) -> None:
        """Read the routes, note the pulls that have ended, and start those that are due."""
        self.read()
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                del self.running[name]
                self._mind_death(name, process.returncode)
        for name, route in self.routes.items():
            if name in self.running or len(self.running) >= PARALLEL:
                continue
            asked = self.places.asked(name)
            by_hand = asked.exists()
            if by_hand or pulls.is_due(route["every"], read_record(self.places.record(name)), time.time()):
                asked.unlink(missing_ok=True)
                self.running[name] = self._start(name, by_hand)

    def _start(self, name: str, by_hand: bool) -> subprocess.Popen[bytes]:
        places = self.places
        command = [sys.executable, __file__, "--pull", name, *(["--asked"] if by_hand else [])]
        for option in ("configuration", "state", "data", "secrets"):
            command += [f"--{option}", str(getattr(places, option))]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def _mind_death(self, name: str, code: int) -> None:
        """Record the end of a pull that was killed and could not do so itself."""
        record = read_record(self.places.record(name))
        if record and record["ended"] is None and name in self.routes:
            record.update(result="failed", error=f"broken off (exit code {code})", ended=time.time(), current=None)
            write_atomic(self.places.record(name), json.dumps(record, indent=1).encode(), mode=0o600)
            say(name, record["error"])

    def stop(self) -> None:
        """End the pulls; each goes on when it is started again."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the end itself
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pull", metavar="NAME", help="pull this route once")
    parser.add_argument("--asked", action="store_true", help="a person has asked for it")
    parser.add_argument("--configuration", type=Path, default=Path("/etc/virtual-core/file-router"))
    parser.add_argument("--state", type=Path, default=Path("/var/lib/virtual-core/routes"))
    parser.add_argument("--data", type=Path, default=Path("/data"))
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"))
    arguments = parser.parse_args()
    places = Places(arguments)
    signal.signal(signal.SIGTERM, _stop)
    places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if arguments.pull:
        # A pull must not outlive the program that started it (prctl(2), PR_SET_PDEATHSIG). If somebody starts one by
        # `docker exec`, its parent is outside of the container: a helper of Docker that ends as soon as the pull runs.
        if os.getppid():
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        routes = json.loads((places.configuration / "routes.json").read_text())["routes"]
        pull = Pull(places, arguments.pull, routes[arguments.pull])
        try:
            pull.run(arguments.asked)
        except Busy as error:
            say(arguments.pull, str(error))
            return 1
        return 0 if pull.record["result"] == "ok" else 1
    everything = Routes(places)
    try:
        while True:
            everything.step()
            time.sleep(1)
    finally:
        everything.stop()


if __name__ == "__main__":
    sys.exit(main())
