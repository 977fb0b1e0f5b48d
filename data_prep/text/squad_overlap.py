"""Which paragraphs of a SQuAD file a text holds, though both were cleaned by different hands.

A paragraph counts as held where the text has at least half of its distinct word 8-grams, words being runs of letters
and digits in lower case. Word 8-grams as in GPT-2's and PaLM's studies of overlap (quoted from memory); the share is
ours, from measurement (docs/data.md).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np

from bert_lamb.errors import UserError
from bert_lamb.squadfiles import read_contexts, squad_bytes

GRAM = 8  # words
LEAST_SHARE = 0.5
WORD = re.compile(r"\w+")
# odd numbers of 64 bits, one for each place in a gram: the first digits of the roots of 2, 3, 5, ... behind the point
FACTORS = np.array([int(prime**0.5 % 1 * 2**52) * 4096 + 2 * prime + 1 for prime in (2, 3, 5, 7, 11, 13, 17, 19)], "u8")
SHORT = 22  # bits of a gram that are looked at first
LEFT = np.uint64(64 - SHORT)


class OverlapError(UserError):
    """A file that is no SQuAD file; the message names the setting."""


class Overlap:
    """The paragraphs of one SQuAD file, ready to be looked for."""

    def __init__(self, path: str) -> None:
        words = [WORD.findall(paragraph.lower()) for paragraph in read_paragraphs(path)]
        if max(map(len, words), default=0) < GRAM:
            raise OverlapError(f"data.squad={path}: no paragraph of {GRAM} words or more in it")
        self.count = len(words)
        self._ids = {word: i for i, word in enumerate(sorted({w for each in words for w in each}), 1)}
        found = [np.unique(self._grams(each)) for each in words]
        self._sizes = np.array([max(1, len(grams)) for grams in found])
        together = np.concatenate(found)
        order = np.argsort(together, kind="stable")
        self._owners = np.repeat(np.arange(self.count), [len(grams) for grams in found])[order]
        self._table, starts = np.unique(together[order], return_index=True)
        self._starts = np.append(starts, len(order))
        self._may_be = np.zeros(1 << SHORT, bool)  # by their first bits: most grams of a text are told to be none here
        self._may_be[self._table >> LEFT] = True

    def paragraphs(self, text: str) -> list[int]:
        """Numbers, from 0 in the order of the file, of the paragraphs that a text holds."""
        return np.flatnonzero(self.shares(text) >= LEAST_SHARE).tolist()

    def shares(self, text: str) -> np.ndarray:
        """[paragraphs] the share of each one's distinct grams that stand in the text."""
        grams = self._grams(WORD.findall(text.lower()))
        grams = np.unique(grams[self._may_be[grams >> LEFT]])
        hits = np.searchsorted(self._table[:-1], grams)  # never beyond the last
        hits = hits[self._table[hits] == grams]
        owners = [self._owners[self._starts[h] : self._starts[h + 1]] for h in hits]
        return np.bincount(np.concatenate([*owners, np.zeros(0, int)]), minlength=self.count) / self._sizes

    def _grams(self, words: list[str]) -> np.ndarray:
        """Each run of words as a number. Words of no paragraph are all alike; a gram that has one matches none."""
        ids = np.fromiter(map(self._ids.get, words, repeat(0)), "u8", len(words))
        count = max(0, len(ids) - GRAM + 1)
        grams = np.zeros(count, "u8")
        for place, factor in enumerate(FACTORS):
            grams += ids[place : place + count] * factor
        return grams


def squad_sha256(path: str) -> str:
    """Of the JSON, packed or not."""
    with _named(path):
        return hashlib.sha256(squad_bytes(Path(path))).hexdigest()


def read_paragraphs(path: str) -> list[str]:
    """The contexts of a SQuAD v1.1 JSON file, also .zst; OverlapError where it is none."""
    with _named(path):
        return read_contexts(Path(path))


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OverlapError(f"data.squad={path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise OverlapError(f"data.squad={path} is no SQuAD file (JSON, also .zst): {error}") from error
