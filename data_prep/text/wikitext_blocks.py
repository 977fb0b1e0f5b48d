"""What is dropped whole from wikitext: comments, references, tables, pictures, categories, formulas that are not plain.

Each pass reads the page once, whatever is nested in it or left open, and leaves GAP where something stood. What was
never closed costs the lines that visibly belong to it, not the rest of the page.
"""

import re
from typing import NamedTuple

from data_prep.text.as_written import kept, kept_markup
from data_prep.text.formulas import plain_formula
from data_prep.text.template_table import TemplateTable
from data_prep.text.templates import GAP, HOLE, Expander, Holes, Template

Span = tuple[int, int]

DROPPED_TAGS = (  # extensions and HTML whose content is no running text
    "ref|references|math|chem|ce|gallery|timeline|imagemap|score|syntaxhighlight|source|pre|graph|mapframe|maplink|"
    "templatestyles|templatedata|hiero|inputbox|categorytree|includeonly|style|script|ul|ol|dl|table|h[1-6]"
)
TAG = re.compile(rf"<(/?)({DROPPED_TAGS})(?=[\s/>])[^<>]*?(/?)>", re.IGNORECASE)
FORMULAS = ("math", "chem", "ce")
UNREAD = re.compile(r"<!--|<(/?)nowiki\s*(/?)>", re.IGNORECASE)
NOWIKI, NOWIKI_END = (re.compile(rf"<{slash}nowiki\s*>", re.IGNORECASE) for slash in ("", "/"))
BRACES = re.compile(r"\{\{+|\}\}+")
TABLE = re.compile(r"^[ \t:*#]*(\{\||\|\})", re.MULTILINE)
LINK = re.compile(r"\[\[|\]\]")
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
CONTINUED = re.compile(r"(?:\n[ \t]*(?:[|!*}][^\n]*)?(?=\n|\Z))+")  # rows or parameters, and empty lines among them
SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)")
IN_REFERENCE = re.compile(r"(\{\{+|\[+)|(\}\}+|\]+)|\n[ \t]*\n|\n|(?<=[.!?])(?=\s)|(?<=[。！？])")
BEGINS_NESTED = re.compile(r"\s*(?:\{\{|\[)")
DEEPEST_LINK = 4  # links in links; no page means more
LONGEST_TARGET = 300  # characters of a link that may be its target; MediaWiki's titles have at most 255 bytes
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")  # prefix of an interlanguage link
PROJECTS = {"mw", "voy", "wmf", "doi", "rfc"}  # short prefixes that are no language
MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|og[gavm]|oga|webm|mp[34]|mid|wav|flac|pdf|djvu)$", re.I)


class Blocks(NamedTuple):
    """A page of links, styles and text."""

    text: str
    names: list[str]  # of what left a hole (see templates.Holes)
    open_references: int  # references that are never closed


def without_blocks(text: str, dropped_spaces: frozenset[str], table: TemplateTable, title: str = "") -> Blocks:
    """Wikitext without blocks. `dropped_spaces`: lower-case namespaces of pictures and categories."""
    text = without_comments(HOLE.sub("", text.replace(GAP, "")))
    holes = Holes()
    tags = Tags(text)
    text = cut_out(text, tags.spans, {f.span: formula_text(text, f, table, holes) for f in tags.formulas})
    templates, left_open = template_spans(text)
    if left_open:
        text = cut_out(text, left_open)
        templates, _ = template_spans(text)
    text = Expander(text, templates, table, title, holes).text()
    text = cut_out(text, table_spans(text))
    return Blocks(without_links(text, dropped_spaces), holes.names, tags.open_references)


def cut_out(text: str, spans: list[Span], shown: dict[Span, str] | None = None) -> str:
    """The text with GAP, or what is shown instead, in place of each span; spans may overlap."""
    parts, end = [], 0
    for start, stop in sorted(spans):
        if stop <= end:
            continue
        if start >= end:
            parts += [text[end:start], (shown or {}).get((start, stop), GAP)]
        end = stop
    return "".join(parts) + text[end:]


def without_comments(text: str) -> str:
    """Neither comments nor marks of nowiki, between which all is kept as it is written; whichever begins first counts.

    A comment that has lines of its own takes their ends along; one left open ends with its line. A nowiki left open
    goes alone.
    """
    parts, position, last_end = [], 0, text.rfind("-->")
    ends = [end.span() for end in NOWIKI_END.finditer(text)][::-1]
    opened_until = 0  # before here every nowiki is left open
    while mark := UNREAD.search(text, position):
        start = mark.start()
        if mark[0] == "<!--":
            closed = start + 4 <= last_end
            end = text.find("-->", start + 4) + 3 if closed else _line_end(text, start)
            before = max(position, text.rfind("\n", position, start) + 1)
            alone = (before == 0 or text[before - 1] == "\n") and not text[before:start].strip()
            after = _line_end(text, end) if alone else end
            alone = alone and not text[end:after].strip()
            parts.append(text[position : before if alone else start])
            position = min(after + 1, len(text)) if alone else end
            continue
        parts.append(text[position:start])
        position = mark.end()
        if mark[1] or mark[2]:
            continue
        while ends and ends[-1][0] < position:
            ends.pop()
        if ends and start >= opened_until:
            opened_until = _left_open_until(text, position, ends[-1][0])
            if start >= opened_until:
                parts.append(kept_markup(text[position : ends[-1][0]]))
                position = ends[-1][1]
    return "".join(parts) + text[position:]


def _left_open_until(text: str, start: int, end: int) -> int:
    """Where the last empty line between nowikis lies that share one end; 0 where there is none."""
    others = [other.start() for other in NOWIKI.finditer(text, start, end)]
    lines = [line.start() for line in EMPTY_LINE.finditer(text, start, others[-1])] if others else []
    return lines[-1] if lines else 0


class Formula(NamedTuple):
    """An element whose content is a formula."""

    name: str
    span: Span  # of the element
    content: Span


class Tags:
    """Elements of DROPPED_TAGS. One left open ends with its line, a reference with its sentence."""

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = []
        self.formulas: list[Formula] = []
        self.open_references = 0
        self._text = text
        opened: dict[str, list[Span]] = {}
        for tag in TAG.finditer(text):
            self._read(tag, opened.setdefault(tag[2].lower(), []))
        for name, tags in opened.items():
            if tags and name == "ref":
                self._left_open(tags[0], len(text))
            elif tags:
                self.spans.append((tags[0][0], _line_end(text, tags[0][0])))

    def _read(self, tag: re.Match[str], opened: list[Span]) -> None:
        name = tag[2].lower()
        if tag[3]:
            self.spans.append(tag.span())
            return
        # references do not nest, nor does one hold an empty line
        if name == "ref" and opened and (not tag[1] or EMPTY_LINE.search(self._text, opened[-1][1], tag.start())):
            self._left_open(opened.pop(), tag.start())
        if not tag[1]:
            opened.append(tag.span())
        elif not opened:
            self.spans.append(tag.span())
        else:
            start, content = opened.pop()
            self.spans.append((start, tag.end()))
            if name in FORMULAS:
                self.formulas.append(Formula(name, self.spans[-1], (content, tag.start())))

    def _left_open(self, tag: Span, limit: int) -> None:
        """A reference that is never closed: it ends behind the template or link it begins with, or its sentence."""
        self.open_references += 1
        begins_nested = BEGINS_NESTED.match(self._text, tag[1], limit)
        depth, border, end = 0, None, limit
        for mark in IN_REFERENCE.finditer(self._text, tag[1], limit):
            signs = len(mark[0]) // 2 if mark[0][:1] in ("{", "}") else len(mark[0])
            if mark[1]:
                depth += signs
            elif mark[2]:
                depth -= signs
                if depth < 0 or (depth == 0 and begins_nested):
                    end = mark.start() if depth < 0 else mark.end()
                    break
            elif depth == 0 or EMPTY_LINE.fullmatch(mark[0]):
                end = mark.start()
                break
            elif border is None:
                border = mark.start()  # where it ends if its template is never closed either
        self.spans.append((tag[0], end if depth <= 0 or border is None else border))


def formula_text(text: str, formula: Formula, table: TemplateTable, holes: Holes) -> str:
    """A plain formula as it is read, any other one as a hole."""
    plain = plain_formula(text[slice(*formula.content)], table.formulas, chemical=formula.name != "math")
    return holes.hole(f"<{formula.name}>") if plain is None else kept(plain)


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def template_spans(text: str) -> tuple[list[Template], list[Span]]:
    """Templates, parameters and parser functions, and what is left open of such.

    Runs of two or more braces are matched as far as both reach.
    """
    found: list[Template] = []
    opened: list[list[int]] = []  # [where, braces not yet closed]
    for run in BRACES.finditer(text):
        braces = len(run[0])
        if run[0][0] == "{":
            opened.append([run.start(), braces])
            continue
        while braces >= 2 and opened:
            matched = min(braces, opened[-1][1])
            opened[-1][1] -= matched
            braces -= matched
            found.append((opened[-1][0] + opened[-1][1], run.end() - braces, matched))
            if opened[-1][1] < 2:
                opened.pop()
        if braces:
            found.append((run.end() - braces, run.end(), 0))
    return found, _left_open(text, [start for start, _ in opened], in_sentences=True)


def table_spans(text: str) -> list[Span]:
    """Tables, nested ones too."""
    spans: list[Span] = []
    opened: list[int] = []
    for mark in TABLE.finditer(text):
        if mark[1] == "{|":
            opened.append(mark.start())
        else:
            spans.append((opened.pop() if opened else mark.start(), mark.end()))
    return spans + _left_open(text, opened)


def _left_open(text: str, starts: list[int], in_sentences: bool = False) -> list[Span]:
    """The lines of templates or tables left open, and those after them that can only be parameters or rows.

    Of a template in the midst of a line only the rest of its sentence is lost.
    """
    spans: list[Span] = []
    line_start = 0
    for start in starts:
        if spans and start < spans[-1][1]:
            continue
        line_start = max(line_start, text.rfind("\n", line_start, start) + 1)
        end = _line_end(text, start)
        begun = in_sentences and text[line_start : min(start, line_start + 80)].strip(f" \t{GAP}{{")
        if begun:
            sentence_end = SENTENCE_END.search(text, start, end)
            spans.append((start, sentence_end.start() if sentence_end else end))
        else:
            more = CONTINUED.match(text, end)
            spans.append((start, more.end() if more else end))
    return spans


def without_links(text: str, dropped_spaces: frozenset[str]) -> str:
    """Pictures, categories and interlanguage links with all they hold; brackets that close nothing; too deep ones."""
    spans: list[Span] = []
    opened: list[int] = []
    for mark in LINK.finditer(text):
        if mark[0] == "[[":
            opened.append(mark.start())
        elif not opened:
            spans.append(mark.span())
        else:
            start = opened.pop()
            if is_dropped(text[start + 2 : min(mark.start(), start + LONGEST_TARGET)], dropped_spaces):
                spans.append((start, mark.end()))
            elif len(opened) >= DEEPEST_LINK:
                spans += [(start, start + 2), mark.span()]
    for start in opened:
        dropped = is_dropped(text[start + 2 : start + LONGEST_TARGET].split("\n", 1)[0], dropped_spaces)
        spans.append((start, _line_end(text, start) if dropped else start + 2))
    return cut_out(text, spans)


def is_dropped(link: str, dropped_spaces: frozenset[str]) -> bool:
    """Is a link's inside a picture, a category or the same page in another language?"""
    target = link.split("|", 1)[0].strip(f" \t_\n{GAP}\u200e\u200f")
    space, colon, name = target.partition(":")
    if not colon or not space:
        return False
    space = space.strip(" _").replace("_", " ")
    if space.lower() in dropped_spaces or MEDIA.search(name):
        return True
    return bool(LANGUAGE.fullmatch(space)) and space not in PROJECTS
