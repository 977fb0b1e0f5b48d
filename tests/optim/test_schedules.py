"""Learning rates as a table of exact values."""

from dataclasses import replace

import pytest
import torch
from tools import BF16, composed

from bert_lamb.bench import schedule_figures
from bert_lamb.optim import Schedule, linear_epoch_warmup, set_lr, square_root_scaled
from bert_lamb.planning.cost import batch_warnings, budget, budget_text
from bert_lamb.run.schedule import schedule
from bert_lamb.settings import SettingsError, phase_steps, recipe

LINEAR = Schedule(peak_lr=1.0, warmup_steps=1000, total_steps=5000)
FROM_PEAK = replace(LINEAR, decay_origin="warmup_end")
ROOT = replace(LINEAR, decay_power=0.5)
ROOT_FROM_PEAK = replace(FROM_PEAK, decay_power=0.5)
NONE = replace(LINEAR, warmup_steps=0)
LANS = replace(FROM_PEAK, hold_steps=1000)
HELD = replace(ROOT, hold_steps=1000)


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
        (LANS, 0, 0.0), (LANS, 500, 0.5), (LANS, 999, 0.999), (LANS, 1000, 1.0), (LANS, 1500, 1.0), (LANS, 1999, 1.0),
        (LANS, 2000, 1.0), (LANS, 2001, 2999 / 3000), (LANS, 3500, 0.5), (LANS, 4999, 1 / 3000), (LANS, 5000, 0.0),
        (HELD, 1999, 1.0), (HELD, 2000, 0.6**0.5), (HELD, 3750, 0.5), (replace(LANS, first_step=3000), 500, 0.5),
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
    first = {0: 0, 1000: 0.006 * 1000 / 2001, 2001: 0.006 * (5036 / 7037) ** 0.5, 7036: 0.006 * 7037**-0.5, 7037: 0}
    assert {step: plan(step) for step in first} == pytest.approx(first, rel=1e-12)
    second = {0: 0, 100: 0.002, 199: 0.00398, 200: 0.004 * (1362 / 1562) ** 0.5, 781: 0.004 * 0.5**0.5, 1562: 0}
    assert {step: schedule(s, 2)(step) for step in second} == pytest.approx(second, rel=1e-12)


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


TABLE_1 = [  # batch, steps of both phases, learning rate 5 / (2^k 10^3), k, warm-up as a share of all steps
    (512, 900_000, 100_000, 0.000625, 3, 1 / 320),
    (1024, 450_000, 50_000, 0.0008838834764831845, 2.5, 1 / 160),
    (2048, 225_000, 25_000, 0.00125, 2, 1 / 80),
    (4096, 112_500, 12_500, 0.001767766952966369, 1.5, 1 / 40),
    (8192, 56_250, 6_250, 0.0025, 1, 1 / 20),
    (16_384, 28_125, 3_125, 0.003535533905932738, 0.5, 1 / 10),
    (32_768, 14_063, 1_562, 0.005, 0, 1 / 5),
]


@pytest.mark.parametrize(("batch", "first", "last", "rate", "k", "share"), TABLE_1)
def test_the_untuned_rule_gives_every_row(
    batch: int, first: int, last: int, rate: float, k: float, share: float
) -> None:
    assert rate == pytest.approx(5 / (2**k * 1e3), rel=1e-12)
    assert square_root_scaled(5e-3, 32_768, batch) == pytest.approx(rate, rel=1e-12)
    assert linear_epoch_warmup(3125 * 32_768, 32_768, batch) == share * (first + last) == 3125
    assert linear_epoch_warmup(200 * 512, 512, batch) == 200
    assert [phase_steps(n, 512_000_000, 0.9, batch) for n in (1, 2)] == [first, last]


@pytest.mark.parametrize(("batch", "first", "last", "rate", "k", "share"), TABLE_1)
def test_one_batch_gives_a_row(batch: int, first: int, last: int, rate: float, k: float, share: float) -> None:
    """Steps, peak, warm-up and both phases' rates follow from phase1.global_batch alone; the settings stay as given."""
    s = composed("experiment=bert_large_table1", f"phase1.global_batch={batch}")
    assert (s.phase1.steps, s.phase2.steps, s.phase2.global_batch) == (first, last, batch)
    assert (s.phase1.peak_lr, s.phase1.warmup_steps) == (5e-3, 3125)
    one, two, total = schedule(s, 1), schedule(s, 2), first + last
    assert one.warmup_steps == 3125 == share * total
    table = {
        0: 0.0, 1: rate / 3125, 1250: rate * 0.4, 3124: rate * 3124 / 3125, 3125: rate * (1 - share),
        total // 2: rate * (1 - total // 2 / total), first - 1: rate * (last + 1) / total,
    }  # fmt: skip
    assert {step: one(step) for step in table} == pytest.approx(table, rel=1e-9)
    assert two(0) == pytest.approx(rate * last / total, rel=1e-9)
    assert two(last - 1) == pytest.approx(rate / total, rel=1e-9)
    assert two(last) == 0


@pytest.mark.parametrize("row", [TABLE_1[0], TABLE_1[5], TABLE_1[6]])
def test_the_plan_prints_a_row(row: tuple[int, int, int, float, float, float]) -> None:
    batch, first, last, rate, _, _ = row
    s = composed("experiment=bert_large_table1", f"phase1.global_batch={batch}")
    text = budget_text(s, budget(s, 8, BF16))
    assert f"phase 1: {first:,} steps x {batch:,} sequences x 128 tokens" in text
    assert f"phase 2: {last:,} steps x {batch:,} sequences x 512 tokens" in text
    assert f"untuned rule: peak lr {rate:.3g}, warm-up 3,125 of {first + last:,} steps" in text
    assert "warning" not in text


def test_the_figure_shows_every_row() -> None:
    (axes,) = schedule_figures.rows().axes
    curves = [line for line in axes.lines if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    peaks = sorted(float(max(line.get_ydata())) for line in curves)  # type: ignore[arg-type]
    assert peaks == pytest.approx([rate for *_, rate, _, _ in TABLE_1], rel=5e-3)
    last = sorted(int(max(line.get_xdata())) for line in curves)  # type: ignore[arg-type]
    assert last == sorted(first + second - 1 for _, first, second, *_ in TABLE_1)


def test_row_32k_is_an_experiment_of_its_own() -> None:
    row, general = composed("experiment=bert_large_32k"), composed("experiment=bert_large_table1")
    assert recipe(row, "") == recipe(general, "")


def test_the_rule_scales_each_phase_of_its_own() -> None:
    s = composed("phase1.lr_rule=untuned", "phase1.global_batch=512", "phase2.lr_rule=untuned",
                 "phase2.global_batch=16")  # fmt: skip
    assert (schedule(s, 1).peak_lr, schedule(s, 1).warmup_steps) == (pytest.approx(0.02), 90)
    assert (schedule(s, 2).peak_lr, schedule(s, 2).warmup_steps) == (pytest.approx(0.0035), 20)
    assert schedule(composed("phase1.global_batch=512"), 1).peak_lr == 0.01


def test_a_hold_reaches_the_schedule() -> None:
    """LANS's shape, from the settings: 900 steps, warm-up 90, hold 180, then linear to 0."""
    s = composed("phase1.hold_steps=180", "phase1.decay_origin=warmup_end")
    plan = schedule(s, 1)
    assert [plan(t) / 0.01 for t in (0, 45, 90, 269, 270, 585, 900)] == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["phase1.lr_rule=sqrt"], "phase1.lr_rule=sqrt: choose one of given, untuned"),
        (["phase1.lr_batch=0"], "phase1.lr_batch=0: must be at least 1"),
        (["phase1.lr_batch=null"], "phase1.lr_batch=null: give a value"),
        (["phase1.hold_steps=-1"], "phase1.hold_steps=-1 does not fit: choose 0 to 809"),
        (["phase1.hold_steps=810"], "phase1.hold_steps=810 does not fit: choose 0 to 809"),
        (["handover.schedule=continue"], "phase2.lr_rule=given has no effect with handover.schedule=continue"),
        (["experiment=bert_large_table1", "phase1.global_batch=0"], "phase1.global_batch=0: must be at least 1"),
        (["experiment=bert_large_table1", "phase1.global_batch=262144"], "phase1.warmup_steps=3125 does not fit"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        composed(*overrides)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], 0),
        (["phase1.global_batch=32"], 0),  # a quarter of 128
        (["phase1.global_batch=31"], 1),
        (["phase1.global_batch=31", "phase2.global_batch=15"], 2),
        (["phase1.global_batch=31", "phase1.lr_rule=untuned"], 0),
        (["phase1.global_batch=4096"], 0),
        (["experiment=bert_large_table1", "phase1.global_batch=512"], 0),
        (["experiment=bert_large_table1", "phase1.global_batch=512", "phase1.lr_rule=given"], 2),
        (["experiment=bert_large_table1", "phase2.global_batch=8191"], 1),  # its rate is phase 1's
    ],
)
def test_a_batch_far_below_the_rates_own_is_told_of(overrides: list[str], told: int) -> None:
    s = composed(*overrides)
    assert len(batch_warnings(s)) == told
    assert budget_text(s, budget(s, 1, BF16)).count("warning: phase") == told


def test_the_warning_says_what_would_fit() -> None:
    (text,) = batch_warnings(composed("phase1.global_batch=8"))
    assert "phase1.global_batch=8 is far below the 128 that its peak learning rate of 0.01 is meant for" in text
    assert text.endswith("the square-root rule gives 0.0025")


def test_set_lr_reaches_every_group() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
