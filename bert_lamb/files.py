"""Files that appear whole or not at all, their checksums, and locks. Imports nothing of ours."""

import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears under its name complete or not at all."""
    # not by process id: those of two machines may be the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


@contextmanager
def one_at_a_time(lock: Path, work: str) -> Iterator[OSError | None]:
    """Only one process does some work; the others wait, and say for what: "another process <work>".

    A process that dies gives the lock back. Yields the error where the file system has no locks.
    """
    without_locks = None
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process %s; waiting for it", work)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            without_locks = error
        yield without_locks


def drop_half_line(path: Path) -> None:
    """Cuts off what a process killed while it wrote left behind the last newline, before more is appended."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
