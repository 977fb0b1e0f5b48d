"""Randomness as pure functions of counters, in vectorised 64-bit integer arithmetic.

`mix` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose every output bit depends on every
input bit. The permutation is a Feistel network over it with cycle walking (Black and Rogaway 2002): a bijection of
[0, n) for every n, of which any entry costs the same, so that no epoch is ever shuffled in memory.
"""

from enum import IntEnum

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment, 2^64 divided by the golden ratio
FEISTEL_ROUNDS = 6  # 4 suffice for pseudo-randomness (Luby and Rackoff 1988); two more cost nothing here


class Domain(IntEnum):
    """What a key is for: the first part of every key, so that no two uses ever share a stream of random numbers."""

    ORDER = 1  # of the sequences (data/order.py)
    MASKS = 2  # which tokens are masked, and by what (data/masking.py)
    TORCH_DROPOUT = 3  # seeds of torch's own generators (training/repeatable.py)
    HELDOUT = 4  # which held-out sequences are read (training/heldout.py)
    PLACE_DROPOUT = 5  # dropout by place on a CPU (data/packing.py)


def mix(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, elementwise bijection; overflow is meant."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int) -> np.uint64:
    """One 64-bit key for a tuple of integers; (1, 2) and (2, 1) differ."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = mix((state + GOLDEN) ^ np.array([part & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    return mix(state + GOLDEN)[0]


def hash_counters(key: np.uint64 | np.ndarray, counters: np.ndarray) -> np.ndarray:
    """A random uint64 for each counter under its key; both broadcast."""
    return mix(mix(counters.astype(np.uint64) * GOLDEN + key) ^ key)


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes as doubles in [0, 1), from their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(indices: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    """Where a keyed permutation of [0, size) sends each index; int64 -> int64."""
    half = np.uint64(max(1, (max(1, size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    round_keys = hash_counters(key, np.arange(FEISTEL_ROUNDS))

    def shuffle(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for round_key in round_keys:
            left, right = right, left ^ (hash_counters(round_key, right) & low)
        return (left << half) | right

    result = shuffle(indices.astype(np.uint64))
    outside = np.flatnonzero(result >= size)
    while len(outside):  # walk the cycle until it is back inside; fewer than 4 steps on average
        result[outside] = shuffle(result[outside])
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)
