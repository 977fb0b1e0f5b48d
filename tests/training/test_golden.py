"""A whole tiny run: against the committed losses, and against a second loop that shares no code with it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.reference_loop import IGNORED, Phase, train
from safetensors.torch import load_file
from tools import ROOT, environment, losses_of, prepared, tiny
from transformers import BertForPreTraining

from bert_lamb.parallel import Single
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder, open_run
from bert_lamb.training.assembly import Assembly

CURVE = ROOT / "tests" / "golden" / "losses_cpu.txt"
HEAD = """# Losses of the run of tests/training/test_golden.py: phase, step, loss.
# fp32, eager, one thread, dropout 0.1, x86 CPU. Regenerate, on purpose only:
# OMP_NUM_THREADS=1 PYTHONPATH=.:tests python tests/training/test_golden.py > tests/golden/losses_cpu.txt
"""


def curve(folder: Path) -> np.ndarray:
    """Rows of phase, step, loss of a fresh run."""
    from tools import make_store

    make_store(folder / "data" / "made")
    torch.set_num_threads(1)
    run = open_run(tiny(folder, "phase1.steps=20", "phase2.steps=10", "phase1.warmup_steps=4"))
    pretrain(run)
    return np.array([(n, step, loss) for n in (1, 2) for step, loss in losses_of(run.path, n).items()])


def test_the_losses_are_the_committed_ones(tmp_path: Path) -> None:
    """In a process of its own, as the file was made: threads and flags of other tests do not count."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment(), check=True, capture_output=True, text=True
    )
    got = np.loadtxt(done.stdout.splitlines())
    golden = np.loadtxt(CURVE)
    assert golden.shape == (30, 3)
    np.testing.assert_allclose(got, golden, rtol=1e-4)


def plain_arrays(run: Assembly, number: int, steps: int) -> list[dict[str, Any]]:
    """Each step's sequences as lists, made by our data code on one rank with no care for micro-batches."""
    data = run.data(number)
    data.micro_batch_tokens = data.order.global_batch * data.seq_len
    arrays = []
    for step in data.steps(0, steps):
        (batch,) = step.batches
        labels = torch.full_like(batch.input_ids, IGNORED)
        labels[batch.masked_positions] = batch.masked_labels
        lengths = batch.cu_seqlens.diff().tolist()
        columns = {"ids": batch.input_ids, "labels": labels, "types": batch.token_type_ids}
        rows = {name: [part.tolist() for part in column.split(lengths)] for name, column in columns.items()}
        arrays.append(rows | {"next_labels": batch.next_labels.tolist()})
    return arrays


@pytest.mark.parametrize("moments", ["keep", "keep_reset_step"])
def test_a_second_loop_gives_the_same_losses_and_weights(tmp_path: Path, moments: str) -> None:
    s = prepared(tmp_path, "hardware.precision=fp64", f"handover.moments={moments}", "phase1.peak_lr=0.02")
    folder = open_run(s)
    run = Assembly(s, folder, Single(torch.device("cpu")))
    phases = [
        Phase(plain_arrays(run, number, phase.steps), phase.peak_lr, phase.warmup_steps)  # type: ignore[arg-type]
        for number, phase in ((1, s.phase1), (2, s.phase2))
    ]
    config = run.bert.config.__class__.from_dict(run.bert.config.to_dict())
    config._attn_implementation = "eager"
    bert: Any = BertForPreTraining(config)
    bert.double().load_state_dict(run.bert.state_dict())
    expected = train(bert.train(), phases, restart_step=moments == "keep_reset_step")

    pretrain(folder)
    got = [loss for number in (1, 2) for loss in losses_of(folder.path, number).values()]
    assert len(got) == 10
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    weights = load_file(folder.weights() / "model.safetensors")
    for name, p in bert.named_parameters():
        torch.testing.assert_close(weights[name], p.detach(), rtol=1e-8, atol=1e-8, msg=name)
    start = dict(run.bert.named_parameters())
    assert (weights["bert.pooler.dense.weight"] - start["bert.pooler.dense.weight"]).norm() > 0.01, "it moved"


def test_fresh_moments_are_those_of_a_first_step(tmp_path: Path) -> None:
    """Phase 2 with `fresh` is a phase of its own that starts from phase 1's weights."""
    s = prepared(tmp_path, "hardware.precision=fp64", "handover.moments=fresh")
    folder = open_run(s)
    run = Assembly(s, folder, Single(torch.device("cpu")))
    arrays = plain_arrays(run, 2, s.phase2.steps)
    pretrain(folder)
    bert: Any = BertForPreTraining.from_pretrained(RunFolder(folder.path).phase(1) / "checkpoints" / "step-000006")
    expected = train(bert.train(), [Phase(arrays, 0.002, 1)], restart_step=False)
    assert s.phase2.peak_lr == 0.002
    np.testing.assert_allclose(list(losses_of(folder.path, 2).values()), expected, rtol=1e-8)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        rows = curve(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
    print(HEAD, end="")
    print("\n".join(f"{int(n)} {int(step)} {loss:.7f}" for n, step, loss in rows))
