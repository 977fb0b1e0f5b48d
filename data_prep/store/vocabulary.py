"""The vocabulary of a store that has none given: trained on the first training documents of every slice."""

import logging
from collections.abc import Iterator

from bert_lamb.settings import DataSettings
from data_prep.reading.slices import Plan, payloads
from data_prep.shards.make import split_of
from data_prep.shards.tokenizer import TRAINING_BYTES, Vocabulary, train_vocabulary
from data_prep.store.resume import PrepareError
from data_prep.store.verdicts import HINTS
from data_prep.text.document import Document
from data_prep.text.records import cleaned_texts, records
from data_prep.text.rules import Rules
from data_prep.text.sentences import clean

log = logging.getLogger(__name__)


def train_on(data: DataSettings, plan: Plan, rules: Rules) -> Vocabulary:
    """A vocabulary from the first training documents of every slice."""
    log.info("training a vocabulary of %d entries on up to %d MB", data.vocab_size, TRAINING_BYTES // 1_000_000)
    return train_vocabulary(training_texts(data, plan, rules), data)


def training_texts(data: DataSettings, plan: Plan, rules: Rules) -> Iterator[str]:
    """Up to TRAINING_BYTES, the same share of every slice; nothing that is held out."""
    quota = -(-TRAINING_BYTES // len(plan.slices))
    found = False
    for part, texts in payloads(plan.slices, data):
        left, duplicates = quota, frozenset(part.duplicates.tolist())
        for place, text in enumerate(cleaned_texts(part, texts, data)):
            if place in duplicates or rules.judge(text)[0]:
                continue
            if split_of(text, data.heldout_share) == "train":
                found = True
                yield text[:left]
                left -= len(text)
                if left <= 0:
                    break
    if not found:
        raise PrepareError(f"the input has no usable document to train a vocabulary on{why_none(data, plan, rules)}")


def why_none(data: DataSettings, plan: Plan, rules: Rules) -> str:
    """The first reason why a record was not taken, as a hint."""
    for part, texts in payloads(plan.slices[:1], data):
        for item in records(part, texts, data):
            if not isinstance(item, Document):
                hint = next((f". {h}" for start, h in HINTS.items() if item.reason.startswith(start)), "")
                return f"; the first record, {item.file} line {item.line}: {item.reason} ({item.sample}){hint}"
            if reason := rules.judge(clean(item.text))[0]:
                return f"; the first document, {item.id}, is left out: {reason}"
    return ""
