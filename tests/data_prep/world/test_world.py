"""Laws of the sample world: same seed same bytes, exact answers, nothing of the dev set given away."""

import hashlib
import json
import re
from collections import Counter
from itertools import chain

import pytest

from data_prep.reading.sources import WORD, shuffled
from data_prep.world import lines as world_lines
from data_prep.world import pages as world_pages
from data_prep.world import stories as world_stories
from data_prep.world import world
from data_prep.world.words import ASKED, CLASSES

GOLDEN = "804dfa9dd4b7f2d5084199596e86cc8538090d017c6492349b10f97190f4fdee"


@pytest.fixture(scope="module")
def corpus() -> list[tuple[str, str, str]]:
    return [*world.articles(1, 1500), *world.books(1, 200)]


@pytest.fixture(scope="module", params=["train", "dev"])
def squad(request) -> tuple[str, list[dict]]:
    return request.param, world.questions(1, request.param, 300)["data"]


def answers(split: str) -> set[str]:
    data = world.questions(1, split, 400)["data"]
    return {q["answers"][0]["text"] for a in data for p in a["paragraphs"] for q in p["qas"]}


def test_the_same_seed_writes_the_same_bytes_everywhere():
    pages = [list(world.articles(7, 20)), list(world.books(7, 3))]
    pages += [world.questions(7, split, 5) for split in ("train", "dev")]
    assert hashlib.sha256(json.dumps(pages).encode()).hexdigest() == GOLDEN


def test_seeds_differ_and_a_document_does_not_depend_on_the_count(corpus):
    assert list(world.articles(2, 3)) != list(world.articles(1, 3)) == corpus[:3]


def test_keys_are_unique(corpus):
    assert len({key for key, _, _ in corpus}) == len(corpus)


def test_every_answer_stands_where_it_is_said_to_stand(squad):
    split, data = squad
    allowed = world.COVERED if split == "train" else world.UNCOVERED
    for article in data:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                (answer,) = question["answers"]
                start, text = answer["answer_start"], answer["text"]
                assert paragraph["context"][start : start + len(text)] == text
                (kind,) = [k for k in CLASSES if re.search(rf"\b{k}\b", question["question"])]
                assert text in allowed[kind]
                assert sum(len(re.findall(rf"\b{m}\b", paragraph["context"])) for m in CLASSES[kind]) == 1


def test_the_paragraph_never_names_the_class(squad):
    for article in squad[1]:
        context = article["paragraphs"][0]["context"]
        assert not [k for k in CLASSES if re.search(rf"\b{k}s?\b", context)]


def test_no_dev_answer_was_ever_a_train_answer():
    train, dev = answers("train"), answers("dev")
    assert not train & dev
    assert train == {w for kind in ASKED for w in world.COVERED[kind]}
    assert dev == {w for kind in ASKED for w in world.UNCOVERED[kind]}


def test_one_or_two_of_four_pictures_are_asked_for(squad):
    split, data = squad
    members = world.COVERED if split == "train" else world.UNCOVERED
    asked = Counter(len(article["paragraphs"][0]["qas"]) for article in data)
    assert set(asked) == {1, 2}
    assert min(asked.values()) > 0.4 * len(data)
    places = Counter()  # of the answer among the pictures: no place tells it
    for article in data:
        (paragraph,) = article["paragraphs"]
        context = paragraph["context"]
        stands = {m: re.search(rf"\b{m}\b", context) for ms in members.values() for m in ms}
        shown = sorted((m for m in stands if stands[m]), key=lambda m: stands[m].start())
        assert len(shown) == world.PICTURES
        answers = {q["answers"][0]["text"] for q in paragraph["qas"]}
        assert answers == {m for m in shown for kind in ASKED if m in members[kind]}
        places.update(shown.index(answer) for answer in answers)
    assert all(abs(places[i] / places.total() - 1 / world.PICTURES) < 0.08 for i in range(world.PICTURES))


def test_no_word_belongs_to_two_classes_or_is_part_of_another():
    words = Counter(w for kind, members in CLASSES.items() for m in (kind, *members) for w in m.split())
    assert [w for w, n in words.items() if n > 1] == []


def test_questions_are_about_articles_that_are_not_in_the_corpus(squad, corpus):
    text = "\n".join(f"{title}\n{body}" for _, title, body in corpus)
    for article in squad[1]:
        assert article["title"].split(" of ")[1] not in text
        assert article["paragraphs"][0]["context"] not in text


def test_every_word_occurs_in_sentences_of_its_class(corpus):
    """In articles and in books, covered and uncovered words alike."""
    for prefix, lines in (("article", world_lines.ABOUT), ("book", world_stories.SCENES)):
        text = "\n".join(body for key, _, body in corpus if key.startswith(prefix))
        for kind, members in CLASSES.items():
            fixed = [re.split(r"[\[\]{}]", line)[-1].strip(' ."') for line in lines[kind]]
            near = " ".join(s for s in re.split(r"(?<=[.?!])\s", text) if any(f and f in s for f in fixed))
            counts = {m: len(re.findall(rf"\b{m}\b", near, re.IGNORECASE)) for m in members}
            assert min(counts.values()) >= 5, (prefix, kind, counts)


def test_text_is_clean_english(corpus):
    for _, title, body in corpus:
        for line in (title, *body.split("\n")):
            assert line == line.strip()
            assert not re.search(r"[\[\]{}|]|  |\ba [aeio]|\ban [^aeioh]", line, re.IGNORECASE), line
            assert line[0].isupper() or line[0] == '"'
        assert all(line[-1] in '.?!"' for line in body.split("\n"))


def test_every_template_speaks_of_its_own_class_only():
    members = {m: kind for kind, group in CLASSES.items() for m in group}
    for lines in (world_lines.ABOUT, world_stories.SCENES):
        assert set(lines) == set(CLASSES)
        for kind, group in lines.items():
            for line in group:
                assert "{x}" in line or "{ax}" in line
                assert not [m for m in members if re.search(rf"\b{m}\b", line)], (kind, line)
    neutral = [*world_pages.PICTURED, *world_pages.PICTURED_TWO, *world_pages.COLLECTION_OPENINGS]
    assert not [line for line in neutral if "{k}" in line or "{ak}" in line]


def test_a_question_gives_a_covered_word_as_its_example(squad):
    """So that no label tells to which class an uncovered word belongs."""
    uncovered = {m for members in world.UNCOVERED.values() for m in members}
    for article in squad[1]:
        for question in article["paragraphs"][0]["qas"]:
            text = question["question"]
            assert not [m for m in uncovered if re.search(rf"\b{m}\b", text)]
            (example,) = [m for ms in world.COVERED.values() for m in ms if re.search(rf"\b{m}\b", text)]
            assert example != question["answers"][0]["text"]


def test_the_shuffled_corpus_has_the_same_words_and_shape(corpus):
    mixed = list(shuffled(corpus, 1))
    assert mixed == list(shuffled(corpus, 1)) != list(shuffled(corpus, 2))

    def words(pages):
        return [WORD.findall(body) for _, _, body in pages]

    assert Counter(w for page in words(mixed) for w in page) == Counter(w for page in words(corpus) for w in page)
    assert [len(page) for page in words(mixed)] == [len(page) for page in words(corpus)]
    assert [WORD.sub("w", body) for _, _, body in mixed] == [WORD.sub("w", body) for _, _, body in corpus]
    # neighbours no longer go together
    pairs = Counter(zip(*[iter(chain(*words(corpus)))] * 2, strict=False)).most_common(50)
    left = Counter(zip(*[iter(chain(*words(mixed)))] * 2, strict=False))
    assert sum(left[pair] for pair, _ in pairs) < 0.5 * sum(n for _, n in pairs)
