"""How a global batch is cut into micro-batches, and the few shapes that a compiler sees of them.

Two planners. Where attention is padded (a CPU), micro-batches hold neighbours in length, so that little is padded.
Where it takes sequences of any length (a GPU), each fills a budget of tokens with sequences of all lengths, so that
micro-batches are alike in tokens, sequences and masked tokens: one shape a phase.
"""

from dataclasses import dataclass
from itertools import count
from math import ceil

import numpy as np

MODEST_TOKENS = 8192  # of a micro-batch where none are given, on a CPU and in fine-tuning; ours
TOKEN_SHAPES = 2  # sizes in tokens that micro-batches by length are rounded up to; each costs a compilation
# A cap on the sequences of a micro-batch by tokens, as a multiple of how many of full length fit: batches of short
# sequences meet it before the budget of tokens, so that the shape of their labels stays small.
SEQUENCES_PER_BUDGET = 2


def known_tokens(micro_batch_tokens: int | None, on_gpu: bool) -> int | None:
    """Tokens of a micro-batch as the settings give them; None where a GPU's memory decides (training/fitting.py)."""
    return MODEST_TOKENS if micro_batch_tokens is None and not on_gpu else micro_batch_tokens


def most_sequences(tokens: int, seq_len: int) -> int:
    """Sequences of full length that a micro-batch of so many tokens holds."""
    return tokens // seq_len


def equal_micro_batches(batch: int, ranks: int, sequences: int) -> bool:
    """Whether a batch can be cut into equally many micro-batches of at most `sequences` on every rank."""
    return batch >= ranks * -(-batch // (ranks * sequences))


@dataclass(frozen=True)
class Shape:
    """What one micro-batch holds at most."""

    tokens: int
    sequences: int
    masked: int
    longest: int  # tokens of one sequence


def by_length(lengths: np.ndarray, ranks: int, sequences: int) -> list[list[np.ndarray]]:
    """Rows of a global batch [B] for each rank's micro-batches: the same number on every rank, none above
    `sequences`, sizes at most one apart, neighbours in length together.
    """
    chunks = ranks * -(-len(lengths) // (ranks * sequences))
    cut = np.array_split(np.argsort(-lengths, kind="stable"), chunks)
    return [cut[rank::ranks] for rank in range(ranks)]


def by_tokens(lengths: np.ndarray, ranks: int, tokens: int, sequences: int) -> list[list[np.ndarray]]:
    """The same for a budget of tokens and sequences: as few micro-batches as fit it, alike in both.

    Sequences are dealt from the longest to the shortest, there and back, so that no two micro-batches are further apart
    than one longest sequence. A budget must hold the longest one.
    """
    if lengths.max() > tokens:
        raise ValueError(f"a sequence of {lengths.max()} tokens does not fit a budget of {tokens}")
    order = np.argsort(-lengths, kind="stable")
    least = max(ceil(lengths.sum() / (ranks * tokens)), ceil(len(lengths) / (ranks * sequences)))
    for each in count(least):
        bins = ranks * each
        lap, place = np.divmod(np.arange(len(lengths)), bins)
        of_row = np.where(lap % 2, bins - 1 - place, place)
        if np.bincount(of_row, lengths[order]).max() <= tokens and np.bincount(of_row).max() <= sequences:
            break
    dealt = [order[of_row == number] for number in range(bins)]
    return [dealt[rank::ranks] for rank in range(ranks)]


def budget_shape(tokens: int, seq_len: int, share: float) -> Shape:
    """The one shape of micro-batches by tokens; `share` of each sequence is masked."""
    sequences = SEQUENCES_PER_BUDGET * tokens // seq_len
    return Shape(tokens, sequences, most_masked(tokens, sequences, share), seq_len)


def length_shape(tokens: int, masked: int, longest: int, sequences: int, seq_len: int, share: float) -> Shape:
    """The least shape by length that holds so much: half or all of seq_len wide, half or all of the tokens."""
    wide = seq_len if longest > seq_len // 2 else seq_len // 2
    for part in range(1, TOKEN_SHAPES + 1):
        size = ceil(part * sequences * seq_len / TOKEN_SHAPES)
        if tokens <= size and masked <= most_masked(size, sequences, share):
            return Shape(size, sequences, most_masked(size, sequences, share), wide)
    raise ValueError(f"{tokens} tokens, {masked} of them masked, do not fit {sequences} sequences of {seq_len}")


def most_masked(tokens: int, sequences: int, share: float) -> int:
    """Masked tokens that so many sequences can hold: max(1, round(share * length)) of each."""
    return ceil(share * tokens) + sequences
