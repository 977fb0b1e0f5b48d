"""Sentences to token ids, faster than the tokenizer: words of plain ASCII text are looked up once."""

import re
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from bert_lamb.data.store import token_dtype
from bert_lamb.data.vocabulary import UNKNOWN
from data_prep.text.sentences import sentences

ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")  # BERT's words: letters and digits, or one sign
BATCH = 256  # sentences tokenised at a time; larger ones were slower
MOST_WORDS = 500_000  # remembered at a time; forgetting changes no id


class Encoder:
    """The ids that the tokenizer gives, to the last one; cleaned text only (control characters are gone)."""

    def __init__(self, tokenizer: Tokenizer, lower_case: bool) -> None:
        self.dtype: np.dtype = token_dtype(tokenizer.get_vocab_size())
        self.tokenizer = tokenizer
        self.unknown = tokenizer.token_to_id(UNKNOWN)
        self._lower_case = lower_case
        self._words: dict[str, list[int]] = {}

    def encode(self, sentences: list[str]) -> list[list[int]]:
        """Ids of each sentence, without special tokens."""
        ids = [self._encode_ascii(s) if s.isascii() else [] for s in sentences]
        others = [i for i, s in enumerate(sentences) if not s.isascii()]
        encodings = self.tokenizer.encode_batch_fast([sentences[i] for i in others], add_special_tokens=False)
        for i, encoding in zip(others, encodings, strict=True):
            ids[i] = encoding.ids
        return ids

    def _encode_ascii(self, sentence: str) -> list[int]:
        words, ids = self._words, []
        for word in ASCII_WORD.findall(sentence.lower() if self._lower_case else sentence):
            known = words.get(word)
            if known is None:
                if len(words) >= MOST_WORDS:
                    words.clear()
                known = words[word] = self.tokenizer.encode(word, add_special_tokens=False).ids
            ids += known
        return ids


@dataclass
class Tokenised:
    """A document's sentences that have a token."""

    sentences: list[str]
    lengths: list[int]  # of each, in tokens
    ids: np.ndarray  # of all, end to end

    def sentences_with(self, token: int | None) -> list[str]:
        """Those that hold a token."""
        places = np.flatnonzero(self.ids == token)
        owners = np.unique(np.searchsorted(np.cumsum(self.lengths), places, side="right")) if len(places) else places
        return [self.sentences[owner] for owner in owners.tolist()]


def tokenised(cleaned: str, language: str, encoder: Encoder) -> Tokenised:
    """A cleaned text as sentences of tokens."""
    kept: list[str] = []
    lengths: list[int] = []
    tokens: list[int] = []
    pending = sentences(cleaned, language)
    while batch := list(islice(pending, BATCH)):
        for sentence, ids in zip(batch, encoder.encode(batch), strict=True):
            if ids:
                kept.append(sentence)
                lengths.append(len(ids))
                tokens += ids
    return Tokenised(kept, lengths, np.array(tokens, encoder.dtype))
