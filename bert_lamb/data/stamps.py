"""What was hashed already: stamps in the user's own cache folder, never beside the files that they vouch for.

Whoever may write a store could write its stamps too, were they inside it. A stamp names the file itself (device,
inode), its size, the times of its last change, of which no program can set the second one back, and its SHA-256.
"""

import hashlib
import os
import socket
import stat
import time
from pathlib import Path

from bert_lamb.files import write_json
from bert_lamb.jsonfiles import read_object

Stamp = list[int | str]  # device, inode, size, mtime and ctime in ns, SHA-256
FRESH_NS = 2 * 10**9  # since the last change: clocks of file systems tick so seldom that another one may look the same


class Stamps:
    """The stamps of one folder's files on this machine; none where the user has no cache folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._cache = _cache_folder()
        key = f"{socket.gethostname()}\0{folder.resolve()}"
        self._file = self._cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json" if self._cache else None
        known = read_object(self._file)[0] if self._file and is_ours(self._file) else None
        self._known = known or {}

    def sha256(self, name: str, path: Path) -> tuple[str, Stamp | None]:
        """A file's SHA-256, hashed unless its stamp is there, and the stamp to keep."""
        with path.open("rb") as file:
            before = _state(os.fstat(file.fileno()))
            match self._known.get(name):
                case [*state, str(known)] if state == before:
                    return known, [*before, known]
            found = hashlib.file_digest(file, "sha256").hexdigest()
            settled = before == _state(os.fstat(file.fileno())) and abs(time.time_ns() - before[-1]) > FRESH_NS
        return found, [*before, found] if settled else None

    def keep(self, stamps: dict[str, Stamp]) -> None:
        """Writes the stamps for the next start; a disk that takes none costs that start its time."""
        if self._file and stamps != self._known:
            try:
                write_json(self._file, stamps)
                self._file.chmod(0o600)  # whatever the umask: `is_ours`
            except OSError:
                self._file = None


def _state(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _cache_folder() -> Path | None:
    """The folder of stamps, made where it is missing; None where nobody but the user could not be sure of it."""
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = given if given.is_absolute() else Path.home() / ".cache"
        folder = base / "bert_lamb" / "verified"
        for each in (base, folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            if each != base and not is_ours(each):
                return None
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None
    return folder


def is_ours(path: Path) -> bool:
    """Whether a file or folder, no link, belongs to the user and can be written by no one else."""
    try:
        status = path.lstat()
    except OSError:
        return False
    kind = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return kind and status.st_uid == os.geteuid() and not status.st_mode & 0o022
