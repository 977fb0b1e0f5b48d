"""Pages of a MediaWiki dump to articles as running text.

A page is parsed by itself, so a broken one costs no other, and no document type (entities, files from elsewhere) can
stand before it.
"""

from collections.abc import Iterator
from xml.etree import ElementTree

from mwparserfromhell.parser import ParserError

from data_prep.reading.slices import FIRST_PAGE, LARGEST_DOCUMENT, Piece
from data_prep.text.document import SAMPLE_LENGTH, TOO_LARGE, Document, Gaps, LeftOut, Reject, reject
from data_prep.text.template_table import TemplateTable
from data_prep.text.wikitext import running_text

END = b"</page>"
ARTICLES = "0"  # the namespace of articles, in every wiki


def pages(
    piece: Piece, text: bytes, table: TemplateTable | None = None, drop: bool = False
) -> Iterator[Document | Reject]:
    """Every page of a piece, in order: an article, or why it is none.

    `table`: of templates; None: the built-in one. `drop`: sentences with a gap are left out.
    """
    position, line = 0, piece.first
    while True:
        start = text.find(FIRST_PAGE, position)
        between = text[position : start if start >= 0 else len(text)]
        if b"<text" in between or b"<revision" in between:  # a page whose own tag is broken
            yield reject(piece, line, "malformed XML: text outside of a page", between.strip())
        if start < 0:
            return
        line += between.count(b"\n")
        end = text.find(END, start)
        following = text.find(FIRST_PAGE, start + 1, end if end >= 0 else len(text))
        stop = following if following >= 0 else end + len(END) if end >= 0 else len(text)
        raw = text[start:stop]
        if following >= 0:
            yield reject(piece, line, "malformed XML: a page without its end", raw)
        elif end < 0:
            reason = "cut off: the file is damaged" if piece.truncated else "malformed XML: a page without its end"
            yield reject(piece, line, TOO_LARGE if len(raw) > LARGEST_DOCUMENT else reason, raw)
        else:
            yield article(piece, line, raw, table, drop)
        line += raw.count(b"\n")
        position = stop


def article(
    piece: Piece, line: int, raw: bytes, table: TemplateTable | None = None, drop: bool = False
) -> Document | Reject:
    """The article of one <page> element."""
    if len(raw) > LARGEST_DOCUMENT:
        return reject(piece, line, TOO_LARGE, raw)
    try:
        page = ElementTree.fromstring(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return reject(piece, line, "not UTF-8", raw)
    except ElementTree.ParseError as error:
        return reject(piece, line, f"malformed XML: {error.msg.split(':')[0]}", raw)
    title, space = page.findtext("title") or "", (page.findtext("ns") or "").strip()
    key = (page.findtext("id") or "").strip()

    def left_out(reason: str) -> LeftOut:
        return LeftOut(piece.file.name, line, reason, title[:SAMPLE_LENGTH])

    if not key.isdigit() or not space:
        return reject(piece, line, "malformed page: no <id> or <ns>", raw)
    if space != ARTICLES:
        return left_out(f"namespace {space}")
    if page.find("redirect") is not None:
        return left_out("redirect")
    revisions = page.findall("revision")
    if not revisions:
        return reject(piece, line, "malformed page: no <revision>", raw)
    if (revisions[-1].findtext("model") or "wikitext") != "wikitext":
        return left_out("no wikitext")
    gaps = Gaps()
    try:
        text = running_text(revisions[-1].findtext("text") or "", piece.dropped_spaces, table, title, gaps, drop)
    except (RecursionError, ParserError) as error:
        return Reject(piece.file.name, line, f"markup that cannot be parsed: {type(error).__name__}", title)
    return Document(f"wikipedia:{key}", text, title, gaps=gaps) if text else left_out("no running text")
