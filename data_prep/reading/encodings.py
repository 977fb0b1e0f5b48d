"""Encodings of text files: to UTF-8 where data.encoding names another one, and a guess for a file that is not UTF-8."""

import codecs
from collections.abc import Iterator
from itertools import chain

from data_prep.reading.unpacking import DamagedStream

UTF8 = "utf-8"
MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}  # first bytes of a file
LOOKED_AT = 4096  # bytes that a guess is made from
MOSTLY = 0.3  # of the bytes at even or odd places that are NUL: text of Latin letters in UTF-16


def to_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Text in `encoding` as UTF-8. Bytes that mean nothing in it stay as they are, so that their record is rejected."""
    first = next(chunks, b"")
    if encoding == "utf-16":
        marked = MARKS.get(first[:2])
        encoding, first = marked or order_of(first) or "utf-16-le", first[2:] if marked else first
    wide = encoding.startswith(("utf-16", "utf-32"))
    errors = "surrogatepass" if wide else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    try:
        for chunk in chain([first], chunks):
            yield decoder.decode(chunk).encode(UTF8, errors)
        yield decoder.decode(b"", final=True).encode(UTF8, errors)
    except UnicodeDecodeError as error:
        raise DamagedStream(f"broken {encoding}: {error.reason}") from error


def seems_to_be(head: bytes) -> str | None:
    """The encoding that the first bytes of a text file seem to be in, where they are not UTF-8; else None."""
    if head[:2] in MARKS or order_of(head):
        return "utf-16"
    head = head[:LOOKED_AT]
    try:
        codecs.getincrementaldecoder(UTF8)().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None if 0 in head else "cp1252"
    return None


def order_of(head: bytes) -> str | None:
    """Which of both orders of bytes UTF-16 without a mark is in, by the NULs of its Latin letters; None: not UTF-16."""
    head = head[:LOOKED_AT]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) <= MOSTLY * (len(head) // 2) or 3 * min(even, odd) > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"
