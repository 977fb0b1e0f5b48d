"""BERT's pairs: the same as a slow reading of the rule over lists of tokens; laws of spans and of chance."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from bert_lamb.data.store import Documents, Spans
from data_prep.shards.instances import make_instances, uniform_stream

KEY = (5, "train", 0, 0)


def make_documents(seed: int, count: int = 40, longest: int = 30) -> Documents:
    """Documents whose every token is its own place in the file, so that a token tells where it came from."""
    rng = np.random.default_rng(seed)
    ends = [np.cumsum(rng.integers(1, longest, rng.integers(1, 25))).astype(np.uint32) for _ in range(count)]
    starts = np.cumsum([0, *(int(e[-1]) for e in ends)])
    return Documents(
        ids=[f"d:{i}" for i in range(count)],
        tokens=np.arange(starts[-1], dtype=np.uint32),
        token_starts=starts,
        sentence_ends=np.concatenate(ends),
        sentence_starts=np.cumsum([0, *map(len, ends)]),
    )


def sentences_of(documents: Documents) -> list[list[list[int]]]:
    """Tokens by document and sentence."""
    result = []
    for d, start in enumerate(documents.token_starts[:-1]):
        ends = documents.sentence_ends[documents.sentence_starts[d] : documents.sentence_starts[d + 1]]
        borders = [0, *ends.tolist()]
        result.append([documents.tokens[start + a : start + b].tolist() for a, b in pairwise(borders)])
    return result


def slow_pairs(texts: list[list[list[int]]], most: int, short: float, draw: Callable[[], float]):
    """The rule, sentence by sentence and token by token."""
    for number, document in enumerate(texts):
        target = 2 + int(draw() * (most - 1)) if draw() < short else most
        chunk: list[list[int]] = []
        i = 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                border = 1 + int(draw() * (len(chunk) - 1)) if len(chunk) > 1 else 1
                a = [t for s in chunk[:border] for t in s]
                if len(chunk) == 1 or draw() < 0.5:
                    choice = int(draw() * (len(texts) - 1))
                    other = texts[choice + (choice >= number)]
                    b: list[int] = []
                    for sentence in other[int(draw() * len(other)) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - border
                    is_next = 0
                else:
                    b, is_next = [t for s in chunk[border:] for t in s], 1
                cut = {"a": 0, "b": 0}
                while len(a) + len(b) - sum(cut.values()) > most:
                    cut["a" if len(a) - cut["a"] > len(b) - cut["b"] else "b"] += 1
                for segment, count in ((a, cut["a"]), (b, cut["b"])):
                    for coin in range(count):
                        if coin % 32 == 0:
                            bits = int(draw() * 2**32)
                        del segment[0 if bits >> (coin % 32) & 1 else -1]
                yield a, b, is_next
                chunk = []
            i += 1


def as_lists(documents: Documents, spans: Spans) -> list[tuple[list[int], list[int], int]]:
    tokens = documents.tokens
    return [
        (tokens[a : a + n].tolist(), tokens[b : b + m].tolist(), nxt)
        for a, n, b, m, nxt in zip(
            spans.a_start.tolist(), spans.a_length.tolist(), spans.b_start.tolist(), spans.b_length.tolist(),
            spans.is_next.tolist(), strict=True,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("seq_len", [8, 32, 128])
@pytest.mark.parametrize("short_share", [0.0, 0.4])
def test_spans_are_those_of_the_slow_rule(seq_len, short_share):
    documents = make_documents(1)
    spans = make_instances(documents, seq_len, short_share, KEY)
    draw = uniform_stream(5, 0, seq_len, 0, 0)
    assert as_lists(documents, spans) == list(slow_pairs(sentences_of(documents), seq_len - 3, short_share, draw))


@pytest.mark.parametrize("seq_len", [8, 64, 512])
def test_no_segment_is_empty_and_no_sequence_too_long(seq_len):
    spans = make_instances(make_documents(2, longest=90), seq_len, 0.3, KEY)
    assert len(spans) > 100
    assert min(spans.a_length.min(), spans.b_length.min()) >= 1
    assert spans.lengths.max() == seq_len


def test_segments_stay_in_documents_and_random_b_is_of_another_one():
    documents = make_documents(3)
    spans = make_instances(documents, 64, 0.1, KEY)

    def document_of(start, length):
        first = np.searchsorted(documents.token_starts, start, side="right") - 1
        assert (start + length <= documents.token_starts[first + 1]).all()
        return first

    a, b = document_of(spans.a_start, spans.a_length), document_of(spans.b_start, spans.b_length)
    assert ((a == b) == (spans.is_next == 1)).all()
    follows = spans.is_next == 1
    assert (spans.a_start + spans.a_length <= spans.b_start)[follows].all()


def test_whole_sentences_and_whole_documents_where_nothing_is_truncated():
    documents = make_documents(4, longest=4)
    spans = make_instances(documents, 4096, 0.0, KEY)
    borders = {
        0,
        *np.repeat(documents.token_starts[:-1], np.diff(documents.sentence_starts)) + documents.sentence_ends,
    }
    assert {*spans.a_start, *(spans.a_start + spans.a_length)} <= borders
    assert {*spans.b_start, *(spans.b_start + spans.b_length)} <= borders
    seen = np.zeros(len(documents.tokens), bool)
    for a, b, is_next in as_lists(documents, spans):
        seen[a] = True
        if is_next:
            assert a[-1] + 1 == b[0]  # B begins where A ends
            seen[b] = True
    assert seen.all()  # A and true B together leave out no sentence


def test_half_of_the_pairs_are_random():
    spans = make_instances(make_documents(5, count=3000, longest=6), 16, 0.0, KEY)
    random_share = 1 - spans.is_next.mean()
    assert 0.5 < random_share < 0.65  # somewhat more: a single sentence left always gets a random B


def test_short_targets_are_a_share_of_the_documents():
    one_token_sentences = Documents(
        ids=[f"d:{i}" for i in range(4000)],
        tokens=np.arange(4000 * 200, dtype=np.uint32),
        token_starts=np.arange(4001) * 200,
        sentence_ends=np.tile(np.arange(1, 201, dtype=np.uint32), 4000),
        sentence_starts=np.arange(4001) * 200,
    )
    spans = make_instances(one_token_sentences, 103, 0.1, KEY)
    first = np.unique(spans.a_start // 200, return_index=True)[1]  # every document's first pair
    first = first[spans.is_next[first] == 1]  # a random B may be shorter because its document ends
    # targets of 2 to 100 tokens are all alike likely, so one in 99 of the short ones is not short
    assert np.mean(spans.lengths[first] < 103) == pytest.approx(0.1 * 98 / 99, abs=0.015)


def test_draws_differ_by_seed_split_length_pass_and_shard_and_repeat():
    documents = make_documents(6)

    def spans(seq_len=64, **changed):
        key = {"seed": 1, "split": "train", "pass_": 0, "shard": 0} | changed
        return make_instances(documents, seq_len, 0.1, tuple(key.values())).a_length.tolist()

    kinds = [
        spans(),
        spans(seed=2),
        spans(split="heldout"),
        spans(pass_=1),
        spans(shard=1),
        spans(seq_len=65),
    ]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[:i])
    assert spans() == kinds[0]


def test_a_lone_document_gives_true_neighbours_only():
    spans = make_instances(make_documents(7, count=1), 32, 0.1, KEY)
    assert len(spans) > 3
    assert spans.is_next.all()


def test_a_lone_sentence_gives_nothing():
    lone = Documents(
        ["d:0"], np.arange(9, dtype=np.uint32), np.array([0, 9]), np.array([9], np.uint32), np.array([0, 1])
    )
    assert len(make_instances(lone, 32, 0.1, KEY)) == 0
