"""The plan kept below the store, so that the input is read once: for all tasks of an array, and after a kill.

A file is taken as it was planned while its path, size and time of change are the same.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import accumulate
from pathlib import Path
from typing import Any

from bert_lamb.files import write_whole
from bert_lamb.jsonfiles import parse_json
from bert_lamb.locks import one_at_a_time
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.slices import Piece, Plan, PlannedFile, Slice, as_slices, plan_files
from data_prep.reading.sources import SourceFile
from data_prep.shards.folder import StoreFolder

log = logging.getLogger(__name__)
State = tuple[int, int] | None  # of a file: bytes and time of change; None: generated, hence always read


@contextmanager
def one_command_completes(folder: StoreFolder) -> Iterator[None]:
    """Only one command makes what is missing of a whole store; a second one waits and finds it complete."""
    root, name = folder.path.parent, folder.path.name
    root.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root / f".{name}.lock", f"prepares {folder.path}") as without_locks:
        if without_locks:
            log.warning("no file locks in %s (%s): start one `prepare` at a time", folder.path, without_locks.strerror)
        yield


@contextmanager
def one_task_reads(folder: StoreFolder) -> Iterator[None]:
    """Only one task reads the input and trains the vocabulary; the others wait and find both done.

    Where the file system has no locks every task does that work for itself, to the same bytes.
    """
    with one_at_a_time(folder.lock_file, "of this store reads the input") as without_locks:
        if without_locks:
            why = without_locks.strerror
            log.warning("no file locks in %s (%s): each task may have to read the input itself", folder.path, why)
        yield


def kept_plan(
    folder: StoreFolder, data: DataSettings, settings: dict[str, Any], files: list[SourceFile], threads: int
) -> Plan:
    """The plan of these files; those that are not in the kept one, or have changed, are read and put there.

    settings: those that decide the store's bytes; a plan made with others is not taken.
    """
    states = {file.path: state(file) for file in files}  # before reading: a file that grows meanwhile is read again
    kept = _read(folder.plan_file, settings)
    asked = set(files)
    known = {f.file: f for f, was in kept if f.file in asked and was is not None and was == states[f.file.path]}
    fresh = [file for file in files if file not in known]
    if fresh:
        log.info("reading %s once, for checksums and slices", counted(len(fresh), "input file"))
        planned = [*known.values(), *plan_files(data, fresh, threads)]
        content = {"settings": settings, "files": [_as_json(f, states[f.file.path]) for f in planned]}
        write_whole(folder.plan_file, json.dumps(content).encode())
    else:
        planned = [*known.values()]
        log.info("the input is unchanged (%s, by size and modification time)", counted(len(files), "file"))
    return as_slices(planned, data)


def slices_of_part(plan: Plan, part: int | None, parts: int) -> list[Slice]:
    """The slices whose middle lies in this part of the whole text: neighbours, so that streams are read once."""
    if part is None:
        return plan.slices
    ends = accumulate(s.size for s in plan.slices)
    places = [(2 * end - s.size) * parts // max(1, 2 * plan.size) for s, end in zip(plan.slices, ends, strict=True)]
    return [s for s, place in zip(plan.slices, places, strict=True) if min(place, parts - 1) == part]


def state(file: SourceFile) -> State:
    if file.compression == "generated":
        return None
    about = Path(file.path).stat()
    return about.st_size, about.st_mtime_ns


def _as_json(planned: PlannedFile, was: State) -> dict[str, Any]:
    pieces = [
        {f.name: getattr(p, f.name) for f in fields(p) if f.name != "file"}
        | {"dropped_spaces": sorted(p.dropped_spaces)}
        for p in planned.pieces
    ]
    about = {name: getattr(planned, name) for name in ("bytes", "sha256", "sizes", "damage", "seems")}
    return {"file": vars(planned.file), "state": was, "pieces": pieces, **about}


def _read(path: Path, settings: dict[str, Any]) -> list[tuple[PlannedFile, State]]:
    try:
        content = parse_json(path.read_bytes())
        return [_from_json(**f) for f in content["files"]] if content["settings"] == settings else []
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # none yet, or of another version
        return []


def _from_json(
    file: dict[str, Any], state: list[int] | None, pieces: list[dict], **about: Any
) -> tuple[PlannedFile, State]:
    source = SourceFile(**file)
    cut = [
        Piece(**p | {"file": source, "dropped_spaces": frozenset(p["dropped_spaces"]),
                     "stream": p["stream"] and tuple(p["stream"])})
        for p in pieces
    ]  # fmt: skip
    return PlannedFile(file=source, pieces=cut, **about), (state[0], state[1]) if state else None
