"""All JSON that is read: the values of others' files and lines, and small files and logs of a run, of which a damaged
one is named and set aside, and stops nothing."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bert_lamb.files import free_name, write_whole
from bert_lamb.words import counted

log = logging.getLogger(__name__)

TOO_DEEP = "brackets are nested without end"
Fits = Callable[[dict[str, Any]], bool]  # whether an object holds what its reader needs


DEEPEST = 100  # brackets within brackets; what we write has 10. Python itself can neither read nor print 1,000
LARGEST_OBJECT = 1 << 28  # bytes of a small file; the largest, a store's manifest of 10,000 shards, has some 30 MB


def parse_json(content: bytes | str, numbers_only: bool = False) -> Any:
    """The value that JSON text spells. ValueError for anything else: no JSON, no UTF-8, nested too deeply, and with
    `numbers_only` NaN or Infinity."""
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=_no_number if numbers_only else None)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def parse_object(content: bytes, fits: Fits) -> dict[str, Any] | None:
    """The JSON object that these bytes spell; None where they spell none, or one that does not fit."""
    try:
        value = parse_json(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) and fits(value) else None


def read_object(path: Path, fits: Fits = bool) -> tuple[dict[str, Any] | None, str | None]:
    """The JSON object of a file, and what is wrong with the file; neither where there is no file."""
    try:
        if path.stat().st_size > LARGEST_OBJECT:
            return None, f"{path} is damaged: it is larger than {LARGEST_OBJECT >> 20} MiB"
        content = path.read_bytes()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{path} cannot be read ({error})"
    value = parse_object(content, fits)
    return value, None if value is not None else f"{path} is damaged: it has not the contents of such a file"


def object_or_aside(path: Path, fits: Fits = bool) -> dict[str, Any] | None:
    """The JSON object of a file, or None. A damaged file is renamed to damaged-<name>, with one warning: of several
    processes the one whose rename succeeds warns."""
    value, problem = read_object(path, fits)
    if problem:
        aside = free_name(path.with_name(f"damaged-{path.name}"))
        try:
            path.rename(aside)
        except FileNotFoundError:  # another process was first
            return None
        except OSError as error:  # a folder that is read only
            log.warning("%s; it is not used (%s)", problem, error)
        else:
            log.warning("%s; kept aside as %s", problem, aside.name)
    return value


def read_lines(path: Path, fits: Fits) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The objects of a file of JSON lines, and the lines that hold none that fits; both empty where there is no file.

    The end of a file without a newline, which a process that was killed while it wrote leaves, is neither.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    good, bad = [], []
    for line in lines:
        value = parse_object(line, fits)
        if value is not None:
            good.append(value)
        elif line.strip():
            bad.append(line)
    return good, bad


def clean_lines(path: Path, fits: Fits) -> int:
    """Makes a log ready to be appended to: bad lines go to damaged-<name>, half a line at its end goes.

    Returns how many lines were bad; warns of them.
    """
    if not path.is_file():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    _, bad = read_lines(path, fits)
    if bad:
        aside = path.with_name(f"damaged-{path.name}")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in bad)
        kept = [line for line in content[:whole].split(b"\n") if parse_object(line, fits) is not None]
        write_whole(path, b"".join(line + b"\n" for line in kept))
        log.warning("%s: %s cannot be read; set aside in %s", path, counted(len(bad), "line"), aside.name)
    elif whole < len(content):
        os.truncate(path, whole)
    return len(bad)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _is_deep(value: Any) -> bool:
    """Whether containers are nested deeper than DEEPEST; by levels, since a function that calls itself would end."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level if isinstance(outer, dict | list)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
    return bool(level)
