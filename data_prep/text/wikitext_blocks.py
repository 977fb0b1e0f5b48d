"""What is dropped whole from wikitext: comments, references, formulas, templates, tables, pictures, categories.

Each pass reads the page once, whatever is nested in it or left open, and leaves GAP where something stood. What was
never closed costs the lines that visibly belong to it, not the rest of the page.
"""

import re

GAP = "\x01"  # no XML holds it
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
DEEPEST_LINK = 4  # links in links; no page means more
LONGEST_TARGET = 300  # characters of a link that may be its target; MediaWiki's titles have at most 255 bytes
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")  # prefix of an interlanguage link
PROJECTS = {"mw", "voy", "wmf", "doi", "rfc"}  # short prefixes that are no language
MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|og[gavm]|oga|webm|mp[34]|mid|wav|flac|pdf|djvu)$", re.I)


def without_blocks(text: str, dropped_spaces: frozenset[str]) -> str:
    """Wikitext of links, styles and text. `dropped_spaces`: lower-case namespaces of pictures and categories."""
    text = without_comments(text.replace(GAP, ""))
    text = without_nowiki(text)
    text = cut_out(text, tag_spans(text))
    text = cut_out(text, template_spans(text))
    text = cut_out(text, table_spans(text))
    return without_links(text, dropped_spaces)


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
    """A comment that has lines of its own takes their ends along; one left open reaches to the end of the page."""
    parts, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        end = text.find("-->", start + 4)
        end = len(text) if end < 0 else end + 3
        before = text.rfind("\n", 0, start) + 1
        after = _line_end(text, end)
        alone = before >= position and not text[before:start].strip() and not text[end:after].strip()
        parts.append(text[position : before if alone else start])
        position = after + 1 if alone else end
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
                spans.append((left_open, min(start, _line_end(text, left_open))))
            starts.append(start)
        elif starts and not (name == "ref" and EMPTY_LINE.search(text, starts[-1], start)):
            spans.append((starts.pop(), end))
        else:
            spans.append((start, end))
    return spans + [(starts[0], _line_end(text, starts[0])) for starts in opened.values() if starts]


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def template_spans(text: str) -> list[Span]:
    """Templates, parameters and parser functions: runs of two or more braces, matched as far as both runs reach."""
    spans: list[Span] = []
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
            spans.append((opened[-1][0] + opened[-1][1], run.end() - braces))
            if opened[-1][1] < 2:
                opened.pop()
        if braces:
            spans.append((run.end() - braces, run.end()))
    return spans + _left_open(text, [start for start, _ in opened])


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


def _left_open(text: str, starts: list[int]) -> list[Span]:
    """The lines of templates or tables left open, and those after them that can only be parameters or rows."""
    spans: list[Span] = []
    for start in starts:
        if not spans or start >= spans[-1][1]:
            end = _line_end(text, start)
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
