"""Law 2: a run that was cut goes on as if it had not been, to the bit on as many processes."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from ranks.pretrain import pretrain_for
from safetensors.torch import load_file
from tools import RANKS, assert_same_bits, composed, environment, fresh, losses_of, prepared, tiny_overrides, torchrun

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.hardware import choose_precision
from bert_lamb.optim import has_compiler
from bert_lamb.pretrain import pretrain
from bert_lamb.run import RunFolder, list_checkpoints, open_run
from bert_lamb.training.checkpoints import PhaseCheckpoints
from bert_lamb.training.repeatable import repeat_to_the_bit, seed_dropout, set_deterministic

STEPS = {1: 6, 2: 4}  # of `tiny`
DRAW = random.Random(20)
CUTS = {  # name: finished steps, over both phases
    "in phase 1": DRAW.randint(1, STEPS[1] - 1),
    "between the phases": STEPS[1],
    "in phase 2": STEPS[1] + DRAW.randint(1, STEPS[2] - 1),
    "after the last step": STEPS[1] + STEPS[2],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("moments", ["keep", "keep_reset_step", "fresh"])
def test_one_process(place: Path, moments: str) -> None:
    def run(name: str) -> RunFolder:
        return fresh(place, f"{moments}-{name.replace(' ', '-')}", f"handover.moments={moments}")

    uncut = run("uncut")
    pretrain(uncut)
    for name, steps in CUTS.items():
        if moments != "keep" and name in ("in phase 1", "after the last step"):
            continue  # nothing is handed over there
        cut = run(name)
        pretrain_for(cut, steps)
        assert not cut.phase_result(2)
        assert sum(len(losses_of(cut.path, n)) for n in (1, 2) if cut.phase(n).exists()) == steps
        pretrain(cut)
        assert_same_bits(cut, uncut)


def test_muon_keeps_two_kinds_of_state(place: Path) -> None:
    """Momentum of matrices beside AdamW's moments; the hand-over zeroes the steps of those that count them."""
    given = ("optimizer=muon", "phase1.peak_lr=0.003", "handover.moments=keep_reset_step", "run.trust_ratios_every=1")
    uncut, cut = (fresh(place, f"muon-{name}", *given) for name in ("uncut", "cut"))
    pretrain(uncut)
    for steps in (2, STEPS[1] - 1):
        pretrain_for(cut, steps)
    pretrain(cut)
    assert_same_bits(cut, uncut)
    state = load_file(uncut.weights() / "optimizer.safetensors")
    assert {key.rpartition("/")[2] for key in state} == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
    assert not any("trust_ratios" in line for line in map(json.loads, uncut.metrics_file(2).read_text().splitlines()))


def test_what_repeats_to_the_bit() -> None:
    """A CPU always, a GPU where asked; torch's compiler too, whose own setting is read before ours could be."""

    def deterministic(asked: bool, device: str) -> tuple[bool, bool]:
        repeat_to_the_bit(asked, torch.device(device))
        return torch.are_deterministic_algorithms_enabled(), torch._inductor.config.deterministic

    assert deterministic(False, "cuda") == (False, False)
    assert deterministic(True, "cuda") == (True, True)
    set_deterministic(False)
    assert deterministic(False, "cpu") == (True, True)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "compiled", [pytest.param("on", marks=pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")), "off"]
)
def test_several_threads(tmp_path: Path, compiled: str) -> None:
    """Sums come in any order there, the compiler's above all, unless torch is told not to. Compiled, in the precision
    that this machine chooses for the embedded corpus' model."""
    precision = choose_precision("auto", torch.device("cpu"), composed().model).name if compiled == "on" else "fp32"
    overrides = (
        "data.seq_lens=[32]", "phase2.seq_len=32", "hardware=auto", "hardware.device=cpu",
        f"hardware.precision={precision}", f"hardware.compile={compiled}", "hardware.micro_batch_tokens=2048",
        "phase1.global_batch=128", "phase2.global_batch=128",
    )  # fmt: skip
    uncut, cut = (
        open_run(prepared(tmp_path, *overrides, f"run.name={name}", seq_lens=(32,))) for name in ("uncut", "cut")
    )
    pretrain(uncut)
    pretrain_for(cut, 3)
    pretrain(cut)
    assert_same_bits(cut, uncut)


def test_cut_twice(place: Path) -> None:
    uncut, twice = fresh(place, "twice-uncut"), fresh(place, "twice")
    pretrain(uncut)
    pretrain_for(twice, 2)
    pretrain_for(twice, 2)
    pretrain(twice)
    assert_same_bits(twice, uncut)
    kinds = [json.loads(line)["event"] for line in (twice.path / "events.jsonl").read_text().splitlines()]
    assert kinds == ["start", "stop", "resume", "stop", "resume", "start"]


def test_dropout_is_drawn_anew_everywhere() -> None:
    """Each step, micro-batch, rank and phase has a draw of its own, and always the same one."""

    def drawn(*place: int) -> float:
        seed_dropout(0, *place)
        return torch.rand(1, dtype=torch.float64).item()

    places = list(product((1, 2), range(5), range(4), range(3)))
    draws = {place: drawn(*place) for place in places}
    assert len(set(draws.values())) == len(places)
    assert all(drawn(*place) == draws[place] for place in reversed(places))


def test_dropout_follows_the_step(place: Path) -> None:
    """The loop hands each micro-batch's place to the draw."""
    seen = []
    with mock.patch("bert_lamb.pretrain.seed_dropout", lambda *where: seen.append(where)):
        pretrain(fresh(place, "places"))
    assert seen[:6] == [(0, 1, step, index, 0) for step in (0, 1) for index in range(3)]
    assert len(set(seen)) == len(seen) == 6 * 3 + 4 * 3


def test_a_crash_goes_back_to_the_last_checkpoint(place: Path) -> None:
    """Steps since then are done again, and the last line of a step counts."""
    uncut, cut = fresh(place, "crash-uncut"), fresh(place, "crash-cut")
    pretrain(uncut)

    class Crash(Exception):
        pass

    calls = []

    def fail(self: object, *_: object) -> bool:
        calls.append(1)
        if len(calls) == 5:  # two steps after the checkpoint of step 3
            raise Crash
        return False

    with mock.patch("bert_lamb.pretrain.StopRequest.__bool__", fail), pytest.raises(Crash):
        pretrain(cut)
    assert [p.name for p in list_checkpoints(cut.phase(1) / "checkpoints")] == ["step-000003"]
    log = cut.phase(1) / "metrics.jsonl"
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    wrong = json.loads(lines[-1]) | {"loss": 99.0}
    log.write_text("\n".join([*lines[:-1], json.dumps(wrong)]) + "\n")
    pretrain(cut)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 4, 5, 6]
    assert_same_bits(cut, uncut)


@pytest.mark.parametrize("at", ["the hand-over", "the result of phase 1"])
def test_a_crash_between_the_phases(place: Path, at: str) -> None:
    uncut = fresh(place, "between-uncut")
    if not uncut.phase_result(2):
        pretrain(uncut)
    cut = fresh(place, "between-" + at.replace(" ", "-"))
    inside = PhaseCheckpoints.restore

    def fail(self: PhaseCheckpoints, *arguments: object) -> object:
        if at == "the hand-over" and self.phase_number == 1:
            return inside(self)
        raise KeyboardInterrupt

    patched = mock.patch.object(PhaseCheckpoints, "restore" if at == "the hand-over" else "finish", fail)
    with patched, pytest.raises(KeyboardInterrupt):
        pretrain(cut)
    assert bool(cut.phase_result(1)) == (at == "the hand-over")
    pretrain(cut)
    assert_same_bits(cut, uncut)


@pytest.mark.parametrize("where", ["metrics.jsonl", "events.jsonl"])
def test_half_a_line_does_not_spoil_a_log(place: Path, where: str) -> None:
    """A process killed while it wrote leaves half a line; the next one's first line must not be joined to it."""
    folder = fresh(place, f"half-{where}")
    pretrain_for(folder, 5)
    path = folder.phase(1) / where if where == "metrics.jsonl" else folder.path / where
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    pretrain(folder)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert list(losses_of(folder.path, 1)) == [1, 2, 3, 4, 5, 6]


def test_done_is_done(place: Path) -> None:
    folder = fresh(place, "done")
    pretrain(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file() and "machine" not in p.name}
    pretrain(folder)
    assert before == {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p in before}


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes(place: Path, ranks: int) -> None:
    """Cut in every place, on 2 with every hand-over, then resumed by new processes; also a run begun on 1."""
    program = RANKS / "pretrain.py"

    def run(name: str, moments: str, devices: int = ranks) -> RunFolder:
        return fresh(place, f"{ranks}-{moments}-{name}", f"handover.moments={moments}", f"hardware.devices={devices}")

    def launch(*jobs: tuple[RunFolder, int]) -> None:
        arguments = [f"{folder.path}:{steps}" for folder, steps in jobs]
        done = subprocess.run(
            torchrun(ranks, program, *arguments), env=environment(), check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    moments = {2: ["keep", "keep_reset_step", "fresh"], 3: ["keep"]}[ranks]
    uncut = {m: run("uncut", m) for m in moments}
    cuts = list(CUTS.values())[:: 1 if ranks == 2 else 2]
    parts = [(run(f"cut{cut}", m), m, cut) for cut in cuts for m in moments[: 3 if cut == STEPS[1] else 1]]
    begun_on_one, uncut_on_one = (
        open_run(prepared(place, f"run.name={ranks}-{name}", "hardware.precision=fp64"))
        for name in ("begun-on-one", "uncut-on-one")
    )
    pretrain_for(begun_on_one, 4)
    pretrain(uncut_on_one)
    launch(*((folder, 0) for folder in uncut.values()), *((folder, cut) for folder, _, cut in parts))
    assert not any(folder.phase_result(2) for folder, _, _ in parts)
    launch(*((folder, 0) for folder, _, _ in parts), (begun_on_one, 0))
    for folder, m, _ in parts:
        assert_same_bits(folder, uncut[m])
    for number in (1, 2):
        got, expected = losses_of(begun_on_one.path, number), losses_of(uncut_on_one.path, number)
        assert got.keys() == expected.keys()
        np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-9)
    records = {f.path.name: json.loads((f.path / "machine.json").read_text())["ranks"] for f in uncut.values()}
    assert set(records.values()) == {ranks}


LONG = ("phase1.steps=400", "phase1.global_batch=12", "run.checkpoint_every=7", "run.heldout_every=0")


def command(place: Path, *overrides: str) -> list[str]:
    """The real command with the settings of `tiny` as overrides of its own."""
    return [sys.executable, "-m", "bert_lamb.pretrain", *tiny_overrides(place), *overrides]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    log = folder / "phase1" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < step:
        assert process.poll() is None, "the command ended before it was cut"
        time.sleep(0.02)


def test_a_real_kill(place: Path) -> None:
    """SIGKILL at no chosen moment; other processes and other hardware settings go on in the same folder."""
    process = subprocess.Popen(command(place, *LONG, "run.name=killed"), env=environment())
    wait_for_step(place / "runs" / "killed", 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = fresh(place, "killed", *LONG, "hardware.prefetch=5", "hardware.name=other")
    done = list_checkpoints(killed.phase(1) / "checkpoints")
    assert len(done) == 2
    pretrain_for(killed, 30)
    uncut = fresh(place, "not-killed", *LONG)
    reached = max(losses_of(killed.path, 1))
    pretrain_for(uncut, reached)
    ours, theirs = (load_file(list_checkpoints(f.phase(1) / "checkpoints")[-1] / "model.safetensors")
                    for f in (killed, uncut))  # fmt: skip
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses_of(killed.path, 1) == losses_of(uncut.path, 1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_and_says_so(place: Path, ranks: int) -> None:
    """Exit code 75, a checkpoint of the very step, and one process goes on with what two began."""
    name = f"terminated-{ranks}"
    overrides = (*LONG, f"run.name={name}", f"hardware.devices={ranks}", "run.checkpoint_every=1000")
    process = subprocess.Popen(command(place, *overrides), env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(place / "runs" / name, 3, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == EXIT_STOPPED, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors, errors
    folder = fresh(place, name, *LONG)
    last = max(losses_of(folder.path, 1))
    assert [p.name for p in list_checkpoints(folder.phase(1) / "checkpoints")] == [f"step-{last:06d}"]
    pretrain_for(folder, 2)
    assert max(losses_of(folder.path, 1)) == last + 2
