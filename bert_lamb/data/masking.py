"""What is masked in instance i at epoch e, and by what: a pure function of (seed, phase, e, i) (law 2).

The rule is google-research/bert's: max(1, round(share * length)) tokens, [CLS] and [SEP] counted in the length but
never masked; of those 80% become [MASK], 10% any id of the vocabulary, 10% stay.
"""

from dataclasses import dataclass

import numpy as np

from bert_lamb.hashing import Domain, hash_counters, key, uniform

AS_MASK, AS_RANDOM = 0.8, 0.9  # below the first: [MASK]; below the second: a random id; else unchanged (BERT)
REPLACEMENT_SALT, RANDOM_ID_SALT = np.uint64(0x5EED_0001), np.uint64(0x5EED_0002)


@dataclass
class MaskRule:
    """The part of masking that is the same for all instances of a phase."""

    seed: int
    phase: int
    share: float
    mask_id: int
    vocab_size: int
    continuation: np.ndarray | None  # [vocab] bool, pieces that continue a word; None: single pieces are masked


def masked_counts(lengths: np.ndarray, share: float) -> np.ndarray:
    """Masked tokens of sequences of these lengths: max(1, round(share * length)), Python's round (half to even)."""
    return np.maximum(1, np.rint(share * np.asarray(lengths, np.float64))).astype(np.int64)


def mask(
    rule: MaskRule, ids: np.ndarray, borders: np.ndarray, special: np.ndarray, epoch: np.ndarray, instance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks M sequences laid end to end.

    ids [N] int64; borders [M + 1]; special [N] bool, tokens never masked; epoch, instance [M].
    Returns the masked ids [N], the masked positions [K] in rising order, and the ids that stood there [K].
    """
    lengths = np.diff(borders)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    hashes = token_hashes(Domain.MASKS, rule, borders, epoch, instance)

    counts = masked_counts(lengths, rule.share)
    if rule.continuation is None:
        positions = _lowest(np.where(special, np.uint64(2**64 - 1), hashes), sequence, borders, counts)
    else:
        positions = _whole_words(rule.continuation[ids] & ~special, hashes, special, borders, counts)

    labels, chosen = ids[positions], hashes[positions]
    draw = uniform(hash_counters(REPLACEMENT_SALT, chosen))
    random_ids = (hash_counters(RANDOM_ID_SALT, chosen) % np.uint64(rule.vocab_size)).astype(np.int64)
    masked = ids.copy()
    masked[positions] = np.where(draw < AS_MASK, rule.mask_id, np.where(draw < AS_RANDOM, random_ids, labels))
    return masked, positions, labels


def token_hashes(
    domain: int, rule: MaskRule, borders: np.ndarray, epoch: np.ndarray, instance: np.ndarray
) -> np.ndarray:
    """A random word for each token of M sequences laid end to end, [N] uint64: of (domain, seed, phase, epoch,
    instance, position). Arguments as in `mask`.
    """
    lengths = np.diff(borders)
    epochs, which = np.unique(epoch, return_inverse=True)
    epoch_keys = np.array([key(domain, rule.seed, rule.phase, int(e)) for e in epochs], np.uint64)
    instance_keys = hash_counters(epoch_keys[which], instance)
    positions = np.arange(borders[-1]) - np.repeat(borders[:-1], lengths)
    return hash_counters(np.repeat(instance_keys, lengths), positions)


def _lowest(hashes: np.ndarray, sequence: np.ndarray, borders: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Positions of the counts[m] lowest hashes of each sequence."""
    by_hash = np.lexsort((hashes, sequence))
    rank = np.arange(len(hashes)) - borders[:-1][sequence]
    return np.sort(by_hash[rank < counts[sequence]])


def _whole_words(
    continues: np.ndarray, hashes: np.ndarray, special: np.ndarray, borders: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Words in the order of their first piece's hash while they fit; then the leading pieces of the next one."""
    chosen: list[np.ndarray] = []
    for start, end, wanted in zip(borders[:-1], borders[1:], counts, strict=True):
        heads = start + np.flatnonzero(~continues[start:end] & ~special[start:end])
        # a special token ends a word; a segment cut inside a word begins with a continuation, which then is a head
        stops = np.flatnonzero(special[start:end]) + start
        heads = np.union1d(heads, np.setdiff1d(stops[:-1] + 1, stops))
        word_ends = np.minimum(np.append(heads[1:], end), stops[np.searchsorted(stops, heads)])
        left, misfit = int(wanted), None
        for word in np.argsort(hashes[heads], kind="stable"):
            size = word_ends[word] - heads[word]
            if size <= left:
                chosen.append(np.arange(int(heads[word]), int(word_ends[word])))
                left -= size
            elif misfit is None:
                misfit = word
            if left == 0:
                break
        if left:
            chosen.append(int(heads[misfit]) + np.arange(left))
    return np.sort(np.concatenate(chosen))
