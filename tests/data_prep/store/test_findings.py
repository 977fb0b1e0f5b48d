"""What a finished store says against itself: pairs that teach nothing, text that the vocabulary cannot spell."""

import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import pytest
from prepare_tools import data_settings, digests, write_jsonl, write_text

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents, read_spans
from bert_lamb.data.vocabulary import read_vocabulary
from bert_lamb.report_data import page
from bert_lamb.reporting.data_numbers import read_store
from bert_lamb.settings import MixSettings
from data_prep.prepare import prepare

SENTENCES = [s for text in write_text(5, 120) for s in re.split(r"(?<=[.?!])\s", text)]
BLANK = "นี่คือประโยคยาวที่ไม่มีช่องว่าง" * 6  # more than 100 characters without a blank


def made(tmp_path: Path, texts: list[str], **more: Any) -> dict[str, Any]:
    path = write_jsonl(tmp_path / "text" / "x.jsonl", texts)
    prepare(data_settings(**{"paths": [path], "passes": 1, "heldout_share": 0.0} | more), tmp_path / "store")
    return read_manifest(tmp_path / "store")


def report(folder: Path) -> str:
    return page(read_store(folder), "x", [])


def test_shares_of_random_b_are_those_of_the_tables(tmp_path):
    manifest = made(tmp_path, write_text(1, 200), heldout_share=0.3, passes=2)
    for split, lengths in manifest["random_next_share"].items():
        for length, share in lengths.items():
            tables = [read_spans(path) for path in (tmp_path / "store" / split).glob(f"seq{length}-*")]
            pairs = sum(len(table) for table in tables)
            assert share == pytest.approx(1 - sum(int(t.is_next.sum()) for t in tables) / pairs, abs=1e-4)
            assert f"{share:.1%}" in report(tmp_path / "store")
    assert set(manifest["random_next_share"]) == {"train", "heldout"}
    assert manifest["warnings"] == []


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (SENTENCES[:150], "150 of 150 documents have one sentence"),
        ([f"{s}\nA b c." for s in SENTENCES[:150]], "a document has 2.0 sentences on average"),
        (["A b " * 30 + "\n" + "c d " * 30] * 100, "200 of 200 sentences alone fill a sequence of 32 tokens"),
    ],
)  # fmt: skip
def test_too_many_random_b_are_told_with_the_cause(tmp_path, caplog, texts, cause):
    with caplog.at_level(logging.INFO):
        manifest = made(tmp_path, texts, seq_lens=[32])
    (warning,) = manifest["warnings"]
    share = manifest["random_next_share"]["train"]["32"]
    assert share > 0.65
    assert warning.startswith(f"{share:.1%} of the ")
    assert cause in warning
    assert "data.sentences_per_document" in warning
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [warning]
    assert f"B is random in {share:.1%} of length 32" in caplog.text
    assert warning in report(tmp_path / "store")


def test_too_few_random_b_are_told_with_the_cause(tmp_path):
    manifest = made(tmp_path, ["\n".join(SENTENCES[:200])], seq_lens=[32])
    (warning,) = manifest["warnings"]
    assert manifest["random_next_share"]["train"] == {"32": 0.0}
    assert "1 of 1 shard of train have fewer than two documents" in warning
    assert "data.shard_mib" in warning


def test_of_a_mix_the_source_is_named(tmp_path):
    whole = write_jsonl(tmp_path / "a" / "x.jsonl", write_text(1, 150))
    lines = write_jsonl(tmp_path / "b" / "x.jsonl", SENTENCES[:60])
    mix = {name: MixSettings([str(path)], None, 0, 1.0) for name, path in (("good", whole), ("bad", lines))}
    prepare(data_settings(mix=mix, seq_lens=[32], heldout_share=0.0), tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    shares = manifest["random_next_share"]
    assert shares["train, bad"]["32"] == 1.0
    assert shares["train, good"]["32"] < shares["train"]["32"] < 0.65
    (warning,) = manifest["warnings"]
    assert "100.0% of the 120 training pairs of length 32 whose A is from bad" in warning
    assert "training whose A is from bad: 100.0%" in report(tmp_path / "store")
    whole_pairs = sum(entry["instances"] for entry in manifest["instances"]["train"]["32"])
    ids, pairs = {}, 0
    for path in sorted((tmp_path / "store" / "train").glob("documents-*")):
        ids[path.stem.split("-")[1]] = read_documents(path).ids
    for path in (tmp_path / "store" / "train").glob("seq32-*"):
        of_bad = all(i.startswith("bad/") for i in ids[path.stem.rsplit("-", 1)[1]])
        pairs += len(read_spans(path)) if of_bad else 0
    assert whole_pairs > 120 >= pairs


def test_unknown_tokens_are_counted_on_both_sides(tmp_path, caplog):
    texts = [text + (f"\nThe ✈{i} ☃." if i % 2 else "") for i, text in enumerate(write_text(1, 200))]
    vocabulary = tmp_path / "vocab.txt"
    made(tmp_path / "plain", write_text(1, 200))
    vocabulary.write_bytes((tmp_path / "plain/store/vocab.txt").read_bytes())
    caplog.clear()
    with caplog.at_level(logging.INFO):
        manifest = made(tmp_path, texts, heldout_share=0.3, vocab=str(vocabulary), vocab_size=0)
    unknown = read_vocabulary(vocabulary).index("[UNK]")
    for split, prefix in (("train", ""), ("heldout", "heldout_")):
        tokens = [read_documents(path).tokens for path in (tmp_path / "store" / split).glob("documents-*")]
        assert manifest["counts"][f"{prefix}unknown_tokens"] == sum(int((t == unknown).sum()) for t in tokens) > 0
        share = sum(int((t == unknown).sum()) for t in tokens) / sum(map(len, tokens))
        assert f"{share:.3%} of the {'held-out ones' if prefix else 'tokens'}" in caplog.text
        assert f"{share:.3%} of the {'held-out ones' if prefix else 'tokens'}" in report(tmp_path / "store")


@pytest.mark.parametrize(
    ("texts", "trained", "told"),
    [
        ([f"{s}\n☃ ☃ ☃✈." for s in SENTENCES[:60]], False, "(☃ 180, ✈ 60): train a vocabulary on this text"),
        ([f"{s}\n{BLANK}" for s in SENTENCES[:60]], True, "words of more than 100 characters (60 in a sample)"),
        (["".join(chr(0x4E00 + 40 * j + i) for i in range(40)) + "。" for j in range(40)], True, "1,000 most frequent"),
        ([f"{s}\n☃ {'q' * 101}." for s in SENTENCES[:60]], False, "(60 in a sample)"),  # both kinds, equally often
        ([f"{s}\n☃ {'q' * 101}." for s in SENTENCES[:60]], False, "(☃ 60)"),
        ([f"{s}\nX1x x1X." for s in SENTENCES[:60]], False, "words that its pieces cannot spell (x1x 120)"),
    ],
)  # fmt: skip
def test_more_than_one_percent_is_told_with_the_worst_and_the_way_out(tmp_path, texts, trained, told):
    more: dict[str, Any] = {"vocab_size": 3000}
    if not trained:
        made(tmp_path / "plain", SENTENCES)
        entries = read_vocabulary(tmp_path / "plain/store/vocab.txt")
        (tmp_path / "vocab.txt").write_text("\n".join([*entries, "x", "1"]) + "\n")
        more = {"vocab": str(tmp_path / "vocab.txt"), "vocab_size": 0}
    manifest = made(tmp_path, texts, **more)
    found = [w for w in manifest["warnings"] if "[UNK]" in w]
    assert len(found) == 1
    assert told in found[0]
    share = manifest["counts"]["unknown_tokens"] / manifest["counts"]["tokens"]
    assert found[0].startswith(f"{share:.1%} of the training tokens are [UNK]")


def test_the_worst_do_not_depend_on_processes(tmp_path):
    rng = random.Random(1)
    for i in range(3):
        texts = ["\n".join(f"{s} {chr(0x2600 + rng.randint(0, 40))}" for s in SENTENCES[i : i + 20]) for i in range(30)]
        write_jsonl(tmp_path / "text" / f"{i}.jsonl", texts)
    made(tmp_path / "plain", SENTENCES)
    vocabulary = str(tmp_path / "plain/store/vocab.txt")
    for name, processes in (("one", 1), ("two", 2)):
        settings = data_settings(paths=[tmp_path / "text"], vocab=vocabulary, vocab_size=0, processes=processes)
        prepare(settings, tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert "☁ " in json.dumps(read_manifest(tmp_path / "one")["warnings"], ensure_ascii=False)
