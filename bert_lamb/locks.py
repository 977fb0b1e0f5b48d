"""One process at a time: locks that end with their process.
Where a file system has no locks, a lease stands in their place: a file that its owner renews, and that counts no more
once it has not been renewed for some time.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bert_lamb.errors import EXIT_USAGE, UserError
from bert_lamb.jsonfiles import parse_json

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of flock, by file system
RENEW_S = 5.0  # seconds between renewals of a lease
LEASE_S = 60.0  # a lease that is older has lost its owner; ours, many times what a busy file server delays


class InUseError(UserError):
    """Another process works in the folder."""


class NoLocksError(OSError):
    """The file system has no locks."""


@contextmanager
def sole_use(folder: Path, way_out: str) -> Iterator[tuple[int, ...]]:
    """Keeps every other process out of a folder. Yields the descriptors that hold it, for processes that share it:
    one that inherits them keeps the folder as long as it lives.

    Raises InUseError, which ends with `way_out`, where another process has the folder.
    """
    try:
        descriptor = _take(folder / ".lock", wait=False)
    except BlockingIOError:
        raise InUseError(f"{folder} is in use by another process: {way_out}") from None
    except NoLocksError as error:
        log.warning("no file locks in %s (%s): a lease, %s, keeps others out", folder, error.strerror, _lease(folder))
        with _leased(folder, way_out):
            yield ()
        return
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(lock: Path, work: str) -> Iterator[OSError | None]:
    """Only one process does some work; the others wait, and say for what: "another process <work>".

    A process that dies gives the lock back. Yields the error where the file system has no locks.
    """
    try:
        try:
            descriptor = _take(lock, wait=False)
        except BlockingIOError:
            log.info("another process %s; waiting for it", work)
            descriptor = _take(lock, wait=True)
    except NoLocksError as error:
        yield error
        return
    try:
        yield None
    finally:
        os.close(descriptor)


def _take(path: Path, wait: bool) -> int:
    """The descriptor that holds a lock file. A link in its place, maybe another user's, is not followed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, and a lock is never one: remove it") from error
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError) and error.errno in NO_LOCKS:
            raise NoLocksError(error.errno, error.strerror, str(path)) from error
        raise
    return descriptor


def _lease(folder: Path) -> Path:
    return folder / ".lease"


@contextmanager
def _leased(folder: Path, way_out: str) -> Iterator[None]:
    """Holds a folder by a file that a thread renews."""
    path, mine = _lease(folder), secrets.token_hex(8)
    about = json.dumps({"owner": mine, "host": socket.gethostname(), "process": os.getpid()}).encode()
    descriptor = _make(path, about)
    if descriptor is None:
        descriptor = _take_over(path, mine, about, way_out)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, descriptor, mine, about, ended), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        os.close(descriptor)
        if _is_of(path, mine):
            path.unlink()


def _make(path: Path, about: bytes) -> int | None:
    """The descriptor of a new lease; None where there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return None
    try:
        _write(descriptor, about)
    except OSError:  # no room on the disk: an empty lease would keep the folder for nobody
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _take_over(path: Path, mine: str, about: bytes, way_out: str) -> int:
    """The descriptor of a lease that replaces one whose owner is gone; InUseError where somebody has it.

    Of several that find the old lease at once, one may remove what another has just made. So each waits, and looks
    whose lease has stayed. Whoever lost one meanwhile, and works already, sees that within RENEW_S.
    """
    age_s = _age_s(path)
    if age_s is not None and age_s < LEASE_S:
        raise InUseError(
            f"{path.parent} is in use by {_owner(path)}, last seen {age_s:.0f} s ago; a process that was killed "
            f"loses it after {LEASE_S:.0f} s: {way_out}"
        )
    lost = path.with_name(f".lease-lost-{mine}")
    with suppress(FileNotFoundError):
        path.rename(lost)
        lost.unlink()
    descriptor = _make(path, about)
    if descriptor is not None:
        time.sleep(2 * RENEW_S)
        if _is_of(path, mine):
            return descriptor
        os.close(descriptor)
    raise InUseError(f"{path.parent} is in use by {_owner(path)}, which has just taken it: {way_out}")


def _renew(path: Path, descriptor: int, mine: str, about: bytes, ended: threading.Event) -> None:
    """Says every few seconds that the owner lives; ends the process where another one has taken the lease meanwhile.

    By its own descriptor, so that it never writes into another's lease.
    """
    while not ended.wait(RENEW_S):
        if not _is_of(path, mine):
            log.error("error: this process slept too long: its lease %s is another's now; it ends, unsaved", path)
            os._exit(EXIT_USAGE)
        with suppress(OSError):  # a file server that does not answer for a moment
            _write(descriptor, about)


def _write(descriptor: int, about: bytes) -> None:
    os.pwrite(descriptor, about, 0)
    os.fsync(descriptor)  # so that other hosts see the new time


def _is_of(path: Path, mine: str) -> bool:
    try:
        return mine.encode() in path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:  # a file server that does not answer for a moment is no other owner
        return True


def _age_s(path: Path) -> float | None:
    """Seconds since a lease was renewed, by the clock of its file system; None where it is gone.

    A lease from the future was written before that clock was set back: nobody has renewed it since.
    """
    probe = path.with_name(f".lease-{secrets.token_hex(8)}")
    try:
        probe.touch()
        with path.open("rb") as lease:  # opened, so that a file server's client asks the server
            return abs(probe.stat().st_mtime - os.fstat(lease.fileno()).st_mtime)
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    try:
        about = parse_json(path.read_bytes())
        return f"process {about['process']} of {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
