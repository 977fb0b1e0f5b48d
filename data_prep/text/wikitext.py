"""Wikitext of an article to its running text, one paragraph a line."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, HTMLEntity, Tag, Text, Wikilink

from data_prep.text.as_written import MARKUP, WAITING, kept, restored
from data_prep.text.document import Gaps
from data_prep.text.sentences import cut, sentences
from data_prep.text.template_table import TemplateTable, template_table
from data_prep.text.templates import FIRST_HOLE, GAP, HOLE
from data_prep.text.wikitext_blocks import without_blocks

HEADING = re.compile(r"={1,6}.*={1,6}\s*")
LIST = ("*", "#", ";")
TABLE_ROW = ("|", "!")
BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
PARAGRAPH_TAG = re.compile(r"</?(?:p|div|blockquote|center|hr|poem|tr|td|th|li|dd|dt)\b[^<>]*>", re.IGNORECASE)
ANY_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
QUOTES = re.compile(r"'{2,}")
SWITCH = re.compile(r"__([^\W_]+(?:_[^\W_]+)*)__")  # __NOTOC__ and its translations
BOLD_LINE = re.compile(r"'''[^'.!?]*'''[\s:]*")  # a heading in bold
MISSING = "\x02"  # where a text is missing, in the paragraph that is being made plain
OPEN, CLOSED = "\x03", "\x04"  # brackets that are text
GAP_RUN = re.compile(rf" ?[{GAP}{MISSING}](?: ?[,;:،，；、]? ?[{GAP}{MISSING}])+")
APART = re.compile(rf"(?<=\w){MISSING}(?=\w)|(?<=\d){GAP}(?=\w)|(?<=\w){GAP}(?=\d)")
EMPTY_BRACKETS = re.compile(
    rf"\([\s{GAP},;:/–—-]*\)|\[[\s{GAP},;:]*\]|（[\s{GAP}、,;:：，；]*）|“[\s{GAP}]*”|«[\s{GAP}]*»|„[\s{GAP}]*“"
    rf"|‘[\s{GAP}]*’|「[\s{GAP}]*」|『[\s{GAP}]*』|《[\s{GAP}]*》"
)
EMPTY_QUOTES = re.compile(rf"(?<![^\s({GAP}])([\"']){GAP}+\1(?!\w)")
AFTER_BRACKET = re.compile(rf"([(（]) ?{GAP} ?(?:[,;:،，；] ?)?")
BEFORE_BRACKET = re.compile(rf" ?(?:[,;:،，；] ?)?{GAP} ?([)）])")
# a sentence that would begin with a sign, a word with a hyphen or 's
FIRST_SIGN = re.compile(rf"(^ ?|[.!?][\"'”»)]? |[。！？][”」』）]?)(?: ?{GAP} ?(?:[,;:.!?،，；：、。！？]+ ?|[–—-] ))+")
ENDING = re.compile(rf"(?<![^\s(\[\"“«„—]){GAP}(?:['’]s\b|[-–](?=\w))")
TWO_ENDS = re.compile(rf"(?<=[.!?]){GAP}\.(?!\.)")
TWO_SIGNS = re.compile(rf"[,;:] ?{GAP} ?(?=[,;:.!?])")
BEFORE_SIGN = re.compile(rf" ?{GAP} ?(?=[,.;:!?)])")
GAPS = re.compile(rf" ?{GAP} ?")
LEFT = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+|\{\||\|\}|<ref\b[^>]*>?|</ref>", re.IGNORECASE)
VARIANTS = re.compile(r"-\{([^{}]*)\}-")  # the same in several scripts: -{zh-hans:...; zh-hant:...}-
UNUSED = re.compile(rf"[{MISSING}{OPEN}{CLOSED}]|{WAITING.pattern}")  # no text holds them
BRACKET = re.compile(r"[\[\]]")
DEEPEST = 6  # brackets in brackets that are left to the parser, whose time may grow faster than the text
MOST_ROUNDS = 5  # of taking away markup that only showed when other markup went
LONGEST_PARSED = 20_000  # characters; a longer paragraph is parsed in pieces


def running_text(
    wikitext: str,
    dropped_spaces: frozenset[str],
    table: TemplateTable | None = None,
    title: str = "",
    gaps: Gaps | None = None,
    drop: bool = False,
) -> str:
    """Paragraphs of an article, one a line; empty where it has none.

    `dropped_spaces` are the wiki's names (lower case) of the namespaces of pictures and categories. `table` says what
    is shown of templates, the built-in one if None. What is missing in the text is added to `gaps`. `drop`: sentences
    where something is missing are left out.
    """
    table = table or template_table()
    gaps = gaps if gaps is not None else Gaps()
    blocks = without_blocks(UNUSED.sub("", wikitext).replace("\r\n", "\n"), dropped_spaces, table, title)
    gaps.open_references += blocks.open_references
    joins = joining(tuple(table.conjunctions))
    text = PARAGRAPH_TAG.sub("\n\n", BREAK.sub(" ", VARIANTS.sub(variant, blocks.text)))
    text = ANY_TAG.sub("", text).replace("<", "&lt;")
    found = []
    for paragraph in paragraphs(text):
        holes = HOLE.findall(paragraph)
        marked = plain(HOLE.sub(MISSING, paragraph))
        shown = joined(marked, joins)
        # a formula, whose characters are all waiting, is no paragraph
        if not (any(c.isalnum() for c in shown) and any(c.isalnum() for c in marked)):
            continue
        if holes:
            whole = [sentence for sentence in sentences(marked, table.language) if MISSING not in sentence]
            gaps.templates.update(blocks.names[ord(hole) - FIRST_HOLE] for hole in holes)
            gaps.paragraphs += 1
            gaps.sentences += sum(1 for _ in sentences(marked, table.language)) - len(whole)
            shown = joined("".join(whole), joins) if drop else shown
        if shown:
            found.append(shown)
    return "\n".join(found)


def paragraphs(text: str) -> Iterator[str]:
    """Runs of lines that are neither headings, lists nor rows; an indented line stands for itself."""
    run: list[str] = []
    in_list = False
    for line, without_holes in zip(text.split("\n"), HOLE.sub(GAP, text).split("\n"), strict=True):
        bare = without_holes.strip(f" \t{GAP}")
        begin = line.strip(f" \t{GAP}")  # a sign behind text that is missing makes no list
        indented = begin.startswith(":")
        kind = begin.lstrip(": ")
        dropped = kind.startswith((*LIST, *TABLE_ROW, "----")) or bool(HEADING.fullmatch(bare))
        if run and (dropped or indented or not bare):
            yield " ".join(run)
            run = []
        if indented and not dropped and not in_list:
            yield line.strip(f" \t:{GAP}")
        elif bare and not dropped and not indented:
            run.append(line.strip())
        if not indented:
            in_list = kind.startswith(LIST)
    if run:
        yield " ".join(run)


def plain(paragraph: str) -> str:
    """A paragraph without links, styles and entities; gaps are marked still."""
    if BOLD_LINE.fullmatch(paragraph):
        return ""
    pieces = cut(closed_brackets(QUOTES.sub("", paragraph)), LONGEST_PARSED)
    text = "".join(shown(mwparserfromhell.parse(piece, skip_style_tags=True)) for piece in pieces)
    return SWITCH.sub(lambda m: m[0] if m[1] != m[1].upper() else "", text)


@lru_cache(maxsize=8)
def joining(conjunctions: tuple[str, ...]) -> re.Pattern[str]:
    """Finds a conjunction that joins nothing: a gap follows it, and then another one, a sign or the end."""
    word = "|".join(re.escape(c) for c in conjunctions) or "(?!)"
    return re.compile(rf"(?<!^)(?: (?:{word}) {GAP})(?=,? (?:{word}) | ?[.,;:!?)]| ?$)")


def joined(text: str, joins: re.Pattern[str]) -> str:
    """A plain paragraph whose gaps are closed, with no sign, blank, bracket or conjunction too many."""
    text = EMPTY_BRACKETS.sub(GAP, " ".join(QUOTES.sub("", text).split()))
    if GAP in text or MISSING in text:
        text = without_gaps(text, joins)
    text = text.replace(OPEN, "[").replace(CLOSED, "]")
    for _ in range(MOST_ROUNDS):
        if (less := QUOTES.sub("", LEFT.sub("", text))) == text:
            break
        text = less
    else:
        text = re.sub(r"[\[\]{}]|'{2,}", "", re.sub(r"'(?=[\[\]{}])", "", text))
    return " ".join(restored(text).split())


def without_gaps(text: str, joins: re.Pattern[str]) -> str:
    """The text with its gaps closed; it has single blanks."""
    text = APART.sub(" ", GAP_RUN.sub(one_gap, text)).replace(MISSING, GAP)
    text = joins.sub(f" {GAP}", ENDING.sub(GAP, GAP_RUN.sub(one_gap, EMPTY_QUOTES.sub(GAP, text))))
    text = AFTER_BRACKET.sub(r"\1", BEFORE_BRACKET.sub(r"\1", text))
    text = EMPTY_BRACKETS.sub(GAP, EMPTY_BRACKETS.sub(GAP, text))
    text = TWO_SIGNS.sub("", TWO_ENDS.sub("", FIRST_SIGN.sub(r"\1", GAP_RUN.sub(one_gap, text))))
    return GAPS.sub(lambda m: " " if " " in m[0] else "", BEFORE_SIGN.sub("", text))


def one_gap(run: re.Match[str]) -> str:
    """One mark for several, with a blank before it where there was one."""
    return " " * (" " in run[0]) + (MISSING if MISSING in run[0] else GAP)


def closed_brackets(paragraph: str) -> str:
    """Brackets that close nothing, are never closed or stand too deep become text."""
    opened: list[int] = []
    odd: list[int] = []
    for mark in BRACKET.finditer(paragraph):
        if mark[0] == "[":
            opened.append(mark.start())
        elif not opened:
            odd.append(mark.start())
        else:
            start = opened.pop()
            if len(opened) >= DEEPEST:
                odd += [start, mark.start()]
    parts, end = [], 0
    for place in sorted(odd + opened):
        parts += [paragraph[end:place], OPEN if paragraph[place] == "[" else CLOSED]
        end = place + 1
    return "".join(parts) + paragraph[end:]


def variant(match: re.Match[str]) -> str:
    """The first of several spellings; nothing where the braces only give a rule."""
    content = match[1]
    flag, bar, rest = content.partition("|")
    if bar:
        content = "" if set("THA-") & set(flag) - {"A"} else rest
    first = content.split(";", 1)[0]
    return first.split(":", 1)[-1] if ";" in content else content


def shown(code: Any) -> str:
    """What a reader sees of parsed wikitext."""
    parts = []
    for node in code.nodes:
        if isinstance(node, Text):
            parts.append(str(node.value))
        elif isinstance(node, Wikilink):
            label = shown(node.text) if node.text is not None else shown(node.title).removeprefix(":")
            parts.append(label.rsplit("|", 1)[-1])
        elif isinstance(node, ExternalLink):
            parts.append(shown(node.title) if node.title is not None else GAP if node.brackets else str(node.url))
        elif isinstance(node, HTMLEntity):
            parts.append(entity(node))
        elif isinstance(node, Tag) and node.contents is not None:
            parts.append(shown(node.contents))
        else:
            parts.append(GAP)
    return "".join(parts)


def entity(node: HTMLEntity) -> str:
    """The character, kept as it is where it could be markup; nothing where there is none of that number."""
    try:
        character = str(node.normalize())
    except (ValueError, OverflowError):
        return ""
    if "\ud800" <= character <= "\udfff" or (character < " " and character not in "\t\n"):
        return ""
    if HOLE.match(character) or WAITING.match(character):
        return ""
    return kept(character) if MARKUP.fullmatch(character) else character
