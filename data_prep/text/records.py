"""Raw text of a slice to documents; what is no document is rejected with its place and the reason."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bert_lamb.jsonfiles import parse_json
from bert_lamb.settings import DataSettings
from data_prep.reading.borders import BLANK_LINE
from data_prep.reading.slices import (
    LARGEST_DOCUMENT,
    Piece,
    Slice,
    longest_read,
    payloads,
    plan_file,
    read_piece,
    whole_files,
)
from data_prep.reading.sources import SourceFile
from data_prep.text.document import SAMPLE_LENGTH, TOO_LARGE, Document, LeftOut, Reject, reject
from data_prep.text.sentences import clean, signature

ROWS_AT_ONCE = 256  # of a parquet row group in memory; one may hold a million


def records(part: Slice, texts: list[bytes | None], data: DataSettings) -> Iterator[Document | Reject]:
    """Every record of a slice, in order."""
    for piece, text in zip(part.pieces, texts, strict=True):
        found = _records(piece, text, data)
        if piece.file.sentences:
            found = _runs(piece, found, piece.file.sentences)
        yield from _share(found, piece.file.share) if piece.file.share < 1 else found


def documents_of(file: SourceFile, data: DataSettings) -> Iterator[tuple[Slice, list[bytes | None], Document]]:
    """Every document of one file, in order, with the slice that it stands in and that slice's texts."""
    slices = [Slice(i, [piece], 0) for i, piece in enumerate(plan_file(file, data).pieces)]
    for part, texts in payloads(slices, data):
        yield from ((part, texts, item) for item in records(part, texts, data) if isinstance(item, Document))


def cleaned_texts(part: Slice, texts: list[bytes | None], data: DataSettings) -> Iterator[str]:
    """The cleaned text of every document of a slice, in order. Its number in this order is the document's place."""
    for item in records(part, texts, data):
        if isinstance(item, Document) and (text := clean(item.text)):
            yield text


def _share(found: Iterator[Document | Reject], share: float) -> Iterator[Document | Reject]:
    """Documents by a hash of their ids, so that which are taken depends on nothing else."""
    for item in found:
        if isinstance(item, Document) and signature(f"share {item.id}") >= share * 2**64:
            yield LeftOut(item.id, item.line, "beyond its source's share", "")
        else:
            yield item


def _records(piece: Piece, text: bytes | None, data: DataSettings) -> Iterator[Document | Reject]:
    if piece.file.format == ".parquet":
        yield from _rows(piece, data)
    elif piece.file.format == ".xml":
        from data_prep.text.dump import pages  # only here: other sources need no parser of wikitext
        from data_prep.text.template_table import template_table

        table = template_table(data.templates, data.language)
        yield from pages(piece, read_piece(piece, data) if text is None else text, table, data.gaps == "drop")
    elif whole_files(piece.file, data):
        yield _whole_file(piece, text, data)
    elif piece.file.format == ".txt" and not piece.file.sentences:
        yield from _paragraph_groups(piece, read_piece(piece, data) if text is None else text, data)
    else:
        yield from _lines(piece, read_piece(piece, data) if text is None else text, data)


def _runs(piece: Piece, sentences: Iterator[Document | Reject], size: int) -> Iterator[Document | Reject]:
    """Documents of `size` consecutive sentences, counted from the start of the file, or of a parquet row group.

    Counted by place: a bad line shortens its document and moves no other.
    """
    first = piece.first - piece.start if piece.file.format == ".parquet" else 1
    run: list[Document] = []
    for item in sentences:
        if isinstance(item, Reject):
            yield item
            continue
        if run and (item.line - first) // size != (run[0].line - first) // size:
            yield _joined(piece, run)
            run = []
        run.append(item)
    if run:
        yield _joined(piece, run)


def _joined(piece: Piece, run: list[Document]) -> Document:
    text = "\n".join(" ".join(sentence.text.split()) for sentence in run)
    return Document(f"{piece.file.name}:{run[0].line}", text, line=run[0].line, records=len(run))


def _whole_file(piece: Piece, text: bytes | None, data: DataSettings) -> Document | Reject:
    if piece.end - piece.start > LARGEST_DOCUMENT:
        reason = TOO_LARGE + "; if empty lines part its documents, set data.txt_document=blank_line"
        return Reject(piece.file.name, 1, reason, "")
    if piece.truncated:
        return reject(piece, 1, "cut off: the file is damaged", text or b"")
    return _document(piece, 1, read_piece(piece, data) if text is None else text)


def _open_end(piece: Piece, data: DataSettings) -> str | None:
    """Why the last record of what was read of a piece is no document; None where it is one like the others."""
    if piece.end - piece.start > longest_read(data):
        return TOO_LARGE
    return "cut off: the file is damaged" if piece.truncated else None


def _paragraph_groups(piece: Piece, text: bytes, data: DataSettings) -> Iterator[Document | Reject]:
    """Documents parted by empty lines."""
    start, line, open_end = 0, piece.first, _open_end(piece, data)
    ends = [(m.start() + 1, m.end()) for m in BLANK_LINE.finditer(text)] + [(len(text), len(text))]
    for stop, following in ends:
        raw = text[start:stop]
        if open_end and following == len(text):
            yield reject(piece, line, open_end, raw)
        elif raw.strip():
            yield _document(piece, line, raw)
        line += text.count(b"\n", start, following)
        start = following


def _lines(piece: Piece, text: bytes, data: DataSettings) -> Iterator[Document | Reject]:
    """JSON objects, or sentences, one a line."""
    start, line, open_end = 0, piece.first, _open_end(piece, data)
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        raw = text[start:end]
        if open_end and end == len(text):
            yield reject(piece, line, open_end, raw)
        elif raw.strip():
            yield _line(piece, line, raw, data) if piece.file.format == ".jsonl" else _document(piece, line, raw)
        start, line = end + 1, line + 1


def _line(piece: Piece, line: int, raw: bytes, data: DataSettings) -> Document | Reject:
    if len(raw) > LARGEST_DOCUMENT:
        return reject(piece, line, TOO_LARGE, raw)
    try:
        record = parse_json(raw.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError:
        return reject(piece, line, "not UTF-8", raw)
    except ValueError:
        return reject(piece, line, "malformed JSON", raw)
    if not isinstance(record, dict):
        return reject(piece, line, "JSON, but no object", raw)
    return _field(piece, line, record, data)


def _field(piece: Piece, line: int, record: dict[str, Any], data: DataSettings) -> Document | Reject:
    """A record's text, by the field that the settings name."""
    name = data.text_field
    if name not in record:
        return Reject(piece.file.name, line, f"no field {name!r}", "fields: " + ", ".join(record)[:SAMPLE_LENGTH])
    text = record[name]
    if text is None or not isinstance(text, str):
        return Reject(piece.file.name, line, f"field {name!r} is no text", repr(text)[:SAMPLE_LENGTH])
    return _checked(piece, line, text, record.get("id"))


def _rows(piece: Piece, data: DataSettings) -> Iterator[Document | Reject]:
    """Rows of a parquet row group."""
    try:
        parquet = pq.ParquetFile(piece.file.path)
        columns = [c for c in (data.text_field, "id") if c in parquet.schema_arrow.names]
        batches = parquet.iter_batches(ROWS_AT_ONCE, row_groups=[piece.row_group], columns=columns)
        before = 0  # rows of the group that lie behind us
        for batch in batches:
            here = batch.slice(
                min(batch.num_rows, max(0, piece.start - before)), max(0, piece.end - max(before, piece.start))
            )
            for number, row in enumerate(_python_rows(here), piece.first + max(0, before - piece.start)):
                if row is None:
                    yield Reject(piece.file.name, number, "not UTF-8", "")
                else:
                    yield _field(piece, number, row, data)
            before += batch.num_rows
            if before >= piece.end:
                return
    except (pa.ArrowException, OSError) as error:
        yield Reject(piece.file.name, piece.first, "unreadable row group", str(error)[:SAMPLE_LENGTH])


def _python_rows(table: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """Row by row, so that one string which is not UTF-8 costs one row; None for such a row."""
    for index in range(table.num_rows):
        try:
            yield {name: table.column(name)[index].as_py() for name in table.column_names}
        except UnicodeDecodeError:
            yield None


def _document(piece: Piece, line: int, raw: bytes) -> Document | Reject:
    if len(raw) > LARGEST_DOCUMENT:
        return reject(piece, line, TOO_LARGE, raw)
    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        return reject(piece, line, "not UTF-8", raw)
    return _checked(piece, line, text, None)


def _checked(piece: Piece, line: int, text: str, own_id: Any) -> Document | Reject:
    if "\0" in text:
        return Reject(piece.file.name, line, "NUL characters: binary data?", repr(text[:SAMPLE_LENGTH]))
    if not text.strip():
        return Reject(piece.file.name, line, "empty", "")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return Reject(piece.file.name, line, "not UTF-8", repr(text[:SAMPLE_LENGTH]))
    if size > LARGEST_DOCUMENT:
        return Reject(piece.file.name, line, TOO_LARGE, text[:SAMPLE_LENGTH])
    key = own_id if isinstance(own_id, str | int) and str(own_id).strip() else line
    return Document(f"{piece.file.name}:{key}".encode("utf-8", "replace").decode(), text, line=line)
