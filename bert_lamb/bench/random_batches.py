"""Batches without a corpus: random ids in sequences of the lengths that English Wikipedia gives."""

from collections.abc import Iterator

import numpy as np

from bert_lamb.batch import PackedBatch
from bert_lamb.data.packing import round_up
from bert_lamb.data.planner import budget_shape, by_tokens, length_shape, most_sequences
from bert_lamb.data.random_batch import random_batch

VOCABULARY, SHARE = 30_522, 0.15  # BERT's uncased vocabulary
# lengths of the instances that data_prep cuts from 793 long articles of English Wikipedia: 21 equidistant quantiles
QUANTILES = {
    128: (5, 60, 77, 98, 124, *16 * (128,)),
    512: (5, 61, 82, 109, 146, 228, 308, 378, 490, *12 * (512,)),
}


def drawn_lengths(rng: np.random.Generator, seq_len: int, count: int) -> np.ndarray:
    """Lengths of so many sequences, as Wikipedia has them."""
    quantiles = QUANTILES[seq_len]
    return np.rint(np.interp(rng.random(count), np.linspace(0, 1, len(quantiles)), quantiles)).astype(np.int64)


def packed(seq_len: int, budget: int, count: int, by_budget: bool, dry: bool) -> Iterator[PackedBatch]:
    """Micro-batches as the loader makes them: filled by tokens, or of so many sequences."""
    if by_budget:
        rng, shape = np.random.default_rng(0), budget_shape(budget, seq_len, SHARE)
        lengths = drawn_lengths(rng, seq_len, 8 * count * budget // seq_len)
        chunks = by_tokens(lengths, 1, shape.tokens, shape.sequences)[0][:count]
        for chunk in chunks:
            yield round_up(random_batch(rng, lengths[chunk], seq_len, VOCABULARY, SHARE), shape)
        return
    sequences = most_sequences(budget, seq_len)
    for batch in of_sequences(seq_len, sequences, count):
        tokens, masked = len(batch.input_ids), len(batch.masked_positions)
        yield batch if dry else round_up(
            batch, length_shape(tokens, masked, batch.max_seqlen, sequences, seq_len, SHARE)
        )  # fmt: skip


def of_sequences(seq_len: int, sequences: int, count: int) -> Iterator[PackedBatch]:
    """Batches of so many sequences, for those who pad."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield random_batch(rng, drawn_lengths(rng, seq_len, sequences), seq_len, VOCABULARY, SHARE)


def real_lengths(batch: PackedBatch) -> np.ndarray:
    """Tokens of each sequence that is no filler."""
    lengths = batch.cu_seqlens.diff().numpy().astype(np.int64)
    return lengths[lengths > 0]
