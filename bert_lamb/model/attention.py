"""Attention over sequences laid end to end, as a function that transformers' BERT calls in place of its own.

Queries, keys and values are spread to one row a sequence, attended with a key mask and gathered back. Nothing else in
BERT mixes tokens, so no other module knows that a batch is packed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

PACKED = "packed"  # the name under which transformers finds it


@dataclass
class Layout:
    """Where each of N packed tokens stands in M rows of S columns, and back."""

    slots: Tensor  # [N] int64, row * S + column; 0 for filler tokens
    is_token: Tensor  # [N] bool, False for filler tokens
    indices: Tensor  # [M * S] int64, into the packed tokens; 0 where a row has no token
    is_filled: Tensor  # [M * S] bool
    key_mask: Tensor  # [M, 1, 1, S] bool, keys that may be attended to
    rows: int
    columns: int


def layout(cu_seqlens: Tensor, tokens: int, max_seqlen: int) -> Layout:
    """The layout of `tokens` packed tokens with borders cu_seqlens [M + 1]; no host sync."""
    borders = cu_seqlens.long()
    starts, ends = borders[:-1], borders[1:]
    columns = torch.arange(max_seqlen, device=borders.device)
    indices = starts[:, None] + columns
    is_filled = indices < ends[:, None]
    token = torch.arange(tokens, device=borders.device)
    row = torch.searchsorted(ends, token, right=True).clamp_(max=len(starts) - 1)
    is_token = token < borders[-1]
    slots = torch.where(is_token, row * max_seqlen + token - starts[row], 0)
    key_mask = is_filled | (columns == 0)  # an empty row attends to its first column: softmax over nothing is NaN
    return Layout(
        slots, is_token, torch.where(is_filled, indices, 0).flatten(), is_filled.flatten(), key_mask[:, None, None],
        len(starts), max_seqlen,
    )  # fmt: skip


class _Move(torch.autograd.Function):
    """x[index], whose gradient is a gather too, since no token stands twice: faster than adding, and repeatable."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, back: Tensor, exists: Tensor) -> Tensor:
        ctx.save_for_backward(back, exists)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        back, exists = ctx.saved_tensors
        moved = gradient.index_select(0, back)
        return (
            torch.where(exists[:, None, None], moved, torch.zeros((), dtype=moved.dtype, device=moved.device)),
            (None),
            None,
            None,
        )


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, packed_layout: Layout | None = None, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """query, key, value [1, H, N, D] of packed tokens -> context [1, N, H, D]."""
    if packed_layout is None:
        raise ValueError("packed attention needs packed_layout=layout(cu_seqlens, tokens, max_seqlen)")
    where = packed_layout

    def spread(x: Tensor) -> Tensor:
        moved = _Move.apply(x[0].transpose(0, 1), where.indices, where.slots, where.is_token)
        return moved.unflatten(0, (where.rows, where.columns)).transpose(1, 2)  # [M, H, S, D]

    context = F.scaled_dot_product_attention(
        spread(query), spread(key), spread(value), attn_mask=where.key_mask, dropout_p=dropout, scale=scaling
    )
    flat = context.transpose(1, 2).flatten(0, 1)  # [M * S, H, D]
    return _Move.apply(flat, where.slots, where.indices, where.is_filled)[None], None


AttentionInterface.register(PACKED, packed_attention)
