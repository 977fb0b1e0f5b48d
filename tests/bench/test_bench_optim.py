"""The optimizers' benchmark, on a BERT of two numbers a layer: what is missing is named, ratios are right."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bert_lamb.bench import optim as bench


def test_it_writes_a_table_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(groups: Any) -> torch.optim.Optimizer:
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    monkeypatch.setitem(bench.MODELS, "base", (1, 4, 1, 4))
    monkeypatch.setattr(bench, "COPIED", 4_000_000)
    monkeypatch.setitem(bench.MAKERS, "pytorch_optimizer Lamb", gone)
    out = tmp_path / "results/optim.md"
    chosen = ["Lamb", "Lamb, foreach=True", "pytorch_optimizer Lamb", "torch AdamW, fused=True"]
    bench.main(["--rounds", "3", "--out", str(out), "--only", *chosen])
    text = out.read_text()
    assert "Not measured: pytorch_optimizer Lamb: elsewhere is not installed." in text
    (result,) = json.loads(out.with_suffix(".json").read_text())
    names = [row["name"] for row in result["rows"]]
    assert sorted(names) == sorted(["copying 40 bytes a parameter", *set(chosen) - {"pytorch_optimizer Lamb"}])
    assert all(f"| {name} |" in text for name in names)
    assert str(out.parent) in result["command"]


def test_all_use_one_set_of_moments() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    moments: dict = {}
    first, second = bench.ours()([{"params": [p]}]), bench.adamw([{"params": [p]}])
    for optimizer in (first, second):
        optimizer.step()
        bench.share_moments(optimizer, moments)
    for name in ("exp_avg", "exp_avg_sq"):
        assert first.state[p][name] is second.state[p][name]
    assert first.state[p]["step"] is not second.state[p]["step"]


def test_rows_are_medians_and_ratios_of_one_run() -> None:
    times = {"copy": [0.2, 0.1, 0.3], bench.REFERENCE: [0.8, 0.9, 0.7], "Lamb": [0.4, 0.4, 5.0]}
    copy, ours, reference = bench.rows(times)
    assert [r["name"] for r in (copy, ours, reference)] == ["copying 40 bytes a parameter", "Lamb", bench.REFERENCE]
    assert ours["ms"] == pytest.approx(400)
    assert ours["bytes_per_parameter"] == pytest.approx(80), "twice the time of copying 40"
    assert ours["times_faster_than_reference"] == pytest.approx(2)
