"""The sample world: articles, books and questions, written out from a seed.

It lets the whole chain be tried without a download. What a question asks ("Which fruit is in the mural?")
can be answered only by someone who knows what is a fruit; labels tell that for half of the words, and for
the other half only the articles and books do, by using the words of a class alike. So pretraining can help
here for the reason it helps on real text. Every document has a random stream of its own: it depends on the
seed and its number alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, TypeVar

from data_prep.world import pages
from data_prep.world.lines import ABOUT, ANY_ABOUT
from data_prep.world.stories import ANY_SCENE, LINKS, SCENES
from data_prep.world.words import (
    ASKED,
    CLASSES,
    COVERED,
    FIRST_NAMES,
    LAST_NAMES,
    TOWN_BEGINNINGS,
    TOWN_ENDINGS,
    UNCOVERED,
)

__all__ = ["COVERED", "UNCOVERED", "articles", "books", "questions"]

T = TypeVar("T")
KINDS = tuple(CLASSES)
UNASKED = tuple(kind for kind in KINDS if kind not in ASKED)
CHOICE = re.compile(r"\[([^\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
QUESTION_PARAGRAPHS = {"train": 17000, "dev": 400}  # one or two questions each
PICTURES = 4  # in a collection: to guess one of them is right once in four
COLLECTION_SHARE = 0.3  # of the articles; the rest are about places
STREAMS = {"article": 1, "book": 2, "train": 3, "dev": 4}


class Dice:
    """Choices made of `random()` alone, the one method whose values every Python keeps."""

    def __init__(self, seed: int, stream: str, number: int) -> None:
        self.random = Random((seed * 8 + STREAMS[stream]) * 10_000_000 + number).random

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def sample(self, options: Sequence[T], n: int) -> list[T]:
        pool = list(options)
        return [pool.pop(int(self.random() * len(pool))) for _ in range(n)]

    def write(self, template: str, words: dict[str, str]) -> str:
        """Choose in [a|b], fill {slots}, begin with a capital."""
        if "[" in template:
            template = CHOICE.sub(lambda m: self.pick(m[1].split("|")), template)
        text = SLOT.sub(lambda m: words[m[1]], template)
        return text[0].upper() + text[1:]

    def person(self) -> str:
        return f"{self.pick(FIRST_NAMES)} {self.pick(LAST_NAMES)}"

    def town(self, for_questions: bool = False) -> str:
        while True:
            i, j = self.below(len(TOWN_BEGINNINGS)), self.below(len(TOWN_ENDINGS))
            if ((i + j) % 4 == 0) == for_questions:
                return TOWN_BEGINNINGS[i] + TOWN_ENDINGS[j]

    def year(self) -> str:
        return str(1880 + self.below(50))


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeio" else "a ") + noun


def forms(kind: str, member: str = "") -> dict[str, str]:
    """The words of a class that a sentence may need: {k}, a {k}, {ks}, a {x}, {x}."""
    plural = kind if kind == "fish" else f"{kind}s"
    return {
        "k": kind,
        "ak": with_article(kind),
        "ks": plural,
        "x": member,
        "ax": member and with_article(member),
    }


def articles(seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """(key, title, text) of `count` articles; a paragraph is a line."""
    for number in range(count):
        dice = Dice(seed, "article", number)
        write = collection if dice.random() < COLLECTION_SHARE else place
        title, paragraphs = write(dice)
        yield f"article-{number:06d}", title, "\n".join(paragraphs)


def books(seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """(key, title, text) of `count` books of a few chapters."""
    for number in range(count):
        dice = Dice(seed, "book", number)
        title, paragraphs = book(dice)
        yield f"book-{number:06d}", title, "\n".join(paragraphs)


def place(dice: Dice) -> tuple[str, list[str]]:
    """An article in sections, each about one or two classes."""
    full, other = dice.sample(LAST_NAMES, 2)
    words = {"t": dice.town(), "p": f"{dice.pick(FIRST_NAMES)} {full}", "n": dice.year()}
    title, opening = dice.pick(pages.PLACES)
    paragraphs, title = [dice.write(opening, words)], dice.write(title, words)
    words |= {"p": full, "q": other}
    for kind in dice.sample(KINDS, 2 + dice.below(3)):
        section = [dice.write(dice.pick(pages.SECTION_OPENINGS), words | forms(kind))]
        section += sentences(dice, kind, 5 + dice.below(4), ABOUT, ANY_ABOUT, pages.PLACE_LINKS, dict(words))
        paragraphs.append(" ".join(section))
    return title, paragraphs


def book(dice: Dice) -> tuple[str, list[str]]:
    """Four to eight chapters; the same two people go through scenes about a few classes each."""
    people = dice.sample(FIRST_NAMES, 2)
    words = {"t": dice.town(), "p": people[0], "q": people[1], "n": dice.year()}
    title = dice.write(dice.pick(pages.BOOKS), words)
    paragraphs = []
    for chapter in range(1, 5 + dice.below(5)):
        name = dice.write(dice.pick(pages.CHAPTERS), words)
        paragraphs.append(f"Chapter {chapter}. {name}.")
        for kind in dice.sample(KINDS, 2 + dice.below(2)):
            scene = sentences(dice, kind, 5 + dice.below(4), SCENES, ANY_SCENE, LINKS, words)
            paragraphs.append(" ".join(scene))
    return title, paragraphs


def sentences(
    dice: Dice,
    kind: str,
    count: int,
    own: dict[str, tuple[str, ...]],
    shared: tuple[str, ...],
    links: tuple[str, ...],
    words: dict[str, str],
) -> list[str]:
    """`count` different sentences about a class; its members take turns."""
    members = dice.sample(CLASSES[kind], 4)
    lines = dice.sample(own[kind], min(count, len(own[kind])))
    general, joining = dice.sample(shared, len(shared)), dice.sample(links, len(links))
    written = []
    for line in lines:  # at most eight, so that no sentence form comes twice in a paragraph
        chance = dice.random()
        if chance < 0.15 and general:
            line = general.pop()
        elif chance < 0.2 and joining:
            line = joining.pop()
        x, y = dice.sample(members, 2)
        if own is SCENES and dice.random() < 0.5:
            words["p"], words["q"] = words["q"], words["p"]
        written.append(dice.write(line, words | forms(kind, x) | {"y": y}))
    return written


def collection(dice: Dice) -> tuple[str, list[str]]:
    """An article about a picture collection, with remarks on some of the pictures."""
    members = [(kind, dice.pick(CLASSES[kind])) for kind in dice.sample(KINDS, PICTURES)]
    title, words, paragraph = pictures(dice, [member for _, member in members], dice.town())
    remarks = [
        dice.write(dice.pick(pages.REMARKS), words | forms(kind, member)) for kind, member in dice.sample(members, 2)
    ]
    return title, [paragraph, " ".join(remarks)]


def pictures(dice: Dice, left: list[str], town: str) -> tuple[str, dict[str, str], str]:
    """Title, words and paragraph of a collection: no sentence tells what kind of thing is pictured."""
    unit, name, verb = dice.pick(pages.COLLECTIONS)
    words = {"u": unit, "c": name, "ac": with_article(name), "v": verb, "t": town}
    words |= {"p": dice.person(), "n": dice.year()}
    written = [dice.write(dice.pick(pages.COLLECTION_OPENINGS), words)]
    words["p"] = words["p"].split()[-1]
    left = list(left)
    while left:
        words["x"] = left.pop()
        if left and dice.random() < 0.7:
            words["z"] = left.pop()
            written.append(dice.write(dice.pick(pages.PICTURED_TWO), words))
        else:
            written.append(dice.write(dice.pick(pages.PICTURED), words))
    return f"{name[0].upper()}{name[1:]} of {town}", words, " ".join(written)


def questions(
    seed: int,
    split: Literal["train", "dev"],
    paragraphs: int | None = None,
    *,
    members: dict[str, tuple[str, ...]] | None = None,
) -> dict:
    """A SQuAD v1.1 object of articles that are not in the corpus, `paragraphs` of one paragraph each.

    One or two of the four pictures are of classes that are ever asked about: half of the paragraphs ask only for
    knowing these, the others for comparing the question's class with the words too.

    Training answers are COVERED words and dev answers UNCOVERED ones, among others of their own sort, so that
    it is no clue whether a word was ever an answer. A question names the class and, as an example, another
    COVERED word of it, so that no label ever says to which class an uncovered word belongs. `members`
    overrides the choice of words.
    """
    paragraphs = paragraphs or QUESTION_PARAGRAPHS[split]
    members = members or (COVERED if split == "train" else UNCOVERED)
    data = []
    for number in range(paragraphs):
        dice = Dice(seed, split, number)
        asked = dice.sample(ASKED, 1 + dice.below(2))
        kinds = [*asked, *dice.sample(UNASKED, PICTURES - len(asked))]
        things = {kind: dice.pick(members[kind]) for kind in dice.sample(kinds, PICTURES)}
        title, words, context = pictures(dice, list(things.values()), dice.town(for_questions=True))
        qas = [
            {
                "id": f"{split}-{number:05d}-{i}",
                "question": dice.write(
                    dice.pick(pages.QUESTIONS), words | {"k": kind, "e": example(dice, kind, things[kind])}
                ),
                "answers": [{"text": things[kind], "answer_start": place_of(things[kind], context)}],
            }
            for i, kind in enumerate(asked)
        ]
        data.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": data}


def example(dice: Dice, kind: str, member: str) -> str:
    return dice.pick([other for other in COVERED[kind] if other != member])


def place_of(member: str, context: str) -> int:
    """Where the whole word stands; every member stands once in a paragraph."""
    found = [m.start() for m in re.finditer(rf"\b{re.escape(member)}\b", context)]
    assert len(found) == 1, (member, context)
    return found[0]
