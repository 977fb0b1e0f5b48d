"""SHA256SUMS: the checksums of a folder's files beside them, in the format of `sha256sum`. Imports the ground alone."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from bert_lamb.files import file_sha256, sync

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class SumsError(ValueError):
    """A file of checksums that is missing, or that cannot be read as one."""


def write_sums(folder: Path, names: Iterable[str], later: Mapping[str, bytes] | None = None) -> None:
    """Writes SHA256SUMS of these files, each one on the disk before, and of contents by the names of files that are
    still to be written."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in (later or {}).items()}
    for name in names:
        sync(folder / name)
        sums[name] = file_sha256(folder / name)
    (folder / SUMS).write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    sync(folder / SUMS)


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256; SumsError where a line is not as `sha256sum` writes it, or a name is no plain file name."""
    try:
        *lines, end = (folder / SUMS).read_bytes().decode().split("\n")
    except (OSError, ValueError) as error:
        raise SumsError(str(error)) from error
    if end:
        raise SumsError("its last line is cut")
    sums = {}
    for line in lines:
        found = LINE.fullmatch(line)
        if found is None or not is_inside(found[2]) or "/" in found[2]:
            raise SumsError(f"its line {line[:100]!r} is not a checksum, two blanks and a file name")
        sums[found[2]] = found[1]
    return sums


def changed_files(folder: Path, sums: Mapping[str, str], names: Iterable[str] | None = None) -> list[str]:
    """Of these files (all of the sums by default), those that are missing, have no checksum or do not match theirs."""
    wanted = sorted(sums if names is None else names)
    return [name for name in wanted if name not in sums or not _matches(folder / name, sums[name])]


def is_inside(name: str) -> bool:
    """Whether a name taken from a file stays inside the folder that it is read for."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _matches(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and file_sha256(path) == sha256
    except OSError:  # a disk that cannot read it
        return False
