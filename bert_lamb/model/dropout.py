"""Dropout on a CPU as a function of its place: which instance of which epoch, token, layer and channel.

Nothing is drawn from a generator, so what is dropped does not depend on micro-batches, ranks, packing or a compiler:
law 1 holds with dropout on. It is also cheap: torch's generator takes 6 to 15 ns an element on one core, compiled or
not, and this takes less than one (docs/decisions.md). On a GPU torch's own is cheaper still, and is taken.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bert_lamb.hashing import GOLDEN, hash_counters, mix

DRAWS = 4  # of 16 bits in a word of 64: p is rounded to a multiple of 2^-16
GROUP = np.uint64(2**32)  # words between the streams of two groups, more than any row has
BLOCK = 2**14  # words at a time, small enough for a core's cache


def dropped(x: Tensor, keys: Tensor, site: int, p: float) -> Tensor:
    """x [..., C] with elements set to 0 with probability p, the others scaled so that the mean stays.

    keys [...] int64, a random word for each of x's rows; x may have further dimensions between theirs and C. `site` is
    the number of this dropout in the model.
    """
    if p == 0:
        return x
    if not x.is_cpu:
        return F.dropout(x, p)
    least = threshold(p)
    stays = kept(keys.flatten(), site, math.prod(x.shape[keys.dim() : -1]), x.shape[-1], least)
    return torch.where(stays.view(x.shape), x * (2**16 / (2**16 - least)), 0)


def threshold(p: float) -> int:
    """Draws of 16 bits below this are dropped."""
    return min(round(p * 2**16), 2**16 - 1)


@torch.library.custom_op("bert_lamb::kept", mutates_args=(), device_types="cpu")
def kept(keys: Tensor, site: int, groups: int, columns: int, least: int) -> Tensor:
    """Which elements stay, [R, groups, columns] bool; `least` as `threshold` gives it.

    Each row's draws are SplitMix64's stream from the hash of its key and the site. An operator of its own, since a
    compiler would repeat the hash in everything that reads a layer's output, and does not vectorise its products.
    """
    words = -(-columns // DRAWS)
    steps = np.arange(groups, dtype=np.uint64)[:, None] * GROUP + np.arange(words, dtype=np.uint64)
    steps = steps.reshape(-1) * GOLDEN
    starts = hash_counters(np.uint64(site), keys.numpy().view(np.uint64))[:, None]
    stays = np.empty((len(starts), groups, columns), bool)
    rows = max(1, BLOCK // len(steps))
    for first in range(0, len(starts), rows):
        draws = mix(starts[first : first + rows] + steps).view(np.uint16)
        draws = draws.reshape(-1, groups, DRAWS * words)[..., :columns]
        np.greater_equal(draws, np.uint16(least), out=stays[first : first + rows])
    return torch.from_numpy(stays)


@kept.register_fake
def _(keys: Tensor, site: int, groups: int, columns: int, least: int) -> Tensor:
    return keys.new_empty((len(keys), groups, columns), dtype=torch.bool)
