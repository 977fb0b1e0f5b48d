"""MediaWiki dumps in: whole, packed in several ways, broken in several ways."""

import bz2
import gzip
import json
import os
import re
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from prepare_tools import ROOT, data_settings, digests, write_text

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents
from data_prep.prepare import prepare
from data_prep.reading import slices as slices_module
from data_prep.reading import sources
from data_prep.reading.slices import dropped_spaces, payloads, plan_input
from data_prep.reading.sources import SourceError, source_files
from data_prep.reading.unpacking import BZ2_STREAM
from data_prep.store.resume import PrepareError
from data_prep.text.document import Document, LeftOut, Reject
from data_prep.text.records import records
from data_prep.text.sentences import clean

BULGARIAN = ROOT / "tests/fixtures/wikipedia/bgwiki-latest-pages-articles-shortened.xml.bz2"
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="xx">
  <siteinfo>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Bildo</namespace>
      <namespace key="14" case="first-letter">Speco &amp; Co</namespace>
    </namespaces>
  </siteinfo>
"""
FOOT = "</mediawiki>\n"


def page(number: int, text: str, title: str = "", space: int = 0, more: str = "", inner: str = "") -> str:
    return (
        f"  <page>\n    <title>{title or f'Page {number}'}</title>\n    <ns>{space}</ns>\n    <id>{number}</id>\n{more}"
        f"    <revision>\n      <id>{number + 1000}</id>\n{inner}"
        f'      <text xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


def many(seed: int, count: int, padding: int = 0) -> list[str]:
    """Pages whose text is known; `padding` bytes of a comment make the file long and cost little."""
    texts = [t.replace("\n", "\n\n") for t in write_text(seed, count)]
    return [page(100 * seed + i, f"<!--{'x' * padding}-->{t}") for i, t in enumerate(texts)]


def multistream(pages: list[str], each: int = 4, level: int = 9) -> bytes:
    """As Wikimedia packs it: the head, so many pages at a time, the foot, each a stream of its own."""
    groups = ["".join(pages[i : i + each]) for i in range(0, len(pages), each)]
    return b"".join(bz2.compress(part.encode(), level) for part in (HEAD, *groups, FOOT))


def dump(pages: list[str]) -> bytes:
    return (HEAD + "".join(pages) + FOOT).encode()


def settings(*paths: Path, **more):
    return data_settings(paths=list(paths), source="wikipedia_dump", **more)


def read(*paths: Path) -> tuple[list[Document], list[Reject], slices_module.Plan]:
    data = settings(*paths)
    plan = plan_input(data, source_files(data), 2)
    items = [item for part, texts in payloads(plan.slices, data) for item in records(part, texts, data)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)], plan


def test_every_packing_gives_the_same_articles(tmp_path, monkeypatch):
    pages = many(1, 25)
    content = dump(pages)
    files = {
        "a.xml": content,
        "b.xml.bz2": bz2.compress(content),
        "c-multistream.xml.bz2": multistream(pages),
        "d.xml.gz": gzip.compress(content),
        "e.xml.bz2": bz2.compress(content.decode().encode("utf-16")),
        "f.xml-p1p25.bz2": bz2.compress(content),  # a piece of a large dump, as Wikimedia names it
        "notes-index.txt.bz2": b"no dump",
    }
    texts = [clean(t) for t in write_text(1, 25)]
    for step in (1 << 20, 3000):  # data.shard_mib is then 3,000 bytes
        monkeypatch.setattr(slices_module, "MIB", step)
        for name, packed in files.items():
            (tmp_path / name).write_bytes(packed)
        documents, rejects, plan = read(tmp_path)
        assert not rejects
        assert [d.text for d in documents] == texts * 6
        assert [d.id for d in documents] == [f"wikipedia:{100 + i}" for i in range(25)] * 6
        assert documents[3].title == "Page 103"
        assert (len(plan.slices) > 20) == (step == 3000)


def test_workers_unpack_independent_streams_themselves(tmp_path, monkeypatch):
    """The parent hands out the bytes only where reading would begin far before the piece."""
    pages = many(1, 40)
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump(pages)))
    (tmp_path / "b.xml.bz2").write_bytes(multistream(pages))
    monkeypatch.setattr(slices_module, "MIB", 4000)
    monkeypatch.setattr(sources, "READ_SIZE", 500)
    data = settings(tmp_path)
    plan = plan_input(data, source_files(data), 1)
    handed = {name: [] for name in ("a.xml.bz2", "b.xml.bz2")}
    for part, texts in payloads(plan.slices, data):
        handed[part.pieces[0].file.name].append(texts[0] is not None)
    assert handed["a.xml.bz2"][:1] == [False]
    assert all(handed["a.xml.bz2"][2:])
    assert not any(handed["b.xml.bz2"])


def test_what_is_no_article_is_left_out_by_reason(tmp_path):
    pages = [
        page(1, "An [[Bildo:x.jpg|thumb|a]]article.[[Speco & Co:Y]]", title="One &amp; two"),
        page(2, "#REDIRECT [[One]]", more='    <redirect title="One" />\n'),
        page(3, "Talk.", space=1),
        page(4, "Help.", space=12),
        page(5, "{{Infobox|a}}\n* [[list]]"),
        page(6, "{}", inner="      <model>json</model>\n"),
        page(7, "Last."),
    ]
    (tmp_path / "a.xml").write_bytes(dump(pages))
    documents, left_out, _ = read(tmp_path)
    assert [(d.id, d.title, d.text) for d in documents] == [
        ("wikipedia:1", "One & two", "An article."), ("wikipedia:7", "Page 7", "Last.")
    ]  # fmt: skip
    assert all(isinstance(item, LeftOut) for item in left_out)
    reasons = [(item.line, item.reason, item.sample) for item in left_out]
    assert reasons == [
        (18, "redirect", "Page 2"), (28, "namespace 1", "Page 3"), (37, "namespace 12", "Page 4"),
        (46, "no running text", "Page 5"), (56, "no wikitext", "Page 6"),
    ]  # fmt: skip


def test_bad_pages_are_named_with_their_place_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.text.dump.LARGEST_DOCUMENT", 20_000)
    good = [page(n, f"Text {n}.").encode() for n in range(10)]
    bad = [
        page(20, "A").replace("</title>", "</titel>").encode(),
        page(21, "A").replace("  </page>\n", "").encode(),
        page(22, "A").encode().replace(b">A<", b">\xff\xfe<"),
        page(23, "A").replace(">A<", ">&bomb;<").encode(),
        page(24, "A").replace("<id>24</id>", "").encode(),
        page(25, "x" * 30_000).encode(),
        page(26, "A").replace("<page>", "<pagf>").encode(),
        page(27, "A").replace(">A<", ">A & B<").encode(),
        page(28, "A").replace(">A<", ">\x00<").encode(),
    ]
    content = HEAD.encode() + b"".join(b + g for b, g in zip(bad, good, strict=False)) + good[9] + FOOT.encode()
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(content))
    documents, rejects, _ = read(tmp_path)
    assert [d.text for d in documents] == [f"Text {n}." for n in range(10)]
    assert [r.reason for r in rejects] == [
        "malformed XML: mismatched tag", "malformed XML: a page without its end", "not UTF-8",
        "malformed XML: undefined entity", "malformed page: no <id> or <ns>", "larger than 32 MiB",
        "malformed XML: text outside of a page", "malformed XML: not well-formed (invalid token)",
        "malformed XML: not well-formed (invalid token)",
    ]  # fmt: skip
    lines = content.split(b"\n")
    for reject, number in zip(rejects[:6], range(20, 26), strict=True):
        assert b"<page>" in lines[reject.line - 1]
        assert f"Page {number}" in lines[reject.line].decode()
    assert {r.file for r in rejects} == {"a.xml.bz2"}


def test_no_entity_is_ever_expanded(tmp_path):
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>\n'
    pages = page(1, "X").replace(">X<", ">&b;<") + page(2, "X").replace(">X<", ">&c;<") + page(3, "Good.")
    (tmp_path / "a.xml").write_text(bomb + HEAD + pages + FOOT)
    (tmp_path / "b.xml").write_text(HEAD + "<page>" + bomb + page(4, "X")[8:] + page(5, "Good.") + FOOT)
    documents, rejects, _ = read(tmp_path)
    assert [d.text for d in documents] == ["Good.", "Good."]
    assert all("malformed XML" in r.reason for r in rejects)
    assert len(rejects) == 3


@pytest.mark.parametrize("packed", [lambda p: bz2.compress(dump(p)), lambda p: multistream(p, 10)])
def test_of_a_truncated_dump_the_articles_before_stand(tmp_path, packed):
    pages = many(2, 1500)
    whole = packed(pages)
    (tmp_path / "a.xml.bz2").write_bytes(whole[: len(whole) * 3 // 4])
    documents, rejects, plan = read(tmp_path)
    texts = [clean(t) for t in write_text(2, 1500)]
    assert [d.text for d in documents] == texts[: len(documents)]
    assert len(documents) < 1500
    assert documents or not plan.slices  # a single stream is unpacked by blocks of 900 KB
    assert len(plan.damages) == 1
    assert "the .bz2 data ends too early: the file is truncated" in plan.damages[0]
    assert {r.reason for r in rejects} <= {"cut off: the file is damaged"}


@pytest.mark.parametrize(("read_size", "mib", "padding"), [(700, 3000, 0), (1 << 20, 1 << 20, 0), (700, 3000, 30_000)])
def test_a_broken_stream_of_a_dump_costs_its_own_pages_only(tmp_path, monkeypatch, read_size, mib, padding):
    """Wherever a byte is flipped, and wherever a reader of a piece begins: every other stream's pages stand.

    With `padding` a stream has several blocks of 100 KB: some of it is given before the break is met.
    """
    monkeypatch.setattr(sources, "READ_SIZE", read_size)
    monkeypatch.setattr(slices_module, "MIB", mib)
    packed, each = multistream(many(3, 40, padding), level=1), 4
    begins = [m.start() for m in BZ2_STREAM.finditer(packed)]
    assert len(begins) == 12
    texts = [clean(t) for t in write_text(3, 40)]
    for place in range(begins[1] + 11, begins[-1], 97):
        (tmp_path / "a.xml.bz2").write_bytes(packed[:place] + bytes([packed[place] ^ 16]) + packed[place + 1 :])
        documents, rejects, plan = read(tmp_path)
        hit = bisect_right(begins, place) - 1
        lost = set(texts) - {d.text for d in documents}
        assert lost <= set(texts[(hit - 1) * each : hit * each]), place
        assert [d.text for d in documents] == [t for t in texts if t not in lost]
        if not plan.damages:  # a bit that bz2 does not use
            assert not lost
            continue
        assert len(plan.damages) == 1
        assert "reading went on with the next stream" in plan.damages[0] or hit > len(begins) - 3  # the foot is short
        assert f"in the stream at byte {begins[hit]}:" in plan.damages[0] or place - begins[hit] < 10
        assert {r.reason.split(":")[0] for r in rejects} <= {"malformed XML"}


def test_a_flipped_byte_and_a_file_that_is_no_dump_are_named(tmp_path):
    packed = bytearray(multistream(many(3, 30)))
    packed[len(packed) // 2] ^= 255
    (tmp_path / "a.xml.bz2").write_bytes(packed)
    (tmp_path / "b.xml.bz2").write_bytes(b"plain text")
    (tmp_path / "c.xml").write_bytes(b"")
    (tmp_path / "d.xml").write_text(HEAD + FOOT)
    (tmp_path / "e.xml").write_bytes("\ufeff<mediawiki><page>".encode("utf-16-le") + b"\x00\xd8x")
    (tmp_path / "f.xml").write_bytes(dump(many(4, 5)))
    documents, _, plan = read(tmp_path)
    assert 30 < len(documents) < 35
    assert [d.split(":")[0] for d in plan.damages] == ["a.xml.bz2", "b.xml.bz2", "c.xml", "d.xml", "e.xml"]
    assert "broken .bz2 data" in plan.damages[0]
    assert "is it a MediaWiki dump?" in plan.damages[2]
    assert "broken utf-16" in plan.damages[4]


def test_nothing_to_read_is_one_clear_error(tmp_path):
    (tmp_path / "a.xml").write_text(HEAD + FOOT)
    with pytest.raises(PrepareError, match=r"there is no text in these files: a\.xml: no <page> in it"):
        prepare(settings(tmp_path), tmp_path / "store")
    with pytest.raises(SourceError, match=r"matches none of \.xml, \.xml\.zst, \.xml\.gz, \.xml\.bz2"):
        source_files(settings(tmp_path / "none"))


def test_a_missing_parser_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="needs the package mwparserfromhell"):
        source_files(settings(BULGARIAN))


def test_processes_never_change_a_byte(tmp_path):
    text = tmp_path / "dumps"
    text.mkdir()
    (text / "a.xml.bz2").write_bytes(bz2.compress(dump(many(1, 12, padding=200_000))))
    (text / "b.xml.bz2").write_bytes(multistream(many(2, 12, padding=200_000), 2))
    (text / "c.xml").write_bytes(dump([*many(3, 12), page(1, "#R", more="<redirect/>"), page(2, "T", space=1)]))
    (text / "d.xml.bz2").write_bytes(BULGARIAN.read_bytes())
    for processes in (1, 3):
        prepare(settings(text, processes=processes), tmp_path / str(processes))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")
    manifest = read_manifest(tmp_path / "1")
    assert manifest["left_out"] == {"namespace 1": 1, "namespace 4": 2, "redirect": 1}
    assert manifest["rejects"] == {}
    assert manifest["counts"]["records"] == 37
    assert "mwparserfromhell" in manifest["libraries"]
    stored = [read_documents(p) for p in (tmp_path / "1").rglob("documents-*.arrow")]
    assert len(stored) > 6
    titles = {id: title for d in stored for id, title in zip(d.ids, d.titles, strict=True)}
    assert titles["wikipedia:558"] == "Григориански календар"
    assert titles["wikipedia:101"] == "Page 101"
    samples = [json.loads(line) for p in (tmp_path / "1" / "rejects").iterdir() for line in p.read_text().splitlines()]
    assert Counter(s["reason"] for s in samples) == manifest["left_out"]


def test_own_corpus_as_the_document_walks_through_it(tmp_path):
    """The commands of docs/own-corpus.md, with nothing but another data.root."""
    said = []
    for module, arguments in walk():
        command = [sys.executable, "-m", module, f"data.root={tmp_path}", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    prepared, inspected = said
    assert ": 1 document, " in prepared
    assert "with one document, hence without random pairs" in prepared
    assert "wikipedia:558 (Григориански календар)" in inspected
    assert read_manifest(tmp_path / "bg")["left_out"] == {"namespace 4": 2}
    entries = (tmp_path / "bg" / "vocab.txt").read_text().split("\n")
    assert "година" in entries
    tokens = read_documents(tmp_path / "bg" / "train" / "documents-00000.arrow").tokens
    assert (tokens == entries.index("[UNK]")).mean() < 0.001


def walk() -> list[tuple[str, list[str]]]:
    page = (ROOT / "docs/own-corpus.md").read_text()
    commands = re.findall(r"^    make (\w+) ARGS='([^']*data\.name=bg[^']*)'", page, re.MULTILINE)
    return [(f"data_prep.{target}", arguments.split()) for target, arguments in commands]


def test_templates_without_an_entry_are_counted_in_the_notes(tmp_path):
    """The same bytes for any number of processes, and a table of one's own is a part of the store's settings."""
    texts = [t.replace("\n", "\n\n") for t in write_text(5, 30)]
    pages = [
        page(n, f"{t}\n\nIt is {{{{mystery|{n}}}}} far. It {{{{riddle}}}} is {{{{mystery}}}}.")
        for n, t in enumerate(texts)
    ]
    (tmp_path / "a.xml.bz2").write_bytes(multistream(pages))
    table = tmp_path / "mine.toml"
    table.write_text('[text]\nmystery = "{1} km"\n')
    stores = {}
    ways = {
        "one": {"processes": 1},
        "two": {"processes": 2},
        "drop": {"gaps": "drop"},
        "mine": {"templates": str(table)},
    }
    for name, more in ways.items():
        data = settings(tmp_path, root=str(tmp_path / name), **more)
        prepare(data, Path(data.root) / data.name)
        stores[name] = read_manifest(Path(data.root) / data.name)
    assert stores["one"] == stores["two"]
    note = next(n for n in stores["one"]["notes"] if "lack the text" in n)
    assert note.startswith("60 sentences in 30 paragraphs lack")
    assert "mystery (60), riddle (30)" in note
    assert [n for n in stores["drop"]["notes"] if n == note.replace("lack", "were left out, since they lack")]
    assert "gaps" not in stores["one"]["settings"]
    assert stores["drop"]["settings"] == stores["one"]["settings"] | {"gaps": "drop"}
    sentences = {
        name: sum(store["counts"][n] for n in ("sentences", "heldout_sentences")) for name, store in stores.items()
    }
    assert sentences["drop"] == sentences["one"] - 60
    note = next(n for n in stores["mine"]["notes"] if "lack the text" in n)
    assert note.startswith("30 sentences in 30 paragraphs lack")
    assert "mystery (30), riddle (30)" in note
    assert stores["mine"]["settings"]["templates"] != stores["one"]["settings"]["templates"]
    table.write_text('[text]\nmystery = "{1} miles"\n')
    with pytest.raises(PrepareError, match=r"- data\.templates: sha256:\w+ -> sha256:"):
        prepare(data, Path(data.root) / data.name)


def test_a_dumps_head_of_openings_alone_takes_no_quadratic_time():
    """Each opening could go on to the end of the head; a number of 5,000 digits is none of a namespace."""
    head = b"<namespace " * 200_000 + b"<namespace " + b'key="1" ' * 200_000
    digits = b'<namespace key="' + b"6" * 5000 + b'">Picture</namespace>'
    assert dropped_spaces(head + digits) == {"file", "image", "category"}
