"""Why tokens are [UNK]: the characters and words that a vocabulary cannot spell, from a sample of sentences."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from tokenizers import Tokenizer

from bert_lamb.data.vocabulary import CONTINUATION, LONGEST_WORD, UNKNOWN

SAMPLED = 5_000  # sentences with a [UNK] of each shard: its first ones
SHOWN_CHARACTERS = 20  # of a word


@dataclass
class Unknown:
    """Counts of words that became [UNK]."""

    characters: Counter[str] = field(default_factory=Counter)  # that have no entry: how many words hold them
    words: Counter[str] = field(default_factory=Counter)  # whose characters have entries, but not in this order
    too_long: int = 0  # words of more characters than WordPiece takes
    sentences: int = 0  # sampled

    def read(self, sentences: Iterable[str], tokenizer: Tokenizer) -> None:
        """Counts the unknown words of some sentences, as long as the sample is not complete."""
        for sentence in islice(sentences, SAMPLED - self.sentences):
            self.sentences += 1
            normal = tokenizer.normalizer.normalize_str(sentence)
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
                self._read_word(word, tokenizer)

    def _read_word(self, word: str, tokenizer: Tokenizer) -> None:
        known = tokenizer.token_to_id
        if len(word) > LONGEST_WORD:
            self.too_long += 1
        elif any(token.value == UNKNOWN for token in tokenizer.model.tokenize(word)):
            missing = {c for c in word if known(c) is None and known(CONTINUATION + c) is None}
            self.characters.update(missing)
            if not missing:
                self.words[word[:SHOWN_CHARACTERS]] += 1
