"""Law 1: one step's gradient is that of the whole global batch, however it is split. Law 7: hardware is only speed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.padded import gradients, padded_losses, plain_bert
from ranks.gradients import STEP, reduced_gradient
from safetensors.torch import load_file
from tools import RANKS, environment, losses_of, prepared, torchrun

from bert_lamb.batch import PackedBatch
from bert_lamb.bench.peers.loops import padded
from bert_lamb.parallel import Single
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder, open_run
from bert_lamb.settings import recipe, recipe_hash
from bert_lamb.training.assembly import Assembly

BATCH = 23  # no multiple of anything
BUDGETS = (1024, 224, 160, 32)  # all at once, and 7, 5 or 1 sequences of at most 32 tokens at a time
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    s = prepared(
        tmp_path_factory.mktemp("law1"), f"phase1.global_batch={BATCH}", "hardware.precision=fp64", passes=1, shards=1
    )
    return open_run(s)


@pytest.fixture(scope="module")
def expected(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The same weights in transformers' BERT, the global batch as one padded batch, the loss as law 1 writes it."""
    run = Assembly(folder.settings(), folder, Single(CPU))
    data = run.data(1)
    data.micro_batch_tokens = BATCH * data.seq_len
    whole: list[PackedBatch] = [b for step in data.steps(STEP, STEP + 1) for b in step.batches]
    assert len(whole) == 1
    bert = plain_bert()
    bert.load_state_dict(run.bert.state_dict())
    mlm, nsp = padded_losses(bert, padded(whole[0]))
    lengths = whole[0].cu_seqlens.diff().tolist()
    masked = sum(max(1, round(0.15 * n)) for n in lengths)
    assert len(set(lengths)) > 5, "sequences of many lengths, or a mean of means would pass"
    (mlm / masked + nsp / BATCH).backward()
    return gradients(bert) | {"losses": torch.stack([mlm, nsp]).detach()}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], ranks: int, budget: int) -> None:
    sequences, micro_batches = got.pop("sequences, micro-batches").tolist()
    assert sequences == BATCH
    assert micro_batches == ranks * -(-BATCH // (ranks * (budget // 32)))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("budget", BUDGETS)
def test_one_process(folder: RunFolder, expected: dict[str, torch.Tensor], budget: int) -> None:
    assert_same(reduced_gradient(folder, Single(CPU), budget), expected, 1, budget)


@pytest.mark.parametrize("budget", [512, 230, 96, 64])
def test_planned_by_tokens(folder: RunFolder, expected: dict[str, torch.Tensor], budget: int) -> None:
    """The micro-batches that a GPU gets."""
    got = reduced_gradient(folder, Single(CPU), budget, padded=False)
    sequences, micro_batches = got.pop("sequences, micro-batches").tolist()
    assert sequences == BATCH
    assert micro_batches <= -(-BATCH // (budget // 32))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes(folder: RunFolder, expected: dict[str, torch.Tensor], tmp_path: Path, ranks: int) -> None:
    program = RANKS / "gradients.py"
    budgets = [str(b) for b in BUDGETS if b > 32]  # 23 single sequences are not as many for each of 2 or 3 ranks
    subprocess.run(
        torchrun(ranks, program, folder.path, tmp_path, *budgets), env=environment(), check=True, capture_output=True
    )
    for budget in map(int, budgets):
        assert_same(load_file(tmp_path / f"{ranks}-ranks-{budget}.safetensors"), expected, ranks, budget)


def test_dropout_too(tmp_path: Path) -> None:
    """On a CPU what is dropped is a function of the sequence: no split of the global batch changes it."""
    s = prepared(tmp_path, f"phase1.global_batch={BATCH}", "hardware.precision=fp64", *DROPOUT, passes=1, shards=1)
    folder = open_run(s)
    whole = reduced_gradient(folder, Single(CPU), 1024)
    program = RANKS / "gradients.py"
    command = torchrun(3, program, folder.path, tmp_path, "160")
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    others = {
        "micro-batches": reduced_gradient(folder, Single(CPU), 160),
        "one sequence each": reduced_gradient(folder, Single(CPU), 32),
        "by tokens": reduced_gradient(folder, Single(CPU), 96, padded=False),
        "3 ranks": load_file(tmp_path / "3-ranks-160.safetensors"),
    }
    for way, got in others.items():
        for name, value in whole.items():
            if "micro-batches" not in name:
                torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10, msg=f"{way}: {name}")
    run = Assembly(s, folder, Single(CPU))
    run.bert.eval()
    mlm = sum(run.losses(b).mlm.item() for step in run.data(1).steps(STEP, STEP + 1) for b in step.batches)
    assert not np.isclose(mlm, float(whole["losses"][0])), "dropout was on"


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, str]:
    folder = tmp_path_factory.mktemp("law7")
    s = prepared(folder, *SHORT, "run.name=plain")
    return folder, losses_after(s), recipe_hash(recipe(s, ""))


DROPOUT = ("model.dropout=0.1", "model.attention_dropout=0.2")
SHORT = (
    *DROPOUT, "phase1.steps=3", "phase1.global_batch=10", "phase2.steps=2", "phase2.global_batch=5",
    "phase1.peak_lr=0.01", "hardware.micro_batch_tokens=1024",
)  # fmt: skip


def losses_after(s) -> np.ndarray:
    folder = open_run(s)
    pretrain(folder)
    return np.array([loss for number in (1, 2) for loss in losses_of(folder.path, number).values()])


@pytest.mark.parametrize(
    "hardware",
    [
        ("hardware.micro_batch_tokens=64",),
        ("hardware.micro_batch_tokens=100", "hardware.prefetch=1"),
        ("hardware.strategy=ddp",),
        ("hardware.recompute=true", "hardware.micro_batch_tokens=200"),
        ("hardware=auto", "hardware.precision=fp32", "hardware.compile=off", "hardware.deterministic=true"),
    ],
    ids=" ".join,
)
def test_hardware_never_moves_the_losses(plain_losses: tuple[Path, np.ndarray, str], hardware: tuple[str, ...]) -> None:
    folder, expected, recipe_before = plain_losses
    s = prepared(folder, *SHORT, *hardware, "run.name=" + "".join(c for c in hardware[0] if c.isalnum()))
    np.testing.assert_allclose(losses_after(s), expected, rtol=1e-5)
    assert recipe_hash(recipe(s, "")) == recipe_before


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiling_never_moves_the_losses(tmp_path: Path) -> None:
    """One shape for both phases, so that one compilation serves them; filler tokens and sequences included."""
    small: tuple[str, ...] = (
        "data.seq_lens=[32]",
        "phase2.seq_len=32",
        "model.layers=1",
        "hardware.micro_batch_tokens=480",
    )
    small += (*DROPOUT, "phase1.steps=2", "phase2.steps=1", "phase1.global_batch=29", "phase2.global_batch=29")
    small += ("phase1.warmup_steps=1", "phase2.warmup_steps=0")
    plain = losses_after(prepared(tmp_path, *small, "run.name=plain", seq_lens=(32,)))
    compiled = prepared(tmp_path, *small, "run.name=compiled", "hardware.compile=on")
    np.testing.assert_allclose(losses_after(compiled), plain, rtol=1e-5)


def test_the_losses_would_show_a_difference(plain_losses: tuple[Path, np.ndarray, str]) -> None:
    """Another seed, or another learning rate from the second update on, is seen at that tolerance."""
    folder, expected, _ = plain_losses
    other = losses_after(prepared(folder, *SHORT, "seed=1", "run.name=seed"))
    assert (np.abs(other / expected - 1) > 1e-5).all()
    faster = losses_after(prepared(folder, *SHORT, "phase1.peak_lr=0.011", "run.name=faster"))
    assert (np.abs(faster / expected - 1) > 1e-5)[2:].all()
