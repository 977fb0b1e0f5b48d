"""Attention over sequences laid end to end; nothing else in BERT mixes tokens.

On a GPU the flash kernel takes the borders themselves (`_varlen`). Elsewhere queries, keys and values are spread to
one row a sequence, attended with a key mask and gathered back (`_padded`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bert_lamb.model.dropout import dropped

# the kernel behind torch.nn.attention.varlen_attn, which has no dropout
flash_attention: Any = torch.ops.aten._flash_attention_forward


@dataclass
class Layout:
    """Where each of N packed tokens stands in M rows of S columns, and back."""

    slots: Tensor  # [N] int64, row * S + column; 0 for filler tokens
    is_token: Tensor  # [N] bool, False for filler tokens
    indices: Tensor  # [M * S] int64, into the packed tokens; 0 where a row has no token
    is_filled: Tensor  # [M * S] bool
    key_mask: Tensor  # [M, 1, 1, S] bool, keys that may be attended to
    borders: Tensor  # [M + F + 1] int32, cu_seqlens and behind them F borders that cover the filler tokens
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
    # the flash kernel leaves uncovered tokens unwritten, and 0 times what stands there may be NaN in a gradient
    filler = torch.arange(1, 1 + -(-tokens // max_seqlen), device=borders.device) * max_seqlen
    covering = torch.cat([cu_seqlens, (borders[-1] + filler).clamp(max=tokens).to(cu_seqlens.dtype)])
    return Layout(
        slots, is_token, torch.where(is_filled, indices, 0).flatten(), is_filled.flatten(),
        key_mask[:, None, None], covering, len(starts), max_seqlen,
    )  # fmt: skip


def attend(query: Tensor, key: Tensor, value: Tensor, where: Layout, keys: Tensor, site: int, p: float) -> Tensor:
    """Softmax attention within each sequence, dropout p on its probabilities: [N, H, D] each -> [N, H, D].

    `keys` [N] and `site` decide what is dropped (dropout.py); on a GPU the kernel draws by itself.
    """
    if takes_varlen(query.device, query.dtype):
        return _varlen(query, key, value, where, p)
    return _padded(query, key, value, where, keys, site, p)


def takes_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether sequences of any length are attended to without padding: Ampere GPUs and later, half precision."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _varlen(query: Tensor, key: Tensor, value: Tensor, where: Layout, p: float) -> Tensor:
    borders, longest = where.borders, where.columns
    return flash_attention(query, key, value, borders, borders, longest, longest, p, False, False)[0]


def _padded(query: Tensor, key: Tensor, value: Tensor, where: Layout, keys: Tensor, site: int, p: float) -> Tensor:
    def spread(x: Tensor) -> Tensor:
        moved = _Move.apply(x, where.indices, where.slots, where.is_token)
        return moved.unflatten(0, (where.rows, where.columns)).transpose(1, 2)  # [M, H, S, D]

    q, k, v = spread(query), spread(key), spread(value)
    if p == 0 or not q.is_cpu:
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=where.key_mask, dropout_p=p)
    else:  # written out, for the sake of dropout by place; torch's own CPU kernel is without dropout too
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~where.key_mask, -torch.inf)
        chances = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        of_query = keys[where.indices].unflatten(0, (where.rows, where.columns))
        context = dropped(chances.transpose(1, 2), of_query, site, p).transpose(1, 2).to(v.dtype) @ v
    return _Move.apply(context.transpose(1, 2).flatten(0, 1), where.slots, where.indices, where.is_filled)


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
        zero = torch.zeros((), dtype=moved.dtype, device=moved.device)
        return torch.where(exists[:, None, None], moved, zero), None, None, None
