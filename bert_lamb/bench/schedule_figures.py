"""The figures of docs/schedules.md and docs/recipe.md: `make figures`. Drawn from the recipes in conf/ alone."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from bert_lamb.optim import Schedule
from bert_lamb.reporting.figures import BLUE, GREY, NO_DATE, ORANGE, STYLE
from bert_lamb.run.schedule import schedule
from bert_lamb.settings import Settings, compose_settings

FIGURES = Path("docs/figures")
BATCHES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)  # arXiv 1904.00962, Table 1
ON_WHITE: Any = {"frameon": True, "framealpha": 1.0, "edgecolor": "white"}  # no grid lines through a legend's text
STEPS = 10_000  # of the drawn shapes, where only shares matter
# arXiv 2006.13484, phase 1: shares of the steps that warm up and that hold (from memory, to be checked)
LANS = Schedule(1.0, 4265, STEPS, 1.0, "warmup_end", hold_steps=2735)


def main() -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, figure in (("schedule_shapes", shapes()), ("table1_rates", rows()), ("mixed_batch_rates", mixed())):
            figure.savefig(FIGURES / f"{name}.png", dpi=100, metadata=NO_DATE)
            print(FIGURES / f"{name}.png")


def shapes() -> Figure:
    """Each schedule as shares: of the peak, over all steps."""
    panels = {
        "decay from step 0 (start)\nthe authors' code, row 32k": Schedule(1.0, STEPS // 5, STEPS),
        "decay from the peak (warmup_end)": Schedule(1.0, STEPS // 5, STEPS, 1.0, "warmup_end"),
        "power 0.5 from step 0\nNVIDIA, phase 1": Schedule(1.0, 2843, STEPS, 0.5),
        "warm-up, hold, decay\nLANS, phase 1": LANS,
    }
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    for axes, (title, plan) in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, panels.items(), strict=True):
        _curve(axes, np.arange(STEPS + 1) / STEPS, [plan(t) for t in range(STEPS + 1)], BLUE)
        axes.set_title(title, fontsize=12, loc="left")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        drop = plan(plan.warmup_steps + plan.hold_steps)
        if drop < 1:
            x = plan.warmup_steps / STEPS + 0.03
            axes.text(x, 0.93, f"drops to {drop:.1%}", fontsize=11, va="center", backgroundcolor="white")
    figure.supxlabel("steps done, of all", fontsize=13)
    figure.supylabel("learning rate, of the peak", fontsize=13)
    return figure


def rows() -> Figure:
    """Rows 512 to 32k of Table 1, both phases, over their steps."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(BATCHES)))
    for batch, colour in reversed(list(zip(BATCHES, colours, strict=True))):
        s = compose_settings(("experiment=bert_large_table1", f"phase1.global_batch={batch}"))
        steps, rates = _both(s, points=4000)
        _curve(axes, steps, rates, colour, label=f"{_batch(batch)}: {s.phase1.steps + s.phase2.steps:,} steps")
        axes.plot(s.phase1.steps, schedule(s, 2)(0), "o", color=colour, markersize=6)
    axes.plot([], [], "o", color=GREY, markersize=6, label="phase 2 begins (512 tokens)")
    axes.set_xscale("log")
    axes.set_xlim(100, 1.2e6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("optimizer step (log scale)")
    axes.set_ylabel("learning rate")
    axes.legend(title="global batch", loc="upper right", fontsize=11, **ON_WHITE)
    return figure


def mixed() -> Figure:
    """Row 64k/32k with NVIDIA's rates: the second phase warms up again."""
    s = compose_settings(("experiment=bert_large_64k_32k",))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, colour in ((1, BLUE), (2, ORANGE)):
        phase, plan, before = s.phase(number), schedule(s, number), s.phase1.steps if number == 2 else 0
        steps = range(phase.steps)
        _curve(
            axes, np.array(steps) + before, [plan(t) for t in steps], colour,
            label=f"phase {number}: {_batch(phase.global_batch)} x {phase.seq_len} tokens, {phase.steps:,} steps",
        )  # fmt: skip
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate")
    axes.legend(loc="upper right", fontsize=11, **ON_WHITE)
    return figure


def _both(s: Settings, points: int) -> tuple[np.ndarray, list[float]]:
    """Steps of both phases, evenly spaced on a log scale, and their rates."""
    total = s.phase1.steps + s.phase2.steps
    steps = np.unique(np.geomspace(1, total - 1, points).astype(int))
    one, two = schedule(s, 1), schedule(s, 2)
    return steps, [one(t) if t < s.phase1.steps else two(t - s.phase1.steps) for t in map(int, steps)]


def _curve(axes: Axes, steps: np.ndarray, rates: list[float], colour: object, label: str | None = None) -> None:
    axes.plot(steps, rates, color=colour, linewidth=2, label=label)
    axes.set_ylim(bottom=0)


def _batch(batch: int) -> str:
    """ "512", "32K"."""
    return f"{batch // 1024}K" if batch >= 1024 else str(batch)


if __name__ == "__main__":
    main()
