"""Files that appear whole or not at all, and their checksums. Imports nothing of ours."""

import errno
import hashlib
import itertools
import json
import os
import secrets
from pathlib import Path
from typing import Any

CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)  # of folders, on some file systems


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on the disk: a power cut then loses neither."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in CANNOT_SYNC:
            raise


def rename_synced(source: Path, target: Path) -> None:
    """Renames a file, or a folder of files, so that neither a kill nor a power cut leaves the new name with half of
    the content: content first, then the name."""
    for path in source.iterdir() if source.is_dir() else ():
        sync(path)
    sync(source)
    source.replace(target)
    sync(target.parent)


def free_name(path: Path) -> Path:
    """This path, or the first of `name-2`, `name-3`, ... that does not exist: what is kept aside replaces nothing."""
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears under its name complete or not at all."""
    # not by process id: those of two machines may be the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:  # never through a link
        file.write(content)
    rename_synced(temporary, path)


def json_bytes(value: Any) -> bytes:
    """A value as indented JSON."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json_bytes(value))


def drop_half_line(path: Path) -> None:
    """Cuts off what a process killed while it wrote left behind the last newline, before more is appended."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
