"""Vocabularies: trained ones repeat to the byte, given ones are refused where they do not fit."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from prepare_tools import data_settings, write_jsonl, write_text
from tokenizers import BertWordPieceTokenizer
from tools import ROOT
from transformers import BertTokenizerFast

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import StoreError, read_documents
from bert_lamb.data.vocabulary import (
    SPECIAL_TOKENS,
    continuation_pieces,
    load_tokenizer,
    make_tokenizer,
    read_vocabulary,
    special_ids,
)
from bert_lamb.errors import UserError
from data_prep.prepare import prepare
from data_prep.shards.encoder import Encoder
from data_prep.shards.tokenizer import VocabularyError, given_vocabulary, train_vocabulary, vocabulary_problems

REPEAT = """
from data_prep.shards.tokenizer import train_vocabulary
from prepare_tools import data_settings, write_jsonl, write_text
print(train_vocabulary(write_text(1, 120), data_settings(vocab_size=250)).sha256)
"""


def given(tmp_path: Path, entries: list[str], **settings):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(entries) + "\n")
    return given_vocabulary(data_settings(vocab=str(path), **({"vocab_size": 0} | settings)))


@pytest.fixture(scope="module")
def trained():
    return train_vocabulary(write_text(1, 120), data_settings(vocab_size=250))


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_training_repeats_to_the_byte_with_any_number_of_threads(trained, threads):
    env = os.environ | {
        "RAYON_NUM_THREADS": threads,
        "PYTHONHASHSEED": threads,
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
    }
    command = [sys.executable, "-c", REPEAT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == trained.sha256


def test_a_trained_vocabulary_has_the_size_asked_and_the_special_tokens_first(trained):
    assert len(trained.entries) == len(set(trained.entries)) == 250
    assert trained.entries[:5] == list(SPECIAL_TOKENS)
    assert list(special_ids(trained.entries).values()) == [0, 1, 2, 3, 4]
    assert trained.about()["special_ids"]["[MASK]"] == 4


def test_the_trained_text_needs_no_unknown_token(trained):
    tokenizer = make_tokenizer(trained.entries, lower_case=True)
    ids = tokenizer.encode("\n".join(write_text(1, 120)), add_special_tokens=False).ids
    assert trained.entries.index("[UNK]") not in ids
    assert len(ids) < 0.5 * len("".join(write_text(1, 120)).split(" ")) * 5


def test_rare_characters_do_not_fill_the_vocabulary():
    text = [*write_text(2, 20), "".join(chr(0x4E00 + i) for i in range(3000))]
    assert len(train_vocabulary(text, data_settings(vocab_size=2500)).entries) <= 2500
    with pytest.raises(VocabularyError, match=r"data\.vocab_size=300: single characters alone need \d+ entries"):
        train_vocabulary(text, data_settings(vocab_size=300))


def test_tokens_are_those_of_the_library_s_own_bert_tokenizer(trained, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(trained.content)
    text = "Bala KILO, mésa\u00ad ta\x01ko! 東京 [unused] don't x" + "y" * 120
    theirs = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    ours = make_tokenizer(trained.entries, lower_case=True)
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids


def test_text_that_spells_a_special_token_stays_text(trained):
    ids = make_tokenizer(trained.entries, True).encode("[MASK] [SEP]", add_special_tokens=False).ids
    assert not {2, 3, 4} & set(ids)


def test_continuation_pieces():
    assert continuation_pieces(["[CLS]", "a", "##a", "##", "#", "###"]).tolist() == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("entries", "settings", "message"),
    [
        ([*SPECIAL_TOKENS, "a", "Berlin"], {}, "1 of its entries have upper-case letters, e.g. 'Berlin'"),
        ([*SPECIAL_TOKENS, "a", "b"], {"lower_case": False}, "set data.lower_case=true"),
        (
            [*SPECIAL_TOKENS, "a"],
            {"vocab_size": 30522},
            "it has 6 entries, but data.vocab_size=30522: set that to 6 or 0",
        ),
        (["[PAD]", "[UNK]", "<s>", "a"], {}, r"it lacks \[CLS\], \[SEP\], \[MASK\]"),
        ([*SPECIAL_TOKENS, "a", "b", "a"], {}, "1 entry occurs twice, e.g. 'a'"),
    ],
)
def test_a_foreign_vocabulary_is_refused(tmp_path, entries, settings, message):
    with pytest.raises(VocabularyError, match=message) as error:
        given(tmp_path, entries, **settings)
    assert "data.vocab=" in str(error.value)
    assert isinstance(error.value, UserError)


def test_every_problem_of_a_vocabulary_is_named_at_once(tmp_path):
    with pytest.raises(VocabularyError) as error:
        given(tmp_path, ["[PAD]", "Berlin", "Berlin"], vocab_size=7)
    assert str(error.value).count("\n- ") == 4


def test_a_fitting_vocabulary_is_taken_as_it_is(tmp_path):
    vocabulary = given(tmp_path, [*SPECIAL_TOKENS, "a", "##b"], vocab_size=7)
    assert vocabulary.content == (tmp_path / "vocab.txt").read_bytes()
    assert not vocabulary.trained
    assert given(tmp_path, [*SPECIAL_TOKENS, "A", "a"], lower_case=False).entries[-1] == "a"


def test_a_missing_or_binary_vocabulary_is_named(tmp_path):
    with pytest.raises(VocabularyError, match="does not exist"):
        given_vocabulary(data_settings(vocab=str(tmp_path / "none.txt")))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError, match="cannot be read as a vocabulary"):
        given_vocabulary(data_settings(vocab=str(tmp_path / "binary")))


def test_the_store_s_tokenizer_is_checked_against_the_manifest(trained, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(trained.content)
    manifest = {"tokenizer": trained.about()}
    assert load_tokenizer(tmp_path, manifest).get_vocab_size() == 250
    (tmp_path / "vocab.txt").write_bytes(trained.content.replace(b"##", b"#!", 1))
    with pytest.raises(StoreError, match=r"vocab\.txt does not match its SHA-256"):
        load_tokenizer(tmp_path, manifest)


def test_line_ends_of_windows_are_no_part_of_entries(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\na\r\n")
    assert read_vocabulary(tmp_path / "vocab.txt") == ["[PAD]", "a"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_word_by_word_encoder_gives_the_tokenizer_s_ids(trained, lower_case, monkeypatch):
    rng = random.Random(4)
    signs = [chr(c) for c in range(32, 127)] + list("\t  abeiou") + ["é", "東", "\u00a0", "ß", "x" * 60]
    drawn = ["".join(rng.choices(signs, k=rng.randint(0, 40))) for _ in range(2000)]
    texts = [*write_text(1, 50), *drawn, *(t for t in drawn if t.isascii()), "a" * 150, ""]
    tokenizer = make_tokenizer(trained.entries, lower_case)
    expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert Encoder(tokenizer, lower_case).encode(texts) == expected
    monkeypatch.setattr("data_prep.shards.encoder.MOST_WORDS", 7)
    assert Encoder(tokenizer, lower_case).encode(texts) == expected


MARKED = [
    "Zażółć gęślą jaźń",
    "El niño cantó",
    "がぎぐ カガ",
    "Straße über Öl",
    "한국어",
    "cafe\u0301",
    "naïve İstanbul",
    "กิ่น ไม้",
]


@pytest.fixture(scope="module")
def marked() -> list[str]:
    """Entries with and without accents, in both cases."""
    text = [*write_text(3, 60), *(form(line) for line in MARKED * 5 for form in (str, str.lower, str.upper))]
    cased = train_vocabulary(text, data_settings(vocab_size=500, lower_case=False))
    bare = train_vocabulary(text, data_settings(vocab_size=300))
    return list(dict.fromkeys([*cased.entries, *bare.entries]))


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_tokens_are_those_of_transformers(marked, lower_case, strip_accents):
    """Of BertTokenizerFast with the same two options, for the whole tokenizer and for the encoder of sentences."""
    rng = random.Random(8)
    signs = [*"".join(MARKED), *"abeiou AEB.,-", "\u0301", "\u200d", "\ufe0f", "東", "x" * 99]
    texts = [*MARKED, *("".join(rng.choices(signs, k=rng.randint(1, 30))) for _ in range(1000))]
    vocabulary = {entry: i for i, entry in enumerate(marked)}
    theirs = BertTokenizerFast(vocab=vocabulary, do_lower_case=lower_case, strip_accents=strip_accents)
    expected = [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]
    ours = make_tokenizer(marked, lower_case, strip_accents)
    assert [ours.encode(text, add_special_tokens=False).ids for text in texts] == expected
    assert Encoder(ours, lower_case).encode(texts) == expected
    if strip_accents not in (None, lower_case):
        by_default = make_tokenizer(marked, lower_case)
        assert expected != [by_default.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    ("entries", "settings", "accepted"),
    [
        (["niño"], {}, False),
        (["niño"], {"strip_accents": False}, True),
        (["niño"], {"strip_accents": True}, False),
        (["Niño"], {"lower_case": False}, True),
        (["Niño"], {"lower_case": False, "strip_accents": True}, False),
        (["Nino"], {"lower_case": False, "strip_accents": True}, True),
        (["##が"], {}, False),
        (["##か", "ł", "ß", "東", "ᄒ", "##ø"], {}, True),
        (["한"], {}, False),  # text without accents has its three letters
        (["cafe\u0301"], {}, False),
    ],
)
def test_a_vocabulary_with_accents_is_refused_where_they_are_stripped(tmp_path, entries, settings, accepted):
    problems = vocabulary_problems([*SPECIAL_TOKENS, "a", *entries], data_settings(vocab_size=0, **settings))
    assert (not problems) is accepted
    if not accepted:
        (problem,) = problems
        assert f"of its entries have accents or other marks, e.g. {entries[0]!r}" in problem
        assert "data.strip_accents=false" in problem


def test_accents_that_are_kept_get_entries():
    text = ["El niño cantó en la mañana."] * 20
    of = {strip: train_vocabulary(text, data_settings(strip_accents=strip)).entries for strip in (None, True, False)}
    assert of[None] == of[True]
    assert "ñ" in of[False]
    assert not any("ñ" in entry for entry in of[None])


def test_old_stores_strip_accents_as_bert_does(trained, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(trained.content)
    about = trained.about()
    assert about.pop("strip_accents") is True
    old = load_tokenizer(tmp_path, {"tokenizer": about})
    assert old.normalizer.normalize_str("É") == "e"
    kept = load_tokenizer(tmp_path, {"tokenizer": about | {"strip_accents": False}})
    assert kept.normalizer.normalize_str("É") == "é"


def test_a_store_keeps_the_accents_that_it_is_asked_to_keep(tmp_path):
    """From the settings through the trained vocabulary to the tokens and the tokenizer of whoever opens the store."""
    text = write_jsonl(tmp_path / "a.jsonl", [f"El Niño cantó {n}.\nÉl sí." for n in range(30)])
    for strip, words in ((False, "el niño cantó"), (None, "el nino canto")):
        store = tmp_path / str(strip)
        prepare(data_settings(paths=[text], strip_accents=strip, heldout_share=0.0, passes=1), store)
        manifest = read_manifest(store)
        assert manifest["tokenizer"]["strip_accents"] is (strip is None)
        tokenizer = load_tokenizer(store, manifest)
        tokens = read_documents(next(store.glob("train/documents-*"))).tokens.tolist()
        assert tokens[: len(tokenizer.encode(words, add_special_tokens=False).ids)] == (
            tokenizer.encode(words, add_special_tokens=False).ids
        )
        assert tokenizer.decode(tokens).startswith(words)
