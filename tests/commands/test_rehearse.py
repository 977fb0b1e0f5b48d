"""A rehearsal keeps a recipe's form and makes it small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tools import ROOT, composed, environment

from bert_lamb.rehearse import rehearsal_overrides, scaled
from bert_lamb.settings import conf_dir

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
KEPT = ("masking", "optimizer", "handover")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_rehearsed(experiment: str) -> None:
    whole = composed(f"experiment={experiment}")
    small = composed(f"experiment={experiment}", *rehearsal_overrides([f"experiment={experiment}"]))
    for part in KEPT:
        assert getattr(small, part) == getattr(whole, part)
    assert small.recovery.policy == whole.recovery.policy
    for number in (1, 2):
        a, b = small.phase(number), whole.phase(number)
        assert (a.seq_len, a.peak_lr, a.decay_power, a.decay_origin) == (
            b.seq_len,
            b.peak_lr,
            b.decay_power,
            b.decay_origin,
        )
        assert a.steps < 30
        assert bool(a.warmup_steps) == bool(b.warmup_steps)
    assert small.run.name == f"rehearsal-{experiment}", "never the folder of the real run"
    assert small.model.name.startswith("rehearsal")


def test_a_share_of_a_schedule_is_kept() -> None:
    assert scaled(2001, 7037, 24) == 7
    assert scaled(3, 7037, 24) == 1
    assert scaled(0, 7037, 24) == 0
    assert scaled(7036, 7037, 24) == 23


def test_the_command_line_comes_last(tmp_path: Path) -> None:
    """The whole chain runs, with what was given in place of what would be replaced."""
    given = [
        "experiment=sample", f"data.root={tmp_path}/data", f"run.root={tmp_path}/runs", "phase1.steps=5",
        "phase1.warmup_steps=2", "model.hidden=16", "data.articles=300", "data.books=20", "run.heldout_every=0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "bert_lamb.rehearse", *given]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "rehearsal of experiment=sample; replaced:" in done.stderr
    folder = tmp_path / "runs" / "rehearsal-sample"
    assert json.loads((folder / "phase1/result.json").read_text())["steps"] == 5
    assert (folder / "report/report.md").is_file()


def test_a_failing_stage_ends_it_with_the_reason(tmp_path: Path) -> None:
    given = [
        "experiment=sample",
        f"data.root={tmp_path}/data",
        f"run.root={tmp_path}/runs",
        "data.articles=0",
        "data.books=0",
    ]
    command = [sys.executable, "-m", "bert_lamb.rehearse", "experiment=sample", *given]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 1
    assert "error: the rehearsal failed in data_prep.prepare: error: " in done.stderr
    assert "Traceback" not in done.stderr
