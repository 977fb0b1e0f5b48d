"""Text to paragraphs to sentences, and the number that a cleaned text is known by."""

import re
from collections.abc import Iterator
from hashlib import blake2b

import sentencex

# what BERT's normaliser drops anyway (control and format characters, U+FFFD), but for the ends of lines
DROPPED = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffd]"
)
LONGEST_PARAGRAPH = 100_000  # characters; the splitter's time grows with the square where quotes stay open
LONGEST_SENTENCE = 10_000  # characters; lists and tables without a full stop are cut here


def clean(text: str) -> str:
    """One paragraph a line: no characters that the tokenizer would drop, no empty lines, no blanks around."""
    return "\n".join(line.strip() for line in DROPPED.sub("", text).splitlines() if line.strip())


def signature(cleaned: str) -> int:
    """64 bits of BLAKE2b of a cleaned text: of 7 million different ones two share theirs with a chance of 1e-6."""
    return int.from_bytes(blake2b(cleaned.encode(), digest_size=8).digest(), "big")


def sentences(cleaned: str, language: str) -> Iterator[str]:
    """The sentences of a cleaned text; the end of a line always ends one."""
    for line in cleaned.split("\n"):
        for paragraph in cut(line, LONGEST_PARAGRAPH):
            for sentence in sentencex.segment(language, paragraph):
                yield from cut(sentence, LONGEST_SENTENCE)


def cut(text: str, longest: int) -> Iterator[str]:
    """Pieces of at most `longest` characters, parted at the last blank before, where there is one."""
    start = 0
    while len(text) - start > longest:
        blank = text.rfind(" ", start, start + longest)
        end = blank + 1 if blank > start else start + longest
        yield text[start:end]
        start = end
    yield text[start:]
