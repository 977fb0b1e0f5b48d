"""From spans to packed batches: how a global batch is cut into micro-batches, and how one is laid out."""

from dataclasses import dataclass

import numpy as np
import torch

from bert_lamb.batch import IGNORED, PackedBatch
from bert_lamb.data.instances import InstanceTables, Rows
from bert_lamb.data.masking import MaskRule, mask

SHAPES_PER_PHASE = 2  # distinct padded lengths of compiled micro-batches; each costs one compilation


@dataclass
class SpecialIds:
    """Ids of the tokens that text never holds."""

    pad: int
    cls: int
    sep: int
    mask: int


def cut_global_batch(lengths: np.ndarray, ranks: int, micro_batch: int) -> list[list[np.ndarray]]:
    """Rows of a global batch [B] for each rank's micro-batches: the same number on every rank, none above
    `micro_batch` sequences, sizes at most one apart, neighbours in length together so that little is padded.
    """
    count = ranks * -(-len(lengths) // (ranks * micro_batch))
    chunks = np.array_split(np.argsort(-lengths, kind="stable"), count)
    return [chunks[rank::ranks] for rank in range(ranks)]


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
    )


def round_up(batch: PackedBatch, sequences: int, seq_len: int, share: float) -> PackedBatch:
    """The same micro-batch in one of SHAPES_PER_PHASE static shapes, for a compiler. See PackedBatch on filler."""
    unit = -(-seq_len // SHAPES_PER_PHASE)
    length = min(seq_len, -(-batch.max_seqlen // unit) * unit)
    n, k = sequences * length, sequences * max(1, round(share * length))

    def filled(values: torch.Tensor, size: int, value: int) -> torch.Tensor:
        return torch.cat([values, values.new_full((size - len(values),), value)])

    return PackedBatch(
        input_ids=filled(batch.input_ids, n, 0),
        token_type_ids=filled(batch.token_type_ids, n, 0),
        position_ids=filled(batch.position_ids, n, 0),
        cu_seqlens=filled(batch.cu_seqlens, sequences + 1, int(batch.cu_seqlens[-1])),
        max_seqlen=length,
        masked_positions=filled(batch.masked_positions, k, 0),
        masked_labels=filled(batch.masked_labels, k, IGNORED),
        next_labels=filled(batch.next_labels, sequences, IGNORED),
    )
