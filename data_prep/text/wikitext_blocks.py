"""What is dropped whole from wikitext: comments, references, formulas, tables, pictures, categories.

Each pass reads the page once, whatever is nested in it or left open, and leaves GAP where something stood. What was
never closed costs the lines that visibly belong to it, not the rest of the page.
"""

import re

from data_prep.text.template_table import TemplateTable
from data_prep.text.templates import GAP, HOLE, Expander, Template

Span = tuple[int, int]

DROPPED_TAGS = (  # extensions and HTML whose content is no running text
    "ref|references|math|chem|ce|gallery|timeline|imagemap|score|syntaxhighlight|source|pre|graph|mapframe|maplink|"
    "templatestyles|templatedata|hiero|inputbox|categorytree|includeonly|style|script|ul|ol|dl|table|h[1-6]"
)
TAG = re.compile(rf"<(/?)({DROPPED_TAGS})(?=[\s/>])[^<>]*?(/?)>", re.IGNORECASE)
NOWIKI = re.compile(r"<(/?)nowiki\s*(/?)>", re.IGNORECASE)
MARKUP = re.compile(r"[\[\]{}|'<>&*#:;=_!-]")
BRACES = re.compile(r"\{\{+|\}\}+")
TABLE = re.compile(r"^[ \t:*#]*(\{\||\|\})", re.MULTILINE)
LINK = re.compile(r"\[\[|\]\]")
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
CONTINUED = re.compile(r"(?:\n[ \t]*(?:[|!*}][^\n]*)?(?=\n|\Z))+")  # rows or parameters, and empty lines among them
SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)")
DEEPEST_LINK = 4  # links in links; no page means more
LONGEST_TARGET = 300  # characters of a link that may be its target; MediaWiki's titles have at most 255 bytes
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")  # prefix of an interlanguage link
PROJECTS = {"mw", "voy", "wmf", "doi", "rfc"}  # short prefixes that are no language
MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|og[gavm]|oga|webm|mp[34]|mid|wav|flac|pdf|djvu)$", re.I)


def without_blocks(
    text: str, dropped_spaces: frozenset[str], table: TemplateTable, title: str = ""
) -> tuple[str, list[str]]:
    """Wikitext of links, styles and text, and the names of templates that left a hole (see templates.Expander).

    `dropped_spaces`: lower-case namespaces of pictures and categories.
    """
    text = without_comments(HOLE.sub("", text.replace(GAP, "")))
    text = without_nowiki(text)
    text = cut_out(text, tag_spans(text))
    templates, left_open = template_spans(text)
    if left_open:
        text = cut_out(text, left_open)
        templates, _ = template_spans(text)
    expander = Expander(text, templates, table, title)
    text = expander.text()
    text = cut_out(text, table_spans(text))
    return without_links(text, dropped_spaces), expander.names


def cut_out(text: str, spans: list[Span]) -> str:
    """The text with GAP in place of each span; spans may overlap."""
    parts, end = [], 0
    for start, stop in sorted(spans):
        if stop <= end:
            continue
        if start >= end:
            parts += [text[end:start], GAP]
        end = stop
    return "".join(parts) + text[end:]


def without_comments(text: str) -> str:
    """A comment that has lines of its own takes their ends along; one left open ends with its line."""
    parts, position, last_end = [], 0, text.rfind("-->")
    while (start := text.find("<!--", position)) >= 0:
        closed = start + 4 <= last_end
        end = text.find("-->", start + 4) + 3 if closed else _line_end(text, start)
        before = max(position, text.rfind("\n", position, start) + 1)
        alone = (before == 0 or text[before - 1] == "\n") and not text[before:start].strip()
        after = _line_end(text, end) if alone else end
        alone = alone and not text[end:after].strip()
        parts.append(text[position : before if alone else start])
        position = min(after + 1, len(text)) if alone else end
    return "".join(parts) + text[position:]


def without_nowiki(text: str) -> str:
    """What is to be shown as it is, in entities; a mark left open goes."""
    parts, opened, position = [], None, 0
    for mark in NOWIKI.finditer(text):
        between = text[position : mark.start()]
        closes = bool(mark[1]) and opened is not None
        parts.append(MARKUP.sub(lambda c: f"&#{ord(c[0])};", between) if closes else between)
        opened = None if closes or mark[2] else mark.end()
        position = mark.end()
    return "".join(parts) + text[position:]


def tag_spans(text: str) -> list[Span]:
    """Elements of DROPPED_TAGS. One left open ends with its line, a reference also where the next begins."""
    spans: list[Span] = []
    opened: dict[str, list[int]] = {}
    for tag in TAG.finditer(text):
        name, start, end = tag[2].lower(), tag.start(), tag.end()
        starts = opened.setdefault(name, [])
        if tag[3]:
            spans.append((start, end))
        elif not tag[1]:
            if name == "ref" and starts:  # references do not nest
                left_open = starts.pop()
                end_of_line = text.find("\n", left_open, start)
                spans.append((left_open, start if end_of_line < 0 else end_of_line))
            starts.append(start)
        elif starts and not (name == "ref" and EMPTY_LINE.search(text, starts[-1], start)):
            spans.append((starts.pop(), end))
        else:
            spans.append((start, end))
    return spans + [(starts[0], _line_end(text, starts[0])) for starts in opened.values() if starts]


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
