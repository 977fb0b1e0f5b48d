"""The plan's hours: from micro-batches that were timed here; the time left: without the steps that compile."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tools import BF16, tiny, tiny_overrides

from bert_lamb import pretrain as stage
from bert_lamb.model import training_flops
from bert_lamb.planning import rates
from bert_lamb.planning.cost import budget, budget_text
from bert_lamb.planning.rates import WORDS, device_tflops, measured_rates
from bert_lamb.run import RunFolder
from bert_lamb.run.eta import TimeLeft
from bert_lamb.run.schedule import schedule
from bert_lamb.settings import compose_settings
from bert_lamb.words import rough_duration

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does while it tests."""
    monkeypatch.setattr(rates, "taken_by_others", lambda: 0.0)


def test_hours_follow_from_the_measured_rates(place: Path) -> None:
    s = tiny(place)
    plan = budget(s, 2, BF16, None, {1: (0.5, WORDS), 2: (0.25, WORDS)})
    seconds = sum(
        p.flops / (rate * 1e12 * 2) + p.steps * plan.update_s for p, rate in zip(plan.phases, (0.5, 0.25), strict=True)
    )
    assert plan.hours == pytest.approx(seconds / 3600)
    assert plan.flops == sum(p.flops for p in plan.phases)
    assert "measured here, not compiled" in budget_text(s, plan)
    assert "(assumed)" in budget_text(s, budget(s, 2, BF16))


def test_more_steps_of_fewer_sequences_take_longer() -> None:
    """The same sequences in all: only the steps are more."""
    few, many = (
        compose_settings(["experiment=bert_large_table1", f"phase1.global_batch={batch}"]) for batch in (32768, 512)
    )
    a, b = budget(few, 8, BF16), budget(many, 8, BF16)
    steps = [sum(p.steps for p in plan.phases) for plan in (a, b)]
    assert steps == [15_625, 1_000_000]
    assert a.flops == pytest.approx(b.flops, rel=1e-4)
    assert 3600 * (b.hours - a.hours) == pytest.approx((steps[1] - steps[0]) * a.update_s, rel=0.05)
    assert b.hours > a.hours + 1
    for s, plan, total in ((few, a, "15,625 steps"), (many, b, "1,000,000 steps")):
        head = budget_text(s, plan).splitlines()[0]
        assert f"{total}, 512 M sequences" in head
        assert "phase1.peak_lr=0.005 and phase1.warmup_steps=3125 at a batch of 32768" in budget_text(s, plan)


@pytest.mark.parametrize("overrides", [
    (), ("phase1.decay_origin=warmup_end", "phase1.hold_steps=100"), ("phase1.warmup_steps=0",),
    ("experiment=bert_large_table1", "phase1.global_batch=32768"),
])  # fmt: skip
def test_the_highest_rate_is_that_of_every_step(overrides: tuple[str, ...]) -> None:
    s = compose_settings(overrides)
    for number, phase in enumerate(budget(s, 1, BF16).phases, 1):
        rate = schedule(s, number)
        assert phase.peak_lr == max(rate(step) for step in range(phase.steps))


@pytest.mark.parametrize(("seconds", "words"), [(10, "less than a minute"), (700, "about 12 minutes")])
def test_a_rough_duration_reads_well(seconds: float, words: str) -> None:
    assert rough_duration(seconds) == words


def test_a_rate_is_work_over_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches grow to the run's size while there is time; the best counts, a disturbed one does not."""
    s, asked = tiny(place, "phase1.global_batch=1000", "hardware.micro_batch_tokens=320"), list[int]()

    def take(seconds_each: float) -> float:
        asked.clear()

        def step(sequences: int) -> float:
            asked.append(sequences)
            return sequences * seconds_each * (20 if len(asked) == 1 else 1)

        monkeypatch.setattr(rates, "micro_batch_step", lambda *_: step)
        return device_tflops(s, 1, CPU, "fp32", 120)

    flops = training_flops(s.model, 120, 32, round(0.15 * 32))
    assert take(0.001) == pytest.approx(flops / 0.001 / 1e12)
    assert asked == [n for n in (1, 2, 4, 8, 10) for _ in range(3)], "the run's micro-batch has 320 tokens"
    assert take(0.04) == pytest.approx(flops / 0.04 / 1e12)
    assert asked == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8]


def test_what_was_measured_is_kept_for_the_same_machine_and_shape(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, rate, timed = tmp_path / "rates.json", iter((0.1, 0.2, 0.3, 0.4)), list[int]()

    def measure(s, number, *_) -> float:
        timed.append(number)
        return next(rate)

    monkeypatch.setattr(rates, "device_tflops", measure)
    s = tiny(place)
    first = measured_rates(s, 1, CPU, "fp32", 120, kept)
    assert first == measured_rates(s, 1, CPU, "fp32", 120, kept) == {1: (0.1, WORDS), 2: (0.2, WORDS)}
    assert timed == [1, 2]
    monkeypatch.setattr(rates, "device_name", lambda device: "another CPU")
    assert measured_rates(s, 2, CPU, "fp32", 120, kept) == {1: (0.15, WORDS), 2: (0.2, WORDS)}, "half the cores each"
    assert len(json.loads(kept.read_text())) == 4


def test_what_was_measured_beside_other_programs_is_said_and_not_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, s = tmp_path / "rates.json", tiny(place)
    monkeypatch.setattr(rates, "device_tflops", lambda *_: 0.1)
    monkeypatch.setattr(rates, "taken_by_others", lambda: 1.3)
    for _, words in measured_rates(s, 1, CPU, "fp32", 120, kept).values():
        assert words == f"{WORDS}, while other programs took 1.3 cores"
    assert not kept.exists()
    monkeypatch.setattr(rates, "taken_by_others", lambda: 0.1)
    assert measured_rates(s, 1, CPU, "fp32", 120, kept) == {1: (0.1, WORDS), 2: (0.1, WORDS)}
    assert kept.exists()


def test_a_phase_that_does_not_fit_is_assumed_and_said(place, tmp_path, monkeypatch, caplog) -> None:
    def measure(_s: object, number: int, *_: object) -> float:
        if number == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return 0.1

    monkeypatch.setattr(rates, "device_tflops", measure)
    s = tiny(place)
    found = measured_rates(s, 1, CPU, "fp32", 120, tmp_path / "rates.json")
    assert found == {1: (0.1, WORDS)}
    assert "Tried to allocate" in caplog.text
    assert "(assumed)" in budget_text(s, budget(s, 1, BF16, None, found))


def test_another_machine_is_not_measured_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "device_tflops", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert measured_rates(tiny(place), 8, torch.device("cuda"), "bf16", 120, None) == {}
    assert measured_rates(tiny(place, "hardware.measured=gpu.json"), 1, CPU, "fp32", 120, None) == {}


def test_pretrain_plans_by_what_it_timed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real micro-batches, through the command."""
    given = [*tiny_overrides(place), "run.name=timed"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *given])
    stage.main()
    folder = RunFolder(Path(compose_settings(given).run.root) / "timed")
    phases, kept = json.loads(folder.plan_file.read_text())["phases"], json.loads(folder.rates_file.read_text())
    assert [p["tflops_from"] for p in phases] == [WORDS, WORDS]
    assert sorted(p["tflops"] for p in phases) == sorted(kept.values())
    assert all(1e-7 < rate < 100 for rate in kept.values())


def test_the_time_left_leaves_compiling_out() -> None:
    """A first step of 60 s, the next of 30 (another shape), the others of 1: 1 s a step is what is told."""
    left, clock_s, told = TimeLeft(100), 0.0, list[float | None]()
    for step in range(1, 9):
        clock_s += {1: 60.0, 2: 30.0}.get(step, 1.0)
        told.append(left.after(step, clock_s))
    assert told == [None, None, 97, 96, 95, 94, 93, 92]
    assert left.after(4, clock_s + 5) == 96, "a roll-back is no rate"
