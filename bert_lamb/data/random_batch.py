"""Batches without a corpus: random ids in sequences of given lengths, for what is timed and not learnt."""

import numpy as np
import torch

from bert_lamb.batch import PackedBatch
from bert_lamb.data.masking import masked_counts

MASK = 103  # [MASK] of BERT's uncased vocabulary; where fewer ids are known, the last one


def random_batch(
    rng: np.random.Generator, lengths: np.ndarray, seq_len: int, vocabulary: int, share: float
) -> PackedBatch:
    """Random ids below `vocabulary` in sequences of these lengths, at most `seq_len`; `share` of each is masked."""
    borders = np.concatenate([[0], np.cumsum(lengths)])
    n, m = int(borders[-1]), len(lengths)
    positions = np.arange(n) - np.repeat(borders[:-1], lengths)
    ids = rng.integers(min(1000, vocabulary // 2), vocabulary, n)  # BERT's first thousand are special and unused ones
    places = [start + 1 + rng.choice(length - 1, k, replace=False) for start, length, k in
              zip(borders[:-1], lengths, masked_counts(lengths, share), strict=True)]  # fmt: skip
    masked = np.sort(np.concatenate(places))
    labels = ids[masked]
    ids[masked] = min(MASK, vocabulary - 1)
    return PackedBatch(
        input_ids=torch.from_numpy(ids),
        token_type_ids=torch.from_numpy((positions > np.repeat(lengths // 2, lengths)).astype(np.int64)),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
        max_seqlen=min(seq_len, int(lengths.max())),
        masked_positions=torch.from_numpy(masked),
        masked_labels=torch.from_numpy(labels),
        next_labels=torch.from_numpy(rng.integers(0, 2, m)),
        dropout_keys=torch.from_numpy(rng.integers(0, 2**63, n)),
    )
