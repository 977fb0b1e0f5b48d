"""Raw text in: which files, how they are cut, and what becomes of what is no document."""

import gzip
import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from prepare_tools import data_settings, write_jsonl, write_text

from bert_lamb.errors import UserError
from data_prep.reading import slices as slices_module
from data_prep.reading.borders import BLANK_LINE, LINE_END, PAGE_END, Borders
from data_prep.reading.file_kinds import kind_of
from data_prep.reading.slices import payloads, plan_input
from data_prep.reading.sources import SourceError, source_files
from data_prep.text.document import Document, Reject
from data_prep.text.records import records
from data_prep.text.sentences import clean, cut, sentences


def read(data) -> tuple[list[Document], list[Reject], slices_module.Plan]:
    """Everything that the settings name, through slices."""
    plan = plan_input(data, source_files(data), 2)
    items = [item for part, texts in payloads(plan.slices, data) for item in records(part, texts, data)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)], plan


def test_every_format_gives_the_same_documents(tmp_path):
    texts = write_text(1, 25)
    write_jsonl(tmp_path / "a.jsonl", texts)
    lines = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines[:3000]) + zstandard.compress(lines[3000:]))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines[:3000]) + gzip.compress(lines[3000:]))
    pq.write_table(pa.table({"title": ["x"] * 25, "text": texts}), tmp_path / "d.parquet", row_group_size=7)
    (tmp_path / "e.txt").write_text("\n\n".join(t for t in texts))
    (tmp_path / "f.txt.zst").write_bytes(zstandard.compress("\n \n\n".join(texts).encode()))
    data = data_settings(paths=[tmp_path], txt_document="blank_line")
    documents, rejects, _ = read(data)
    assert not rejects
    by_file = {name: [d for d in documents if d.id.startswith(name)] for name in "abcdef"}
    for found in by_file.values():
        assert [clean(d.text) for d in found] == [clean(t) for t in texts]
    assert by_file["a"][3].id == "a.jsonl:4"
    assert by_file["d"][8].id == "d.parquet:9"


def test_one_large_row_group_is_read_in_steps(tmp_path, monkeypatch):
    """Slices cut it where they like; each row comes once, in order, under its number."""
    monkeypatch.setattr("data_prep.text.records.ROWS_AT_ONCE", 7)
    texts = [f"Document {i}. " + "word " * 3000 for i in range(200)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False)
    data = data_settings(paths=[tmp_path], shard_mib=1)
    found, rejects, plan = read(data)
    assert len(plan.slices) >= 3
    assert not rejects
    assert [(d.id, d.text.split(".")[0]) for d in found] == [
        (f"a.parquet:{i + 1}", f"Document {i}") for i in range(200)
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.txt", "a.txt.gz", "a.parquet"])
def test_cuts_into_many_slices_lose_and_double_nothing(tmp_path, monkeypatch, name):
    texts = write_text(2, 60)
    if ".jsonl" in name:
        write_jsonl(tmp_path / name, texts)
    elif name == "a.parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / name, row_group_size=50)
    else:
        content = "\n\n".join(texts).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    data = data_settings(paths=[tmp_path], txt_document="blank_line")
    whole, _, plan = read(data)
    monkeypatch.setattr(slices_module, "MIB", 2000)  # data.shard_mib is then 2,000 bytes
    parts, _, cut_plan = read(data)
    assert len(plan.slices) < len(cut_plan.slices)
    assert len(cut_plan.slices) > 5
    assert parts == whole  # texts and ids: line numbers are those of the file
    assert len(parts) == 60


@pytest.mark.parametrize("separator", [LINE_END, BLANK_LINE])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 6, 7, 11, 1000])
def test_borders_do_not_depend_on_how_the_file_is_read(separator, chunk):
    text = b"one\ntwo two\n\n  \nthree\n\t\nfour\n\n\n\nfive\nsix six six six\n\nseven"
    borders = Borders(separator, 9)
    for start in range(0, len(text), chunk):
        assert borders.feed(text[start : start + chunk])
    for offset, line in borders.found:
        assert line == 1 + text.count(b"\n", 0, offset)
        before = text[:offset]
        assert not before or before.endswith(b"\n")
        if separator is BLANK_LINE and before:
            assert not before.splitlines()[-1].strip()
    expected = [0, 12, 22, 32, 53] if separator is LINE_END else [0, 13, 30, 54]
    assert [offset for offset, _ in borders.found] == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 8, 1000])
@pytest.mark.parametrize(
    ("borders", "text", "expected"),
    [
        (lambda: Borders(PAGE_END, 5), b"<page>a\n</page>\n<page>bb</page><page>\n\nc</page>\n</m>",
         [(0, 1), (15, 2), (31, 3), (47, 5)]),
        (lambda: Borders(LINE_END, 3, 4), b"a\n" * 21, [(0, 1), (8, 5), (16, 9), (24, 13), (32, 17), (40, 21)]),
    ],
)  # fmt: skip
def test_ends_of_pages_and_of_runs_of_lines_are_found_in_chunks_of_any_size(borders, text, expected, chunk):
    found = borders()
    for start in range(0, len(text), chunk):
        assert found.feed(text[start : start + chunk])
    assert found.found == expected


def test_bad_records_are_counted_with_place_and_reason_and_the_rest_goes_on(tmp_path):
    good = [json.dumps({"text": "One two. Three.", "id": 77}), json.dumps({"text": "Four."})]
    lines = [
        good[0].encode(), b'{"text": "cut of', b"[1, 2]", b'{"title": "no text"}', b'{"text": 5}',
        b'{"text": null}', b'{"text": "\xff\xfe"}', b'{"text": " \\n "}', b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800 x"}', b"", good[1].encode(),
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, rejects, _ = read(data_settings(paths=[tmp_path / "a.jsonl"]))
    assert [d.id for d in documents] == ["a.jsonl:77", "a.jsonl:12"]
    assert [(r.line, r.reason) for r in rejects] == [
        (2, "malformed JSON"), (3, "JSON, but no object"), (4, "no field 'text'"),
        (5, "field 'text' is no text"), (6, "field 'text' is no text"), (7, "not UTF-8"), (8, "empty"),
        (9, "NUL characters: binary data?"),
        (10, "not UTF-8"),
    ]  # fmt: skip
    assert rejects[2].sample == "fields: title"


def test_giant_documents_are_rejected_whatever_the_format(tmp_path, monkeypatch):
    for module in ("data_prep.text.records", "data_prep.reading.slices"):
        monkeypatch.setattr(f"{module}.LARGEST_DOCUMENT", 5000)
    giant = "word " * 2000
    (tmp_path / "a.txt").write_text(giant)
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(giant.encode()))
    (tmp_path / "c.txt").write_text("Small.")
    write_jsonl(tmp_path / "d.jsonl", [giant, "Small."])
    pq.write_table(pa.table({"text": [giant, "Small."]}), tmp_path / "e.parquet")
    documents, rejects, _ = read(data_settings(paths=[tmp_path]))
    assert [d.id for d in documents] == ["c.txt:1", "d.jsonl:2", "e.parquet:2"]
    assert Counter(r.file for r in rejects) == Counter(["a.txt", "b.txt.zst", "d.jsonl", "e.parquet"])
    assert all("larger than" in r.reason for r in rejects)


def test_small_text_files_share_a_slice_and_bad_ones_are_named(tmp_path, monkeypatch):
    for i, text in enumerate(write_text(3, 30)):
        (tmp_path / "deep" / str(i % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "deep" / str(i % 3) / f"{i:02d}.txt").write_text("\ufeff" + text)
    (tmp_path / "bad.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    monkeypatch.setattr(slices_module, "MIB", 5000)
    documents, rejects, plan = read(data_settings(paths=[tmp_path]))
    assert len(documents) == 30
    assert documents[0].id == "deep/0/00.txt:1"
    assert not documents[0].text.startswith("\ufeff")
    assert [(r.file, r.reason) for r in rejects] == [("bad.txt", "not UTF-8"), ("empty.txt", "empty")]
    assert 1 < len(plan.slices) < 15


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz"])
def test_of_a_truncated_stream_the_documents_before_stand(tmp_path, name):
    texts = write_text(4, 1500)  # more than the 128 KiB of one zstd block
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
    packed = zstandard.compress(lines) if name.endswith("zst") else gzip.compress(lines)
    (tmp_path / name).write_bytes(packed[: len(packed) * 3 // 4])
    documents, rejects, plan = read(data_settings(paths=[tmp_path]))
    assert 0 < len(documents) < 1500
    assert [clean(d.text) for d in documents] == [clean(t) for t in texts[: len(documents)]]
    assert len(plan.damages) == 1
    assert plan.damages[0].startswith(f"{name}: ")
    assert "truncated" in plan.damages[0]
    assert [r.reason for r in rejects] in ([], ["cut off: the file is damaged"])


def test_files_that_are_not_what_their_name_says_are_named(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(b"plain text")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    write_jsonl(tmp_path / "c.jsonl", ["Good."])
    documents, _, plan = read(data_settings(paths=[tmp_path]))
    assert [d.text for d in documents] == ["Good."]
    assert [damage.split(":")[0] for damage in plan.damages] == ["a.jsonl.zst", "b.parquet"]


def test_a_parquet_string_that_is_not_utf8_costs_one_row(tmp_path):
    column = pa.array([b"One.", b"\xff\xfe", b"Two."], pa.binary()).cast(pa.large_binary())
    text = pa.Array.from_buffers(pa.large_string(), 3, column.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    documents, rejects, _ = read(data_settings(paths=[tmp_path]))
    assert [d.text for d in documents] == ["One.", "Two."]
    assert [(r.line, r.reason) for r in rejects] == [(2, "not UTF-8")]


def test_a_missing_parquet_column_names_those_there_are(tmp_path):
    pq.write_table(pa.table({"body": ["One."], "title": ["T"]}), tmp_path / "a.parquet")
    with pytest.raises(
        SourceError, match=r"data\.text_field=text: .*a\.parquet has no such column; it has body, title"
    ):
        read(data_settings(paths=[tmp_path]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "does not exist"),
        (lambda p: p / "none*.jsonl", "does not exist, or matches none of"),
        (lambda p: p, "no text in .*it holds none of .txt"),
        (lambda p: p / "a.pdf", "is of no known kind; PDF is not read: convert it"),
    ],
)
def test_paths_without_text_say_so(tmp_path, make, message):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(SourceError, match=message) as error:
        source_files(data_settings(paths=[make(tmp_path)]))
    assert "data.paths" in str(error.value)
    assert isinstance(error.value, UserError)


def test_a_file_named_twice_is_read_once_and_order_does_not_depend_on_the_paths(tmp_path):
    for i, name in enumerate(["b/x.jsonl", "a/y.jsonl"]):
        write_jsonl(tmp_path / name, write_text(i, 5))
    paths = [tmp_path / "b", tmp_path / "a" / "y.jsonl", tmp_path / "*" / "*.jsonl"]
    first, _, _ = read(data_settings(paths=paths))
    again, _, _ = read(data_settings(paths=paths[::-1]))
    assert first == again
    assert [d.id.split(":")[0] for d in first] == ["x.jsonl"] * 5 + ["y.jsonl"] * 5


def test_a_file_without_borders_is_no_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.reading.borders.LARGEST_GAP", 1000)
    monkeypatch.setattr(slices_module, "MIB", 1000)
    monkeypatch.setattr("data_prep.reading.sources.READ_SIZE", 500)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 5000)
    with pytest.raises(SourceError, match=r"a\.jsonl holds .* without the end of a line: is it really \.jsonl"):
        read(data_settings(paths=[tmp_path]))


def test_cleaning_drops_what_the_tokenizer_would_drop_and_keeps_the_rest():
    text = "\ufeffA\u00adb\u200bc\x07 d.\r\n\r\n  E\u2028f \x0c g\ufffd\n"
    assert clean(text) == "Abc d.\nE\nf\ng"
    assert clean(" \n\u200b\n") == ""
    assert clean("naïve café 東京 e\u0301") == "naïve café 東京 e\u0301"


def test_a_line_ends_a_sentence_and_abbreviations_do_not():
    text = clean("Dr. Smith left.  He was late\nA heading without a stop\nIt cost 3.50 in St. Louis. Then more.")
    assert [s.strip() for s in sentences(text, "en")] == [
        "Dr. Smith left.", "He was late", "A heading without a stop", "It cost 3.50 in St. Louis.",
        "Then more.",
    ]  # fmt: skip


def test_endless_sentences_are_cut_at_blanks():
    text = "word " * 10_000
    pieces = list(sentences(text.strip(), "en"))
    assert "".join(pieces) == text.strip()
    assert max(map(len, pieces)) <= 10_000
    assert all(p.startswith("word") for p in pieces)
    assert list(cut("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_a_list_of_sentences_becomes_documents_of_equal_runs(tmp_path, monkeypatch, name):
    """Borders are those of the list, wherever it is cut into slices."""
    lines = [s for text in write_text(5, 120) for s in text.split("\n")][:203]
    if name == "a.parquet":
        pq.write_table(pa.table({"text": lines}), tmp_path / name, row_group_size=500)
    elif ".jsonl" in name:
        write_jsonl(tmp_path / name, lines)
    else:
        content = "\n".join(lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    data = data_settings(paths=[tmp_path], sentences_per_document=10)
    expected = ["\n".join(lines[i : i + 10]) for i in range(0, 203, 10)]
    for step in (1 << 20, 1000):  # data.shard_mib is then 1,000 bytes
        monkeypatch.setattr(slices_module, "MIB", step)
        documents, rejects, plan = read(data)
        assert [d.text for d in documents] == expected
        assert [d.id for d in documents] == [f"{name}:{i}" for i in range(1, 204, 10)]
        assert [d.records for d in documents] == [10] * 20 + [3]
        assert not rejects
        assert (len(plan.slices) > 5) == (step == 1000)


def test_a_bad_sentence_moves_no_border(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One.\nTwo.\n\nFour.\nF\xffve.\nSix.\n \n\n\nTen.")
    documents, rejects, _ = read(data_settings(paths=[tmp_path], sentences_per_document=3))
    assert [(d.id, d.text) for d in documents] == [
        ("a.txt:1", "One.\nTwo."), ("a.txt:4", "Four.\nSix."), ("a.txt:10", "Ten.")
    ]  # fmt: skip
    assert [(r.line, r.reason) for r in rejects] == [(5, "not UTF-8")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("enwiki-latest-pages-articles1.xml-p1p41242.bz2", (".xml", ".bz2")),
        ("enwiki-20260101-pages-articles-multistream27.xml-p76513835p77475910.bz2", (".xml", ".bz2")),
        ("simplewiki-latest-pages-articles.xml", (".xml", "")),
        ("ENWIKI-LATEST-PAGES-ARTICLES.XML.BZ2", (".xml", ".bz2")),
        ("enwiki-latest-pages-articles.xml.bz2-rss.xml", None),
        ("enwiki-latest-pages-articles-multistream-index1.txt-p1p41242.bz2", None),
        ("enwiki-latest-md5sums.txt", None),
    ],
)
def test_names_of_official_dumps(name, kind):
    assert kind_of(name, "wikipedia_dump") == kind


def test_parts_of_a_dump_are_read_in_the_order_of_their_pages(tmp_path):
    ranges = [(1, 41242), (41243, 151573), (151574, 311329), (9_000_000, 9_518_046), (10_000_001, 11_000_000)]
    for number, (first, last) in enumerate(ranges[:3] + ranges[3:][::-1], 1):
        page = f"<page><title>T</title><ns>0</ns><id>{first}</id><revision><text>A. B.</text></revision></page>"
        (tmp_path / f"w-pages-articles{number + 7}.xml-p{first}p{last}").write_text(
            f"<mediawiki>\n{page}\n</mediawiki>"
        )
    data = data_settings(paths=[tmp_path / "*"], source="wikipedia_dump")
    plan = plan_input(data, source_files(data), 1)
    assert [int(re.search(r"-p(\d+)p", f.file.name)[1]) for f in plan.files] == [first for first, _ in ranges]


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("a.json", "text", r"one JSON object on each line .*data=hf data\.dataset=json"),
        ("a.md", "text", "pandoc"),
        ("a.tar.gz", "text", "unpack it first"),
        ("a.zip", "text", "unpack it first"),
        ("enwiki-latest-pages-articles.xml.bz2", "text", "data=wikipedia_dump"),
        ("a.jsonl", "wikipedia_dump", "data=text"),
        ("data-00000-of-00001.arrow", "text", r"save_to_disk is read by data=hf"),
    ],
)
def test_files_that_are_no_source_are_refused_with_what_to_do(tmp_path, name, source, told):
    (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(SourceError, match=told):
            source_files(data_settings(paths=[path], source=source))
