"""Files that appear whole or not at all, and their checksums. Imports nothing of ours."""

import hashlib
import os
import secrets
from pathlib import Path


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


def drop_half_line(path: Path) -> None:
    """Cuts off what a process killed while it wrote left behind the last newline, before more is appended."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
