"""The report on a token store: counts are the manifest's and the files', and every figure is drawn."""

from pathlib import Path

import numpy as np
import pytest

from bert_lamb.data.store import read_documents
from bert_lamb.report_data import page
from bert_lamb.reporting.data_figures import draw_data_figures
from bert_lamb.reporting.data_numbers import StoreNumbers, fill, mean_length, read_store, reasons


@pytest.fixture(scope="module")
def numbers(finished: Path) -> StoreNumbers:
    return read_store(finished)


def test_counts_are_the_manifest_s(numbers, finished):
    counts = numbers.manifest["counts"]
    assert len(numbers.document_lengths) == counts["documents"]
    assert numbers.document_lengths.sum() == numbers.token_counts.sum() == counts["tokens"]
    assert numbers.sentence_lengths.sum() == counts["sentences"]
    assert np.arange(len(numbers.sentence_lengths)) @ numbers.sentence_lengths == counts["tokens"]
    for length, by_length in numbers.sequence_lengths.items():
        first = numbers.manifest["instances"]["train"][str(length)][0]
        assert by_length.sum() == first["instances"]
        assert mean_length(by_length) == pytest.approx(first["tokens"] / first["instances"])
    shares = numbers.token_counts[numbers.token_counts > 0] / counts["tokens"]
    assert numbers.manifest["unigram_entropy_nats"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-5)
    documents = read_documents(finished / "train" / "documents-00000.arrow")
    ends = documents.sentence_ends[: documents.sentence_starts[1]]
    assert numbers.sentence_lengths[ends[0]] > 0


@pytest.mark.parametrize(
    ("lengths", "budget", "share"),
    [
        ([4] * 9, 8, 1.0),  # two fill a budget; the ninth stands in the one that is still open
        ([5] * 9, 8, 5 / 8),  # one a budget
        ([3] * 9, 8, 6 / 8),
        ([3], 8, 3 / 8),  # none is closed
    ],
)
def test_budgets_are_filled_by_whole_sequences(lengths, budget, share):
    assert fill(np.bincount(lengths, minlength=9), budget) == pytest.approx(share)


def test_a_sample_fills_as_all_do(monkeypatch):
    counts = np.bincount([60, 80, 100, 100], minlength=129) * 5000
    whole = fill(counts, 512)
    monkeypatch.setattr("bert_lamb.reporting.data_numbers.SAMPLED", 10_000)
    assert fill(counts, 512) == pytest.approx(whole, abs=0.005)
    assert 0.75 < whole < 0.95


def test_reasons_come_by_their_number():
    manifest = {"rejects": {"empty": 3, "a": 3}, "left_out": {"redirect": 9}}
    assert reasons(manifest) == [("redirect", 9, "left out by rule"), ("a", 3, "rejected"), ("empty", 3, "rejected")]
    assert reasons({"rejects": {}}) == []


def test_page_and_figures(numbers, tmp_path):
    numbers.manifest["rejects"] = {f"reason {i}": i + 1 for i in range(15)}
    figures = draw_data_figures(numbers, tmp_path)
    assert [stem for stem, _ in figures] == ["lengths", "packing", "next_sentence", "unigram", "reasons"]
    assert all((tmp_path / f"{stem}.png").stat().st_size > 5000 for stem, _ in figures)
    text = page(numbers, "made", figures)
    (row,) = (line for line in text.splitlines() if line.startswith("| 32 |"))
    passes = numbers.manifest["instances"]["train"]["32"]
    share = sum(p["tokens"] for p in passes) / sum(p["instances"] for p in passes) / 32
    assert row.split(" | ")[4] == f"{share:.1%}"
    assert "| reason 14 | 15 | rejected |" in text
    assert "| 3 more reasons | 6 | |" in text
    numbers.manifest["rejects"] = {}
    assert "reasons" not in dict(draw_data_figures(numbers, tmp_path))
    assert not (tmp_path / "reasons.png").exists()
    assert "Nothing was rejected or left out." in page(numbers, "made", [])
