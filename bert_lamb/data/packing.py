"""From spans to packed batches: how sequences are laid end to end, and rounded up to a static shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bert_lamb.batch import IGNORED, PackedBatch
from bert_lamb.data.instances import InstanceTables, Rows
from bert_lamb.data.masking import MaskRule, mask, token_hashes
from bert_lamb.data.planner import Shape
from bert_lamb.hashing import Domain


@dataclass
class SpecialIds:
    """Ids of the tokens that text never holds."""

    pad: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> "SpecialIds":
        """Those of a store's vocabulary."""
        ids = manifest["tokenizer"]["special_ids"]
        return cls(ids["[PAD]"], ids["[CLS]"], ids["[SEP]"], ids["[MASK]"])


def lay_out(tables: InstanceTables, rows: Rows, ids: SpecialIds) -> tuple[np.ndarray, ...]:
    """[CLS] A [SEP] B [SEP] of every row, end to end.

    Returns ids [N] int64, token types [N], positions [N], borders [M + 1], special [N] bool.
    """
    spans = rows.spans
    borders = np.concatenate([[0], np.cumsum(spans.lengths)]).astype(np.int64)
    tokens = np.empty(borders[-1], np.int64)
    special = np.zeros(borders[-1], bool)
    first_sep = borders[:-1] + 1 + spans.a_length
    for row in range(len(rows.shard)):
        source = tables.tokens(int(rows.shard[row]))
        a, b = spans.a_start[row], spans.b_start[row]
        if max(a + spans.a_length[row], b + spans.b_length[row]) > len(source):
            raise tables.impossible(int(rows.shard[row]), "lies outside of its tokens")
        tokens[borders[row] + 1 : first_sep[row]] = source[a : a + spans.a_length[row]]
        tokens[first_sep[row] + 1 : borders[row + 1] - 1] = source[b : b + spans.b_length[row]]
    tokens[borders[:-1]] = ids.cls
    tokens[first_sep] = tokens[borders[1:] - 1] = ids.sep
    special[borders[:-1]] = special[first_sep] = special[borders[1:] - 1] = True
    positions = np.arange(borders[-1]) - np.repeat(borders[:-1], spans.lengths)
    types = (positions > np.repeat(spans.a_length + 1, spans.lengths)).astype(np.int64)
    return tokens, types, positions, borders, special


def pack(
    tables: InstanceTables, rows: Rows, epoch: np.ndarray, instance: np.ndarray, ids: SpecialIds, rule: MaskRule,
    seq_len: int,
) -> PackedBatch:  # fmt: skip
    """One micro-batch, masked."""
    tokens, types, positions, borders, special = lay_out(tables, rows, ids)
    if len(tokens) and tokens.max() >= rule.vocab_size:
        raise tables.impossible(int(rows.shard[0]), f"or of one beside it has a token beyond {rule.vocab_size}")
    masked_ids, masked_positions, labels = mask(rule, tokens, borders, special, epoch, instance)
    return PackedBatch(
        input_ids=torch.from_numpy(masked_ids),
        token_type_ids=torch.from_numpy(types),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
        max_seqlen=min(seq_len, int(np.diff(borders).max())),
        masked_positions=torch.from_numpy(masked_positions),
        masked_labels=torch.from_numpy(labels),
        next_labels=torch.from_numpy(1 - rows.spans.is_next),  # transformers: 0 says that B follows A
        dropout_keys=torch.from_numpy(
            token_hashes(Domain.PLACE_DROPOUT, rule, borders, epoch, instance).view(np.int64)
        ),
    )


def round_up(batch: PackedBatch, shape: Shape) -> PackedBatch:
    """The same micro-batch in a static shape, for a compiler. See PackedBatch on filler."""

    def filled(values: torch.Tensor, size: int, value: int) -> torch.Tensor:
        return torch.cat([values, values.new_full((size - len(values),), value)])

    return PackedBatch(
        input_ids=filled(batch.input_ids, shape.tokens, 0),
        token_type_ids=filled(batch.token_type_ids, shape.tokens, 0),
        position_ids=filled(batch.position_ids, shape.tokens, 0),
        cu_seqlens=filled(batch.cu_seqlens, shape.sequences + 1, int(batch.cu_seqlens[-1])),
        max_seqlen=shape.longest,
        masked_positions=filled(batch.masked_positions, shape.masked, 0),
        masked_labels=filled(batch.masked_labels, shape.masked, IGNORED),
        next_labels=filled(batch.next_labels, shape.sequences, IGNORED),
        dropout_keys=filled(batch.dropout_keys, shape.tokens, 0),
    )
