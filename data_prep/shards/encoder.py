"""Sentences to token ids, faster than the tokenizer: words of plain ASCII text are looked up once."""

import re

import numpy as np
from tokenizers import Tokenizer

from bert_lamb.data.store import token_dtype

ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")  # BERT's words: letters and digits, or one sign
MOST_WORDS = 500_000  # remembered at a time; forgetting changes no id


class Encoder:
    """The ids that the tokenizer gives, to the last one; cleaned text only (control characters are gone)."""

    def __init__(self, tokenizer: Tokenizer, lower_case: bool) -> None:
        self.dtype: np.dtype = token_dtype(tokenizer.get_vocab_size())
        self._tokenizer = tokenizer
        self._lower_case = lower_case
        self._words: dict[str, list[int]] = {}

    def encode(self, sentences: list[str]) -> list[list[int]]:
        """Ids of each sentence, without special tokens."""
        ids = [self._encode_ascii(s) if s.isascii() else [] for s in sentences]
        others = [i for i, s in enumerate(sentences) if not s.isascii()]
        encodings = self._tokenizer.encode_batch_fast([sentences[i] for i in others], add_special_tokens=False)
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
                known = words[word] = self._tokenizer.encode(word, add_special_tokens=False).ids
            ids += known
        return ids
