"""One document's way into training, for `inspect`: raw, clean, sentences, tokens, a sequence, its mask."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from html import unescape
from pathlib import Path

import numpy as np

from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.store import SPLITS, Documents, documents_name, read_documents
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.dataset_rows import input_files
from data_prep.reading.slices import Piece, read_piece
from data_prep.reading.sources import SourceError
from data_prep.shards.encoder import Encoder
from data_prep.text.document import Document
from data_prep.text.records import documents_of
from data_prep.text.sentences import clean, sentences

CHARACTERS = 1000  # of a text that are shown
SENTENCES = 10
DOCUMENTS_FILE = re.compile(rf"({'|'.join(SPLITS)})/documents-(\d+)\.arrow")
PAGE_ID = re.compile(rb"<page>.*?<id>\s*(\d+)\s*</id>", re.DOTALL)  # of a page the first one, others are of revisions
TEXT = re.compile(rb"<text[^>]*>(.*)</text>", re.DOTALL)


@dataclass
class Found:
    """A document of the store."""

    split: str
    shard: int  # number of its file
    number: int  # among the documents of that file
    documents: Documents

    @property
    def id(self) -> str:
        return self.documents.ids[self.number]

    @property
    def place(self) -> tuple[int, int]:
        """Where its tokens stand in the file: first, one after the last."""
        starts = self.documents.token_starts
        return int(starts[self.number]), int(starts[self.number + 1])

    @property
    def sentences(self) -> list[np.ndarray]:
        """Token ids of each sentence."""
        first, last = self.place
        owned = slice(self.documents.sentence_starts[self.number], self.documents.sentence_starts[self.number + 1])
        ends = self.documents.sentence_ends[owned].tolist()
        return np.split(self.documents.tokens[first:last], ends[:-1])


def find_document(folder: Path, files: list[str], wanted: str) -> Found | None:
    """The document of this id, else that of this number, counted over the training split."""
    ahead = int(wanted) if wanted.isdecimal() else None
    by_number = None
    for name in sorted(files, key=lambda name: (not name.startswith("train/"), name)):
        match = DOCUMENTS_FILE.fullmatch(name)
        if not match:
            continue
        documents = read_documents(folder / match[1] / documents_name(int(match[2])))
        if wanted in documents.ids:
            return Found(match[1], int(match[2]), documents.ids.index(wanted), documents)
        if ahead is not None and match[1] == "train":
            if 0 <= ahead < len(documents.ids):
                by_number = Found(match[1], int(match[2]), ahead, documents)
            ahead -= len(documents.ids)
    return by_number


def raw_document(data: DataSettings, encoder: Encoder, found: Found) -> tuple[str, str] | None:
    """(raw, text) of the document in the files that data.paths names; None where no text there gives its tokens.

    Of a dump raw is the page's wikitext; otherwise both are the same. SourceError where the files are gone.
    """
    stored = found.documents.tokens[slice(*found.place)].tolist()
    files = input_files(data)
    named = [file for file in files if found.id.startswith(f"{file.name}:")]
    for file in named or files:
        for part, texts, item in documents_of(file, data):
            if item.id == found.id:
                ids = encoder.encode(list(sentences(clean(item.text), data.language)))
                if [i for sentence in ids for i in sentence] == stored:
                    return _wikitext(part.pieces[0], texts[0], data, item), item.text
    return None


def _wikitext(piece: Piece, text: bytes | None, data: DataSettings, document: Document) -> str:
    """The markup that a page of a dump was; any other document's text."""
    if piece.file.format != ".xml":
        return document.text
    key = document.id.rpartition(":")[2].encode()
    for page in (read_piece(piece, data) if text is None else text).split(b"</page>"):
        named = PAGE_ID.search(page)
        if named and named[1] == key and (markup := TEXT.search(page)):
            return unescape(markup[1].decode("utf-8", "replace"))
    return document.text


def as_stored(data: DataSettings, settings: dict) -> DataSettings:
    """The settings of the command, with those that decided the store's bytes as its manifest has them."""
    known = {f.name for f in fields(data)} - {"vocab", "squad", "templates"}  # these stand there as checksums
    return replace(data, **{k: v for k, v in settings.items() if k in known})


def of_raw(data: DataSettings, encoder: Encoder, found: Found) -> Iterator[str]:
    """Lines for the steps that need the source files; one line that says why where they are gone."""
    try:
        raw = raw_document(data, encoder, found)
    except SourceError as error:
        yield f"raw: not shown, because the source files are not where data.paths says ({error})"
        return
    if raw is None:
        yield f"raw: not shown, because no text in data.paths={data.paths} gives this document's tokens"
        return
    markup, text = raw
    cleaned = clean(text)
    yield from shown("raw", markup)
    if markup != text:
        yield from shown("text of the markup", text)
    yield from shown("clean", cleaned)
    split = list(sentences(cleaned, data.language))
    yield f"sentences ({len(split)}):"
    yield from (f"  {i}: {sentence.strip()}" for i, sentence in enumerate(split[:SENTENCES]))
    yield from more(len(split) - SENTENCES, "sentences")


def shown(name: str, text: str) -> Iterator[str]:
    """A text's beginning, one line a line."""
    yield f"{name}, {counted(len(text), 'character')}:"
    yield from (f"  {line}" for line in text[:CHARACTERS].split("\n"))
    yield from more(len(text) - CHARACTERS, "characters")


def more(count: int, what: str) -> Iterator[str]:
    if count > 0:
        yield f"  ... and {count:,} more {what}"


def sequences_of(tables: InstanceTables, found: Found, pass_: int) -> tuple[list[int], list[int]]:
    """Numbers of the pass's sequences whose A, and whose random B, is of this document."""
    first_instance, spans = tables.of_shard(pass_, tables.shards.index(found.shard))
    first, last = found.place
    of_a = (spans.a_start >= first) & (spans.a_start < last)
    of_b = (spans.b_start >= first) & (spans.b_start < last) & (spans.is_next == 0)
    return (first_instance + np.flatnonzero(of_a)).tolist(), (first_instance + np.flatnonzero(of_b)).tolist()
