"""BERT's sentence pairs as spans of a shard's tokens, drawn anew for every pass.

As google-research/bert cuts them: sentences of a document are collected until a target length; A ends at a
random border between them; B is the rest, or (in half of the cases, and always where one sentence is left) a
run of sentences of another document, and then the sentences that B would have been are used again. Pairs too
long lose tokens one by one at a random end of the longer segment. Everything is a pure function of the
documents and (seed, split, length, pass, shard).
"""

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from bert_lamb.data.store import SPAN_COLUMNS, SPLITS, Documents, Spans

SPECIAL_PER_SEQUENCE = 3  # [CLS] A [SEP] B [SEP]
SHORTEST_TARGET = 2
BITS = 32  # coin flips taken from one uniform number
DRAWS = 1 << 16  # uniform numbers made at a time


def make_instances(
    documents: Documents, seq_len: int, short_share: float, key: tuple[int, str, int, int]
) -> Spans:  # fmt: skip
    """The pairs of one documents file for one length and pass; key = (seed, split, pass, shard)."""
    seed, split, pass_, shard = key
    draw = uniform_stream(seed, SPLITS.index(split), seq_len, pass_, shard)
    # flat[s] ... flat[s + 1] are the tokens of sentence s, counted over the whole file
    first_tokens = np.repeat(documents.token_starts[:-1], np.diff(documents.sentence_starts))
    flat = [0, *(first_tokens + documents.sentence_ends).tolist()]
    borders = documents.sentence_starts.tolist()
    rows: list[tuple[int, int, int, int, int]] = []
    for document in range(len(borders) - 1):
        _pairs_of_document(rows, flat, borders, document, seq_len, short_share, draw)
    columns = np.array(rows, np.int64).reshape(-1, len(SPAN_COLUMNS)).T
    return Spans(**{name: columns[i].astype(dtype) for i, (name, dtype) in enumerate(SPAN_COLUMNS.items())})


def uniform_stream(*key: int) -> Callable[[], float]:
    """Endless uniform numbers in [0, 1) from a generator seeded by the key alone."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    def numbers():
        while True:
            yield from generator.random(DRAWS).tolist()

    return numbers().__next__


def _pairs_of_document(
    rows: list[tuple[int, int, int, int, int]], flat: list[int], borders: list[int], document: int,
    seq_len: int, short_share: float, draw: Callable[[], float],
) -> None:  # fmt: skip
    most = seq_len - SPECIAL_PER_SEQUENCE
    target = most
    if draw() < short_share:  # once a document, as there
        target = SHORTEST_TARGET + int(draw() * (most - SHORTEST_TARGET + 1))
    others = len(borders) - 2
    first, last = borders[document], borders[document + 1]
    sentence = first
    while sentence < last:
        # the chunk: sentences up to the first that reaches the target, or all that are left
        end = min(bisect_left(flat, flat[sentence] + target, sentence + 1, last), last)
        size = end - sentence
        a_end = sentence + 1 + int(draw() * (size - 1)) if size > 1 else end
        a_start, a_stop = flat[sentence], flat[a_end]
        random_next = (size == 1 or draw() < 0.5) and others > 0
        if random_next:
            other = int(draw() * others)
            other += other >= document
            low, high = borders[other], borders[other + 1]
            b_first = low + int(draw() * (high - low))
            wanted = max(1, target - (a_stop - a_start))
            b_end = min(bisect_left(flat, flat[b_first] + wanted, b_first + 1, high), high)
            b_start, b_stop = flat[b_first], flat[b_end]
            sentence = a_end  # what would have been B is used again
        else:
            b_start, b_stop = a_stop, flat[end]
            sentence = end
            if b_start == b_stop:  # one sentence left and no other document: there is no pair
                continue
        if a_stop - a_start + b_stop - b_start > most:
            a_start, a_stop, b_start, b_stop = _truncated(a_start, a_stop, b_start, b_stop, most, draw)
        rows.append((a_start, a_stop - a_start, b_start, b_stop - b_start, 1 - random_next))


def _truncated(
    a_start: int, a_stop: int, b_start: int, b_stop: int, most: int, draw: Callable[[], float]
) -> tuple[int, int, int, int]:
    """Tokens go one by one from the longer segment (from B at a tie), each from front or back by chance."""
    a, b = a_stop - a_start, b_stop - b_start
    surplus = a + b - most
    from_a = min(surplus, max(0, a - b))  # until both are as long
    from_b = min(surplus, max(0, b - a))
    rest = surplus - from_a - from_b
    from_a, from_b = from_a + rest // 2, from_b + rest - rest // 2
    a_front, b_front = _heads(from_a, draw), _heads(from_b, draw)
    return a_start + a_front, a_stop - from_a + a_front, b_start + b_front, b_stop - from_b + b_front


def _heads(coins: int, draw: Callable[[], float]) -> int:
    """How many of so many coins show heads; a draw holds BITS of them."""
    heads = 0
    while coins > 0:
        heads += (int(draw() * 2**BITS) & ((1 << min(coins, BITS)) - 1)).bit_count()
        coins -= BITS
    return heads
