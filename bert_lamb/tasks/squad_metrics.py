"""SQuAD v1.1's two scores, by the rules of its official evaluation script (Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bert_lamb.squadfiles import Question, SquadError

PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: "–" stays
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass
class Scores:
    f1: float  # percent
    em: float  # percent
    questions: int
    unanswered: int  # questions without a prediction; each counts 0


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces; in this order: "A.N." is an article too."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> bool:
    return normalise(prediction) == normalise(gold)


def f1(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall over tokens; 0 where none is shared, even if both are empty."""
    ours, theirs = normalise(prediction).split(), normalise(gold).split()
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def score(questions: list[Question], predictions: Mapping[str, str]) -> Scores:
    """Means over all questions of the best score over each one's gold answers."""
    without = [q.id for q in questions if not q.answers]
    if without or not questions:
        raise SquadError(f"{len(without)} of {len(questions)} questions have no gold answer: not SQuAD v1.1")
    f1_sum = em_sum = 0.0
    answered = [q for q in questions if q.id in predictions]
    for q in answered:
        f1_sum += max(f1(predictions[q.id], gold) for gold in q.answers)
        em_sum += max(exact_match(predictions[q.id], gold) for gold in q.answers)
    n = len(questions)
    return Scores(100 * f1_sum / n, 100 * em_sum / n, n, n - len(answered))
