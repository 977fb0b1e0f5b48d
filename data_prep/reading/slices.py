"""Slices: pieces of the input, cut by their place in their file; one becomes one shard."""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bert_lamb.settings import DataSettings
from data_prep.reading.borders import BLANK_LINE, LARGEST_GAP, LINE_END, PAGE_END, Borders
from data_prep.reading.encodings import UTF8, seems_to_be
from data_prep.reading.sources import RawStream, SourceError, SourceFile, place_in_order, raw_chunks
from data_prep.reading.unpacking import MIB, DamagedStream, Starts

LARGEST_DOCUMENT = 32 * MIB  # bytes; more is a file without borders, not a document
FIRST_PAGE = b"<page>"
LONGEST_HEAD = 4 * MIB  # bytes before the first page; real dumps have some KB
NAMESPACE = re.compile(  # bounded, so that a head of nothing but openings costs no quadratic time
    r'<namespace\s[^<>]{0,200}?key="(-?\d{1,9})"[^<>]{0,200}>([^<]{0,200})</namespace>'
)
DROPPED_KEYS = (6, 14)  # File and Category in every wiki


@dataclass(frozen=True)
class Piece:
    """Part of one file: bytes [start, end) of its raw text, or rows of a parquet row group."""

    file: SourceFile
    start: int
    end: int
    first: int  # number of its first line or row, from 1
    row_group: int = 0
    truncated: bool = False  # the stream breaks off at its end, in the middle of a record
    dropped_spaces: frozenset[str] = frozenset()  # of a dump: its names of the namespaces of pictures and categories
    stream: tuple[int, int] | None = None  # of a dump: the stream where reading may begin, on disk and in raw text


@dataclass
class Slice:
    """What becomes one shard."""

    number: int
    pieces: list[Piece]
    size: int  # bytes of raw text, for progress
    duplicates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32), compare=False)  # their places


@dataclass
class PlannedFile:
    """One input file as found."""

    file: SourceFile
    bytes: int  # on disk
    sha256: str
    pieces: list[Piece]
    sizes: list[int]  # raw bytes of each piece
    damage: str | None = None
    seems: str | None = None  # of text that is not in data.encoding: the encoding that fits its first bytes


@dataclass
class Plan:
    """The whole input."""

    files: list[PlannedFile]
    slices: list[Slice]
    damages: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[dict]:
        """The manifest's entry."""
        return [{"name": f.file.name, "bytes": f.bytes, "sha256": f.sha256} for f in self.files]

    @property
    def size(self) -> int:
        return sum(s.size for s in self.slices)


def plan_input(data: DataSettings, files: list[SourceFile], threads: int) -> Plan:
    """Reads every file once: its SHA-256, and where its slices begin."""
    return as_slices(plan_files(data, files, threads), data)


def plan_files(data: DataSettings, files: list[SourceFile], threads: int) -> list[PlannedFile]:
    """Files at once, and of few large ones their streams, on so many threads."""
    each = max(1, threads // max(1, len(files)))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(lambda file: plan_file(file, data, each), files))


def as_slices(planned: list[PlannedFile], data: DataSettings) -> Plan:
    """Numbers the slices of all files."""
    # by name, not by folder: it must not matter where the files lie
    planned.sort(key=lambda f: (place_in_order(f.file.name), f.sha256))
    slices: list[Slice] = []
    run: list[Piece] = []
    run_size = 0
    for f in planned:
        for piece, size in zip(f.pieces, f.sizes, strict=True):
            if whole_files(f.file, data):  # small files share a shard
                run.append(piece)
                run_size += size
                if run_size >= data.shard_mib * MIB:
                    slices.append(Slice(len(slices), run, run_size))
                    run, run_size = [], 0
            else:
                if run:
                    slices.append(Slice(len(slices), run, run_size))
                    run, run_size = [], 0
                slices.append(Slice(len(slices), [piece], size))
    if run:
        slices.append(Slice(len(slices), run, run_size))
    return Plan(planned, slices, [f"{f.file.name}: {f.damage}" for f in planned if f.damage])


def whole_files(file: SourceFile, data: DataSettings) -> bool:
    """Every such file is one document."""
    return file.format == ".txt" and data.txt_document == "file" and not file.sentences


def longest_read(data: DataSettings) -> int:
    """Bytes of a piece that are ever in memory. The last record of a longer one began before `data.shard_mib` and is
    no document for its size alone, so that the rest of it need not be read."""
    return data.shard_mib * MIB + 2 * LARGEST_DOCUMENT


def plan_file(file: SourceFile, data: DataSettings, threads: int = 1) -> PlannedFile:
    """Cuts one file; SourceError where it cannot be read at all."""
    try:
        if file.format == ".parquet":
            return _plan_parquet(file, data)
        return _plan_dump(file, data, threads) if file.format == ".xml" else _plan_text(file, data)
    except OSError as error:
        raise SourceError(f"data.paths: {file.path} cannot be read: {error.strerror or error}") from error


def _plan_text(file: SourceFile, data: DataSettings) -> PlannedFile:
    digest, damage = hashlib.sha256(), None
    lines = file.format == ".jsonl" or file.sentences
    separator = LINE_END if lines else BLANK_LINE
    borders = Borders(separator, data.shard_mib * MIB, file.sentences or 1)
    whole, seems = whole_files(file, data), None
    try:
        for number, chunk in enumerate(raw_chunks(file, data, digest)):
            if number == 0 and file.encoding == UTF8:
                seems = seems_to_be(chunk)
            if whole:
                borders.position += len(chunk)
            elif not borders.feed(chunk):
                raise SourceError(
                    f"data.paths: {file.path} holds {LARGEST_GAP // MIB} MiB without "
                    f"{'the end of a line' if lines else 'an empty line'}: is it really "
                    f"{file.format}, one document after the other?"
                )
    except DamagedStream as error:
        damage = str(error)
    starts = [*borders.found, (borders.position, 0)]
    pieces = [
        Piece(file, start, end, first, truncated=damage is not None and end == borders.position)
        for (start, first), (end, _) in pairwise(starts)
        if end > start or whole
    ]
    size = borders.position if file.compression == "generated" else Path(file.path).stat().st_size
    return PlannedFile(file, size, digest.hexdigest(), pieces, [p.end - p.start for p in pieces], damage, seems)


def _plan_dump(file: SourceFile, data: DataSettings, threads: int) -> PlannedFile:
    """Pieces end where a page does. Those near the start of an independent stream are read by their worker."""
    digest, damage = hashlib.sha256(), None
    borders = Borders(PAGE_END, data.shard_mib * MIB)
    head = b""
    starts: Starts = [(0, 0)] if file.compression == "" else []
    try:
        for chunk in raw_chunks(file, data, digest, starts=starts, threads=threads):
            if FIRST_PAGE not in head and len(head) < LONGEST_HEAD:
                head += chunk
            if not borders.feed(chunk):
                raise SourceError(f"data.paths: {file.path} holds {LARGEST_GAP // MIB} MiB without the end of a page")
    except DamagedStream as error:
        damage = str(error)
    size = Path(file.path).stat().st_size
    if FIRST_PAGE not in head:
        damage = "no <page> in it: is it a MediaWiki dump?" + (f" ({damage})" if damage else "")
        return PlannedFile(file, size, digest.hexdigest(), [], [], damage)
    spaces = dropped_spaces(head.split(FIRST_PAGE, 1)[0])
    pieces = []
    for (start, first), (end, _) in pairwise([*borders.found, (borders.position, 0)]):
        stream = nearest(starts, start, data.shard_mib * MIB)
        if stream and file.compression == "":
            stream = (start, start)
        truncated = damage is not None and end == borders.position
        if end > start:
            pieces.append(Piece(file, start, end, first, truncated=truncated, dropped_spaces=spaces, stream=stream))
    return PlannedFile(file, size, digest.hexdigest(), pieces, [p.end - p.start for p in pieces], damage)


def dropped_spaces(head: bytes) -> frozenset[str]:
    """Names of the namespaces of pictures and categories by the dump's <siteinfo>; the English ones hold everywhere."""
    text = head.decode("utf-8", "replace")
    named = (unescape(m[2]).strip().lower() for m in NAMESPACE.finditer(text) if int(m[1]) in DROPPED_KEYS)
    return frozenset({"file", "image", "category", *named} - {""})


def nearest(starts: Starts, place: int, most: int) -> tuple[int, int] | None:
    """The last stream that begins at or before a place of the raw text; None where it begins too long before."""
    index = bisect_right(starts, place, key=lambda s: s[1]) - 1
    return starts[index] if index >= 0 and place - starts[index][1] <= most else None


def _plan_parquet(file: SourceFile, data: DataSettings) -> PlannedFile:
    path = Path(file.path)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        parquet = pq.ParquetFile(path)
    except pa.ArrowException as error:
        damage = f"no readable parquet file: {error}"
        return PlannedFile(file, path.stat().st_size, sha256, [], [], damage)
    names = parquet.schema_arrow.names
    if data.text_field not in names:
        raise SourceError(
            f"data.text_field={data.text_field}: {file.path} has no such column; it has {', '.join(names)}"
        )
    pieces, sizes, row = [], [], 1
    for group in range(parquet.metadata.num_row_groups):
        about = parquet.metadata.row_group(group)
        columns = [about.column(i) for i in range(about.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == data.text_field)
        parts = max(1, round(size / (data.shard_mib * MIB)))
        run = file.sentences or 1  # of which none is cut
        cuts = [about.num_rows * i // parts // run * run for i in range(parts)] + [about.num_rows]
        for start, end in pairwise(cuts):
            if end > start:
                pieces.append(Piece(file, start, end, row + start, group))
                sizes.append(size // parts)
        row += about.num_rows
    return PlannedFile(file, path.stat().st_size, sha256, pieces, sizes)


def payloads(slices: list[Slice], data: DataSettings) -> Iterator[tuple[Slice, list[bytes | None]]]:
    """Slices with the raw text of those pieces that only a stream gives; others are read by their worker."""
    stream: RawStream | None = None
    for piece_slice in slices:
        texts: list[bytes | None] = []
        for piece in piece_slice.pieces:
            if piece.file.seekable or piece.stream:
                texts.append(None)
                continue
            if whole_files(piece.file, data) and piece.end > LARGEST_DOCUMENT:
                texts.append(b"")
                continue
            if stream is None or stream.file != piece.file:
                stream = RawStream(piece.file, data)
            texts.append(stream.read(piece.start, min(piece.end, piece.start + longest_read(data))))
        yield piece_slice, texts


def read_piece(piece: Piece, data: DataSettings) -> bytes:
    """The raw text of a piece of a seekable file, or of one near the start of a stream."""
    size = min(piece.end - piece.start, longest_read(data))
    if piece.stream:
        return RawStream(piece.file, data, piece.stream).read(piece.start, piece.start + size)
    with Path(piece.file.path).open("rb") as stream:
        stream.seek(piece.start)
        return stream.read(size)
