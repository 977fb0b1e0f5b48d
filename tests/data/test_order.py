"""Law 2: which sequences form a step, and how they are masked, are pure functions of a few integers."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tools import ROOT, environment, make_store, phase_data

from bert_lamb.data.loader import PhaseData
from bert_lamb.data.order import Order
from bert_lamb.hashing import key, permute

GOLDEN = ROOT / "tests" / "golden" / "order.json"
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 31, 32, 33, 101, 997, 1023, 1024, 1025, 65_521, 65_535, 65_536, 65_537]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [(0,), (1, 7, 2, 0), (2**64 - 1, -3)])
def test_permute_is_a_bijection(size: int, parts: tuple[int, ...]) -> None:
    image = permute(np.arange(size), size, key(*parts))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permute_needs_no_neighbours() -> None:
    """Any entry alone is the same entry, so a step far into an epoch costs what the first one costs."""
    whole = permute(np.arange(1000), 1000, key(5))
    some = np.array([999, 0, 512, 3])
    assert np.array_equal(permute(some, 1000, key(5)), whole[some])


def test_permutations_differ_by_key_and_mix() -> None:
    a, b = (permute(np.arange(1000), 1000, key(k)) for k in (1, 2))
    assert (a == b).mean() < 0.01
    assert (a == np.arange(1000)).mean() < 0.01
    assert abs(np.corrcoef(np.arange(1000), a)[0, 1]) < 0.15


def test_every_pair_of_places_is_reached() -> None:
    """Over many keys each entry of a small permutation goes everywhere equally often."""
    table = np.array([permute(np.arange(5), 5, key(9, k)) for k in range(4000)])
    for place in range(5):
        counts = np.bincount(table[:, place], minlength=5)
        assert np.abs(counts - 800).max() < 5 * np.sqrt(800)  # 5 standard deviations


@pytest.mark.parametrize("key_parts", [((1, 2), (2, 1)), ((1,), (1, 0)), ((0,), (0, 0)), ((3, -1), (3, 1))])
def test_keys_tell_tuples_apart(key_parts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert key(*key_parts[0]) != key(*key_parts[1])


@pytest.mark.parametrize(
    ("sizes", "batch"), [([40], 7), ([40, 43], 24), ([5, 3, 8], 7), ([1], 3), ([3, 1, 2], 1), ([10, 20], 75)]
)
def test_every_epoch_reads_its_pass_exactly_once(sizes: list[int], batch: int) -> None:
    order = Order(3, 1, sizes, batch)
    epochs = 3 * len(sizes) + 1
    steps = -(-sum(sizes[e % len(sizes)] for e in range(epochs)) // batch)
    chosen = [order.step(step) for step in range(steps)]
    epoch = np.concatenate([c.epoch for c in chosen])
    instance = np.concatenate([c.instance for c in chosen])
    pass_ = np.concatenate([c.pass_ for c in chosen])
    assert np.array_equal(pass_, epoch % len(sizes))
    assert (np.diff(epoch) >= 0).all()
    for e in range(epochs):
        assert sorted(instance[epoch == e].tolist()) == list(range(sizes[e % len(sizes)]))
    if batch % sum(sizes) and len(sizes) * batch > 1 and max(sizes) > 1 and batch > 1:
        assert any(len(np.unique(c.epoch)) > 1 for c in chosen), "no batch crossed an epoch: the case tests too little"


def test_epochs_seeds_and_phases_have_orders_of_their_own() -> None:
    def first(seed: int, phase: int, epoch: int) -> list[int]:
        return Order(seed, phase, [500], 500).step(epoch).instance.tolist()

    orders = [first(*c) for c in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0))]
    assert len({tuple(o) for o in orders}) == 4


@pytest.mark.parametrize("offset", [1, 5, 100])
def test_data_offset_shifts_steps(offset: int) -> None:
    order = Order(0, 1, [40, 43], 24)
    for step in (0, 3, 17):
        shifted, later = order.step(step, offset), order.step(step + offset)
        assert np.array_equal(shifted.instance, later.instance)
        assert np.array_equal(shifted.epoch, later.epoch)


def sequences(data: PhaseData, first: int, last: int, offset: int = 0) -> dict[int, list[tuple]]:
    """Step -> its sequences on this rank: ids as masked, types, masked places, labels, next label."""
    found: dict[int, list[tuple]] = {}
    for step in data.steps(first, last, offset):
        rows = found.setdefault(step.number, [])
        for batch in step.batches:
            borders = batch.cu_seqlens.tolist()
            for m, (a, b) in enumerate(pairwise(borders)):
                here = (batch.masked_positions >= a) & (batch.masked_positions < b)
                places = (batch.masked_positions[here] - a).tolist()
                ids, types = batch.input_ids[a:b].tolist(), batch.token_type_ids[a:b].tolist()
                labels = batch.masked_labels[here].tolist()
                rows.append((tuple(ids), tuple(types), tuple(places), tuple(labels), int(batch.next_labels[m])))
    return found


def digests(folder: Path, ranks: int, micro_batch: int, whole_word: bool) -> dict[str, str]:
    """Step -> digest of the set of its sequences, joined over the ranks; far steps and an offset too."""
    result = {}
    for first, last, offset in ((0, 8, 0), (1000, 1002, 0), (0, 2, 1000)):
        joined: dict[int, list[tuple]] = {}
        for rank in range(ranks):
            data = phase_data(folder, rank, ranks, micro_batch, whole_word)
            for step, rows in sequences(data, first, last, offset).items():
                joined.setdefault(step, []).extend(rows)
        for step, rows in joined.items():
            spelt = json.dumps(sorted(rows)).encode()
            result[f"{step}+{offset}"] = hashlib.sha256(spelt).hexdigest()
    return result


CASES = {  # name: ranks, micro-batch, whole words
    "1 rank": (1, 30, False),
    "3 ranks": (3, 4, False),
    "3 ranks, whole words": (3, 7, True),
}


def all_digests(folder: Path) -> dict[str, dict[str, str]]:
    return {name: digests(folder, *case) for name, case in CASES.items()}


def test_order_and_masks_are_the_committed_ones(tmp_path: Path) -> None:
    """In two other processes: the same sequences and masks as ever, on 1 rank and on 3.

    Regenerate on purpose only: python tests/data/test_order.py > tests/golden/order.json
    """
    golden = json.loads(GOLDEN.read_text())
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": environment()["PYTHONPATH"]},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    for process in processes:
        output, _ = process.communicate()
        assert json.loads(output) == golden
    assert golden["1 rank"] == golden["3 ranks"]
    assert golden["1 rank"] != golden["3 ranks, whole words"]
    assert golden["1 rank"]["1000+0"] == golden["1 rank"]["0+1000"]


def test_ranks_share_a_step_without_overlap(tmp_path: Path) -> None:
    make_store(tmp_path / "made")
    parts = [sequences(phase_data(tmp_path / "made", rank, 3, 4), 0, 4) for rank in range(3)]
    whole = sequences(phase_data(tmp_path / "made", 0, 1, 30), 0, 4)
    for step, rows in whole.items():
        assert Counter(r for part in parts for r in part[step]) == Counter(rows)


def test_masks_are_drawn_afresh_each_epoch(tmp_path: Path) -> None:
    make_store(tmp_path / "made", passes=1, shards=1, instances=30)  # one epoch is one step
    read = sequences(phase_data(tmp_path / "made", 0, 1, 30), 0, 3)

    def unmasked(row: tuple) -> tuple:
        ids = list(row[0])
        for place, label in zip(row[2], row[3], strict=True):
            ids[place] = label
        return tuple(ids)

    texts = [Counter(unmasked(row) for row in rows) for rows in read.values()]
    assert texts[0] == texts[1] == texts[2]
    masks = [{(unmasked(row), row[2]) for row in rows} for rows in read.values()]
    assert len(masks[0] & masks[1]) < 15


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        store = Path(sys.argv[1] if len(sys.argv) > 1 else scratch) / "made"
        make_store(store)
        print(json.dumps(all_digests(store), indent=1))
