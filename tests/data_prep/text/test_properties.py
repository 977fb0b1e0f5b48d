"""Laws of cleaner and pairs, held on whatever hypothesis thinks of. The same examples at every run."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prepare_tools import data_settings

from bert_lamb.data.store import Documents, read_documents
from bert_lamb.data.vocabulary import make_tokenizer, read_vocabulary
from data_prep.reading.slices import Piece, Slice
from data_prep.reading.sources import SourceFile
from data_prep.shards.encoder import Encoder
from data_prep.shards.folder import StoreFolder
from data_prep.shards.instances import make_instances
from data_prep.shards.make import make_shard, split_of
from data_prep.text.document import Document, Reject
from data_prep.text.dump import article
from data_prep.text.rules import Rules
from data_prep.text.sentences import DROPPED, LONGEST_SENTENCE, clean, sentences

held = settings(max_examples=60, deadline=None, database=None, derandomize=True)
fewer = settings(held, max_examples=15)

NASTY = (
    "\x00\x01\x0b\x0c\x1c\x1d\x1e\x85\xad\u2028\u2029\u200b\u200d\u200e\u202e\u2066\ufeff\ufffd\u0301\u064b\U0001f468"
)
SCRIPTS = "aZ9. \t\n\r\"'“”«»()?!…אבגعربيةकीไทย漢字。！"
WIKI = [
    "[[",
    "]]",
    "{{",
    "}}",
    "{|",
    "|}",
    "<ref>",
    "</ref>",
    "'''",
    "|",
    "=",
    "<nowiki>",
    "<!--",
    "[http://a ",
    ":",
    "*",
    "&lt;",
]
text_ = st.one_of(
    st.text(max_size=300),
    st.text(NASTY + SCRIPTS, max_size=300),
    st.builds(lambda part, times: part * times, st.text(NASTY + SCRIPTS, min_size=1, max_size=12), st.integers(1, 400)),
)
markup = st.lists(st.one_of(st.sampled_from(WIKI), st.text(SCRIPTS, max_size=8)), max_size=60).map("".join)


def letters(text: str) -> str:
    """All that is no white space."""
    return "".join(text.split())


@held
@given(text_)
@example('"' * 20_000)
@example("עברית " * 20_000)
@example("a" * 250_000)
def test_the_cleaner_loses_nothing_but_what_it_says(text: str):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not DROPPED.search(cleaned)
    assert cleaned.split() == DROPPED.sub("", text).split()
    assert all(line == line.strip() and line for line in cleaned.split("\n") if cleaned)
    split = list(sentences(cleaned, "en"))
    assert letters("".join(split)) == letters(cleaned)
    assert max(map(len, split), default=0) <= LONGEST_SENTENCE


@held
@given(text_)
def test_what_the_eye_does_not_see_never_moves_a_document_to_the_other_side(text: str):
    disguised = "\u200b" + text.replace("\n", " \r\n\r\n\ufeff") + "\xad  \n"
    assert split_of(clean(disguised), 0.5) == split_of(clean(text), 0.5)


@pytest.fixture(scope="module")
def encoder(finished: Path) -> Encoder:
    return Encoder(make_tokenizer(read_vocabulary(finished / "vocab.txt"), True), True)


@held
@given(text_)
def test_ids_are_the_tokenizer_s(encoder: Encoder, text: str):
    split = list(sentences(clean(text), "en"))
    expected = [encoder.tokenizer.encode(s, add_special_tokens=False).ids for s in split]
    assert encoder.encode(split) == expected


@held
@given(markup)
def test_no_markup_crashes_the_reading_of_a_page(wikitext: str):
    page = f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{escape(wikitext)}</text></revision></page>"
    piece = Piece(SourceFile("d.xml", "d.xml", ".xml", ""), 0, 0, 1, dropped_spaces=frozenset({"file"}))
    found = article(piece, 1, page.encode())
    assert isinstance(found, Document | Reject)
    if isinstance(found, Document):
        assert found.text.strip()
        assert not {"[[", "]]", "{{", "}}", "<ref"} & {
            found.text[i : i + n] for n in (2, 4) for i in range(len(found.text))
        }


@fewer
@given(st.lists(text_.filter(lambda t: len(t) < 2000), min_size=1, max_size=8), st.integers(0, 2**32))
def test_every_document_is_kept_on_one_side_or_counted(tmp_path_factory, encoder: Encoder, texts: list[str], seed: int):
    folder = tmp_path_factory.mktemp("shard")
    for name in ("train", "heldout", "rejects", ".work"):
        (folder / name).mkdir()
    texts = [*texts, *(f" {text}\u200b" for text in texts)]  # each twice, disguised
    lines = "".join(json.dumps({"text": text, "id": f"d{i}"}) + "\n" for i, text in enumerate(texts)).encode()
    data = data_settings(heldout_share=0.5, seed=seed)
    part = Slice(0, [Piece(SourceFile("a.jsonl.zst", "", ".jsonl", ".zst"), 0, len(lines), 1)], len(lines))
    record = make_shard(StoreFolder(folder), data, encoder, Rules(data), part, [lines])
    assert record.records == len(texts)
    sides = {}
    for split in ("train", "heldout"):
        path = folder / split / "documents-00000.arrow"
        ids = read_documents(path).ids if path.exists() else []
        sides[split] = {clean(texts[int(id.rpartition(":d")[2])]) for id in ids}
        assert len(ids) == record.counts.get(f"{split}_documents", 0)
    assert not sides["train"] & sides["heldout"]
    kept = sum(record.counts.get(f"{split}_documents", 0) for split in sides)
    assert kept + sum(record.rejects.values()) == len(texts)


@st.composite
def shard(draw: st.DrawFn) -> Documents:
    """Documents of sentences of so many tokens; every token is its own place."""
    lengths = draw(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=2, max_size=8))
    ends = [np.cumsum(sizes) for sizes in lengths]
    starts = np.cumsum([0, *(e[-1] for e in ends)])
    return Documents(
        [f"d:{i}" for i in range(len(lengths))], np.arange(starts[-1], dtype=np.uint32), starts,
        np.concatenate(ends).astype(np.uint32), np.cumsum([0, *map(len, lengths)]),
    )  # fmt: skip


@settings(held, max_examples=100)
@given(shard(), st.sampled_from([8, 12, 32, 128, 512]), st.sampled_from([0.0, 0.5]), st.integers(0, 2**32))
def test_a_pass_covers_every_document_once_in_order(documents: Documents, seq_len: int, short: float, seed: int):
    spans = make_instances(documents, seq_len, short, (seed, "train", 0, 0))
    assert spans.lengths.max() <= seq_len
    assert min(spans.a_length.min(), spans.b_length.min()) >= 1
    starts = documents.token_starts
    owner_a, owner_b = (np.searchsorted(starts, s, side="right") - 1 for s in (spans.a_start, spans.b_start))
    assert (spans.a_start + spans.a_length <= starts[owner_a + 1]).all()
    assert (spans.b_start + spans.b_length <= starts[owner_b + 1]).all()
    assert ((owner_a == owner_b) == (spans.is_next == 1)).all()  # a random B is of another document
    ends = documents.sentence_ends.astype(int)
    sizes = np.diff(ends, prepend=0)
    sizes[documents.sentence_starts[:-1]] = ends[documents.sentence_starts[:-1]]  # ends count from the document's start
    cut = spans.lengths == seq_len  # only such a sequence can have lost tokens
    for document in range(len(starts) - 1):
        rows = np.flatnonzero(owner_a == document)
        edge, lost, before = int(starts[document]), 0, False
        for row in rows:
            segments = [(int(spans.a_start[row]), int(spans.a_length[row]))]
            if spans.is_next[row]:
                segments.append((int(spans.b_start[row]), int(spans.b_length[row])))
            for start, length in segments:
                assert start >= edge  # in order, nothing twice
                assert start == edge or cut[row] or before
                lost += start - edge
                edge, before = start + length, bool(cut[row])
        assert edge == starts[document + 1] or cut[rows[-1]]
        lost += int(starts[document + 1]) - edge
        # a chunk ends with the first sentence that reaches the target: less than one sentence is too much
        assert lost <= cut[rows].sum() * (sizes.max() - 1)
