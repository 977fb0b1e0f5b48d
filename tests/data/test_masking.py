"""What is masked: exact numbers, BERT's shares by statistics, whole words against a slow reading of the rule."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bert_lamb.data.masking import MaskRule, mask, masked_counts
from bert_lamb.hashing import Domain, hash_counters, key

VOCABULARY = 120
CLS, SEP, MASK = 2, 3, 4
CONTINUES = np.array([i % 3 == 0 and i > 4 for i in range(VOCABULARY)])


def sequences(lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, borders, special of sequences [CLS] a [SEP] b [SEP] of random ids."""
    rng = np.random.default_rng(seed)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(5, VOCABULARY, borders[-1])
    special = np.zeros(borders[-1], bool)
    for start, end in pairwise(borders):
        middle = start + 2 + rng.integers(0, end - start - 4)
        ids[start], ids[middle], ids[end - 1] = CLS, SEP, SEP
        special[[start, middle, end - 1]] = True
    return ids, borders, special


def rule(whole_word: bool = False, **changes: int) -> MaskRule:
    values = {"seed": 1, "phase": 1} | changes
    return MaskRule(**values, share=0.15, mask_id=MASK, vocab_size=VOCABULARY,
                    continuation=CONTINUES if whole_word else None)  # fmt: skip


def masked(lengths: list[int], whole_word: bool = False, text: int = 0, epoch: int = 0, **changes: Any):
    ids, borders, special = sequences(lengths, text)
    count = np.arange(len(lengths))
    return (
        ids,
        borders,
        special,
        mask(rule(whole_word, **changes), ids, borders, special, np.full_like(count, epoch), count),
    )


@pytest.mark.parametrize("whole_word", [False, True])
def test_exact_numbers_for_every_length(whole_word: bool) -> None:
    lengths = list(range(5, 513))
    ids, borders, special, (changed, positions, labels) = masked(lengths, whole_word)
    counts = np.histogram(positions, borders)[0]
    expected = [max(1, round(0.15 * length)) for length in lengths]
    assert counts.tolist() == expected == masked_counts(np.array(lengths), 0.15).tolist()
    assert len(np.unique(positions)) == len(positions)
    assert (np.diff(positions) > 0).all()
    assert not special[positions].any(), "special tokens are never masked"
    assert np.array_equal(labels, ids[positions])
    untouched = np.ones(len(ids), bool)
    untouched[positions] = False
    assert np.array_equal(changed[untouched], ids[untouched])


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.25, 0.5])
def test_counts_round_as_python_does(share: float) -> None:
    lengths = np.arange(1, 2000)
    assert masked_counts(lengths, share).tolist() == [max(1, round(share * n)) for n in lengths.tolist()]
    assert masked_counts(np.array([10, 30, 50]), 0.15).tolist() == [2, 4, 8]  # 1.5, 4.5 and 7.5: half to even


@pytest.mark.parametrize("whole_word", [False, True])
def test_shares_and_uniformity(whole_word: bool) -> None:
    """80/10/10, positions and random ids, over more than 100,000 masked tokens; bounds of 5 standard deviations."""
    kinds: Counter[str] = Counter()
    places, random_ids = np.zeros(128), np.zeros(VOCABULARY)
    for seed in range(14):
        _ids, borders, _, (changed, positions, labels) = masked([128] * 400, whole_word, seed, epoch=seed)
        new = changed[positions]
        kinds["mask"] += int((new == MASK).sum())
        kinds["same"] += int((new == labels).sum())
        other = (new != MASK) & (new != labels)
        kinds["random"] += int(other.sum())
        random_ids += np.bincount(new[other], minlength=VOCABULARY)
        places += np.bincount(positions - borders[:-1][np.searchsorted(borders, positions, "right") - 1], minlength=128)
    total = sum(kinds.values())
    assert total == 14 * 400 * 19
    assert total > 100_000

    def near(count: float, share: float, of: float) -> bool:
        return abs(count - share * of) < 5 * np.sqrt(share * (1 - share) * of)

    # a random id may be [MASK] or the token itself, once in VOCABULARY each
    assert near(kinds["mask"], 0.8 + 0.1 / VOCABULARY, total)
    assert near(kinds["same"], 0.1 + 0.1 / VOCABULARY, total)
    assert near(kinds["random"], 0.1 * (1 - 2 / VOCABULARY), total)
    assert random_ids[MASK] == 0
    drawn = np.delete(random_ids, MASK)
    assert drawn.min() > 0, "any id of the vocabulary, special ones included, as in BERT"
    special_ids, text_ids = drawn[:4].mean(), drawn[4:].mean()
    assert near(text_ids, 1 / (VOCABULARY - 1), drawn.sum())
    assert special_ids == pytest.approx(text_ids, rel=0.25)
    if not whole_word:
        inner = places[2:125]  # the first and last places may hold specials always, the rest equally often
        assert np.abs(inner - inner.mean()).max() < 5 * np.sqrt(inner.mean())
        deviations = (inner - inner.mean()) / np.sqrt(inner.mean())
        assert 0.6 < deviations.std() < 1.4
    assert places[0] == places[127] == 0


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_do_not_depend_on_company(whole_word: bool) -> None:
    """The same sequence alone, in another order, among others: the same mask."""
    lengths = [20, 33, 128, 7, 64, 90]
    ids, borders, special, _ = masked(lengths, whole_word)
    epoch, instance = np.array([0, 3, 3, 1, 0, 7]), np.array([5, 900, 2, 0, 2, 5])

    def together(rows: list[int]) -> list[tuple]:
        parts = [slice(borders[r], borders[r + 1]) for r in rows]
        ends = np.concatenate([[0], np.cumsum([lengths[r] for r in rows])])
        changed, positions, labels = mask(
            rule(whole_word), np.concatenate([ids[p] for p in parts]), ends,
            np.concatenate([special[p] for p in parts]), epoch[rows], instance[rows],
        )  # fmt: skip
        result = []
        for a, b in pairwise(ends):
            here = (positions >= a) & (positions < b)
            result.append((tuple(changed[a:b]), tuple(positions[here] - a), tuple(labels[here])))
        return result

    whole = together([0, 1, 2, 3, 4, 5])
    assert together([5, 3, 1, 0, 2, 4]) == [whole[r] for r in (5, 3, 1, 0, 2, 4)]
    assert [together([r])[0] for r in range(6)] == whole


@pytest.mark.parametrize("change", [{"seed": 2}, {"phase": 2}, {"epoch": 1}], ids=str)
def test_masks_differ_by_seed_phase_and_epoch(change: dict[str, Any]) -> None:
    before, after = masked([128] * 50)[3][1], masked([128] * 50, **change)[3][1]
    shared = len(np.intersect1d(before, after)) / len(before)
    assert shared == pytest.approx(0.15, abs=0.05), "as many as chance gives"


def slow_whole_words(ids: list[int], special: list[bool], hashes: list[int], wanted: int) -> set[int]:
    """The rule, word by word: in the order of each word's first hash, all that fit; then a part of the next."""
    words: list[list[int]] = []
    for place, token in enumerate(ids):
        if special[place]:
            continue
        follows = place > 0 and not special[place - 1]
        if CONTINUES[token] and follows:
            words[-1].append(place)
        else:
            words.append([place])
    words.sort(key=lambda word: hashes[word[0]])
    chosen: list[int] = []
    misfits = []
    for word in words:
        if len(chosen) + len(word) <= wanted:
            chosen += word
        else:
            misfits.append(word)
    missing = wanted - len(chosen)
    return set(chosen + (misfits[0][:missing] if missing else []))


@pytest.mark.parametrize("seed", range(6))
def test_whole_words_against_the_slow_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = [5, 6, 7, 512, *rng.integers(5, 140, 60).tolist()]
    ids, borders, special = sequences(lengths, seed)
    if seed % 2:  # long words, so that many do not fit
        ids = np.where(special, ids, np.where(rng.random(len(ids)) < 0.85, ids // 3 * 3 + 3, ids))
        ids[~special] = np.clip(ids[~special], 5, VOCABULARY - 1)
    instance, epoch = np.arange(len(lengths)) * 7, np.full(len(lengths), 2)
    _, positions, _ = mask(rule(True), ids, borders, special, epoch, instance)
    partial = 0
    for m, (a, b) in enumerate(pairwise(borders)):
        instance_key = hash_counters(key(Domain.MASKS, 1, 1, 2), instance[m : m + 1])
        hashes = hash_counters(instance_key, np.arange(b - a)).tolist()
        wanted = max(1, round(0.15 * (b - a)))
        expected = slow_whole_words(ids[a:b].tolist(), special[a:b].tolist(), hashes, wanted)
        got = set((positions[(positions >= a) & (positions < b)] - a).tolist())
        assert got == expected
        assert len(got) == wanted
        partial += sum(p + 1 < b - a and CONTINUES[ids[a + p + 1]] and not special[a + p + 1] and p + 1 not in got
                       for p in got)  # fmt: skip
    if seed % 2:
        assert partial > 0, "some word was cut: the case is tested"


def test_a_segment_cut_inside_a_word() -> None:
    """A continuation right after [CLS] or [SEP] begins a word of its own and is joined to nothing before it."""
    word, piece = 7, 6
    ids = np.array([CLS, piece, piece, word, SEP, piece, word, piece, SEP])
    special = np.isin(ids, (CLS, SEP))
    seen: Counter[tuple[int, ...]] = Counter()
    for instance in range(200):
        _, positions, _ = mask(rule(True), ids, np.array([0, 9]), special, np.array([0]), np.array([instance]))
        seen[tuple(positions.tolist())] += 1
    assert set(seen) <= {(1,), (3,), (5,), (6,)}, "one token: a single word, or the first piece of a longer one"
    assert (3,) in seen
    assert (5,) in seen
