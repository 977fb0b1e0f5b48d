"""Files that claim to be SQuAD: questions, or one message with the file, the place and the way out."""

import copy
import json
import random

import numpy as np
import pytest
import zstandard
from tokenizers import BertWordPieceTokenizer

from bert_lamb import squadfiles
from bert_lamb.settings import FinetuneSettings
from bert_lamb.squadfiles import SquadError, read_contexts, read_squad
from bert_lamb.tasks.squad_data import _best_window as best_window
from bert_lamb.tasks.squad_data import cut_windows, window_bounds, window_count

GOOD = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "The old mill.", "qas": [
    {"id": "a", "question": "Which?", "answers": [{"text": "mill", "answer_start": 8}]}]}]}]}  # fmt: skip
PLACES: list[tuple] = [
    ("data",), ("data", 0), ("data", 0, "paragraphs"), ("data", 0, "paragraphs", 0),
    *(("data", 0, "paragraphs", 0, *rest) for rest in (
        ("context",), ("qas",), ("qas", 0), ("qas", 0, "id"), ("qas", 0, "question"), ("qas", 0, "answers"),
        ("qas", 0, "answers", 0), ("qas", 0, "answers", 0, "text"), ("qas", 0, "answers", 0, "answer_start"))),
]  # fmt: skip


def changed(place: tuple, value: object) -> dict:
    """GOOD with another value there; ... leaves the key out."""
    document = copy.deepcopy(GOOD)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return document


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_any_other_shape_is_named_with_its_place(tmp_path, place):
    path = tmp_path / "odd.json"
    for value in (None, True, 1.5, [], {}, [1], {"a": 1}, "text", 3, "\ud800", ...):
        path.write_text(json.dumps(changed(place, value)))
        try:
            read_squad(path)
        except SquadError as error:
            said = str(error)
            assert said.startswith(f"{path} ")
            assert "name a SQuAD v1.1 JSON file" in said
            assert "\n" not in said
            spelled = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")
            missing = value is ... or not said.partition("JSON: ")[2].startswith("data")
            assert missing or spelled in said or value in ({"a": 1}, [1], [], {})
        else:  # it fits there, or the list is one entry shorter and another is left
            assert isinstance(value, str | int | list) or value is ...


def test_a_place_is_spelled_as_one_would_look_for_it(tmp_path):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(changed(PLACES[-2], 5)))
    with pytest.raises(
        SquadError, match=r"data\[0\]\.paragraphs\[0\]\.qas\[0\]\.answers\[0\]\.text is a whole number, not text"
    ):
        read_squad(path)


@pytest.mark.parametrize("start", [-1, 14, 10**9, 10**30])
def test_answers_beyond_the_context_are_no_answers(tmp_path, start):
    """Listed by whoever trains, as any answer that does not stand where the file says."""
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(changed(PLACES[-1], start)))
    assert read_squad(path)[0].span is None


@pytest.mark.parametrize("content", ["[" * 1_000_000, '{"data":' * 1_000_000, '{"data": []}', "9" * 5000])
def test_brackets_without_end_and_empty_files(tmp_path, content):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(SquadError, match=r"odd\.json (is not|holds no)"):
        read_squad(path)


def test_a_file_far_larger_than_any_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(SquadError, match=r"large\.json .* more than 1024 MiB"):
        read_squad(path)


def test_a_small_file_that_unpacks_to_far_more(tmp_path):
    path = tmp_path / "bomb.json.zst"
    path.write_bytes(zstandard.compress(b'{"data": [' + b"[]," * (30 << 20)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SquadError, match=r"bomb\.json\.zst .* more than 64 MiB"):
        read_squad(path)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        read_contexts(path)


@pytest.mark.parametrize("cut", [0, 1, 5, 50, -1])
def test_a_cut_zst_and_frames_end_to_end(tmp_path, cut, monkeypatch):
    monkeypatch.setattr(squadfiles, "READ_AT_ONCE", 7)
    text, path = json.dumps(GOOD).encode(), tmp_path / "a.json.zst"
    packed = zstandard.compress(text[:60]) + zstandard.compress(text[60:])
    path.write_bytes(packed)
    assert read_squad(path)[0].id == "a"
    path.write_bytes(packed[:cut])
    with pytest.raises(SquadError, match=r"a\.json\.zst"):
        read_squad(path)


def test_a_long_context_asked_often_is_refused_before_memory_is_taken(tmp_path):
    """A file of 3 MB whose windows would take gigabytes."""
    asked = [{"id": str(i), "question": "x", "answers": []} for i in range(20_000)]
    document = changed(("data", 0, "paragraphs", 0), {"context": "x " * 20_000, "qas": asked})
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(document))
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x"]
    tokenizer = BertWordPieceTokenizer({entry: i for i, entry in enumerate(entries)})._tokenizer
    with pytest.raises(SquadError, match=r"20,000 questions give 3,\d+,\d+ windows of 384 tokens"):
        cut_windows(read_squad(path), tokenizer, FinetuneSettings(max_length=384, stride=128, max_query=64))


def test_windows_are_counted_as_they_are_cut():
    dice = random.Random(1)
    for _ in range(2000):
        tokens, room, stride = dice.randrange(0, 300), dice.randrange(1, 60), dice.randrange(1, 80)
        assert window_count(tokens, room, stride) == len(window_bounds(tokens, room, stride))


def test_the_best_window_is_the_first_of_the_highest_scores():
    """As a table of all windows and tokens says, which a long context has no memory for."""
    dice = random.Random(2)
    for _ in range(300):
        tokens, bounds = dice.randrange(1, 200), []
        bounds = window_bounds(tokens, dice.randrange(1, 60), dice.randrange(1, 80))
        scores = np.full((len(bounds), tokens), -1.0)
        for window, (begin, end) in enumerate(bounds):
            at = np.arange(end - begin)
            scores[window, begin:end] = np.minimum(at, at[::-1])
        np.testing.assert_array_equal(best_window(bounds, tokens), scores.argmax(axis=0))
