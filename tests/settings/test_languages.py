"""data.language: codes are taken, names and codes of other lists are refused with the code that is meant."""

import pytest
import sentencex
from tools import composed

from bert_lamb.settings.checks import SettingsError
from bert_lamb.settings.languages import TWO_LETTERS, WITH_RULES, has_rules, language_problem


@pytest.mark.parametrize("code", ["en", "bg", "th", "sv", "ltg", "simple", "zh-min-nan", "pt-br", *WITH_RULES])
def test_codes_are_taken(code):
    assert language_problem(code) is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("english", "en may be meant"),
        ("English", "en may be meant"),
        ("EN", "en may be meant"),
        ("en_US", "en may be meant"),
        ("eng", "en may be meant"),
        ("ger", "de may be meant"),
        ("deu", "de may be meant"),
        (" de", "de may be meant"),
        ("deutsch", "give the code"),
        ("jp", "give the code"),
        ("xx", "give the code"),
        ("", "give the code"),
        ("en fr", "give the code"),
        ("../x", "give the code"),
    ],
)
def test_anything_else_is_refused_with_the_codes(given, meant):
    problem = language_problem(given)
    assert problem
    assert problem.startswith(f"data.language={given}: ")
    assert meant in problem
    assert ", en, " in problem


def test_the_settings_check_it():
    with pytest.raises(SettingsError) as told:
        composed("data.language=english")
    assert told.value.problems == [language_problem("english")]


def test_which_languages_have_rules():
    assert set(WITH_RULES) <= TWO_LETTERS
    assert has_rules("pt-br")
    assert has_rules("simple")
    assert not has_rules("ltg")
    text = "Das ist vgl. Haus gut. Nun mehr."  # an abbreviation that only the German rules know
    of = {language: len(sentencex.segment(language, text)) for language in ("de", "en", "english", "german")}
    assert of == {"de": 2, "en": 3, "english": 3, "german": 3}
