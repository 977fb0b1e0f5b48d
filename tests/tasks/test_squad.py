"""SQuAD v1.1: reading, windows, the official scores, spans back to text."""

import json
import random
import string

import numpy as np
import pytest
import torch
import zstandard
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torchmetrics.functional.text import squad as torchmetrics_squad

from bert_lamb.settings import FinetuneSettings
from bert_lamb.squadfiles import Question, SquadError, read_squad
from bert_lamb.tasks.squad_data import (
    cut_windows,
    epoch_batches,
    make_batch,
    micro_batches,
    subset,
    trainable,
    window_bounds,
)
from bert_lamb.tasks.squad_metrics import exact_match, f1, normalise, score
from bert_lamb.tasks.squad_predict import best_spans, predict, span_text

WORDS = ["river", "Örebro", "the", "1960s", "mural", "U.S.", "co-op", "naïve", "a", "mill's", "東京", "x"]
RULES = FinetuneSettings(max_length=48, stride=12, max_query=10, max_answer=30, n_best=20)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Words of one piece, words of many, and characters that no piece knows."""
    characters = string.ascii_lowercase + string.digits
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *string.punctuation,
        "river",
        "mural",
        "the",
    ]
    pieces += [f"##{c}" for c in characters]
    return BertWordPieceTokenizer({p: i for i, p in enumerate(pieces)}, lowercase=True)._tokenizer


def squad_json(*questions: dict, context: str = "The old mill stands by the river.") -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]})


def asked(id_: str, *answers: tuple[str, int]) -> dict:
    return {"id": id_, "question": "Where?", "answers": [{"text": t, "answer_start": s} for t, s in answers]}


def random_questions(count: int, words: int) -> list[Question]:
    """Answers of whole words or of a word without its punctuation, anywhere in contexts of any length."""
    dice, questions = random.Random(0), []
    for i in range(count):
        context = "".join(dice.choice(WORDS) + dice.choice([" ", " ", ", ", ". ", "-"]) for _ in range(words))
        starts = [p for p in range(len(context)) if context[p].isalnum() and not context[p - 1 : p].isalnum()]
        ends = [p for p in range(1, len(context)) if context[p - 1].isalnum() and not context[p].isalnum()]
        begin = dice.choice(starts)
        end = dice.choice([e for e in ends if e > begin][:4])
        questions.append(Question(f"q{i}", "What is " + "x " * (i % 30), context, [context[begin:end]], (begin, end)))
    return questions


# scores


def test_normalised_text_follows_the_official_order():
    assert normalise("The  Cat, sat on A mat.") == "cat sat on mat"
    assert normalise("A.N. Other") == "other"  # punctuation goes first, so "an" is an article by then
    assert normalise("theatre—An–x") == "theatre— –x"  # Unicode dashes stay, and they are word borders


@pytest.mark.parametrize(
    ("prediction", "gold", "expected_f1", "expected_em"),
    [
        ("the river", "river", 1.0, True),
        ("big red river", "red river", 0.8, False),  # precision 2/3, recall 1
        ("red red", "red", 2 / 3, False),  # a token counts as often as both sides have it
        ("river", "mountain", 0.0, False),
        ("", "river", 0.0, False),
        ("the", "a", 0.0, True),  # both empty once normalised: equal strings, but no shared token
        ("river-bank", "river bank", 0.0, False),  # the hyphen vanishes without a space
    ],
)
def test_scores_by_hand(prediction, gold, expected_f1, expected_em):
    assert f1(prediction, gold) == pytest.approx(expected_f1)
    assert exact_match(prediction, gold) is expected_em


def test_best_gold_answer_counts_and_a_missing_prediction_is_zero():
    questions = [Question(str(i), "?", "", ["red river", "the river"], None) for i in range(4)]
    scores = score(questions, {"0": "river", "1": "red", "2": "mill"})
    assert scores.f1 == pytest.approx(100 * (1 + 2 / 3 + 0) / 4)
    assert scores.em == pytest.approx(25)
    assert (scores.questions, scores.unanswered) == (4, 1)


def test_ordinary_cases_agree_with_torchmetrics():
    dice, words = random.Random(1), ["river", "old", "mill", "the", "by", "town,"]

    def text() -> str:
        return " ".join(dice.choice(words) for _ in range(dice.randint(1, 5))) + " end"

    questions = [Question(str(i), "?", "", [text() for _ in range(dice.randint(1, 3))], None) for i in range(200)]
    predictions = {q.id: text() for q in questions}
    theirs = torchmetrics_squad(
        [{"id": i, "prediction_text": t} for i, t in predictions.items()],
        [{"id": q.id, "answers": {"text": q.answers, "answer_start": [0] * len(q.answers)}} for q in questions],
    )
    ours = score(questions, predictions)
    assert ours.f1 == pytest.approx(float(theirs["f1"]), abs=1e-3)
    assert ours.em == pytest.approx(float(theirs["exact_match"]), abs=1e-3)


def test_scoring_refuses_questions_without_gold():
    with pytest.raises(SquadError, match="1 of 1 questions have no gold answer"):
        score([Question("0", "?", "", [], None)], {"0": ""})


# reading


def test_answers_that_do_not_match_are_listed_and_not_trained_on(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        squad_json(
            asked("good", ("mill", 8)),
            asked("shifted", ("mill", 9)),
            asked("second", ("x", 0), ("old", 4), ("mill", 8)),
            asked("negative", ("rive", -6)),
            asked("none"),
        )
    )
    train, unmatched = trainable(read_squad(path))
    assert [(q.id, q.context[slice(*q.span)]) for q in train] == [("good", "mill"), ("second", "old")]
    assert unmatched == ["shifted", "negative", "none"]


def test_zst_reads_as_the_plain_file(tmp_path):
    text = squad_json(asked("a", ("mill", 8)))
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.json.zst").write_bytes(zstandard.compress(text.encode()))
    assert read_squad(tmp_path / "a.json.zst") == read_squad(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"data": [{}]}', squad_json({"id": 1}), squad_json(asked("a"), asked("a"))]
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(SquadError, match=r"odd\.json"):
        read_squad(path)
    with pytest.raises(SquadError, match=r"absent\.json"):
        read_squad(tmp_path / "absent.json")


# windows


@pytest.mark.parametrize(
    ("tokens", "bounds"),
    [(0, [(0, 0)]), (10, [(0, 10)]), (11, [(0, 10), (4, 11)]), (14, [(0, 10), (4, 14)]),
     (15, [(0, 10), (4, 14), (8, 15)])],
)  # fmt: skip
def test_window_bounds(tokens, bounds):
    assert window_bounds(tokens, room=10, stride=4) == bounds


def test_layout_of_one_window(tokenizer):
    question = Question("0", "mural mural mural", "the river mural", ["mural"], (10, 15))
    rules = FinetuneSettings(max_length=32, stride=4, max_query=2, max_answer=30, n_best=20)
    windows = cut_windows([question], tokenizer, rules)
    tokens = [tokenizer.id_to_token(i) for i in windows.input_ids]
    assert tokens == ["[CLS]", "mural", "mural", "[SEP]", "the", "river", "mural", "[SEP]"]
    assert windows.char_from.tolist() == [-1] * 4 + [0, 4, 10, -1]
    assert windows.answer.tolist() == [[6, 6]]
    assert make_batch(windows, np.array([0])).token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_padding_of_a_batch(tokenizer):
    long = Question("0", "mural", "the river mural", ["mural"], (10, 15))
    short = Question("1", "mural", "the", ["the"], (0, 3))
    batch = make_batch(cut_windows([long, short], tokenizer, RULES), np.array([1, 0]))
    assert batch.input_ids[0, -2:].tolist() == [tokenizer.token_to_id("[PAD]")] * 2
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch.answer.tolist() == [[3, 3], [5, 5]]


def test_every_context_token_is_predicted_once_and_where_it_has_most_context(tokenizer):
    questions = random_questions(40, words=90)
    windows = cut_windows(questions, tokenizer, RULES)
    assert len(windows) > 200
    assert windows.lengths.max() <= RULES.max_length
    for number, question in enumerate(questions):
        seen: dict[int, list[tuple[int, bool]]] = {}  # character -> (shorter side, predicted?) in each window
        for w in np.flatnonzero(windows.question == number):
            begin = windows.starts[w] + windows.context_at[w]
            size = windows.starts[w + 1] - 1 - begin
            for k in range(size):
                views = seen.setdefault(int(windows.char_from[begin + k]), [])
                views.append((min(k, size - 1 - k), windows.most_context[begin + k]))
        assert len(seen) == len(tokenizer.encode(question.context, add_special_tokens=False))
        for views in seen.values():
            assert [side for side, chosen in views if chosen] == [max(views)[0]]


def test_perfect_spans_give_the_answers_back(tokenizer):
    """Every window with the whole answer maps back to it; some windows of long contexts point at [CLS]."""
    questions = random_questions(200, words=60)
    windows = cut_windows(questions, tokenizer, RULES)
    has_answer = windows.answer[:, 0] > 0
    assert set(windows.question[has_answer]) == set(range(200))
    assert not has_answer.all()
    for row in np.flatnonzero(has_answer):
        question = questions[windows.question[row]]
        assert span_text(question, windows, row, *windows.answer[row]) == question.answers[0]
    for row in np.flatnonzero(~has_answer):
        span = questions[windows.question[row]].span
        here = slice(windows.starts[row] + windows.context_at[row], windows.starts[row + 1] - 1)
        assert windows.char_from[here].min() > span[0] or windows.char_to[here].max() < span[1]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        "river cafe\u0301",  # an accent of its own
        "x\u0323\u0301\u20dd",  # several, one of which encloses
        "กิ",  # a Thai vowel above
        "น้ำ",  # and one with a width behind a tone
        "हिन्दी",  # Devanagari: vowel signs with a width
        "हिन्दु",  # and without
        "م\u064f\u0651",  # Arabic vowels
        "❤\ufe0f",  # an emoji with a variation selector
        "👍🏽",  # with a colour of skin
        "👩🏽\u200d🔬\ufe0f",  # joined ones
        "क्\u200d",  # a letter that asks to be joined
        "river",
        "é",
        "x",
    ],
)
@pytest.mark.parametrize("after", ["", " ", ". ", " mural", "\u3000", ", \u0301x"])
def test_an_answer_takes_the_marks_that_follow_it(answer, after, lowercase):
    context = f"the {answer}{after}"
    words = [
        "river",
        "mural",
        "cafe",
        "the",
        "x",
        "e",
        "ก",
        "น",
        "ह",
        "##न",
        "##द",
        "م",
        "❤",
        "👍",
        "👩🏽🔬",
        "##ी",
        "हि",
        "क",
    ]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ".", *words]
    small = BertWordPieceTokenizer({p: i for i, p in enumerate(pieces)}, lowercase=lowercase)._tokenizer
    question = Question("q", "the?", context, [answer], (4, 4 + len(answer)))
    windows = cut_windows([question], small, RULES)
    assert span_text(question, windows, 0, *windows.answer[0]) == answer


def test_perfect_scores_are_predicted_as_perfect_text(tokenizer):
    """Windows wide enough that the one with the most context around an answer's start holds all of it."""
    rules = FinetuneSettings(max_length=110, stride=16, max_query=10, max_answer=40, n_best=20)
    questions = [q for q in random_questions(150, words=60) if normalise(q.answers[0])]  # "the" scores F1 0
    windows = cut_windows(questions, tokenizer, rules)
    assert len(windows) > 5 * len(questions)

    def certain(batch):
        """Right where it counts; nonsense with high scores on starts that another window shows better."""
        size = batch.input_ids.size(1)
        start, end = (10.0 * torch.nn.functional.one_hot(batch.answer[:, k], size) for k in (0, 1))
        flat = np.minimum(windows.starts[batch.rows][:, None] + np.arange(size), len(windows.input_ids) - 1)
        return start.masked_fill(~torch.from_numpy(windows.most_context[flat]), 30.0), end

    scores = score(questions, predict(certain, questions, windows, rules, tokens=1000))
    assert (scores.f1, scores.em, scores.unanswered) == (100, 100, 0)


def test_best_spans_equal_a_search_over_all_spans():
    torch.manual_seed(0)
    start, end = torch.randn(64, 12), torch.randn(64, 12)
    may_start, may_end = torch.rand(64, 12) < 0.6, torch.rand(64, 12) < 0.6
    scores, first, last = best_spans(start, end, may_start, may_end, n_best=20, max_answer=3)
    for b in range(64):
        spans = [
            (float(start[b, i] + end[b, j]), i, j)
            for i in range(12) for j in range(i, min(i + 3, 12)) if may_start[b, i] and may_end[b, j]
        ]  # fmt: skip
        assert (float(scores[b]), int(first[b]), int(last[b])) == pytest.approx(max(spans))
    narrow, *_ = best_spans(start, end, may_start, may_end, n_best=1, max_answer=12)
    assert bool(torch.isinf(narrow).any())  # the best start after the best end: no span
    nothing, *_ = best_spans(start, end, torch.zeros_like(may_start), may_end, n_best=3, max_answer=12)
    assert bool(torch.isneginf(nothing).all())


# order


def test_order_is_a_pure_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(10, 100, 1000)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return [b.tolist() for b in epoch_batches(lengths, 8, seed, epoch)]

    assert batches(0, 1) == batches(0, 1)
    assert batches(0, 1) != batches(0, 2)
    assert batches(0, 1) != batches(1, 1)
    assert sorted(row for b in batches(0, 1) for row in b) == list(range(1000))
    assert len(batches(0, 1)) == 125
    assert {frozenset(b) for b in batches(0, 1)} != {frozenset(b) for b in batches(0, 2)}
    lengths = np.arange(256)  # one pool: sorting leaves one way to form batches, and their order is drawn
    assert {frozenset(b) for b in batches(0, 1)} == {frozenset(b) for b in batches(0, 2)}
    assert batches(0, 1) != batches(0, 2)


def test_sorting_in_pools_saves_padding():
    lengths = np.random.default_rng(0).integers(10, 100, 1000)
    padded = sum(len(b) * lengths[b].max() for b in epoch_batches(lengths, 8, 0, 0))
    assert lengths.sum() / padded > 0.9


def test_micro_batches_hold_every_row_and_no_more_tokens_than_allowed():
    lengths, rows = np.array([5, 90, 30, 31, 8, 200]), np.array([5, 0, 2, 1, 3])
    parts = micro_batches(lengths, rows, tokens=100)
    assert sorted(np.concatenate(parts)) == sorted(rows)
    assert [p.tolist() for p in parts] == [[5], [1], [3, 2, 0]]


def test_subset_is_drawn_by_the_seed_in_file_order():
    questions = [Question(str(i), "?", "", [], None) for i in range(100)]
    some = subset(questions, 10, seed=3)
    assert some == subset(questions, 10, seed=3) != subset(questions, 10, seed=4)
    assert [int(q.id) for q in some] == sorted(int(q.id) for q in some)
    assert len({q.id for q in some}) == 10
    assert subset(questions, 0, seed=3) == subset(questions, 500, seed=3) == questions
