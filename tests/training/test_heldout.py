"""The held-out sequences: the same for every run, drawn from everything that was held out."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from tools import make_store, tiny

from bert_lamb.data.loader import PhaseData
from bert_lamb.parallel import Single
from bert_lamb.run import open_run
from bert_lamb.training.assembly import Assembly
from bert_lamb.training.heldout import heldout_numbers


def read_by(place: Path, *overrides: str) -> tuple[list[int], dict[str, float]]:
    """Rows of the held-out table that are looked at, and what they give."""
    s = tiny(place, f"run.name=r{abs(hash(overrides))}", *overrides)
    run, rows, inside = Assembly(s, open_run(s), Single(torch.device("cpu"))), [], PhaseData.make

    def make(self: PhaseData, chosen, which):
        rows.extend(chosen.instance[which].tolist())
        return inside(self, chosen, which)

    with mock.patch.object(PhaseData, "make", make):
        return rows, heldout_numbers(run, 1)


def test_they_come_from_the_whole_split(tmp_path: Path) -> None:
    """40 rows are held out: the first 16 would be those of the first files alone."""
    make_store(tmp_path / "data" / "made")
    rows, numbers = read_by(tmp_path, "seed=0")
    again, _ = read_by(tmp_path, "seed=5")
    assert sorted(rows) == sorted(again)
    assert len(set(rows)) == 16
    assert np.histogram(rows, bins=4, range=(0, 40))[0].min() >= 1
    everything, _ = read_by(tmp_path, "run.heldout_sequences=1000")
    assert sorted(everything) == list(range(40))
    assert numbers["heldout_mlm_loss"] == pytest.approx(np.log(120), abs=0.5)  # random weights, 120 entries
