"""The input: which files it has, what they hold, and their raw bytes as one stream each."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from itertools import chain
from pathlib import Path
from random import Random

import zstandard

from bert_lamb.settings import DataSettings
from data_prep import world

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = ("", ".zst", ".gz")
WORD = re.compile(r"\w+")
Page = tuple[str, str, str]  # key, title, text
READ_SIZE = 1 << 20  # bytes of the file on disk at a time


class SourceError(Exception):
    """Input that cannot be used; the message names the setting and the way out."""

    for_people = True


class DamagedStream(Exception):
    """A compressed file that ends too early or is broken; what came before it is good."""


@dataclass(frozen=True)
class SourceFile:
    """One input file. Its name is the path below the folder asked for: no absolute path is ever written."""

    name: str
    path: str  # "" for the embedded corpus
    format: str  # of FORMATS
    compression: str  # of COMPRESSIONS; "generated" for the embedded corpus

    @property
    def seekable(self) -> bool:
        """Any part can be read without reading what stands before it."""
        return self.compression == ""


def source_files(data: DataSettings) -> list[SourceFile]:
    """The inputs that the settings name, each once; SourceError where there are none."""
    if data.source == "sample":
        return [SourceFile("sample", "", ".jsonl", "generated")]
    found: dict[str, SourceFile] = {}
    for asked in data.paths:
        for file in _files_of(asked):
            found.setdefault(str(Path(file.path).resolve()), file)  # named twice is read once
    return list(found.values())


def _files_of(asked: str) -> list[SourceFile]:
    known = ", ".join(f + c for f in FORMATS for c in (COMPRESSIONS if f != ".parquet" else ("",)))
    path = Path(asked)
    if path.is_dir():
        below = sorted(p for p in path.rglob("*") if p.is_file())
        files = [source_file(p, p.relative_to(path).as_posix()) for p in below if kind_of(p.name)]
        if not files:
            raise SourceError(f"data.paths: no text in {asked}: it holds none of {known}")
        return files
    if path.is_file():
        if not kind_of(path.name):
            raise SourceError(f"data.paths: {asked} is of no known kind; convert it to one of {known}")
        return [source_file(path, path.name)]
    matches = sorted(Path(p) for p in glob(asked, recursive=True) if Path(p).is_file())  # noqa: PTH207 (absolute globs)
    files = [source_file(p, p.name) for p in matches if kind_of(p.name)]
    if not files:
        raise SourceError(f"data.paths: {asked} does not exist, or matches none of {known}; correct data.paths")
    return files


def kind_of(name: str) -> tuple[str, str] | None:
    """(format, compression) by a file's name; None where it is no text of ours."""
    for compression in COMPRESSIONS:
        for kind in FORMATS:
            if name.endswith(kind + compression) and (kind != ".parquet" or not compression):
                return kind, compression
    return None


def source_file(path: Path, name: str) -> SourceFile:
    kind = kind_of(path.name)
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


def raw_chunks(file: SourceFile, data: DataSettings, digest: "hashlib._Hash | None" = None) -> Iterator[bytes]:
    """A file's bytes, decompressed; `digest` sees those on disk. DamagedStream after the last good ones."""
    if file.compression == "generated":
        for line in sample_lines(data):
            if digest:
                digest.update(line)
            yield line
        return
    with Path(file.path).open("rb") as stream:
        packed = iter(lambda: stream.read(READ_SIZE), b"")
        if digest:
            packed = _watched(packed, digest)
        if file.compression == "":
            yield from packed
        else:
            yield from _unpacked(packed, file.compression)


def _watched(chunks: Iterator[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _unpacked(packed: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """Decompressed frames, one after the other; the packed input is read to its end in any case."""
    zstd = zstandard.ZstdDecompressor()
    state = None
    for chunk in packed:
        while chunk:
            if state is None:
                if not chunk.strip(b"\0"):  # padding after the last gzip member
                    break
                state = zstd.decompressobj() if compression == ".zst" else zlib.decompressobj(wbits=31)
            try:
                out = state.decompress(chunk)
            except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile) as error:
                for _ in packed:
                    pass
                raise DamagedStream(f"broken {compression} data: {error}") from error
            if out:
                yield out
            chunk = state.unused_data if state.eof else b""
            if state.eof:
                state = None
    if state is not None:
        raise DamagedStream(f"the {compression} data ends too early: the file is truncated")


class RawStream:
    """Exact ranges of a file's raw bytes, in rising order."""

    def __init__(self, file: SourceFile, data: DataSettings) -> None:
        self.file = file
        self._chunks = raw_chunks(file, data)
        self._rest = memoryview(b"")
        self._position = 0

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
