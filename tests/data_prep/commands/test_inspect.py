"""`inspect` shows what training reads: the same sequence, mask and batch."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prepare_tools import ROOT, data_settings
from tools import make_store, tiny

from bert_lamb.data.masking import masked_counts
from bert_lamb.data.order import Order
from bert_lamb.data.store import read_documents, write_documents
from data_prep.inspect import InspectError, View, joined
from data_prep.prepare import prepare


def view(tmp_path: Path, *overrides: str) -> View:
    if not (tmp_path / "data" / "made").exists():
        (tmp_path / "data").mkdir()
        make_store(tmp_path / "data" / "made")
    return View(tiny(tmp_path, *overrides))


def test_the_masked_sequence_is_the_whole_one_with_its_masks(tmp_path):
    shown = view(tmp_path)
    first, a_from, a, b_from, b, title, masked = list(shown.sequence(3, 5))
    assert first.startswith("phase 1, length 32, epoch 3 (pass 1 of 2), sequence 5 of ")
    assert a_from.startswith("  A: made:0-")
    assert b_from.startswith("  B: made:0-")
    tokens = int(first.split(", ")[-2].split()[0])
    assert title.startswith(f"  masked, {masked_counts([tokens], 0.15)[0]} of {tokens} tokens")
    # labels put back in, pieces apart again: the two segments
    pieces = [re.sub(r"\{.*\|(.*)\}", r"\1", word) for word in masked.split()]
    assert joined(pieces) == f"[CLS] {a.strip()} [SEP] {b.strip()} [SEP]"


def test_masks_differ_by_epoch_and_repeat(tmp_path):
    shown = view(tmp_path)
    assert list(shown.sequence(0, 5)) == list(shown.sequence(0, 5))
    assert list(shown.sequence(0, 5))[1:5] == list(shown.sequence(2, 5))[1:5]  # two passes: the same spans
    assert list(shown.sequence(0, 5))[6] != list(shown.sequence(2, 5))[6]


def test_the_batch_is_the_step_s(tmp_path):
    shown = view(tmp_path, "inspect.step=4")
    summary, *beginnings, more = list(shown.step(4))
    chosen = Order(shown.s.seed, 1, shown.tables.sizes, 24).step(4)
    assert summary.startswith("step 4 of phase 1: 24 sequences of epoch ")
    assert [int(line.split(",")[1].split()[1]) for line in beginnings] == chosen.instance[:8].tolist()
    assert more == "  ... and 16 more"


def test_a_title_stands_beside_the_id(tmp_path):
    shown = view(tmp_path)
    for path in shown.folder.glob("train/documents-*.arrow"):
        documents = read_documents(path)
        titles = [f"Title of {id}" for id in documents.ids]
        write_documents(path, replace(documents, tokens=documents.tokens.copy(), titles=titles))
    assert list(shown.sequence(3, 5))[1].startswith("  A: made:0-")
    assert " (Title of made:0-" in list(shown.sequence(3, 5))[1]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(
        InspectError, match=r"inspect\.sequence=9999: pass 0 of phase 2 has 81 sequences; choose 0 to 80"
    ):
        list(view(tmp_path, "inspect.phase=2", "inspect.sequence=9999").lines())
    with pytest.raises(InspectError, match=r"phase1\.seq_len=48: .* has only lengths 32, 64"):
        view(tmp_path, "phase1.seq_len=48", "data.seq_lens=[48,64]")


def test_pieces_become_words():
    assert joined(["[CLS]", "un", "##like", "##ly", "##", "{[MASK]|##x}"]) == "[CLS] unlikely ## {[MASK]|##x}"


def way(store: Path, paths: Path, document: str, *overrides: str) -> list[str]:
    places = [f"data.root={store.parent}", f"data.name={store.name}", "data.source=text", f"data.paths=[{paths}]"]
    return list(View(tiny(store.parent, *places, *overrides)).document(document))


def section(lines: list[str], head: str) -> list[str]:
    """The indented lines below the one that begins so."""
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 1
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("  ")), len(lines))
    return lines[start:end]


def test_a_document_s_way_goes_from_raw_text_to_a_masked_sequence(finished, text):
    lines = way(finished, text, "0", "inspect.epoch=1")
    id = read_documents(finished / "train" / "documents-00000.arrow").ids[0]
    assert lines[0] == f"document {id}, train, shard 0"
    assert lines == way(finished, text, id, "inspect.epoch=1")
    raw, clean = section(lines, "raw, "), section(lines, "clean, ")
    assert raw == clean  # nothing to be cleaned in this text
    split = section(lines, "sentences (")[:10]
    assert split[0].removeprefix("  0: ") == raw[0].strip()[: len(split[0]) - 5]
    for sentence, tokens in zip(split, section(lines, "tokens (")[:10], strict=True):
        pieces = tokens.strip().replace(" ##", "").replace(" .", ".").replace(" ?", "?").replace(" !", "!")
        assert sentence.strip().lower() == pieces
    (counted,) = (line for line in lines if line.startswith("sequences of length 32 in pass 1: it is A in "))
    first = next(line for line in lines if line.startswith("phase 1, length 32, epoch 1 (pass 1 of 2), sequence "))
    assert lines[lines.index(first) + 1].startswith(f"  A: {id}, shard 0, tokens ")
    of_a = int(counted.split("A in ")[1].split(",")[0])
    sequence = int(first.split("sequence ")[1].split()[0])
    view = View(tiny(finished.parent, f"data.root={finished.parent}", "data.name=store"))
    owners = [view.document_at(0, int(s)) for s in view.tables.of_shard(1, 0)[1].a_start]
    assert (owners.count(id), owners.index(id)) == (of_a, sequence)


def test_numbers_go_on_over_shards_and_held_out_documents_are_found_by_id(finished, text):
    ids = [i for n in range(4) for i in read_documents(finished / "train" / f"documents-{n:05d}.arrow").ids]
    assert way(finished, text, "40")[0].startswith(f"document {ids[40]}, train, shard 1")
    out = read_documents(next(finished.glob("heldout/documents-*"))).ids[0]
    assert way(finished, text, out)[-1] == "held out: it is in no training sequence"
    with pytest.raises(InspectError, match=rf"inspect\.document={len(ids)}: .* or a number from 0 to {len(ids) - 1}"):
        way(finished, text, str(len(ids)))


def test_a_source_that_is_gone_or_another_one_is_said(finished, tmp_path):
    gone = way(finished, tmp_path / "gone", "0")
    assert gone[1].startswith("raw: not shown, because the source files are not where data.paths says (data.paths: ")
    assert gone[2].startswith("tokens (")
    (tmp_path / "part-00.jsonl").write_text('{"text": "Another text."}\n')
    assert "no text in data.paths" in way(finished, tmp_path, "0")[1]


def test_of_a_dump_raw_is_its_markup(tmp_path):
    dump = ROOT / "tests/fixtures/wikipedia/bgwiki-latest-pages-articles-shortened.xml.bz2"
    settings = {"source": "wikipedia_dump", "language": "bg", "vocab_size": 1000, "passes": 1, "heldout_share": 0.0}
    prepare(data_settings(paths=[dump], **settings), tmp_path / "bg")
    lines = way(tmp_path / "bg", dump, "wikipedia:558")
    assert section(lines, "raw, ")[0].startswith("  [[File:Gregory XIII.jpg|thumb|")
    assert section(lines, "text of the markup, ") == section(lines, "clean, ")
    assert not [line for line in section(lines, "clean, ") if "[[" in line]
