"""A run that goes wrong: back to the last good checkpoint with other sequences, or stopped; resumable at any step."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ranks.pretrain import pretrain_for
from tools import RANKS, assert_same_bits, environment, fresh, losses_of, torchrun

from bert_lamb.batch import LossSums
from bert_lamb.data.loader import PhaseData, Step
from bert_lamb.data.order import Order
from bert_lamb.pretrain import pretrain
from bert_lamb.run import Progress, RunFolder, TrainingStoppedError, list_checkpoints
from bert_lamb.settings import RecoverySettings
from bert_lamb.training.assembly import Assembly

RULE = RecoverySettings("rollback", 2, 2, 3, 1.0, 2, 3)  # 2 skips; a window of 3, 1 nat above its median, twice

# Thresholds so low that ordinary noise is a spike: the run below rolls back in both phases, by its own losses.
NERVOUS = ("recovery.policy=rollback", "recovery.window=2", "recovery.spike_nats=0.04", "recovery.spike_steps=1",
           "recovery.every=2", "run.checkpoint_every=3", "phase1.steps=8", "seed=2")  # fmt: skip
ROLLED_BACK = [(1, 8, "step-000006"), (1, 8, "step-000006"), (2, 4, "step-000002")]


pytestmark = pytest.mark.usefixtures("one_thread")


def rollbacks(folder: RunFolder) -> list[tuple[int, int, str]]:
    events = map(json.loads, (folder.path / "events.jsonl").read_text().splitlines())
    return [(e["phase"], e["step"], e["to"]) for e in events if e["event"] == "rolled back"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "words", "quiet", "remembered"),
    [
        ([9, 8, 7, 6, 5], None, True, [7, 6, 5]),
        ([5, 5, 5, 6.1], None, False, [5, 5, 5]),  # once is no spike
        ([5, 5, 5, 6.1, 5.5], None, True, [5, 5, 5.5]),  # back again
        ([5, 5, 5, 6.1, 6.1], "above the 5.000 of the steps before, 2 steps in a row", False, [5, 5, 5]),
        ([5, 5, 5, 6, 6], None, True, [5, 6, 6]),  # not more than 1 nat above
        ([5, 7, 9, 8], None, True, [7, 9, 8]),  # the median is 7, and 8 is not more than 1 above
        ([5, 5, 9, 9], None, False, [5, 5, 9]),  # the median is 5: one high loss in the window does not raise it
        ([5, 9, 1], None, True, [5, 9, 1]),  # the window is not full yet
        ([5, 5, NAN], None, False, [5, 5]),
        ([5, 5, NAN, 5, NAN], None, False, [5, 5, 5]),
        ([5, 5, NAN, NAN], "2 steps in a row (recovery.max_skipped_in_row) had no finite gradient", False, [5, 5]),
    ],
)
def test_what_is_trouble(losses: list[float], words: str | None, quiet: bool, remembered: list[float]) -> None:
    progress = Progress(1)
    for loss in losses:
        progress.finish_step(loss, not np.isnan(loss), RULE)
    trouble = progress.trouble(RULE)
    assert (trouble is None) if not words else words in str(trouble)
    assert (progress.quiet, progress.recent_losses) == (quiet, remembered)
    assert (progress.step, progress.skipped) == (len(losses), int(np.isnan(losses).sum()))


def test_rolled_back_the_data_goes_on() -> None:
    """Step 6 reads what step 9 would have read, with 4 steps of an earlier roll-back on top; counts are kept."""
    progress = Progress(1, step=9, data_offset=4, skipped=2, skipped_in_row=2, rollbacks=1, recent_losses=[1.0])
    progress.roll_back(Progress(1, step=6, data_offset=4, recent_losses=[2.0, 3.0]))
    assert progress == Progress(1, step=6, data_offset=7, skipped=2, rollbacks=2, recent_losses=[2.0, 3.0])
    order = Order(0, 1, [100], 10)
    assert np.array_equal(order.step(6, 7).instance, order.step(9, 4).instance)


@pytest.fixture(scope="module")
def uncut(place: Path) -> RunFolder:
    folder = fresh(place, "uncut", *NERVOUS)
    pretrain(folder)
    return folder


def test_a_spike_rolls_back_to_other_sequences(uncut: RunFolder) -> None:
    assert rollbacks(uncut) == ROLLED_BACK
    for number, steps in ((1, 8), (2, 4)):
        result = uncut.phase_result(number)
        assert result is not None
        assert result["steps"] == steps
        state = json.loads((uncut.phase(number) / result["checkpoint"] / "state.json").read_text())
        assert (state["rollbacks"], state["data_offset"]) == ((2, 4) if number == 1 else (1, 2))
        assert len(losses_of(uncut.path, number)) == steps


@pytest.mark.parametrize("steps", [6, 7, 8, 9, 10, 11, 15, 16, 17])
def test_cut_anywhere_the_bits_are_the_same(place: Path, uncut: RunFolder, steps: int) -> None:
    """Before, at and after each roll-back; steps 8, 10 and 16 of this process are those that roll back."""
    cut = fresh(place, f"cut-{steps}", *NERVOUS)
    pretrain_for(cut, steps)
    assert not cut.phase_result(2)
    pretrain(cut)
    assert_same_bits(cut, uncut)
    assert rollbacks(cut) == ROLLED_BACK


def test_two_ranks_agree(place: Path) -> None:
    one, two, cut = (fresh(place, name, *NERVOUS) for name in ("one", "two", "two-cut"))
    pretrain(one)
    assert {phase for phase, *_ in rollbacks(one)} == {1, 2}
    jobs = torchrun(2, RANKS / "pretrain.py", f"{two.path}:0", f"{cut.path}:8", f"{cut.path}:0")
    subprocess.run(jobs, check=True, env=environment(), timeout=300)
    assert rollbacks(two) == rollbacks(cut) == rollbacks(one)
    assert_same_bits(cut, two)
    for number in (1, 2):
        ours, theirs = losses_of(two.path, number), losses_of(one.path, number)
        assert ours == pytest.approx(theirs, rel=1e-5)


@contextmanager
def poisoned(*batches: int) -> Iterator[list[int]]:
    """NaN losses for the sequences of these global batches, whichever step reads them; yields what is read."""
    steps_inside, losses_inside, read = PhaseData.steps, Assembly.losses, []

    def steps(self: PhaseData, first: int, last: int, data_offset: int = 0) -> Iterator[Step]:
        for step in steps_inside(self, first, last, data_offset):
            read.append(step.number + data_offset)
            yield step

    def losses(self: Assembly, *arguments: Any, **more: Any) -> LossSums:
        sums = losses_inside(self, *arguments, **more)
        if torch.is_grad_enabled() and read[-1] in batches:
            sums.mlm = sums.mlm * NAN
        return sums

    with mock.patch.object(PhaseData, "steps", steps), mock.patch.object(Assembly, "losses", losses):
        yield read


def test_gradients_that_stay_away_roll_back(place: Path) -> None:
    """After the roll-back step 4 reads the batch after the last bad one, so the same gradient does not come again."""
    folder = fresh(place, "nan", "recovery.policy=rollback", "recovery.max_skipped_in_row=2", "recovery.every=2")
    with poisoned(4, 5) as read:
        pretrain(folder)
    assert rollbacks(folder) == [(1, 6, "step-000004")]
    assert read[:8] == [0, 1, 2, 3, 4, 5, 6, 7]  # of six steps
    result = folder.phase_result(1)
    assert result is not None
    assert (result["steps"], result["skipped"]) == (6, 2)


def test_the_run_stops_after_so_many_rollbacks(place: Path) -> None:
    folder = fresh(place, "often", *NERVOUS, "recovery.spike_nats=0.0001", "recovery.max_rollbacks=2")
    with pytest.raises(TrainingStoppedError, match=r"after 2 roll-backs \(max_rollbacks\)"):
        pretrain(folder)
    assert len(rollbacks(folder)) == 2


def test_the_policy_stop_stops(place: Path) -> None:
    folder = fresh(place, "stop", *NERVOUS, "recovery.policy=stop")
    with pytest.raises(TrainingStoppedError, match=r"step 8: the loss stood more than 0.04 nats.*has diverged"):
        pretrain(folder)
    assert [p.name for p in list_checkpoints(folder.phase(1) / "checkpoints")] == ["step-000003", "step-000006"]


def test_checkpoints_of_a_spike_are_set_aside(place: Path) -> None:
    """Stopped amid trouble, a run saves what it has; a roll-back then goes behind it, and keeps it aside."""
    folder = fresh(place, "aside", *NERVOUS, "recovery.spike_steps=2", "phase1.steps=12", "recovery.spike_nats=0.0001")
    steps = 0
    while not rollbacks(folder) if (folder.path / "events.jsonl").exists() else True:
        pretrain_for(folder, 1)  # a checkpoint after every single step
        steps += 1
        assert steps < 13
    names = sorted(p.name for p in (folder.phase(1) / "checkpoints").iterdir())
    (_, step, to) = rollbacks(folder)[0]
    assert f"rolled-back-step-{step - 1:06d}" in names
    assert names[-1] == to
    assert json.loads((folder.phase(1) / "checkpoints" / to / "state.json").read_text())["rollbacks"] == 1
