"""`inspect` shows what training reads: the same sequence, mask and batch."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tools import make_store, tiny

from bert_lamb.data.masking import masked_counts
from bert_lamb.data.order import Order
from bert_lamb.data.store import read_documents, write_documents
from data_prep.inspect import InspectError, View, joined


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
    with pytest.raises(InspectError, match=r"phase1\.seq_len=48: .* has 32, 64"):
        view(tmp_path, "phase1.seq_len=48", "data.seq_lens=[48,64]")


def test_pieces_become_words():
    assert joined(["[CLS]", "un", "##like", "##ly", "##", "{[MASK]|##x}"]) == "[CLS] unlikely ## {[MASK]|##x}"
