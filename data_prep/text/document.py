"""What the raw text of a slice is turned into: documents, and records that are none, with the reason."""

from collections import Counter
from dataclasses import dataclass, field

from data_prep.reading.slices import LARGEST_DOCUMENT, MIB, Piece

SAMPLE_LENGTH = 200  # characters of a rejected record that are kept
TOO_LARGE = f"larger than {LARGEST_DOCUMENT // MIB} MiB"


@dataclass
class Gaps:
    """Text of a dump that is missing: templates that stand in no table, formulas that are not plain."""

    templates: Counter[str] = field(default_factory=Counter)  # name: how often; of formulas "<math>"
    sentences: int = 0  # that have a gap
    paragraphs: int = 0
    open_references: int = 0  # that are never closed: each costs at most the rest of a sentence

    def add(self, other: "Gaps") -> None:
        """Adds those of another document."""
        self.templates.update(other.templates)
        self.sentences += other.sentences
        self.paragraphs += other.paragraphs
        self.open_references += other.open_references


def most_frequent(counted: Counter[str], most: int) -> dict[str, int]:
    """The most frequent names, equal counts in the order of the alphabet."""
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:most])


@dataclass
class Document:
    """One article or book as it came."""

    id: str  # "source:key"; the key is the record's own id, or the number of its line or row
    text: str
    title: str = ""  # where the source has one
    line: int = 0  # or row, where it begins
    records: int = 1  # that it was made of
    gaps: Gaps = field(default_factory=Gaps)


@dataclass
class Reject:
    """One record that is no document."""

    file: str
    line: int  # or row
    reason: str
    sample: str


@dataclass
class LeftOut(Reject):
    """One record that a rule of the source leaves out; nothing is wrong with it."""


def reject(piece: Piece, line: int, reason: str, raw: bytes) -> Reject:
    """A record that is no document, with the beginning of its bytes as a sample."""
    sample = raw[: 4 * SAMPLE_LENGTH].decode("utf-8", "backslashreplace")[:SAMPLE_LENGTH]
    return Reject(piece.file.name, line, reason, sample)
