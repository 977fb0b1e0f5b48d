"""Laying sequences end to end, rounding shapes up, and batches made ahead."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tools import make_store, phase_data

from bert_lamb.batch import IGNORED, PackedBatch
from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.loader import prefetched
from bert_lamb.data.packing import SpecialIds, lay_out, round_up
from bert_lamb.data.planner import Shape

IDS = SpecialIds(0, 2, 3, 4)


def test_lay_out_against_a_plain_loop(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    make_store(folder, shards=3)
    tables = InstanceTables(folder, json.loads((folder / "manifest.json").read_text()), "train", 32)
    rng = np.random.default_rng(1)
    pass_ = rng.integers(0, 2, 60)
    rows = tables.rows(pass_, np.array([rng.integers(0, tables.sizes[p]) for p in pass_]))
    expected: list[tuple[int, int, int, bool]] = []
    borders = [0]
    for i, shard in enumerate(rows.shard):
        tokens = tables.tokens(shard).tolist()
        s = rows.spans
        a = tokens[s.a_start[i] : s.a_start[i] + s.a_length[i]]
        b = tokens[s.b_start[i] : s.b_start[i] + s.b_length[i]]
        ids = [IDS.cls, *a, IDS.sep, *b, IDS.sep]
        for place, token in enumerate(ids):
            is_special = place in (0, len(a) + 1, len(ids) - 1)
            expected.append((token, int(place > len(a) + 1), place, is_special))
        borders.append(len(expected))
    tokens_, types, positions, got_borders, special = lay_out(tables, rows, IDS)
    assert got_borders.tolist() == borders
    assert [tuple(column) for column in zip(tokens_, types, positions, special, strict=True)] == expected


def test_rows_are_those_of_the_files(tmp_path: Path) -> None:
    """Instance i of a pass is row i of its shards' tables end to end."""
    folder = tmp_path / "made"
    make_store(folder, shards=3)
    from bert_lamb.data.store import read_spans, spans_name

    tables = InstanceTables(folder, json.loads((folder / "manifest.json").read_text()), "train", 64)
    for p in (0, 1):
        read = [read_spans(folder / "train" / spans_name(64, p, shard)) for shard in range(3)]
        assert tables.sizes[p] == sum(map(len, read))
        rows = tables.rows(np.full(tables.sizes[p], p), np.arange(tables.sizes[p]))
        assert rows.shard.tolist() == [s for s, table in enumerate(read) for _ in range(len(table))]
        assert rows.spans.a_start.tolist() == np.concatenate([t.a_start for t in read]).tolist()
        assert rows.spans.is_next.tolist() == np.concatenate([t.is_next for t in read]).tolist()


def batches(folder: Path, steps: int = 4) -> Iterator[PackedBatch]:
    for step in phase_data(folder, 0, 1, 7).steps(0, steps):
        yield from step.batches


def test_packed_batches_hold_what_they_say(tmp_path: Path) -> None:
    make_store(tmp_path / "made")
    for batch in batches(tmp_path / "made"):
        lengths = batch.cu_seqlens.diff()
        assert int(lengths.max()) <= batch.max_seqlen <= 32
        assert len(batch.masked_labels) == sum(max(1, round(0.15 * n)) for n in lengths.tolist())
        assert (batch.input_ids[batch.cu_seqlens[:-1].long()] == IDS.cls).all()
        assert batch.cu_seqlens.dtype == torch.int32
        assert batch.input_ids.dtype == batch.masked_positions.dtype == batch.next_labels.dtype == torch.int64


def test_next_labels_follow_transformers(tmp_path: Path) -> None:
    """The store says is_next = 1, transformers' label says 0 for it."""
    make_store(tmp_path / "made", passes=1)
    data = phase_data(tmp_path / "made", 0, 1, 30)
    step, makers = data.plan(0, data.order.step(0))
    chosen = data.order.step(0)
    rows = data.tables.rows(chosen.pass_[makers[0]], chosen.instance[makers[0]])
    assert data.make(chosen, makers[0]).next_labels.tolist() == [1 - int(n) for n in rows.spans.is_next]
    assert 0 < rows.spans.is_next.sum() < len(rows.spans)
    assert step.denominators.sequences == 30
    assert step.denominators.tokens == int(rows.spans.lengths.sum())
    assert step.denominators.masked == sum(max(1, round(0.15 * n)) for n in rows.spans.lengths.tolist())


def test_round_up_keeps_what_is_real(tmp_path: Path) -> None:
    make_store(tmp_path / "made")
    for batch in batches(tmp_path / "made"):
        sequences = 8
        up = round_up(batch, Shape(250, sequences, 60, 32))
        n, k, m = len(batch.input_ids), len(batch.masked_labels), len(batch.next_labels)
        for name in ("input_ids", "token_type_ids", "position_ids"):
            assert torch.equal(getattr(up, name)[:n], getattr(batch, name))
        assert torch.equal(up.masked_positions[:k], batch.masked_positions)
        assert torch.equal(up.masked_labels[:k], batch.masked_labels)
        assert torch.equal(up.next_labels[:m], batch.next_labels)
        assert torch.equal(up.cu_seqlens[: m + 1], batch.cu_seqlens)
        assert (up.masked_labels[k:] == IGNORED).all()
        assert (up.next_labels[m:] == IGNORED).all()
        assert (up.cu_seqlens[m + 1 :] == n).all(), "filler sequences are empty"
        assert len(up.next_labels) == len(up.cu_seqlens) - 1 == sequences
        assert (len(up.input_ids), len(up.masked_labels), up.max_seqlen) == (250, 60, 32)


@pytest.fixture
def new_loaders() -> Iterator[Callable[[], list[threading.Thread]]]:
    """Loaders' threads that this test began (another's failure may hold some still). None may be left at its end."""
    before = set(threading.enumerate())

    def new() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "loader" and t not in before]

    yield new
    for _ in range(200):
        if not new():
            return
        time.sleep(0.05)
    raise AssertionError("the loader's thread is still there")


def test_pinned_batches_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in, since pinning needs a GPU: every tensor of every batch, and nothing else of it."""
    pinned: set[int] = set()

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    make_store(tmp_path / "made")
    plain, data = (phase_data(tmp_path / "made", 0, 1, 30) for _ in range(2))
    data.pinned = True
    for a, b in zip(*([x for step in d.steps(0, 1) for x in step.batches] for d in (plain, data)), strict=True):
        for field in fields(a):
            value, other = getattr(a, field.name), getattr(b, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other)
                assert other.data_ptr() in pinned
            else:
                assert value == other


@pytest.mark.usefixtures("new_loaders")
@pytest.mark.parametrize("depth", [1, 2, 10])
def test_prefetched_gives_the_same_items(depth: int) -> None:
    assert list(prefetched(iter(range(20)), depth)) == list(range(20))


@pytest.mark.usefixtures("new_loaders")
@pytest.mark.parametrize("depth", [1, 5])
def test_prefetched_passes_exceptions_on(depth: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("a broken shard")

    got = []
    with pytest.raises(RuntimeError, match="a broken shard"):  # noqa: PT012 - the loop is the point
        for item in prefetched(items(), depth):
            got.append(item)
    assert got == [1, 2], "what was made before the failure still comes"


def test_prefetched_ends_its_thread_when_closed(new_loaders: Callable[[], list[threading.Thread]]) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    stream = prefetched(endless(), 2)
    assert next(stream) == 0
    assert len(new_loaders()) == 1
    stream.close()


def test_prefetched_makes_no_more_than_asked_ahead() -> None:
    made: list[int] = []
    stream = prefetched((made.append(i) or i for i in range(100)), 3)  # type: ignore[func-returns-value]
    next(stream)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1  # given out, in the queue, in the maker's hand
    stream.close()


@pytest.mark.usefixtures("new_loaders")
def test_a_phase_left_early_ends_its_thread(tmp_path: Path) -> None:
    make_store(tmp_path / "made")
    steps = phase_data(tmp_path / "made", 0, 1, 7).steps(0, 50)
    step = next(steps)
    next(step.batches)
    steps.close()  # type: ignore[attr-defined]
