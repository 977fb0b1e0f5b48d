"""Token stores whose bytes are not as they were written: an error by name, never the end of the process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tools import ROOT, environment, make_store

from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.masking import MaskRule
from bert_lamb.data.packing import SpecialIds, pack
from bert_lamb.data.store import (
    Documents,
    Spans,
    StoreError,
    read_documents,
    read_spans,
    spans_name,
    write_documents,
    write_spans,
)

READ_CHANGED = """
import random, sys
from pathlib import Path
import numpy as np
from bert_lamb.data.store import StoreError, read_documents, read_spans

place, dice, told, read = Path(sys.argv[1]), random.Random(int(sys.argv[2])), 0, 0
for _ in range(int(sys.argv[3])):
    for name, reader in (("documents.arrow", read_documents), ("spans.arrow", read_spans)):
        content, changed = bytearray((place / name).read_bytes()), place / f"changed-{name}"
        if dice.random() < 0.2:
            del content[dice.randrange(len(content)) :]
        else:
            for _ in range(dice.choice([1, 1, 1, 2, 8])):
                content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        changed.write_bytes(content)
        try:
            columns = vars(reader(changed))
        except StoreError as error:
            assert str(changed) in str(error) and len(str(error)) < 1000, error
            told += 1
            continue
        read += 1
        for column in columns.values():
            assert column is None or (column.sum() if isinstance(column, np.ndarray) else "".join(column)) is not None
        if name == "documents.arrow":
            for values, starts in (("tokens", "token_starts"), ("sentence_ends", "sentence_starts")):
                assert len(columns[starts]) == len(columns["ids"]) + 1
                assert columns[starts][0] == 0 and columns[starts][-1] == len(columns[values])
                assert (np.diff(columns[starts]) >= 0).all()
        else:
            assert len({len(column) for column in columns.values()}) == 1
print(told, read)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A documents file and an instance table, small enough that a flip seldom misses what is about the values."""
    draw = np.random.default_rng(1)
    starts = np.concatenate([[0], np.cumsum(draw.integers(1, 30, 40))])
    documents = Documents(
        ids=[f"a.jsonl:{i}" for i in range(40)],
        tokens=draw.integers(0, 300, starts[-1]).astype(np.uint16),
        token_starts=starts,
        sentence_ends=draw.integers(1, 30, 60).astype(np.uint32),
        sentence_starts=np.array([*range(40), 60]),
        titles=[f"Größe {i}" for i in range(40)],
    )
    write_documents(tmp_path / "documents.arrow", documents)
    write_spans(tmp_path / "spans.arrow", Spans(*draw.integers(0, 2, (5, 50))))
    return tmp_path


@pytest.mark.parametrize("seed", [1, 2])
def test_flips_and_cuts_never_end_the_process(place, seed):
    """In a process of its own, where a view beyond the file's end is seen by the signal."""
    command = [sys.executable, "-c", READ_CHANGED, place, str(seed), "300"]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told, read = map(int, done.stdout.split())
    assert told > 100
    assert read > 100


INT = pa.array([1, 2], pa.uint32())
WORDS, GAPS = pa.array(["a", "b"]), pa.large_list(pa.uint32())
NESTED = pa.LargeListArray.from_arrays(pa.array([0, 1, 2], pa.int64()), INT)
OTHERS = {
    "a column less": {"id": WORDS, "tokens": NESTED},
    "a column more": {"id": WORDS, "tokens": NESTED, "sentence_ends": NESTED, "other": INT},
    "another type": {"id": INT, "tokens": NESTED, "sentence_ends": NESTED},
    "missing ids": {"id": pa.array(["a", None]), "tokens": NESTED, "sentence_ends": NESTED},
    "missing lists": {
        "id": WORDS, "tokens": pa.array([[1], None], GAPS), "sentence_ends": NESTED,
    },
    "missing tokens": {
        "id": WORDS, "tokens": pa.array([[1], [None]], GAPS), "sentence_ends": NESTED,
    },
    "tokens before the first document": {
        "id": pa.array(["a"]), "tokens": NESTED.slice(1), "sentence_ends": NESTED.slice(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_arrow_files_of_other_content_are_refused(tmp_path, name):
    batch = pa.RecordBatch.from_pydict(OTHERS[name])
    path = tmp_path / "documents.arrow"
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
    if name == "tokens before the first document":  # the writer moves them to the front
        assert len(read_documents(path).tokens) == 1
        return
    with pytest.raises(StoreError, match=r"documents\.arrow cannot be read"):
        read_documents(path)


@pytest.mark.parametrize("batches", [0, 2])
def test_a_file_of_no_batch_or_several_is_refused(place, tmp_path, batches):
    path = tmp_path / "spans.arrow"
    batch = pa.ipc.open_file(str(path)).get_batch(0)
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    with pytest.raises(StoreError, match="does not hold one batch"):
        read_spans(path)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("a_start", 10**6, "outside"), ("b_start", 2**32 - 1, "outside"), ("a_length", 200, "longer than 32"),
     ("b_length", 2**16 - 1, "longer than 32"), ("is_next", 2, "no answer"), ("token", 0, "token beyond 6")],
)  # fmt: skip
def test_instances_that_no_store_has_are_named(tmp_path, column, value, problem):
    """Of files that are whole, by whoever made the store: else an array or the model would fail, or a GPU."""
    folder = tmp_path / "made"
    make_store(folder)
    manifest, which = read_manifest(folder), np.arange(3)
    if column != "token":
        file = folder / "train" / spans_name(32, 0, 0)
        spans = read_spans(file)
        changed = getattr(spans, column).astype(np.int64)
        changed[1] = value
        write_spans(file, Spans(**(vars(spans) | {column: changed})))
    tables = InstanceTables(folder, manifest, "train", 32)
    rule = MaskRule(0, 1, 0.15, 4, 6 if column == "token" else manifest["tokenizer"]["size"], None)
    with pytest.raises(StoreError, match=rf"train: an instance of shard 0 .*{problem}.*prepare it again"):
        pack(tables, tables.rows(which * 0, which), which * 0, which, SpecialIds.of(manifest), rule, 32)
