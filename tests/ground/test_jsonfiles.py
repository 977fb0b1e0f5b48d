"""JSON from anybody: a value, or one kind of error."""

import json

import pytest

from bert_lamb.jsonfiles import DEEPEST, parse_json, read_object

MILLION = 1_000_000


@pytest.mark.parametrize(
    "text",
    ["[" * MILLION, '{"a":' * MILLION, "[" * MILLION + "]" * MILLION, "[" * 900 + "]" * 900, "[[[" * 34 + "]]]" * 34,
     "9" * 5000, "", "{", "nul", '{"a": 1}}'],
    ids=lambda text: f"{text[:10]}*{len(text)}",
)  # fmt: skip
def test_what_is_no_json_or_nests_too_deeply_is_one_kind_of_error(text):
    """Also what Python reads and then can neither print nor write, 900 deep."""
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match=r"nested|Expecting|digits|Extra data"):
            parse_json(given)


def test_bytes_that_are_no_utf8():
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')


def test_numbers_only_where_asked():
    assert parse_json("[Infinity]") == [float("inf")]
    with pytest.raises(ValueError, match="NaN is not a number"):
        parse_json("[NaN]", numbers_only=True)


@pytest.mark.parametrize("kind", ["[%s]", '{"a": %s}'])
def test_the_deepest_that_is_read(kind):
    value = "1"
    for _ in range(DEEPEST):
        value = kind % value
    assert json.dumps(parse_json(value))
    with pytest.raises(ValueError, match="nested"):
        parse_json(kind % value)


def test_many_brackets_that_do_not_nest_are_fine():
    flat = [{"a": []}] * 1000 + ["[" * 1000]
    assert parse_json(json.dumps(flat)) == flat


def test_a_giant_file_is_not_read(tmp_path):
    path = tmp_path / "state.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole
    value, problem = read_object(path)
    assert value is None
    assert str(path) in problem
