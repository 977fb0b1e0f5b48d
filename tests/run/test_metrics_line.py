"""The numbers of a line of metrics.jsonl, by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tools import tiny

from bert_lamb.batch import Denominators
from bert_lamb.parallel import Single
from bert_lamb.run import MetricsLog, Progress, RunFolder, StepTotals


def test_a_line_counts_since_the_one_before_and_per_device(tmp_path: Path) -> None:
    s = tiny(tmp_path, "run.log_every=2", "run.trust_ratios_every=2", "hardware.peak_tflops=8")
    counts = Denominators(masked=10, sequences=4, tokens=60, squared=900)
    totals = StepTotals()
    totals.mlm, totals.nsp, totals.mlm_correct, totals.nsp_correct, totals.computed_tokens = 50.0, 2.0, 3.0, 1.0, 80
    optimizer = Mock(
        param_groups=[{"lr": 0.25}],
        grad_norm=torch.tensor(1.5),
        trust_ratios={"w": torch.tensor(2.0), "v": torch.tensor(0.5)},
    )
    strategy = Single(torch.device("cpu"), rank=0, ranks=2)
    folder, progress = RunFolder(tmp_path / "run"), Progress(1)
    log = MetricsLog(folder, s, progress, ["w", "v"], Mock(), lambda c: c.tokens * 1e11, strategy)
    for seconds in (1.0, 2.0, 5.0):
        progress.finish_step(5.5, True, SimpleNamespace(window=9, spike_nats=9))  # type: ignore[arg-type]
        log.step(progress, counts, totals, optimizer, seconds, {})
    log.close()
    (line,) = [json.loads(text) for text in folder.metrics_file(1).read_text().splitlines()]
    assert line.pop("peak_memory_gib") > 0
    assert line.pop("trust_ratios") == {"w": 2.0, "v": 0.5}
    assert line == pytest.approx(
        {
            "step": 2, "loss": 5.5, "mlm_loss": 5.0, "nsp_loss": 0.5, "mlm_accuracy": 0.3, "nsp_accuracy": 0.25,
            "learning_rate": 0.25, "grad_norm": 1.5, "skipped": 0, "sequences": 8, "tokens": 120, "padding": 0.25,
            "seconds": 3.0, "tflops": 12 / 3 / 2, "mfu": 12 / 3 / 2 / 8,
        }
    )  # fmt: skip
    assert progress.pending["sequences"] == 4, "the third step waits for the next line"
