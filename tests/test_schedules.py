"""Learning rates as a table of exact values."""

from dataclasses import replace

import pytest
import torch
from tools import composed

from bert_lamb.budget import schedule
from bert_lamb.optim import Schedule, set_lr, square_root_scaled

LINEAR = Schedule(peak_lr=1.0, warmup_steps=1000, total_steps=5000)
FROM_PEAK = replace(LINEAR, decay_origin="warmup_end")
ROOT = replace(LINEAR, decay_power=0.5)
ROOT_FROM_PEAK = replace(FROM_PEAK, decay_power=0.5)
NONE = replace(LINEAR, warmup_steps=0)


@pytest.mark.parametrize(
    ("plan", "step", "rate"),
    [
        (LINEAR, 0, 0.0), (LINEAR, 1, 0.001), (LINEAR, 500, 0.5), (LINEAR, 999, 0.999),
        (LINEAR, 1000, 0.8), (LINEAR, 2500, 0.5), (LINEAR, 4999, 1 / 5000), (LINEAR, 5000, 0.0), (LINEAR, 6000, 0.0),
        (FROM_PEAK, 0, 0.0), (FROM_PEAK, 999, 0.999), (FROM_PEAK, 1000, 1.0), (FROM_PEAK, 3000, 0.5),
        (FROM_PEAK, 4999, 1 / 4000), (FROM_PEAK, 5000, 0.0), (FROM_PEAK, 9000, 0.0),
        (ROOT, 500, 0.5), (ROOT, 1000, 0.8**0.5), (ROOT, 3750, 0.5), (ROOT, 5000, 0.0), (ROOT, 5001, 0.0),
        (ROOT_FROM_PEAK, 1000, 1.0), (ROOT_FROM_PEAK, 4000, 0.5), (ROOT_FROM_PEAK, 5000, 0.0),
        (NONE, 0, 1.0), (NONE, 2500, 0.5),
        (replace(LINEAR, first_step=4000), 0, 0.2), (replace(LINEAR, first_step=900), 50, 0.95),
        (replace(LINEAR, peak_lr=0.006), 500, 0.003), (replace(LINEAR, peak_lr=0.006), 2500, 0.003),
    ],
)  # fmt: skip
def test_table(plan: Schedule, step: int, rate: float) -> None:
    assert plan(step) == pytest.approx(rate, rel=1e-12, abs=1e-15)


def test_nvidias_factor_after_warm_up() -> None:
    """Phase 1 of the 64k/32k recipe: decay of power .5 that counts warm-up too falls from 1 to .846 at its end."""
    s = composed("experiment=bert_large_64k_32k")
    plan = schedule(s, 1)
    assert plan.warmup_steps == round(0.2843 * 7037)
    assert plan(plan.warmup_steps) / plan.peak_lr == pytest.approx((1 - 0.2843) ** 0.5, abs=1e-4)
    assert plan(plan.warmup_steps) / plan.peak_lr == pytest.approx(0.846, abs=5e-4)
    assert plan(plan.warmup_steps - 1) / plan.peak_lr == pytest.approx(1 - 1 / plan.warmup_steps)


def test_one_schedule_over_both_phases() -> None:
    """Row 32k: 15,625 steps in all, warm-up a fifth of them; phase 2 goes on where phase 1 ended."""
    s = composed("experiment=bert_large_32k")
    first, second = schedule(s, 1), schedule(s, 2)
    assert s.phase1.steps + s.phase2.steps == first.total_steps == 15_625
    assert first.warmup_steps == 15_625 // 5
    assert first(0) == 0
    assert first(3124) == pytest.approx(5e-3 * 3124 / 3125)
    assert first(3125) == pytest.approx(5e-3 * 0.8)
    assert second(0) == first(s.phase1.steps)
    assert second(0) == pytest.approx(5e-3 * 1562 / 15_625)
    assert second(1561) == pytest.approx(5e-3 / 15_625)
    assert second(1562) == 0


def test_a_phase_of_its_own_warms_up_again() -> None:
    s = composed("experiment=bert_large_64k_32k")
    second = schedule(s, 2)
    assert (second(0), second(100)) == (0.0, pytest.approx(2e-3))
    assert second(s.phase2.steps) == 0


def test_the_papers_learning_rates() -> None:
    """5 / (2^k 10^3), k = 3, 2.5, 2, 1.5, 1, .5, 0 for batches of 512 to 32K: the square root of the batch."""
    for batch, k in zip((512 * 2**i for i in range(7)), (3, 2.5, 2, 1.5, 1, 0.5, 0), strict=True):
        assert square_root_scaled(5e-3, 32_768, batch) == pytest.approx(5 / (2**k * 1e3), rel=1e-12)


def test_set_lr_reaches_every_group() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
