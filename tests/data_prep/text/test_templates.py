"""Templates inside sentences: what is shown of known ones, how the gap of an unknown one is closed and counted."""

import pytest

from data_prep.text import templates
from data_prep.text.document import Gaps
from data_prep.text.template_table import TemplateError, table_sha256, template_table
from data_prep.text.wikitext import running_text

TABLE = template_table(None, "en")


def text_of(wikitext: str, title: str = "") -> str:
    return running_text(wikitext, frozenset(), TABLE, title)


def gaps_of(wikitext: str) -> Gaps:
    gaps = Gaps()
    running_text(wikitext, frozenset(), TABLE, "", gaps)
    return gaps


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("It lies at {{nowrap|12 km}} from {{nowrap|Saint John}} on.", "It lies at 12 km from Saint John on."),
        ("The tower is {{convert|324|m|ft|0}} tall.", "The tower is 324 m tall."),
        ("The war of 1914{{ndash}}1918 ended.", "The war of 1914–1918 ended."),
        ("One{{snd}}two{{nbsp}}three{{mdash}}four.", "One – two three—four."),
        ("The word {{lang|fr|château}} means castle.", "The word château means castle."),
        ("({{lang-de|Köln}}; {{langx|ru|Москва}}, {{transliteration|ru|Moskva}}) is.", "(Köln; Москва, Moskva) is."),
        ("The {{HMS|Victory}} and {{USS|Enterprise|CVN-65}}.", "The HMS Victory and USS Enterprise (CVN-65)."),
        ("{{ship|HMS|Hood|51|2}}, {{SMS|Emden||6}}, {{MV|Joyita}}.", "HMS Hood, Emden, MV Joyita."),
        ("The {{abbr|EU|European Union}} is large.", "The EU is large."),
        ("{{As of|2020}}, the town had {{formatnum:12345}} people.", "As of 2020, the town had 12,345 people."),
        ("{{as_of|2009|4|lc=y}} and {{As of|2009|4|13}}.", "as of April 2009 and As of 13 April 2009."),
        ("{{birth date and age|1990|5|4}} or {{start date|2010|12|1|df=y}}.", "May 4, 1990 or 1 December 2010."),
        ("A {{circa|1820}}, {{fl.|1200}}, {{reign|800|814}}.", "A c. 1820, fl. 1200, r. 800–814."),
        ("{{frac|1|2}}, {{sfrac|3|1|4}}, {{fraction|7}}.", "1/2, 3 1/4, 1/7."),
        ("{{val|1.2|0.3|e=6|u=km}} and {{US$|100}}, {{GBP|5}}.", "1.2±0.3×10^6 km and US$100, £5."),
        ("{{small|a}} {{sup|b}} {{em|c}} {{strong|d}} {{not a typo|e|f}} x.", "a b c d ef x."),
        ("{{ill|Foo|de|Bar}} {{ill|Foo|de|Bar|lt=the foo}} {{sic|teh|hide=y}}.", "Foo the foo teh."),
        ("{{angbr|a}} {{chem|H|2|O}} {{nihongo|Tokyo|東京|Tōkyō}}.", "⟨a⟩ H2O Tokyo (東京, Tōkyō)."),
        ("AA{{nowrap begin}}-b{{nowrap end}} {{ordinal|22}} {{ordinal|13}}.", "AA-b 22nd 13th."),
    ],
)
def test_known_templates_show_their_text(wikitext, expected):
    assert text_of(wikitext) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10|to|20|km|mi", "10 to 20 km"), ("10|and|20|km", "10 and 20 km"), ("10|-|20|C|F", "10–20 °C"),
        ("10|by|20|m", "10 by 20 m"), ("3|x|4|x|5|ft|m", "3 × 4 × 5 ft"), ("5|ft|6|in|cm", "5 ft 6 in"),
        ("1500|sqmi|km2|abbr=on", "1,500 sq mi"), ("1500|m|comma=off", "1500 m"), ("-40|C", "−40 °C"),
        ("3+1/2|in", "3 1/2 in"), ("2|e6acre", "2 million acres"), ("100|km|0", "100 km"), ("7", "7"),
        (" 8 | km \n", "8 km"), ("1=9|2=km", "9 km"), ("{{nowrap|12}}|km", "12 km"), ("1,234.5|lb|kg", "1,234.5 lb"),
    ],
)  # fmt: skip
def test_quantities_are_shown_as_given(given, expected):
    assert text_of(f"It is {{{{convert|{given}}}}} here.") == f"It is {expected} here."


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{ NoWrap | a }} {{Template:nowrap|b}} {{nowrap|1= c = d }}.", "a b c = d."),
        ("{{nowrap|{{convert|5|km}} from [[a|b]] {{lang|fr|{{small|x}}}}}}.", "5 km from b x."),
        ("{{nowrap|<span style='x'>a</span>}} {{nowrap|[http://a.b?c=d e]}}.", "a e."),
        ("[[a{{!}}b]] {{lc:ABC}} {{uc:d}} {{ucfirst:ef}}.", "b abc D Ef."),
        ("{{#if:x|yes|no}} {{#if: |yes|no}} {{#ifeq:a|b|same|other}} {{#switch:b|a=1|b=2}}.", "yes no other 2."),
        ("{{formatnum:{{formatnum:1234|R}}}} {{{1|default}}} end.", "1,234 default end."),
    ],
)
def test_case_names_nesting_and_functions(wikitext, expected):
    assert text_of(wikitext) == expected


def test_quotations_are_paragraphs():
    assert text_of("A.\n\n{{quote|To be or\n\nnot to be.|Hamlet}}\n\nB.") == "A.\nTo be or\nnot to be.\nB."
    assert text_of("He said: {{blockquote|text=Never.}} Then left.") == "He said:\nNever.\nThen left."


def test_the_title_is_known_the_year_is_not():
    assert text_of("{{PAGENAME}} is a town.", "Riga") == "Riga is a town."
    assert gaps_of("In {{CURRENTYEAR}} it ends.").templates == {"currentyear": 1}


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{x|2020}}, the town grew.", "the town grew."),
        ("It is old. {{x}}, the town grew.", "It is old. the town grew."),
        ("A, {{x}}, b and {{x}}.", "A, b."),
        ("A {{x}} b {{x}} {{y}} c.", "A b c."),
        ("A ({{x}}) b ({{x}}, c) d (e; {{x}}) f ( {{x}} ; {{y}} ) g (({{x}})) h.", "A b (c) d (e) f g h."),
        ("1914{{x}}1918 and a{{x}}b and 5{{x}}km.", "1914 1918 and a b and 5 km."),
        ("“{{x}}” he said; {{x}}; so.", "he said; so."),
        ("{{x}}, {{y}}: A {{x}}, {{y}}.", "A."),
    ],
)
def test_gaps_of_unknown_templates_are_closed(wikitext, expected):
    assert text_of(wikitext) == expected


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("Some{{Who|date=May 2009}} said.{{citation needed|date=May 2010}} So{{sfn|A|2000}}, b.", "Some said. So, b."),
        ("Paris ({{IPA-fr|paʁi}}) and Rome ({{IPAc-en|r|oʊ}}; city) lie {{coord|1|2}}.", "Paris and Rome (city) lie."),
        ("See {{official website|http://a.b}}. {{DEFAULTSORT:x}}", "See."),
        ("{{Infobox town|a=b}}\nThe town.", "The town."),
    ],
)
def test_notes_and_remarks_leave_no_gap(wikitext, expected):
    assert text_of(wikitext) == expected
    assert not gaps_of(wikitext).templates


def test_unknown_templates_are_counted_where_text_is_missing():
    page = "{{Unknown box\n|a=b}}\nOne {{X one}} is {{x_one|2}} here. Two {{y}}. Three.\n"
    page += "* {{in a list}}\n\nFour {{#expr:1+1}}.\n"
    gaps = gaps_of(page + "{|\n| {{in a table}}\n|}\n{{alone}}\n\n[[File:a.jpg|thumb|{{in a caption}}]]")
    assert gaps.templates == {"x one": 2, "y": 1, "#expr": 1}
    assert (gaps.sentences, gaps.paragraphs) == (3, 2)


def test_another_language(tmp_path):
    file = tmp_path / "fr.toml"
    file.write_text(
        '[text]\n"unité" = "{1} {2}"\nquote = "« {1} »"\n"jour-*" = "{1}"\n[aliases]\nunite = "unité"\n'
        "[months]\nfr = ['janvier','février','mars','avril','mai','juin','juillet','août','septembre','octobre',"
        "'novembre','décembre']\n"
    )
    table = template_table(str(file), "fr")
    wikitext = (
        "À {{Unité|12|km}} ou {{unite|3|m}}, {{quote|a}} {{jour-x|b}} {{formatnum:12345}} {{date|2020-05-04|dmy}}."
    )
    assert running_text(wikitext, frozenset(), table) == "À 12 km ou 3 m, « a » b 12 345 4 mai 2020."
    assert text_of("{{unité|12|km}} away.") == "away."
    assert running_text("{{start date|2020|5|4}}.", frozenset(), template_table(None, "xx")) == "2020-05-04."


def test_a_table_counts_by_its_entries(tmp_path):
    one, two = tmp_path / "a.toml", tmp_path / "b.toml"
    one.write_text('[text]\na = "{1}"\n')
    two.write_text('# a remark\n[text]\n"a"   = "{1}"\n')
    assert table_sha256(str(one)) == table_sha256(str(two)) != table_sha256(None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[txt]\na = 'b'", "[txt] is no section"), ("[text]\na = 1", "no text"), ("text = 'a'", "is a section"),
        ("[text]\na = '{1}{1}'", "takes a parameter twice"), ("[computed]\na = 'x'", "no rule 'x'"),
        ("[aliases]\na = 'nothing'", "is no template"), ("[months]\nfr = ['a']", "not 12"), ("[text", "cannot be read"),
        ("[text]\n'a*b*' = 'c'", "more than one"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named(tmp_path, content, said):
    file = tmp_path / "t.toml"
    file.write_text(content)
    with pytest.raises(TemplateError, match=r"data\.templates=") as error:
        template_table(str(file), "en")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "page",
    [
        "{{convert|" * 100_000,
        "{{nowrap|" * 50_000 + "x" + "}}" * 50_000,
        "{{nowrap|" * 19 + "{{nowrap|a}} " * 50_000 + "}}" * 19,
        "[" * 1_000_000,
        "]" * 1_000_000,
        "[" * 300_000 + "]" * 300_000,
        "<!--" * 200_000,
        "x<!---->" * 100_000,
        "x<ref>" * 100_000,
        "{{x}}, " * 100_000,
        "({{x}}" * 100_000,
        "['" * 100_000 + "&#39;&#39;" + "'[" * 100_000,
        "word {{unknown " + "a" * 500_000,
        "{{#if:" * 50_000 + "|a}}" * 50_000,
        "".join(f"{{{{n{i}}}}} " for i in range(70_000)),
    ],
    ids=range(15),
)
def test_broken_pages_are_read_once(page):
    """With a step that looks back over the page for each mark, any of these would take minutes."""
    text = text_of(f"Before.\n\n{page}\n\nAfter.")
    assert text.startswith("Before.")
    assert text.endswith("\nAfter.")


def test_a_template_is_looked_at_once(monkeypatch):
    """However deep it is nested: what is too deep is passed over as a whole."""
    looked = []
    shown = templates.Expander._shown
    monkeypatch.setattr(templates.Expander, "_shown", lambda self, i, depth: looked.append(i) or shown(self, i, depth))
    text_of("{{nowrap|" * 3000 + "x" + "}}" * 3000)
    assert len(looked) == len(set(looked)) <= templates.DEEPEST + 1
