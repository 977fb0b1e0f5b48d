"""Dropout as a function of a place: which sequence of which epoch, which token, which layer, which channel.

Nothing is drawn from a generator, so what is dropped does not depend on micro-batches, ranks, packing or device: the
gradient is invariant with dropout on, and a resumed run drops what the uncut one dropped. Compiled for a CPU it costs
a twentieth of torch's own, whose generator is not vectorised (docs/results/speed.md).
"""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B1 - 2**32  # 2^32 over the golden ratio, odd; as int32
MURMUR = (0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32)  # the multipliers of MurmurHash3's finaliser (Appleby 2011)


def mixed(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser: int32 -> int32, a bijection; overflow is meant."""
    x = (x ^ (x >> 16 & 0xFFFF)) * MURMUR[0]
    x = (x ^ (x >> 13 & 0x7FFFF)) * MURMUR[1]
    return x ^ (x >> 16 & 0xFFFF)


def token_keys(sequence_keys: Tensor, row: Tensor, position_ids: Tensor) -> Tensor:
    """A key for every token, [N] int32, from its sequence's key [M] and its place there."""
    return mixed(sequence_keys[row] ^ (position_ids.int() * GOLDEN))


def at_site(keys: Tensor, site: Tensor | int) -> Tensor:
    """Keys of the same tokens for one of the model's dropouts; sites, integers from 0, broadcast."""
    return mixed(keys + site * GOLDEN)


def dropped(x: Tensor, keys: Tensor, p: float) -> Tensor:
    """x [..., C] with its elements set to 0 with probability p, else scaled by 1 / (1 - p); keys [...] int32."""
    if p == 0:
        return x
    columns = torch.arange(x.shape[-1], dtype=torch.int32, device=x.device)
    draw = mixed(keys[..., None] ^ (columns * GOLDEN)) & 0x7FFFFFFF
    return torch.where(draw >= round(p * 2**31), x * (1 / (1 - p)), 0)
