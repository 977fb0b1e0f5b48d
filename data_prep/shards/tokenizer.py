"""The vocabulary of a store: given, or trained on its text so that the same text gives the same bytes."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.normalizers import BertNormalizer

from bert_lamb.data.store import StoreError
from bert_lamb.data.vocabulary import (
    CONTINUATION,
    SPECIAL_TOKENS,
    bert_normalizer,
    read_vocabulary,
    special_ids,
)
from bert_lamb.errors import UserError
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted

log = logging.getLogger(__name__)
TRAINING_BYTES = 64 << 20  # of text that a vocabulary is trained on, at most
ONLY_STRIPPED = BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
LARGEST_ALPHABET = 1000  # characters that get an entry; rarer ones become [UNK]


class VocabularyError(UserError):
    """A vocabulary that does not fit the settings."""


@dataclass
class Vocabulary:
    """Entries in the order of their ids."""

    entries: list[str]
    content: bytes  # of vocab.txt
    lower_case: bool
    trained: bool
    strip_accents: bool | None = None  # None: as lower_case

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def about(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {
            "sha256": self.sha256,
            "lower_case": self.lower_case,
            "strip_accents": self.lower_case if self.strip_accents is None else self.strip_accents,
            "size": len(self.entries),
            "trained": self.trained,
            "special_ids": special_ids(self.entries),
        }


def given_vocabulary(data: DataSettings) -> Vocabulary:
    """The vocabulary that data.vocab names; VocabularyError with every way in which it does not fit."""
    assert data.vocab is not None
    path = Path(data.vocab)
    try:
        entries = read_vocabulary(path)
    except StoreError as error:
        raise VocabularyError(f"data.vocab={data.vocab}: {error}") from error
    problems = vocabulary_problems(entries, data)
    if problems:
        raise VocabularyError(f"data.vocab={data.vocab} cannot be used:\n" + "\n".join(f"- {p}" for p in problems))
    return Vocabulary(entries, path.read_bytes(), data.lower_case, False, data.strip_accents)


def vocabulary_problems(entries: list[str], data: DataSettings) -> list[str]:
    """What speaks against a given vocabulary."""
    problems = []
    if data.vocab_size not in (0, len(entries)):
        problems.append(
            f"it has {len(entries)} entries, but data.vocab_size={data.vocab_size}: set that to {len(entries)} or 0"
        )
    missing = [token for token in SPECIAL_TOKENS if token not in entries]
    if missing:
        problems.append(f"it lacks {', '.join(missing)}: BERT's vocabularies have {', '.join(SPECIAL_TOKENS)}")
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        many = counted(len(twice), "entry occurs", "entries occur")
        problems.append(f"{many} twice, e.g. {twice[0]!r}: each line must be a different entry")
    words = [entry for entry in entries if not (entry.startswith("[") and entry.endswith("]"))]
    upper = [entry for entry in words if entry != entry.lower()]
    if data.lower_case and upper:
        problems.append(
            f"{len(upper)} of its entries have upper-case letters, e.g. {upper[0]!r}, which lower-cased text "
            "never contains: set data.lower_case=false, or use an uncased vocabulary"
        )
    latin = any("a" <= entry[:1] <= "z" for entry in words)
    if not data.lower_case and latin and not upper:
        problems.append("none of its entries has an upper-case letter: set data.lower_case=true, or use a cased one")
    strips = data.lower_case if data.strip_accents is None else data.strip_accents
    marked = [
        entry for entry in words if strips and not entry.isascii() and ONLY_STRIPPED.normalize_str(entry) != entry
    ]
    if marked:
        problems.append(
            f"{len(marked)} of its entries have accents or other marks, e.g. {marked[0]!r}, which text without accents "
            "never contains: set data.strip_accents=false, or use a vocabulary without them"
        )
    return problems


def train_vocabulary(texts: Iterable[str], data: DataSettings) -> Vocabulary:
    """WordPiece entries for these texts, by merging the most frequent pairs.

    The library numbers single characters by the order of a hash map and so breaks ties by chance. Here all of
    them get their numbers beforehand: a first training without merges tells which there are, a second merges.
    """
    normalizer = bert_normalizer(data.lower_case, data.strip_accents)
    lines = [line for text in texts for line in text.split("\n")]
    characters: Counter[str] = Counter()
    for line in lines:
        characters.update(normalizer.normalize_str(line))
    by_count = sorted((c for c in characters if not c.isspace()), key=lambda c: (-characters[c], c))
    alphabet = sorted(by_count[:LARGEST_ALPHABET])
    special = list(SPECIAL_TOKENS)
    inner = sorted(e for e in _train(lines, data, special, alphabet, 0) if e.startswith(CONTINUATION))
    least = len(special) + len(alphabet) + len(inner)
    if least > data.vocab_size:
        raise VocabularyError(
            f"data.vocab_size={data.vocab_size}: single characters alone need {least} entries; raise it"
        )
    entries = _train(lines, data, special + inner, alphabet, data.vocab_size)
    first = dict.fromkeys(special + alphabet + inner)
    entries = [*first, *(entry for entry in entries if entry not in first)]
    return Vocabulary(entries, ("\n".join(entries) + "\n").encode(), data.lower_case, True, data.strip_accents)


def _train(lines: list[str], data: DataSettings, numbered: list[str], alphabet: list[str], size: int) -> list[str]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = bert_normalizer(data.lower_case, data.strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda entry: ids[entry])
