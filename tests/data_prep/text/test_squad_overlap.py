"""Which documents hold paragraphs of a SQuAD file: found through small differences, counted, left out on request."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard
from prepare_tools import data_settings, write_jsonl, write_text

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents
from data_prep.prepare import prepare
from data_prep.store.resume import PrepareError, deciding_settings
from data_prep.text import squad_overlap
from data_prep.text.squad_overlap import WORD, Overlap, OverlapError


def squad(path: Path, paragraphs: list[str]) -> str:
    articles = [{"title": "t", "paragraphs": [{"context": p, "qas": []} for p in paragraphs]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"version": "1.1", "data": articles}).encode()
    path.write_bytes(zstandard.compress(content) if path.suffix == ".zst" else content)
    return str(path)


def words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.choice('bcdfg')}{rng.randint(0, 400)}" for _ in range(count)]


def test_shares_by_hand(tmp_path):
    overlap = Overlap(squad(tmp_path / "dev.json", ["a b c d e f g h i j", "One two three", "b c d e f g h i, x"]))
    assert overlap.count == 3
    shares = overlap.shares("z A b, C d (e) f g h\ni; b c d")  # a-h and b-i of the three grams of the first
    assert shares.tolist() == [2 / 3, 0, 1 / 2]
    assert overlap.paragraphs("z A b, C d (e) f g h\ni; b c d") == [0, 2]
    assert overlap.shares("a b c d e f g").tolist() == [0, 0, 0]
    assert overlap.shares("").tolist() == [0, 0, 0]
    assert overlap.paragraphs("One two three") == []  # too short to be told from chance


def test_shares_are_those_of_sets_of_words(tmp_path, monkeypatch):
    """Few words, so that grams repeat and are shared between paragraphs; the first look lets everything pass."""
    monkeypatch.setattr(squad_overlap, "SHORT", 1)
    monkeypatch.setattr(squad_overlap, "LEFT", np.uint64(63))
    rng = random.Random(0)
    paragraphs = [" ".join(rng.choices("ab", k=rng.randint(8, 30))) for _ in range(20)]
    overlap = Overlap(squad(tmp_path / "dev.json.zst", paragraphs))

    def grams(text: str) -> set[tuple[str, ...]]:
        found = WORD.findall(text)
        return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}

    for _ in range(30):
        text = " ".join(rng.choices("abbbac", k=60))
        expected = [len(grams(p) & grams(text)) / len(grams(p)) for p in paragraphs]
        np.testing.assert_allclose(overlap.shares(text), expected)
        assert overlap.paragraphs(text) == [i for i, share in enumerate(expected) if share >= 0.5]


def test_a_paragraph_is_found_through_another_cleaning(tmp_path):
    paragraph = words(1, 120)
    overlap = Overlap(squad(tmp_path / "dev.json", [" ".join(paragraph).capitalize() + ".", " ".join(words(2, 90))]))
    other = [word for i, word in enumerate(paragraph) if i % 40 != 7]  # without some words, with other signs and lines
    text = "Before it.\n" + ", ".join(other[:50]).upper() + "\n" + " ".join(other[50:]) + "\nAfter it."
    assert overlap.paragraphs(text) == [0]
    assert overlap.paragraphs(" ".join(paragraph[:50])) == []  # less than half
    shuffled = random.Random(3).sample(paragraph, len(paragraph))
    assert overlap.paragraphs(" ".join(shuffled)) == []


def test_documents_are_counted_and_left_out_on_request(tmp_path):
    texts = write_text(1, 40)
    held = " ".join(words(1, 100))
    holding = [texts[3] + "\n" + held, texts[4] + "\n" + held + "\n" + " ".join(words(2, 60))]
    path = write_jsonl(tmp_path / "text" / "a.jsonl", [*texts, *holding, holding[0]])
    dev = squad(tmp_path / "dev.json", [held, " ".join(words(2, 60)), " ".join(words(5, 60))])
    common = {"paths": [path], "squad": dev, "deduplicate": True}
    prepare(data_settings(**common), tmp_path / "counted")
    counted = read_manifest(tmp_path / "counted")
    assert counted["squad"] == {"paragraphs": 3, "paragraphs_held": 2, "documents": 2}
    assert counted["left_out"] == {"the same text as an earlier document": 1}
    assert counted["notes"][-1] == "2 documents hold 2 of 3 paragraphs of the SQuAD file; they are in the corpus."
    assert dev not in json.dumps(counted)
    prepare(data_settings(**common, leave_out_squad=True), tmp_path / "without")
    without = read_manifest(tmp_path / "without")
    assert without["squad"] == counted["squad"]
    assert without["left_out"] == {
        "holds a paragraph of data.squad": 2, "the same text as an earlier document": 1,
    }  # fmt: skip
    assert without["notes"][-1].endswith("they are left out.")
    ids = {id for p in (tmp_path / "without").glob("*/documents-*") for id in read_documents(p).ids}
    assert ids == {f"a.jsonl:{i}" for i in range(1, 41)}
    assert words(1, 100)[0] not in (tmp_path / "without/vocab.txt").read_text().split()


def test_the_file_counts_by_its_content(tmp_path):
    dev = squad(tmp_path / "dev.json", ["a b c d e f g h"])
    packed = squad(tmp_path / "elsewhere" / "dev.json.zst", ["a b c d e f g h"])
    settings = deciding_settings(data_settings(squad=dev), None)
    assert settings["squad"].startswith("sha256:")
    assert settings == deciding_settings(data_settings(squad=packed), None)
    assert settings != deciding_settings(data_settings(squad=squad(tmp_path / "x.json", ["i j k l m n o p"])), None)
    assert "squad" not in deciding_settings(data_settings(), None)
    path = write_jsonl(tmp_path / "text" / "a.jsonl", write_text(1, 30))
    prepare(data_settings(paths=[path], squad=dev), tmp_path / "store")
    with pytest.raises(PrepareError, match=r"- data\.squad: sha256:\w+ -> None"):
        prepare(data_settings(paths=[path]), tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "dev.json cannot be read: "),
        (b"{", "dev.json is no SQuAD file"),
        (b'{"data": [{"title": "t"}]}', r"is no SQuAD file \(JSON, also .zst\): data\[0\] has no 'paragraphs'"),
        (b'{"data": []}', "no paragraph of 8 words or more in it"),
    ],
)
def test_what_is_no_squad_file_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "dev.json").write_bytes(content)
    with pytest.raises(OverlapError, match=message):
        Overlap(str(tmp_path / "dev.json"))
