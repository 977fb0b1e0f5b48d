"""What the settings leave out: short texts, other languages. Counted, with a sample; nothing by default."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prepare_tools import data_settings, write_jsonl, write_text

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents
from data_prep.prepare import prepare
from data_prep.store import resume
from data_prep.store.resume import PrepareError
from data_prep.text.rules import RuleError, Rules

ENGLISH = "The cat sat on the mat because it was tired, and nobody thought that it would ever stand up again."
BULGARIAN = "Котката седна на килима, защото беше уморена, и никой не мислеше, че някога пак ще стане от там."


@pytest.fixture
def judge(monkeypatch):
    """In place of py3langid: a text is in the language of its first letter."""
    asked: list[str] = []

    def classify(text: str) -> tuple[str, float]:
        asked.append(text)
        return ("bg" if text[0] > "z" else "en"), 1.0

    stub = SimpleNamespace(classify=classify, rank=lambda text: [("en", 0.0), ("bg", 0.0), ("de", 0.0)])
    monkeypatch.setitem(sys.modules, "py3langid", stub)
    monkeypatch.setattr(resume, "version", lambda name: "0")
    return asked


def test_no_rule_is_the_default():
    assert Rules(data_settings()).judge("")[0] is None


def test_the_length_is_in_characters_of_the_cleaned_text():
    rules = Rules(data_settings(min_characters=5))
    assert rules.judge("Ähré")[0] == "shorter than 5 characters"
    assert rules.judge("Ähren")[0] is None


def test_the_language_is_judged_by_the_beginning(judge):
    rules = Rules(data_settings(languages=["en", "de"]))
    assert rules.judge(ENGLISH)[0] is None
    assert rules.judge(BULGARIAN)[0] == "language bg"
    assert rules.judge("x" * 10_000)[0] is None
    assert [len(text) for text in judge] == [len(ENGLISH), len(BULGARIAN), 2000]
    assert Rules(data_settings(languages=["bg"])).judge(BULGARIAN)[0] is None


def test_the_library_knows_these_languages():
    pytest.importorskip("py3langid")
    rules = Rules(data_settings(languages=["en"]))
    assert rules.judge(ENGLISH)[0] is None
    assert rules.judge(BULGARIAN)[0] == "language bg"


def test_what_cannot_be_judged_is_said_before_anything_is_read(judge, tmp_path, monkeypatch):
    with pytest.raises(RuleError, match=r"data.languages: english, xx is not known; choose from bg, de, en"):
        Rules(data_settings(languages=["en", "xx", "english"]))
    monkeypatch.setitem(sys.modules, "py3langid", None)
    write_jsonl(tmp_path / "a.jsonl", ["One. Two."])
    with pytest.raises(RuleError, match=r"data.languages=\['en'\] needs the package py3langid, which is not installed"):
        prepare(data_settings(paths=[tmp_path], languages=["en"]), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def filtered(folder: Path, texts: list[str], **rules) -> dict:
    write_jsonl(folder / "text" / "a.jsonl", texts)
    prepare(data_settings(paths=[folder / "text"], **rules), folder / "store")
    return read_manifest(folder / "store")


def test_what_is_left_out_is_counted_and_kept_as_a_sample(judge, tmp_path):
    good = [text for text in write_text(1, 60) if len(text) >= 60]
    texts = ["Short.", *good[:20], BULGARIAN, *good[20:], BULGARIAN, "Кратко."]
    manifest = filtered(tmp_path, texts, min_characters=60, languages=["en"], deduplicate=True)
    assert manifest["left_out"] == {
        "language bg": 1, "shorter than 60 characters": 2, "the same text as an earlier document": 1,
    }  # fmt: skip
    assert (
        manifest["counts"]["records"]
        == len(good)
        == manifest["counts"]["documents"]
        + sum(len(read_documents(path).ids) for path in tmp_path.glob("store/heldout/documents-*"))
    )
    assert manifest["libraries"]["py3langid"] == "0"
    lines = (tmp_path / "store/rejects/rejects-00000.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [(s["file"], s["line"], s["reason"]) for s in samples] == [
        ("a.jsonl:1", 1, "shorter than 60 characters"),
        ("a.jsonl:22", 22, "language bg"),
        (f"a.jsonl:{len(texts) - 1}", len(texts) - 1, "the same text as an earlier document"),
        (f"a.jsonl:{len(texts)}", len(texts), "shorter than 60 characters"),
    ]
    assert samples[1]["sample"] == BULGARIAN
    vocabulary = (tmp_path / "store/vocab.txt").read_text()
    assert "к" not in vocabulary  # nor is the vocabulary trained on it


def test_rules_that_leave_nothing_say_so(judge, tmp_path):
    with pytest.raises(PrepareError, match=r"the first document, a.jsonl:1, is left out: language bg"):
        filtered(tmp_path, [BULGARIAN], languages=["en"])
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]) + "\n")
    with pytest.raises(PrepareError, match=r"0 documents .* \(left out by rules: 1 x language bg\)"):
        filtered(tmp_path / "given", [BULGARIAN], languages=["en"], vocab=str(vocab), vocab_size=0)


def test_rules_that_are_off_are_no_part_of_the_store(tmp_path):
    manifest = filtered(tmp_path, write_text(1, 40), min_characters=150)
    assert 3 < manifest["left_out"]["shorter than 150 characters"] < 30
    assert manifest["settings"]["min_characters"] == 150
    assert "languages" not in manifest["settings"]
    assert "py3langid" not in manifest["libraries"]
