"""The benchmark of the step: contenders meet the same loss from the same weights; the page says what was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tools import tiny

from bert_lamb.assembly import Assembly
from bert_lamb.bench import step as bench
from bert_lamb.bench.peers import HandLoop, padded
from bert_lamb.model import bert_config
from bert_lamb.parallel import Single
from bert_lamb.run import open_run


@pytest.mark.parametrize("masked_head", [False, True])
def test_peers_start_from_our_loss(place: Path, masked_head: bool) -> None:
    """The same weights and sequences: what differs is the road, not the destination."""
    s = tiny(place, f"run.name=loss-{masked_head}", "model.dropout=0", "model.attention_dropout=0")
    cpu = torch.device("cpu")
    run = Assembly(s, open_run(s), Single(cpu))
    data = run.data(1)
    ours = bench.Ours(s, data, run)
    ours.run([0])
    peer = HandLoop(bert_config(s.model, 120, 0), cpu, bf16=False, masked_head=masked_head)
    peer.run([padded(bench.whole_batch(data, 0), s.phase1.seq_len)])
    assert peer.losses[0].item() == pytest.approx(ours.losses[0], rel=1e-5)


def test_dry_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VOCABULARY", 500)
    small = ["model.layers=1", "model.hidden=16", "model.heads=2", "model.intermediate=32", "model.max_positions=64"]
    monkeypatch.setattr(sys, "argv", [
        "step", "--models", "tiny", "--rounds", "1", "--steps", "3", "--batch", "4", "--seq-len", "32",
        "--out", str(tmp_path / "speed.md"), f"data.root={place / 'data'}", "data.name=made", "data.seq_lens=[32,64]",
        "phase2.seq_len=64", "hardware=cpu", "finetune.max_length=64", "finetune.stride=16", *small,
    ])  # fmt: skip
    bench.main()
    (result,) = json.loads((tmp_path / "speed.json").read_text())
    names = [c["name"] for c in result["contenders"]]
    assert names == [
        *bench.TRAINER,
        "hand-written loop, bf16, sdpa",
        "the same, head on masked positions",
        "ours, eager",
    ]
    assert all(len(c["seconds"]) == 2 and min(c["seconds"]) > 0 for c in result["contenders"])
    assert 4 * 5 <= result["real_tokens_a_step"] <= 4 * 32
    page = (tmp_path / "speed.md").read_text()
    ours = next(line for line in page.splitlines() if line.startswith("| ours, eager")).split("|")
    seconds = {c["name"]: sum(c["seconds"]) / 2 for c in result["contenders"]}  # the median of two
    best = min(seconds[name] for name in bench.TRAINER)
    assert float(ours[4]) == pytest.approx(best / seconds["ours, eager"], abs=0.006)
    assert (tmp_path / "speed.png").stat().st_size > 5000
