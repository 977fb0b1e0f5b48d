"""Wikitext that other extractors get wrong, beside variants of the same kind."""

import random

import pytest

from data_prep.text.as_written import FIRST
from data_prep.text.document import Gaps
from data_prep.text.template_table import TemplateError, template_table
from data_prep.text.wikitext import running_text

SPACES = frozenset({"file", "image", "category"})
WRITTEN = ["{{", "}}", "[[", "]]", "{|", "|}", "|", "<ref>", "</ref>", "<!--", "-->", "''", "'''", "==", "*", ":", ";"]
WRITTEN += ["#", "[http://a.b c]", "<div>", "__NOTOC__", "(", ")", "-{", "}-", "<br>", "<math>", "a", "&", "<pre", "-"]


def text_of(wikitext: str) -> str:
    return running_text(wikitext, SPACES)


def gaps_of(wikitext: str) -> Gaps:
    gaps = Gaps()
    running_text(wikitext, SPACES, gaps=gaps)
    return gaps


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("Its president was {{ill|Luigi Vittorio Bertarelli|it}}.", "Its president was Luigi Vittorio Bertarelli."),
        ("Its president was {{Interlanguage link|Luigi B.|it|lt=Luigi}}.", "Its president was Luigi."),
        ("By {{ILL|A|it|B|de|C}}, {{interlanguage link multi|D|fr}} and {{Illm|E|es}}.", "By A, D and E."),
        ("In {{ill|de|Foo}} [[{{ill|Bar|it}}]] ''{{ill|Baz|fr|lt=the {{small|baz}}}}''.", "In de Bar the baz."),
    ],
)
def test_interlanguage_links_show_the_name(wikitext, expected):
    assert text_of(wikitext) == expected
    assert not gaps_of(wikitext).templates


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{XYZ|Camiseta}}, is a small shirt.", "is a small shirt."),
        ("'''{{XYZ|Camiseta}}''', is a small shirt.", "is a small shirt."),
        ('"{{XYZ|Camiseta}}", is a small shirt.', "is a small shirt."),
        ("‘{{XYZ}}’, is. 「{{XYZ}}」、甲。", "is. 甲。"),
        ("({{XYZ|Camiseta}}), is a small shirt.", "is a small shirt."),
        ("{{XYZ}} {{ABC}}; {{DEF}}: is a small shirt.", "is a small shirt."),
        ("{{XYZ|{{ABC|a}}, b}}, is a small shirt.", "is a small shirt."),
        ("{{XYZ}}. It is a small shirt.", "It is a small shirt."),
        ("{{XYZ}} – a small shirt – is here.", "a small shirt – is here."),
        ("{{XYZ}}! {{XYZ}}?! A shirt.", "A shirt."),
        ("{{XYZ}}'s shirt and {{XYZ}}-based shirts.", "shirt and based shirts."),
        ("It is old. {{XYZ}}, the shirt. {{XYZ}}. Then. {{XYZ}} - so.", "It is old. the shirt. Then. so."),
        ("甲。{{XYZ}}，乙。", "甲。乙。"),
        # signs that belong to what is there stay
        ("Cats, dogs etc.<ref>a</ref>, and cows.", "Cats, dogs etc., and cows."),
        ("Jones{{sfn|A}}'s shirt, a 12{{x}}–14 m wall, −5 and -5.", "Jones's shirt, a 12–14 m wall, −5 and -5."),
        ('He said "a" {{XYZ}} "b" (c) {{XYZ}}.', 'He said "a" "b" (c).'),
        ("[[File:a.jpg|thumb|b]]\n-5 degrees.", "-5 degrees."),
    ],
)
def test_a_gap_at_the_start_leaves_no_sign(wikitext, expected):
    assert text_of(wikitext) == expected


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("See [http://x.org the site] and [http://y.org] and more.", "See the site and more."),
        ("See [http://x.org the site] and [http://y.org].", "See the site."),
        ("See [http://x.org the site], [http://y.org z], and [http://y.org], and more.", "See the site, z, and more."),
        ("See [http://x.org the site] or [//y.org] and more.", "See the site and more."),
        ("See [HTTP://X.org ''the'' &amp; site] & [mailto:a@b.c] now.", "See the & site & now."),
        ("See it ([http://x.org], and [http://y.org]). So.", "See it. So."),
        ("See [http://x.org/a_(b)?c=d|e#f this [[page|one]]] http://y.org/a.", "See this one http://y.org/a."),
        ("Salt and <ref>a</ref> pepper, bread and butter and {{XYZ}}.", "Salt and pepper, bread and butter."),
        ("A sand and{{XYZ}} band.", "A sand and band."),
    ],
)
def test_external_links_are_joined_cleanly(wikitext, expected):
    assert text_of(wikitext) == expected


def test_conjunctions_are_those_of_the_language():
    page = "Siehe [http://x.org a] und [http://y.org] oder b and [http://y.org]."
    assert running_text(page, SPACES, template_table(None, "de")) == "Siehe a oder b and."
    assert running_text(page, SPACES, template_table(None, "xx")) == "Siehe a und oder b and."


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("Use <nowiki>[[link]]</nowiki> to make links.", "Use [[link]] to make links."),
        (
            "Use <NoWiki >'''b''' {{a|b=c}} <ref>d</ref> __TOC__</NOWIKI> so.",
            "Use '''b''' {{a|b=c}} <ref>d</ref> __TOC__ so.",
        ),
        (
            "Use {{code|<nowiki>{{ill|a|b=c}}</nowiki>}} and [[a|<nowiki>[[b]]</nowiki>]].",
            "Use {{ill|a|b=c}} and [[b]].",
        ),
        ("Use <nowiki><!-- a --></nowiki> so.<!-- <nowiki> --> And ''so''.", "Use <!-- a --> so. And so."),
        ("Use <nowiki>{{</nowiki>x<nowiki>}}</nowiki>; L<nowiki>'</nowiki>''a''.", "Use {{x}}; L'a."),
        ("Use <nowiki>&lt;b&gt; &amp;lt; AT&T</nowiki> so.", "Use <b> &lt; AT&T so."),
        ("Use &lt;ref&gt; and &#91;&#91;a&#93;&#93; and &#x7b;&#123;b so.", "Use <ref> and [[a]] and {{b so."),
        ("Use <nowiki/>a<nowiki />''b''<nowiki></nowiki>.", "Use ab."),
        ("Use <nowiki><nowiki></nowiki> so.", "Use <nowiki> so."),
        ("Use <nowiki>a\n\nb ''c'' <nowiki>[[d]]</nowiki>.", "Use a\nb c [[d]]."),
        ("A <nowiki>[[a", "A a"),
    ],
)  # fmt: skip
def test_nowiki_and_entities_are_shown_as_written(wikitext, expected):
    assert text_of(wikitext) == expected


def test_any_markup_in_nowiki_is_text():
    rng = random.Random(27)
    for _ in range(500):
        written = "".join(rng.choices(WRITTEN, k=rng.randint(1, 12)))
        assert text_of(f"Before x<nowiki>{written}</nowiki>y ''after''.") == f"Before x{written}y after."


def test_characters_that_stand_for_others_are_in_no_text():
    kept = chr(FIRST + ord("["))
    assert text_of(f"A{kept}b &#x{FIRST + 91:x};c.") == "Ab c."


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        (
            r"The area is <math>\pi r^2</math> for radius <math>r</math> in all cases.",
            "The area is for radius r in all cases.",
        ),
        ("<math>x</math>, <math> 2 </math> and <math>n = 3</math> go.", "x, 2 and n = 3 go."),
        (
            r"<MATH display=block>\alpha</MATH>, <math>f(x) \le 2\pi</math> in <math>\mathbb{R}</math>.",
            "α, f(x) ≤ 2π in ℝ.",
        ),
        (
            "{{math|''n'' {{=}} 3}}, {{mvar|x}}, {{math|''a'' &lt; ''b''}} and {{tmath|k}} go.",
            "n = 3, x, a < b and k go.",
        ),
        ("Water, <chem>H2O</chem>, and <ce>Ca(OH)2</ce> go.", "Water, H2O, and Ca(OH)2 go."),
        ("Take <math>[a]</math>, <math>f'(x)</math> and <math>|a|=b</math> so.", "Take [a], f'(x) and |a|=b so."),
        ("{{nowrap|<math>a=b|c</math>}} and {| so.", "a=b|c and so."),
        # everything else is a gap
        (r"A <math>x^2</math> b <math>x_1</math> c <math>\sqrt{2}</math> d <math>\mathbf{x}</math> e.", "A b c d e."),
        ("A {{math|''x''<sup>2</sup>}} b <chem>A^2-</chem> c <ce>A -> B</ce> d <math></math> e.", "A b c d e."),
        ("A <math>" + "x+" * 40 + "x</math> b <math/> c.", "A b c."),
        ("A <math>[[a]]</math> b <math>''</math> c <math>-</math> d <math>word</math> e.", "A b c d e."),
        ("A <math>x b.\n\nC <math>y</math>.", "A\nC y."),
        # a formula alone is no paragraph
        ("We have\n: <math>n = 3</math>\nfor all.\n\n{{math|n}}\n\n<math>x</math>.", "We have\nfor all."),
        ("Text.<ref>The <math>n</math>.</ref> <gallery>\na|<math>x</math>\n</gallery>", "Text."),
    ],
)  # fmt: skip
def test_plain_formulas_are_text_and_others_a_gap(wikitext, expected):
    assert text_of(wikitext) == expected


def test_formulas_that_are_gaps_are_counted():
    gaps = gaps_of(
        r"The <math>\pi r^2</math> and <math>r</math>. A <ce>A -> B</ce>, {{math|x<sup>2</sup>}}."
        "\n\n<math>x^2</math>"
    )
    assert gaps.templates == {"<math>": 1, "<ce>": 1, "math": 1}
    assert (gaps.sentences, gaps.paragraphs) == (2, 1)


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ('Joy is felt.<ref name="a">{{cite|a. B|t=[[c. D]]}} It is used. More.', "Joy is felt. It is used. More."),
        ("Joy is felt.<ref>[http://x.y Z. A] It is used. More.", "Joy is felt. It is used. More."),
        ("Joy is felt.<ref>Smith, 2001. It is used. More.", "Joy is felt. It is used. More."),
        ("Joy is felt.<ref>{{cite\n|a=b. C\n|d=e\n}} It is used.", "Joy is felt. It is used."),
        ("Joy is felt.<ref>{{cite|a b c It is used. More.", "Joy is felt. More."),
        ("Joy is felt<REF>{{Cite|a}}. More.", "Joy is felt. More."),
        ("Joy<ref>a. B.<ref>c</ref> is felt.", "Joy B. is felt."),
        ("Joy<ref>a\n* item <ref>b</ref>\nMore<ref>c</ref> text.", "Joy\nMore text."),
        ("Joy<ref>a\n{|\n| <ref>b</ref> c <ref>d\n|}\nMore text.", "Joy\nMore text."),
        ("{{nowrap|Joy<ref>a}} is [[b|felt<ref>c]] now.", "Joy is felt now."),
        ("Joy<ref>a\n\nb</ref> is</ref> felt.", "Joy\nb is felt."),
        ("甲<ref>乙。丙。", "甲丙。"),
    ],
)  # fmt: skip
def test_a_reference_left_open_costs_at_most_a_sentence(wikitext, expected):
    assert text_of(wikitext) == expected
    assert gaps_of(wikitext).open_references >= 1


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("Joy<ref name=a/> is<ref name=\"a\" /> felt<Ref group=n name='b/c' />.", "Joy is felt."),
        ("Joy<ref>a. B\nc. D\n* e</ref> is<ref>{{cite|a|\n|b}}</ref> felt.", "Joy is felt."),
        ("Joy.<ref>{{cite|a [b. C|d}}: {{cite|e. F}}</ref> It is.", "Joy. It is."),
        ("Joy</ref> is.<references>\n<ref name=a>b. C</ref>\n</references>", "Joy is."),
    ],
)
def test_references_that_are_closed_are_dropped_whole(wikitext, expected):
    assert text_of(wikitext) == expected
    assert not gaps_of(wikitext).open_references


@pytest.mark.parametrize(
    "unit",
    [
        "<nowiki>", "<nowiki>\n\n", "</nowiki>", "<nowiki><!--", "<ref>", "<ref>{{", "<ref>[", "<ref>\n\n</ref>",
        "</ref>",
        "<math>", "<math>x</math>", "<math>x^2</math>\n", "<chem></math>", "{{math|", "{{ill|a|", "{{x}}, ",
        "and {{x}} ",
        '"{{x}}" ', "[http://x] and ", "'s{{x}}", "-{{x}}-", "&#91;", "</nowiki><nowiki>\n\n<nowiki>",
    ],
)  # fmt: skip
def test_time_grows_with_the_page_alone(unit):
    """No pass may look back over the whole page, whatever it begins with: this would need many minutes."""
    for before in ("", "<ref>", "<nowiki>", "<ref>" + "x" * 200_000 + "\n\n"):
        assert text_of(before + unit * 20_000 + "</nowiki>\n\nEnd.").endswith("End.")


def test_a_table_of_conjunctions_and_formulas_is_checked(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("[formulas]\n'\\foo' = 'F'\n[conjunctions]\nen = ['plus']\n")
    table = template_table(str(file), "en")
    page = r"A <math>\foo</math> plus [http://x.org] plus b."
    assert running_text(page, SPACES, table) == "A F plus b."
    file.write_text("[formulas]\nx = 3\n[conjunctions]\nen = 'and'\n")
    with pytest.raises(TemplateError, match=r"formulas.*\n.*conjunctions"):
        template_table(str(file), "de")


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("One. Two {{XYZ}} is. Three.", "One. Three."),
        ("One. Two <math>x^2</math> is. Three.\n\nFour {{XYZ}}.\n\nFive.", "One. Three.\nFive."),
        ("{{XYZ}}, is. Two.\nThree {{XYZ}}", "Two."),
        ("One ({{XYZ}}). Two.", "Two."),
        # what no reader of the sentence misses is no gap
        ("One <math>x</math>. Two<ref>a</ref> [http://x.org] {{citation needed}}. Three {{small|c}}.", None),
    ],
)
def test_sentences_with_a_gap_can_be_dropped(wikitext, expected):
    kept, dropped = Gaps(), Gaps()
    with_gaps = running_text(wikitext, SPACES, gaps=kept)
    assert running_text(wikitext, SPACES, gaps=dropped, drop=True) == (with_gaps if expected is None else expected)
    assert kept == dropped
