"""Wikitext to running text: thirty pages against texts written by hand, and markup that is broken."""

import random
import re
from collections import Counter

import pytest
from tools import ROOT

from data_prep.text.wikitext import running_text

PAGES = ROOT / "tests" / "fixtures" / "wikipedia"
SPACES = {  # pictures and categories, as each dump's <siteinfo> names them; the English dump has none
    "bg": frozenset({"file", "image", "category", "файл", "категория"}),
    "en": frozenset({"file", "image", "category"}),
    "ltg": frozenset({"file", "image", "category", "fails", "kategoreja"}),
}
MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?\w+[^>]*>|<ref|''|__\w+__|&\w+;|\x01")
PIECES = [
    "{{", "}}", "[[", "]]", "{|", "|}", "\n", "\n|", "|", "<ref>", "</ref>", '<ref name="a"/>', "<!--", "-->", "''",
    "'''", "==", "*", "\n*", "\n:", ":", ";", "#", "Word. ", "[http://a.b ", "]", "&nbsp;", "<div>", "</div>", "<ul>",
    "</ul>", "File:", "Category:", "de:", "http://x.y ", "__NOTOC__", "(", ")", "-{", "}-",
    "{", "}", "<br>", "<math>", "</math>", " ", "\n\n", "=", "----", "&#1;", "&#xd800;", "&#99999999;", "\x01", "<pre",
    ">",
]  # fmt: skip
ENDS = {
    "{{a|": "}}",
    "[[a|": "]]",
    "{|\n|": "\n|}",
    "<div>": "</div>",
    "<ref>x ": "</ref>",
    "[http://a.b ": "]",
    "[": "]",
}
UNENDED = ["<b ", "''a '''b ", "({{a}}", "<nowiki>", "<ul>", "{{{", "\n{{a\n|b", "<!--a-->"]


def text_of(wikitext: str) -> str:
    return running_text(wikitext, SPACES["ltg"])


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def test_pages_give_what_was_written_by_hand():
    rows, found, expected, common = [], 0, 0, 0
    for page in sorted(PAGES.glob("*.wikitext")):
        text = running_text(page.read_text(), SPACES[page.stem.split("-")[0]])
        assert not MARKUP.search(text), f"{page.name}: {MARKUP.search(text)}"
        got, wanted = words(text), words(page.with_suffix(".txt").read_text())
        both = (got & wanted).total()
        found, expected, common = found + got.total(), expected + wanted.total(), common + both
        rows.append(f"{page.stem}: recall {both / wanted.total():.3f}, precision {both / max(1, got.total()):.3f}")
    assert len(rows) == 30
    report = "\n".join(rows)
    assert common / expected >= 0.98, report
    assert common / found >= 0.95, report


def test_paragraphs_stay_paragraphs():
    """Of all thirty pages only a reference that stands as a plain line is a paragraph too many."""
    more = {}
    for page in PAGES.glob("*.wikitext"):
        text = running_text(page.read_text(), SPACES[page.stem.split("-")[0]]).splitlines()
        wanted = page.with_suffix(".txt").read_text().splitlines()
        assert [line for line in text if line in wanted] == wanted, page.name
        more |= {page.stem: len(text) - len(wanted)} if text != wanted else {}
    assert more == {"ltg-348": 1}


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("A [[b|c]]s [[d]]. ''E'' '''f'''", "A cs d. E f"),
        ("One\ntwo\n\nthree", "One two\nthree"),
        ("== H ==\nText.\n* item\n# item\n; term\n: its text\nMore.\n: A quotation.", "Text.\nMore.\nA quotation."),
        ("[[Fails:a.jpg|thumb|Of [[b]] and [[c|d]].]]\nText.[[Kategoreja:X]]", "Text."),
        ("[[Attēls:a.JPG|thumb|x]]Text.", "Text."),  # an alias that <siteinfo> does not list
        ("Text [[:Kategoreja:X|label]] [[:en:Page|other]].\n[[en:Page]]\n[[zh-min-nan:Page]]", "Text label other."),
        ("A ({{lang|x}}) b ({{lang|x}}, c) d (e; {{f}}) g {{h}}.", "A b (c) d (e) g."),
        ("A<ref>b\nc</ref>, d<ref name=x />e.<!-- {{ --> f", "A, de. f"),
        ("A\n<!-- alone -->\nb", "A b"),
        ("[http://a.b label] and [http://a.b].", "label."),
        ("<nowiki>[[a]] '''b</nowiki> &amp;lt; &nbsp;c", "[[a]] '''b &lt; c"),
        ("{|\n| a\n{|\n| b\n|}\n|}\nText.\n{| class=x\n|-\n! y\n|}", "Text."),
        ("{{a|{{b|{{{c|}}}}}|d=\n\n* e}}Text. {{{f}}}", "Text."),
        ("<math>x^y</math> A<sub>2</sub><br/>b <gallery>\nFile:x.jpg|y\n</gallery>", "A2 b"),
        ("-{zh-hans:甲; zh-hant:乙}-丙（{{x}}）。", "甲丙。"),
        ("__NOTOC__ __БЕЗСЪДЪРЖАНИЕ__Text __init__.", "Text __init__."),
        ("'''Bold heading'''\n\n'''Bold''' text.", "Bold text."),
        ("<div align=center>\nText.\n</div><p>More.</p>", "Text.\nMore."),
    ],
)
def test_rules(wikitext, expected):
    assert text_of(wikitext) == expected


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{Infobox\n| a = b\n| c\n\n'''Name''' is a town.\n\nMore.", "Name is a town.\nMore."),
        ("{| class=x\n| a\n|-\n| b\n\nText after.", "Text after."),
        ("Text.<ref>a b\n\nMore.<ref>c</ref> End.", "Text.\nMore. End."),
        ("Text <ref>a. More <ref>b</ref> end.", "Text More end."),
        ("A [[b c. More [[d]].", "A b c. More d."),
        ("}} A ]] b |} </ref> c", "A b c"),
        ("A [http://a.b c", "A http://a.b c"),
        ("A <!-- b\n\nc", "A\nc"),
        ("A <!-- b\n<!-- c\n\nd <!-- e --> f <!-- g", "A f"),
        ("The {{convert|324|m is tall. It is old.\n\nMore.", "The It is old.\nMore."),
        ("A <nowiki>b\n\nc", "A b\nc"),
        ("A '' b ''' c ''''' d", "A b c d"),
        ("[[Fails:a.jpg|thumb|open\nText.", "Text."),
    ],
)
def test_markup_left_open_costs_its_lines_only(wikitext, expected):
    text = text_of(wikitext)
    assert text.replace("[", "") == expected
    assert not MARKUP.search(text)


@pytest.mark.parametrize("opened", [*ENDS, *UNENDED])
@pytest.mark.parametrize("closed", [False, True])
def test_thousands_of_levels_are_read_once(opened, closed):
    """The parser alone does not end within minutes on several of these."""
    text = text_of("Before.\n\n" + opened * 5000 + ENDS.get(opened, "") * 5000 * closed + "\n\nAfter.")
    assert text.startswith("Before.")
    assert text.endswith("\nAfter.")
    assert not re.search(r"\{\{|\[\[|\{\||<ref|''", text)


def test_a_page_of_several_megabytes():
    page = "Text with a [[link|label]] and {{template|x}} b.<ref>y</ref>\n\n" * 10_000
    assert text_of(page) == "\n".join(["Text with a label and b."] * 10_000)


def test_markup_in_any_order_leaves_none():
    rng = random.Random(14)
    for _ in range(4000):
        wikitext = "".join(rng.choices(PIECES, k=rng.choice([3, 8, 30, 100])))
        text = text_of(wikitext)
        left = re.search(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|<ref\b|</ref>|''|\x01|[\ud800-\udfff]", text)
        assert not left, f"{wikitext!r} gives {text!r}"
        assert all(line == line.strip() and line for line in text.splitlines())
