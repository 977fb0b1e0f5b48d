"""The records that the data side makes and the model takes. Imports nothing of ours."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the label that cross-entropy leaves out (torch's default ignore_index)


@dataclass
class PackedBatch:
    """N tokens of M sequences laid end to end, no padding between; K of the tokens are masked.

    Where shapes are rounded up for a compiler, filler tokens follow cu_seqlens[-1], filler sequences repeat that
    last border (length 0), and filler labels are IGNORED; none of them is seen by a real token or by a loss.
    """

    input_ids: Tensor  # [N] int64, masks applied
    token_type_ids: Tensor  # [N] int64, 0 for [CLS] A [SEP], 1 for B [SEP]
    position_ids: Tensor  # [N] int64, from 0 in every sequence
    cu_seqlens: Tensor  # [M + 1] int32, sequence m is tokens cu_seqlens[m] : cu_seqlens[m + 1]
    max_seqlen: int  # at least the longest sequence here
    masked_positions: Tensor  # [K] int64, indices into N
    masked_labels: Tensor  # [K] int64, the ids that stood there, or IGNORED
    next_labels: Tensor  # [M] int64, transformers' convention: 0 B follows A, 1 B is random, or IGNORED
    dropout_keys: Tensor  # [N] int64, the bits of each token's random word (model/dropout.py)

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on a device; the copy may still be under way (non_blocking)."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedBatch":
        """The same batch in memory that a GPU copies from while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> "PackedBatch":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {name: function(v) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass
class LossSums:
    """Sums, not means: the caller divides by the denominators of the whole global batch."""

    mlm: Tensor  # 0-dim, summed over masked tokens, nats
    nsp: Tensor  # 0-dim, summed over sequences, nats
    mlm_correct: Tensor  # 0-dim, masked tokens whose most likely id is right
    nsp_correct: Tensor  # 0-dim


@dataclass
class Denominators:
    """Counts over one whole global batch, known from lengths alone."""

    masked: int  # masked tokens
    sequences: int
    tokens: int  # real tokens, [CLS] and [SEP] included
    squared: int  # sum of the sequences' squared lengths: what attention costs
