"""The input: which files it has, what they hold, and their raw bytes as one stream each."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from glob import glob
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from random import Random

from bert_lamb.errors import UserError
from bert_lamb.settings import DataSettings
from data_prep.reading.encodings import MARKS, UTF8, to_utf8
from data_prep.reading.file_kinds import COMPRESSIONS, FORMATS, TEXTS, kind_of, way_out
from data_prep.reading.hub_files import fetched_paths
from data_prep.reading.unpacking import DamagedStream, Starts, unpacked
from data_prep.world import world

PART = re.compile(r"\d*\.xml-p(\d+)p\d+", re.IGNORECASE)  # of a dump: the first page of a part stands in its name
WORD = re.compile(r"\w+")
Page = tuple[str, str, str]  # key, title, text
READ_SIZE = 1 << 20  # bytes of the file on disk at a time


class SourceError(UserError):
    """Input that cannot be used; the message names the setting and the way out."""


@dataclass(frozen=True)
class SourceFile:
    """One input file. Its name is the path below the folder asked for: no absolute path is ever written."""

    name: str
    path: str  # "" for the embedded corpus
    format: str  # of FORMATS, or ".xml"
    compression: str  # of COMPRESSIONS; "generated" for the embedded corpus
    sentences: int = 0  # of a list of sentences: so many are a document
    share: float = 1.0  # of its documents that are taken
    encoding: str = UTF8  # of .txt and .jsonl

    @property
    def seekable(self) -> bool:
        """Any part can be read without what stands before it. Of a dump only the plan knows: it may be UTF-16."""
        return self.compression == "" and self.format != ".xml" and self.encoding == UTF8


def source_files(data: DataSettings) -> list[SourceFile]:
    """The inputs that the settings name, each once; SourceError where there are none."""
    if data.source == "sample":
        return [SourceFile("sample", "", ".jsonl", "generated")]
    if data.source == "wikipedia_dump" and find_spec("mwparserfromhell") is None:
        raise SourceError(
            "data.source=wikipedia_dump needs the package mwparserfromhell, which is not installed: run "
            "`make install` again, or pip install 'bert-lamb[train]'"
        )
    found: dict[str, SourceFile] = {}
    for name, source, share in parts(data):
        for asked in source.paths or (fetched_paths(source) if source.hub else []):
            for file in _files_of(asked, data.source):
                encoding = data.encoding if file.format in TEXTS else UTF8
                file = replace(
                    file, name=name + file.name, sentences=source.sentences_per_document, share=share, encoding=encoding
                )
                found.setdefault(str(Path(file.path).resolve()), file)  # named twice is read once
    return list(found.values())


def parts(data: DataSettings) -> list[tuple[str, DataSettings, float]]:
    """The sources of a mix as settings of their own: prefix of its files' names, settings, share of its documents."""
    if not data.mix:
        return [("", data, 1.0)]
    return [
        (f"{name}/", replace(data, mix={}, paths=m.paths, hub=m.hub, sentences_per_document=m.sentences_per_document),
         m.share)
        for name, m in data.mix.items()
    ]  # fmt: skip


def _files_of(asked: str, source: str) -> list[SourceFile]:
    formats = (".xml",) if source == "wikipedia_dump" else FORMATS
    known = ", ".join(f + c for f in formats for c in (COMPRESSIONS if f != ".parquet" else ("",)))
    path = Path(asked)
    if path.is_dir():
        below = sorted(p for p in path.rglob("*") if p.is_file())
        files = [source_file(p, p.relative_to(path).as_posix(), source) for p in below if kind_of(p.name, source)]
        if not files:
            ways = {way for p in below if (way := way_out(p, source))}
            raise SourceError(
                f"data.paths: no text in {asked}: it holds none of {known}" + "".join(f"; {w}" for w in sorted(ways))
            )
        return files
    if path.is_file():
        if not kind_of(path.name, source):
            raise SourceError(
                f"data.paths: {asked} is of no known kind; {way_out(path, source) or f'convert it to one of {known}'}"
            )
        return [source_file(path, path.name, source)]
    matches = sorted(Path(p) for p in glob(asked, recursive=True) if Path(p).is_file())  # noqa: PTH207 (absolute globs)
    files = [source_file(p, p.name, source) for p in matches if kind_of(p.name, source)]
    if not files:
        raise SourceError(f"data.paths: {asked} does not exist, or matches none of {known}; correct data.paths")
    return files


def place_in_order(name: str) -> tuple[str, int, str]:
    """Sorts names of input files: by name, and parts of one dump by their first page."""
    part = PART.search(name)
    return (name[: part.start()], int(part[1]), name) if part else (name, 0, name)


def source_file(path: Path, name: str, source: str) -> SourceFile:
    kind = kind_of(path.name, source)
    assert kind is not None
    return SourceFile(name, str(path), *kind)


def sample_lines(data: DataSettings) -> Iterator[bytes]:
    """The embedded corpus as JSON lines."""
    documents = chain(world.articles(data.seed, data.articles), world.books(data.seed, data.books))
    for key, title, text in shuffled(documents, data.seed) if data.shuffled else documents:
        record = {"id": key, "title": title, data.text_field: text}
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def shuffled(documents: Iterable[Page], seed: int) -> Iterator[Page]:
    """The same words, each at a random place of the whole corpus; punctuation, lines and lengths stay."""
    pages = list(documents)
    words = [word for _, _, text in pages for word in WORD.findall(text)]
    draw = Random(seed).random  # the one method whose values every Python keeps
    drawn = iter([words[i] for _, i in sorted((draw(), i) for i in range(len(words)))])
    for key, title, text in pages:
        yield key, title, WORD.sub(lambda _: next(drawn), text)


def raw_chunks(
    file: SourceFile, data: DataSettings, digest: "hashlib._Hash | None" = None, start: int = 0,
    starts: Starts | None = None, threads: int = 1,
) -> Iterator[bytes]:  # fmt: skip
    """A file's bytes, decompressed; `digest` sees those on disk. DamagedStream after the last good ones.

    `start` is the place on disk to begin at, that of a stream. `starts` collects them where parts of the file can
    be read alone; a dump in UTF-16 becomes UTF-8 and has none. More `threads` unpack the streams of a .bz2 at once.
    """
    if file.compression == "generated":
        for line in sample_lines(data):
            if digest:
                digest.update(line)
            yield line
        return
    with Path(file.path).open("rb") as stream:
        stream.seek(start)
        rest = stream.read(READ_SIZE - start % READ_SIZE)  # so that a stream is cut alike wherever reading began
        packed: Iterator[bytes] = chain([rest], iter(lambda: stream.read(READ_SIZE), b""))
        if digest:
            packed = _watched(packed, digest)
        go_on = file.format == ".xml" and file.compression == ".bz2"
        chunks = packed if file.compression == "" else unpacked(packed, file.compression, starts, go_on, threads)
        if file.encoding != UTF8:
            chunks = to_utf8(iter(chunks), file.encoding)
        yield from _utf8(chunks, starts) if file.format == ".xml" and start == 0 else chunks


def _watched(chunks: Iterator[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _utf8(chunks: Iterator[bytes], starts: Starts | None) -> Iterator[bytes]:
    """A dump in UTF-16, known by its mark, as UTF-8; other text as it is."""
    first = next(chunks, b"")
    whole = chain([first], chunks)
    if first[:2] not in MARKS:
        yield from whole
        return
    try:
        yield from to_utf8(whole, "utf-16")
    finally:
        if starts is not None:
            starts.clear()


class RawStream:
    """Exact ranges of a file's raw bytes, in rising order; `start` is a stream's place on disk and in the raw text."""

    def __init__(self, file: SourceFile, data: DataSettings, start: tuple[int, int] = (0, 0)) -> None:
        self.file = file
        self._chunks = raw_chunks(file, data, start=start[0])
        self._rest = memoryview(b"")
        self._position = start[1]

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end); fewer where the stream is damaged before `end`."""
        self._take(start - self._position, keep=False)
        return b"".join(self._take(end - start, keep=True))

    def _take(self, count: int, keep: bool) -> list[memoryview]:
        parts = []
        while count > 0:
            if not self._rest:
                try:
                    self._rest = memoryview(next(self._chunks))
                except (StopIteration, DamagedStream):
                    break
            part = self._rest[:count]
            self._rest = self._rest[count:]
            self._position += len(part)
            count -= len(part)
            if keep:
                parts.append(part)
        return parts
