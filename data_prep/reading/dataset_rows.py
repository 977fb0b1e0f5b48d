"""Rows of a dataset of the `datasets` library, kept as JSON lines below data.root, where `prepare` reads them as text.

The library reads a dataset of the hub by its name (streamed), a folder of `save_to_disk`, or files by the name of a
format ("json", "csv", "parquet") with data.paths. Its rows are written once, some at a time, so that a run that was cut
goes on, nodes without a network can read them, and slices have a place in a file.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard

from bert_lamb.files import write_json, write_whole
from bert_lamb.jsonfiles import parse_json
from bert_lamb.settings import DataSettings
from data_prep.reading.sources import SourceError, SourceFile, source_files

log = logging.getLogger(__name__)

FILE_BYTES = 64 << 20  # of JSON lines in one file, before packing
SAVED = ("state.json", "dataset_dict.json")  # one of these stands in a folder of save_to_disk


def rows_folder(data: DataSettings) -> Path:
    """Where the rows of this dataset, subset, split and column are kept."""
    what = json.dumps([data.dataset, data.subset, data.split, data.text_field, list(data.paths)])
    name = re.sub(r"[^\w.-]+", "-", (data.dataset or "").strip("/")).strip("-.")[-60:]
    return Path(data.root) / "raw" / f"{name}-{sha256(what.encode()).hexdigest()[:8]}"


def input_files(data: DataSettings) -> list[SourceFile]:
    """The inputs that the settings name, from whatever source; SourceError where there are none."""
    return dataset_files(data) if data.source == "hf" else source_files(data)


def dataset_files(data: DataSettings) -> list[SourceFile]:
    """The files of rows that are kept; SourceError where they are not, or not all."""
    folder, about = rows_folder(data), _about(data)
    if not about["complete"]:
        raise SourceError(
            f"data.dataset={data.dataset}: its rows are not, or not all, in {folder}; run `make fetch` with the same "
            "settings where there is network, or `make prepare`, and they are read"
        )
    missing = [name for name, _ in about["files"] if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder / missing[0]} is missing; delete {folder} to have the rows read again")
    return [
        SourceFile(name, str(folder / name), ".jsonl", ".zst", data.sentences_per_document)
        for name, _ in about["files"]
    ]


def keep_rows(data: DataSettings) -> None:
    """Reads the rows that are not kept yet; SourceError where the library cannot give them."""
    folder, about = rows_folder(data), _about(data)
    if about["complete"]:
        return
    files = [(name, rows) for name, rows in about["files"] if (folder / name).is_file()]
    before = sum(rows for _, rows in files)
    log.info("reading data.dataset=%s, split %s, into %s%s", data.dataset, data.split, folder,
             f" (going on after {before:,} rows)" if before else "")  # fmt: skip
    try:
        for lines in _batches(_lines(data, before)):
            name = f"rows-{len(files):05d}.jsonl.zst"
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, zstandard.ZstdCompressor(level=3).compress(b"".join(lines)))
            files.append((name, len(lines)))
            write_json(folder / "about.json", {"files": files, "complete": False})
            log.info("  %d rows", sum(rows for _, rows in files))
    except SourceError:
        raise
    except Exception as error:  # the library, its file systems and its formats raise whatever they like
        raise SourceError(
            f"data.dataset={data.dataset} (data.subset={data.subset or 'null'}, data.split={data.split}) cannot be "
            f"read: {type(error).__name__}: {_first_line(error)}. What was read is kept, and the same command goes on"
        ) from error
    if not files:
        raise SourceError(f"data.dataset={data.dataset}, data.split={data.split}: no rows in it")
    write_json(folder / "about.json", {"files": files, "complete": True})


def _about(data: DataSettings) -> dict[str, Any]:
    path = rows_folder(data) / "about.json"
    try:
        about = parse_json(path.read_bytes())
        files = [(str(name), int(rows)) for name, rows in about["files"]]
        if all(re.fullmatch(r"rows-\d+\.jsonl\.zst", name) for name, _ in files):
            return {"files": files, "complete": bool(about["complete"])}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one: then the rows are read again
        pass
    return {"files": [], "complete": False}


def _lines(data: DataSettings, first: int) -> Iterator[bytes]:
    """Rows from number `first` on, as JSON lines that hold the text and the row's own id."""
    for row in _open(data, first):
        if data.text_field not in row:
            raise SourceError(
                f"data.text_field={data.text_field}: data.dataset={data.dataset} has no such column; it has "
                + ", ".join(row)
            )
        record = {key: row[key] for key in ("id", data.text_field) if key in row}
        yield json.dumps(record, ensure_ascii=False, default=repr).encode("utf-8", "surrogatepass") + b"\n"


def _open(data: DataSettings, first: int) -> Iterable[dict[str, Any]]:
    """The dataset without its first rows."""
    import datasets  # only here: other sources need not wait for it

    folder = Path(data.dataset or "")
    if any((folder / name).is_file() for name in SAVED):
        found = datasets.load_from_disk(str(folder))
        if isinstance(found, datasets.DatasetDict):
            if data.split not in found:
                raise SourceError(f"data.split={data.split}: {folder} has {', '.join(found)}")
            found = found[data.split]
        return (found[i] for i in range(first, len(found)))
    found = datasets.load_dataset(
        data.dataset, data.subset, split=data.split, streaming=True, data_files=list(data.paths) or None
    )
    return found.skip(first)


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Lines together until they fill a file."""
    while batch := list(islice(lines, 1)):
        size = len(batch[0])
        while size < FILE_BYTES and (more := next(lines, None)) is not None:
            batch.append(more)
            size += len(more)
        yield batch


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
