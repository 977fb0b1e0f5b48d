"""The benchmark of the step: contenders meet the same loss from the same weights; the page says what was measured."""

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import composed, environment, tiny, tiny_overrides

from bert_lamb.batch import IGNORED
from bert_lamb.bench import gpu, gpu_page, loader, parity, random_batches
from bert_lamb.bench import step as bench
from bert_lamb.bench.peers.loops import HandLoop, TrainerLoop, padded
from bert_lamb.bench.turns import Contender
from bert_lamb.data import random_batch
from bert_lamb.model import bert_config, training_flops
from bert_lamb.parallel import Single
from bert_lamb.run import open_run
from bert_lamb.training.assembly import Assembly


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


def dry(place: Path, out: Path, *options: str) -> list[str]:
    """Arguments of a benchmark of the step that takes seconds."""
    return [
        "--models", "tiny", "--rounds", "1", "--steps", "3", "--batch", "4", "--seq-len", "32", *options,
        "--out", str(out / "speed.md"), f"data.root={place / 'data'}", "data.name=made", "data.seq_lens=[32,64]",
        "phase2.seq_len=64", "hardware=cpu", "finetune.max_length=64", "finetune.stride=16", "model.layers=1",
        "model.hidden=16", "model.heads=2", "model.intermediate=32", "model.max_positions=64",
    ]  # fmt: skip


def test_dry_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VOCABULARY", 500)
    # put back afterwards: code that this process compiles with it later crashed outside of a profiler
    monkeypatch.setattr(sys, "argv", ["step", *dry(place, tmp_path, "--profile")])
    with torch._inductor.config.patch("cpp.enable_kernel_profile", True):
        bench.main()
    (result,) = json.loads((tmp_path / "speed.json").read_text())
    names = [c["name"] for c in result["contenders"]]
    better = names[2].split(", ")[1]
    assert better in ("bf16", "fp32")
    assert names == [
        *bench.TRAINER,
        f"hand-written loop, {better}, sdpa",
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
    profiled = {name: (share, calls) for name, share, calls in result["profile"]}
    assert sum(share for share, _ in profiled.values()) == pytest.approx(1)
    assert profiled["aten::addmm"][1] >= 3 * 6, "three steps, six products a layer at least"
    assert f"| `{result['profile'][0][0]}` |" in page


def test_a_slow_contender_is_given_up(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, and the page says so in its place."""
    turns = list[int]()

    def crawl(self: TrainerLoop, batches: list[Any]) -> list[float]:
        turns.append(len(batches))
        for _ in batches:
            time.sleep(0.2)
        return [0.2] * len(batches)

    monkeypatch.setattr(bench, "VOCABULARY", 500)
    monkeypatch.setattr(TrainerLoop, "run", crawl)
    monkeypatch.setattr(sys, "argv", ["step", *dry(place, tmp_path, "--give-up-after", "600")])
    turn = Contender.turn

    def short_for_trainer(one: Contender, number: int, given: Any, limit_s: float) -> list[float]:
        assert limit_s == 600
        return turn(one, number, given, 0.3 if one.name in bench.TRAINER else limit_s)

    monkeypatch.setattr(Contender, "turn", short_for_trainer)
    bench.main()
    (result,) = json.loads((tmp_path / "speed.json").read_text())
    assert turns == [3, 3], "one turn each, then none"
    assert [c["given_up_s"] for c in result["contenders"]] == [0.3, 0.3, None, None, None]
    lines = (tmp_path / "speed.md").read_text().splitlines()
    assert sum("given up: a turn took longer than" in line for line in lines) == 2
    assert next(line for line in lines if line.startswith("| ours, eager")).split("|")[4].strip() == "nan"


def test_every_kind_ends_between_its_steps(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any time a contender takes no step, and nothing of torch is left half changed for the others."""
    turn = Contender.turn

    def no_time(one: Contender, number: int, given: Any, limit_s: float) -> list[float]:
        return turn(one, number, given, limit_s if one.name == "the same, head on masked positions" else 0.0)

    monkeypatch.setattr(Contender, "turn", no_time)
    monkeypatch.setattr(bench, "VOCABULARY", 500)
    monkeypatch.setattr(sys, "argv", ["step", *dry(place, tmp_path, "--give-up-after", "600")])
    bench.main()
    (result,) = json.loads((tmp_path / "speed.json").read_text())
    assert [c["given_up_s"] for c in result["contenders"]] == [0.0, 0.0, 0.0, None, 0.0]
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_ends_when_it_is_asked_to(place: Path, tmp_path: Path, asked: signal.Signals) -> None:
    arguments = dry(place, tmp_path, "--rounds", "1000000")
    command = [sys.executable, "-m", "bert_lamb.bench.step", *arguments]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 1/1000000  ours" in line:
                break
        process.send_signal(asked)
        process.stderr.read()  # until it ends, or pytest's own limit
        assert process.wait() in (-asked, 130)


def test_the_gpu_script_runs_dry_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part on tiny models; what stands in the file is not measured again; the page says what was."""
    out = tmp_path / "gpu.json"

    def run(*parts: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["gpu", "--dry", "--out", str(out), "--part", *parts])
        gpu.main()
        return json.loads(out.read_text())

    first = run("ceilings", "ours-base")
    figures = run("modes", "ours-base", "ours-large", "peers", "lamb", "page")
    assert {name: figures[name] for name in first} == first
    assert not [name for name, figure in figures.items() if "failed" in figure]
    ours = figures["ours base 512 tokens=1024 dropout=0.1"]
    batches = list(random_batches.packed(512, 1024, 4, by_budget=False, dry=True))
    tokens = sum(len(b.input_ids) for b in batches) / len(batches)
    assert ours["tokens_s"] == pytest.approx(tokens / statistics.median(ours["seconds"]))
    page = out.with_suffix(".md").read_text()
    trainer, loop = (figures[f"{who} large 128 sequences=4"]["tokens_s"] for who in ("Trainer", "loop"))
    (line,) = [li for li in page.split("## BERT-large, 128")[1].split("##")[0].splitlines() if "hand-written" in li]
    assert float(line.split("|")[6]) == pytest.approx(loop / trainer, abs=0.006)
    for mode in ("in CUDA graphs", "deterministic"):
        assert page.count(f"| ours, {mode} | 1,024 tokens | 0.1 |") == 2
    assert out.with_suffix(".png").stat().st_size > 5000


def test_the_gpu_script_needs_no_hydra() -> None:
    """It runs where torch, transformers and pyarrow are all there is."""
    absent = "import sys; sys.modules.update(dict.fromkeys(['hydra', 'omegaconf', 'datasets', 'wandb', 'matplotlib']))"
    subprocess.run([sys.executable, "-c", f"{absent}; import bert_lamb.bench.gpu"], env=environment(), check=True)


def test_a_failure_is_told_and_tried_again(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory. Tried to allocate\nmuch")

    here = {"device": "a", "commit": "c", "dirty": False, "threads": 1, "versions": {"torch": "2", "transformers": "5"}}
    results = gpu.Results(tmp_path / "gpu.json", here)
    results.measure("copy", fails)
    assert "copy: RuntimeError: CUDA out of memory. Tried to allocate" in gpu_page.page(results.figures, "x.png")
    results = gpu.Results(tmp_path / "gpu.json", here)
    results.measure("copy", lambda: {"gb_s": 3.0})
    results.measure("copy", fails)
    assert results.figures["copy"]["gb_s"] == 3.0
    with pytest.raises(SystemExit, match="figures of another device"):
        gpu.Results(tmp_path / "gpu.json", here | {"device": "b"})


def test_micro_batches_of_the_gpu_script_are_what_the_loader_makes() -> None:
    for batch in random_batches.packed(512, 4096, 5, by_budget=True, dry=False):
        lengths = random_batches.real_lengths(batch)
        tokens = int(batch.cu_seqlens[-1])
        assert len(batch.input_ids) == 4096
        assert 0.8 * 4096 < tokens == lengths.sum() <= 4096
        assert 5 <= lengths.min() <= lengths.max() <= 512
        masked = int((batch.masked_labels != IGNORED).sum())
        assert masked == sum(max(1, round(0.15 * n)) for n in lengths.tolist())
        places = batch.masked_positions[:masked]
        assert len(set(places.tolist())) == masked
        assert int(places.max()) < tokens
        assert (batch.input_ids[places] == random_batch.MASK).all()


def test_the_loaders_page(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on a small store; the need is that of a full sequence at the GPU's rate."""
    monkeypatch.setattr(loader, "LENGTHS", (32, 64))
    monkeypatch.setattr(loader, "GLOBAL_BATCH", 20)
    monkeypatch.setattr(loader, "BUDGET", 256)
    out = tmp_path / "loader.md"
    monkeypatch.setattr(sys, "argv", ["loader", "--steps", "3", "--out", str(out), *tiny_overrides(place)])
    loader.main()
    rows = [line.split("|")[1:-1] for line in out.read_text().splitlines() if line.startswith(("| 32", "| 64"))]
    for row, seq_len in zip(rows, (32, 64), strict=True):
        need = 475e12 / training_flops(composed("model=large").model, 30_522, seq_len, round(0.15 * seq_len))
        assert float(row[5].replace(",", "")) == pytest.approx(need, abs=0.5)
        assert 5 <= float(row[2]) <= seq_len


def test_the_parity_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout and in few steps ours is transformers' own, and the other seed is not."""
    monkeypatch.setattr(parity, "VOCABULARY", 120)
    monkeypatch.setattr(parity, "WINDOW", 2)
    out = tmp_path / "parity.md"
    monkeypatch.setattr(sys, "argv", [
        "parity", "--steps", "4", "--batch", "8", "--seq-len", "32", "--out", str(out), *tiny_overrides(place),
        "model.dropout=0", "model.attention_dropout=0",
    ])  # fmt: skip
    parity.main()
    curves = json.loads(out.with_suffix(".json").read_text())["mlm"]
    assert curves["ours"] == pytest.approx(curves["transformers"], abs=2e-2), "bf16 rounds apart"
    assert curves["transformers, other seed"] != pytest.approx(curves["transformers"], abs=2e-2)
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "| 3-4 | " in out.read_text()
