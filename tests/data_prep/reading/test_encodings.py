"""Text in other encodings than UTF-8: read where data.encoding names it, told of where it does not."""

import gzip
import logging

import pytest
from prepare_tools import data_settings, write_text
from tools import composed

from data_prep.prepare import prepare
from data_prep.reading.encodings import seems_to_be, to_utf8
from data_prep.reading.slices import payloads, plan_input
from data_prep.reading.sources import source_files
from data_prep.store.resume import PrepareError
from data_prep.text.document import Document
from data_prep.text.records import records

WORDS = "Die Straße führt über den Fluß nach Süden.\nDort steht ein Café."


def texts_of(data) -> list[str]:
    plan = plan_input(data, source_files(data), 1)
    found = [i for part, texts in payloads(plan.slices, data) for i in records(part, texts, data)]
    return [item.text.strip() if isinstance(item, Document) else f"rejected: {item.reason}" for item in found]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "cp1252", "latin-1", "iso8859-15"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_named_encoding_is_read_as_utf8_would_be(tmp_path, encoding, packed):
    documents = [WORDS, *(f"{WORDS} Nummer {i}." for i in range(40))]
    content = "\n\n".join(documents).encode(encoding)
    name = "a.txt.gz" if packed else "a.txt"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    data = data_settings(paths=[tmp_path], encoding=encoding, txt_document="blank_line")
    assert texts_of(data) == documents


def test_order_of_bytes_without_a_mark_is_seen(tmp_path):
    for order in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes(WORDS.encode(order))
        assert texts_of(data_settings(paths=[tmp_path], encoding="utf-16")) == [WORDS]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_cut_between_bytes_of_a_character_harms_nothing(size):
    raw = WORDS.encode("utf-16")
    chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
    if size >= 2:
        assert b"".join(to_utf8(iter(chunks), "utf-16")).decode() == WORDS
    raw = WORDS.encode("utf-8")
    assert b"".join(to_utf8(iter([raw[i : i + size] for i in range(0, len(raw), size)]), "utf-8")) == raw


def test_what_means_nothing_in_the_encoding_costs_its_record_only(tmp_path):
    good = "Ein Satz über Öl.".encode("cp1252")
    (tmp_path / "a.txt").write_bytes(good + b"\n\n\x81 bad \x8d\n\n" + good)
    data = data_settings(paths=[tmp_path], encoding="cp1252", txt_document="blank_line")
    assert texts_of(data) == ["Ein Satz über Öl.", "rejected: not UTF-8", "Ein Satz über Öl."]


@pytest.mark.parametrize(("encoding", "told"), [("utf-16", "utf-16"), ("utf-16-le", "utf-16"), ("cp1252", "cp1252")])
def test_a_file_in_another_encoding_is_told_of_with_the_one_that_fits(tmp_path, caplog, encoding, told):
    for i in range(3):
        text = "\n\n".join(f"{WORDS} {t}" for t in write_text(i, 30))
        (tmp_path / f"{i}.txt").write_bytes(text.encode(encoding))
    caplog.set_level(logging.WARNING)
    data = data_settings(paths=[tmp_path], txt_document="blank_line")
    with pytest.raises(PrepareError) as error:
        prepare(data, tmp_path / "store")
    assert "data.encoding" in str(error.value)
    assert f"not UTF-8: 0.txt and 2 more files seem to be {told}; to read them, set data.encoding={told}" in caplog.text


def test_utf8_is_no_other_encoding():
    assert seems_to_be(WORDS.encode()) is None
    assert seems_to_be(("ü" * 5000).encode()[:4096] + b"\xc3") is None  # looked at up to a cut character
    assert seems_to_be(b"\x00\x01\x02\xff\xfe\x00\x00\x00") is None  # binary
    assert seems_to_be(b"") is None


def test_an_unknown_encoding_is_refused():
    with pytest.raises(Exception, match=r"data\.encoding=utf-99: Python knows no text encoding"):
        composed("data=text", "data.encoding=utf-99", "data.paths=[x]")
    with pytest.raises(Exception, match=r"data\.encoding=base64: Python knows no text encoding"):
        composed("data=text", "data.encoding=base64", "data.paths=[x]")
