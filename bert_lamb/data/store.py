"""The token store: Arrow IPC files and a manifest. One record batch a file, so columns are arrays without a copy.

<folder>/manifest.json, vocab.txt
<folder>/train/documents-00000.arrow         id, tokens, sentence_ends (of a dump also title)
<folder>/train/seq128-pass0-00000.arrow      spans into the tokens of the documents file of the same number
<folder>/heldout/...                         the same for documents kept from training (pass 0 only)
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bert_lamb.errors import UserError
from bert_lamb.files import write_whole

FORMAT_VERSION = 1
SPLITS = ("train", "heldout")
SPAN_COLUMNS = {"a_start": "u4", "a_length": "u2", "b_start": "u4", "b_length": "u2", "is_next": "u1"}


SPAN_SCHEMA = pa.schema([(name, pa.from_numpy_dtype(np.dtype(dtype))) for name, dtype in SPAN_COLUMNS.items()])
DOCUMENT_SCHEMAS = [
    pa.schema([
        ("id", pa.string()), ("tokens", pa.large_list(token)), ("sentence_ends", pa.large_list(pa.uint32())), *titles
    ])
    for token in (pa.uint16(), pa.uint32())
    for titles in ([], [("title", pa.string())])
]  # fmt: skip


class StoreError(UserError):
    """A token store that must not be used; the message names the file and the way out."""


@dataclass
class Documents:
    """One documents file. Tokens of all its documents stand end to end in `tokens`."""

    ids: list[str]  # "source:key" of each document
    tokens: np.ndarray  # [T] uint16 or uint32, without special tokens
    token_starts: np.ndarray  # [D + 1] int64: document d is tokens[token_starts[d]:token_starts[d + 1]]
    sentence_ends: np.ndarray  # [S] uint32: where each sentence ends, counted from its document's first token
    sentence_starts: np.ndarray  # [D + 1] int64: document d owns sentence_ends[sentence_starts[d]:...]
    titles: list[str] | None = None  # of each document, where the source has titles apart from its text


@dataclass
class Spans:
    """Instances of one length and pass: two spans of the tokens of one documents file, each column [I]."""

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    is_next: np.ndarray

    def __len__(self) -> int:
        return len(self.a_start)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, [CLS] and two [SEP] included; int64."""
        return self.a_length.astype(np.int64) + self.b_length + 3


def documents_name(shard: int) -> str:
    return f"documents-{shard:05d}.arrow"


def spans_name(seq_len: int, pass_: int, shard: int) -> str:
    return f"seq{seq_len}-pass{pass_}-{shard:05d}.arrow"


def token_dtype(vocab_size: int) -> np.dtype:
    """Ids fit into 16 bits up to 65,536 entries."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.uint32)


def write_documents(path: Path, documents: Documents) -> None:
    """Writes one documents file whole: by rename, so a cut leaves nothing under the final name."""
    tokens = pa.LargeListArray.from_arrays(pa.array(documents.token_starts, pa.int64()), pa.array(documents.tokens))
    ends = pa.LargeListArray.from_arrays(
        pa.array(documents.sentence_starts, pa.int64()), pa.array(documents.sentence_ends, pa.uint32())
    )
    columns = {"id": pa.array(documents.ids, pa.string()), "tokens": tokens, "sentence_ends": ends}
    if documents.titles is not None:
        columns["title"] = pa.array(documents.titles, pa.string())
    _write(path, columns)


def read_documents(path: Path) -> Documents:
    """Maps one documents file; arrays are views of the file."""
    batch = _read(path, DOCUMENT_SCHEMAS)
    tokens, ends = batch.column("tokens"), batch.column("sentence_ends")
    return Documents(
        ids=batch.column("id").to_pylist(),
        tokens=tokens.values.to_numpy(),
        token_starts=tokens.offsets.to_numpy(),
        sentence_ends=ends.values.to_numpy(),
        sentence_starts=ends.offsets.to_numpy(),
        titles=batch.column("title").to_pylist() if "title" in batch.schema.names else None,
    )


def write_spans(path: Path, spans: Spans) -> None:
    """Writes one instance table whole."""
    _write(path, {c: pa.array(np.asarray(getattr(spans, c), dtype)) for c, dtype in SPAN_COLUMNS.items()})


def read_spans(path: Path) -> Spans:
    """Maps one instance table."""
    batch = _read(path, [SPAN_SCHEMA])
    return Spans(**{c: batch.column(c).to_numpy() for c in SPAN_COLUMNS})


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The manifest's one spelling, so that equal content is equal bytes."""
    return (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    write_whole(path, sink.getvalue())


def _read(path: Path, schemas: Collection[pa.Schema]) -> pa.RecordBatch:
    """The one batch of a file, without a copy. Nothing of it is used before Arrow has compared all its lengths and
    offsets with the bytes that are there: views beyond them would end the process without a word."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema not in schemas:
            raise ValueError(f"its columns are not those of such a file: {', '.join(reader.schema.names)}"[:200])
        if reader.num_record_batches != 1:
            raise ValueError("it does not hold one batch")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        for column in batch.columns:
            _refuse_gaps(column)
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{path} cannot be read ({said}); run `make prepare` again") from error
    return batch


def _refuse_gaps(column: pa.Array) -> None:
    """ValueError where values are missing, or a list's values do not stand end to end from first to last."""
    if column.null_count:
        raise ValueError("values are missing")
    if isinstance(column, pa.LargeListArray):
        offsets = column.offsets
        if offsets[0].as_py() != 0 or offsets[len(column)].as_py() != len(column.values):
            raise ValueError("offsets do not end where values do")
        _refuse_gaps(column.values)
