"""Cutting a global batch into micro-batches, by length and by tokens, and the shapes that a compiler sees."""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pytest

from bert_lamb.data.masking import masked_counts
from bert_lamb.data.planner import TOKEN_SHAPES, budget_shape, by_length, by_tokens, length_shape

TOKENS, LENGTHS = "14989349297ab182", "fd943ff676558a35"  # of the two planners, see the test
DRAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "mostly full, as BERT's": lambda rng, n: np.where(rng.random(n) < 0.8, 128, rng.integers(5, 129, n)),
    "uniform": lambda rng, n: rng.integers(5, 129, n),
    "all full": lambda rng, n: np.full(n, 128),
    "all short": lambda rng, n: np.full(n, 5),
    "one long": lambda rng, n: np.where(np.arange(n) == n // 2, 128, 6),
}


@pytest.mark.parametrize("batch", [1, 2, 7, 24, 31, 64, 100])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("sequences", [1, 3, 8, 200])
def test_by_length(batch: int, ranks: int, sequences: int) -> None:
    lengths = np.random.default_rng(batch).integers(5, 128, batch)
    cut = by_length(lengths, ranks, sequences)
    assert len(cut) == ranks
    assert len({len(chunks) for chunks in cut}) == 1, "as many micro-batches on every rank"
    chunks = [c for rank in cut for c in rank]
    sizes = [len(c) for c in chunks]
    assert max(sizes) <= sequences
    assert max(sizes) - min(sizes) <= 1
    assert len(cut[0]) == -(-batch // (ranks * sequences)), "no more micro-batches than needed"
    assert sorted(np.concatenate(chunks).tolist()) == list(range(batch)), "every row once"


def test_neighbours_in_length_share_a_micro_batch() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(5, 69))
    for chunk in (c for rank in by_length(lengths, 2, 8) for c in rank):
        assert np.ptp(lengths[chunk]) == len(chunk) - 1


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("batch", [24, 100, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [256, 640, 8192])
def test_by_tokens(draw: str, batch: int, ranks: int, budget: int) -> None:
    lengths = DRAWS[draw](np.random.default_rng(batch), batch)
    most = budget_shape(budget, 128, 0.15).sequences
    padded = -(-batch // (ranks * (budget // 128)))  # micro-batches a rank, were every sequence full
    if ranks * padded > batch:
        pytest.skip("refused before the first step: more micro-batches than sequences")
    cut = by_tokens(lengths, ranks, budget, most)
    assert len({len(chunks) for chunks in cut}) == 1, "as many micro-batches on every rank"
    chunks = [c for rank in cut for c in rank]
    tokens = np.array([lengths[c].sum() for c in chunks])
    assert sorted(np.concatenate(chunks).tolist()) == list(range(batch)), "every row once"
    assert tokens.min() > 0, "no micro-batch is empty"
    assert tokens.max() <= budget
    assert max(map(len, chunks)) <= most
    assert np.ptp(tokens) <= lengths.max(), "alike in tokens"
    assert np.ptp([len(c) for c in chunks]) <= 1, "alike in sequences"
    of_rank = np.array([sum(lengths[c].sum() for c in rank) for rank in cut])
    assert np.ptp(of_rank) <= max(0.01 * of_rank.mean(), lengths.max()), "alike in tokens over ranks"
    assert len(cut[0]) <= padded
    if draw == "uniform" and batch == 1000 and budget == 8192:
        assert len(cut[0]) < padded, "short sequences leave room for more"


def test_a_plan_is_the_same_everywhere() -> None:
    """On every machine and in every version: the checksums are of each micro-batch's rows.

    Many lengths are equal, so an unstable sort would show.
    """
    lengths = np.arange(500) * 7919 % 40 + 5
    for cut, expected in ((by_tokens(lengths, 3, 2048, 32), TOKENS), (by_length(lengths, 3, 16), LENGTHS)):
        rows = json.dumps([[c.tolist() for c in rank] for rank in cut])
        assert hashlib.sha256(rows.encode()).hexdigest()[:16] == expected


def test_a_sequence_above_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 128 tokens does not fit a budget of 100"):
        by_tokens(np.array([5, 128]), 1, 100, 10)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("share", [0.02, 0.15, 0.5])
def test_a_budget_holds_the_masked_tokens_of_what_fills_it(draw: str, share: float) -> None:
    lengths = DRAWS[draw](np.random.default_rng(0), 3000)
    shape = budget_shape(2048, 128, share)
    for rank in by_tokens(lengths, 2, shape.tokens, shape.sequences):
        for chunk in rank:
            assert masked_counts(lengths[chunk], share).sum() <= shape.masked


@pytest.mark.parametrize("seq_len", [32, 128, 512])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_shapes_by_length_hold_what_is_rounded_up(seq_len: int, share: float) -> None:
    """For every mixture of two lengths; few shapes in all, and little filler."""
    shapes = set()
    for longest in range(5, seq_len + 1):
        for short in (5, longest // 2 + 3, longest):
            lengths = np.array([longest] * 5 + [min(short, longest)] * 3)
            tokens, masked = int(lengths.sum()), int(masked_counts(lengths, share).sum())
            shape = length_shape(tokens, masked, longest, 8, seq_len, share)
            assert shape.tokens >= tokens
            assert shape.masked >= masked
            assert shape.sequences == 8
            assert longest <= shape.longest <= seq_len
            assert shape.tokens < tokens + 2 * seq_len * 8 / TOKEN_SHAPES
            shapes.add(shape)
    assert len(shapes) <= 2 * TOKEN_SHAPES


def test_what_fits_no_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="300 tokens, 3 of them masked, do not fit 2 sequences of 128"):
        length_shape(300, 3, 128, 2, 128, 0.15)
