"""The report's figures, as PNG and SVG whose bytes depend on the run alone. Colours: Okabe and Ito (2008)."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bert_lamb.reporting.read_run import RunRecord

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "svg.hashsalt": "bert_lamb",  # else every SVG has ids of its own
}
NO_DATE = {"Date": None, "Creator": None}
TIMED = ("seconds", "sequences", "tokens", "padding")  # what a line must hold to tell a speed
LABEL_INCHES = 0.27  # least height of a band of the heat map, so that labels stay apart
KINDS = {  # parameter names without their layer -> what people call them, in the order of the forward pass
    "bert.embeddings.word_embeddings.weight": "word embeddings",
    "bert.embeddings.position_embeddings.weight": "position embeddings",
    "bert.embeddings.token_type_embeddings.weight": "segment embeddings",
    "bert.encoder.layer.attention.self.query.weight": "query",
    "bert.encoder.layer.attention.self.key.weight": "key",
    "bert.encoder.layer.attention.self.value.weight": "value",
    "bert.encoder.layer.attention.output.dense.weight": "attention output",
    "bert.encoder.layer.intermediate.dense.weight": "feed-forward in",
    "bert.encoder.layer.output.dense.weight": "feed-forward out",
    "bert.pooler.dense.weight": "pooler",
    "cls.predictions.transform.dense.weight": "MLM transform",
    "cls.seq_relationship.weight": "NSP head",
}


def draw_figures(run: RunRecord, folder: Path) -> list[tuple[str, str]]:
    """Writes every figure for which there are numbers; returns (file stem, caption) of each."""
    drawn = []
    makers: list[tuple[str, Callable[[RunRecord], Figure | None], str]] = [
        ("squad", squad_figure, "F1 and exact match by SQuAD v1.1's rules."),
        ("loss", loss_figure, "Losses in nats; thin lines are single steps, thick ones a moving mean."),
        ("schedule", schedule_figure, "Learning rate, and the gradient's norm before any clipping."),
        (
            "trust_ratios",
            trust_figure,
            "LAMB's trust ratio of every adapted tensor, by kind; first layers on top.",
        ),
        ("throughput", throughput_figure, "Speed, and the share of computed tokens that was padding, where any was."),
    ]
    with matplotlib.rc_context(STYLE):
        for stem, maker, caption in makers:
            figure = maker(run)
            paths = [(folder / f"{stem}.png", {"Software": None}), (folder / f"{stem}.svg", NO_DATE)]
            if figure is None:
                for path, _ in paths:
                    path.unlink(missing_ok=True)  # of an earlier report
                continue
            for _ in range(2):  # the first pass does not know the tick labels' widths yet
                figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once for both files
            for path, metadata in paths:
                figure.savefig(path, dpi=120, metadata=metadata)
            drawn.append((stem, caption))
    return drawn


def loss_figure(run: RunRecord) -> Figure | None:
    """Both phases' losses over all steps."""
    if not any(phase.lines for phase in run.phases.values()):
        return None
    figure, (axes,) = _panels(run, 1, height=5)
    for key, colour, label in (("loss", BLUE, "MLM + NSP"), ("mlm_loss", ORANGE, "MLM")):
        for number, (steps, values) in _columns(run, key):
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            named = label if number == 1 else None
            axes.plot(steps, _moving_mean(run, values), color=colour, linewidth=2, label=named)
    heldout = list(_columns(run, "heldout_mlm_loss"))
    size = 6 if sum(len(steps) for _, (steps, _) in heldout) < 25 else 3
    for number, (steps, values) in heldout:
        named = "MLM, held-out documents" if number == 1 else None
        axes.plot(steps, values, "--o", color=GREEN, markersize=size, linewidth=1, label=named)
    entropy = run.manifest.get("unigram_entropy_nats")
    if entropy:
        axes.axhline(entropy, color=GREY, linestyle=":", linewidth=2, label="unigram entropy: word counts alone")
    axes.set_ylabel("loss (nats)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.06), ncols=2, borderaxespad=0.2)
    return figure


def schedule_figure(run: RunRecord) -> Figure | None:
    """Learning rate above, gradient norm below; skipped steps are marked."""
    if not any(phase.lines for phase in run.phases.values()):
        return None
    figure, (rate, norm) = _panels(run, 2, height=6)
    for _, (steps, values) in _columns(run, "learning_rate"):
        rate.plot(steps, values, color=BLUE, linewidth=2)
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for _, (steps, values) in _columns(run, "grad_norm"):
        norm.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        norm.plot(steps, _moving_mean(run, values), color=BLUE, linewidth=2)
    norm.set_yscale("log")
    _plain_log_ticks(norm.yaxis)
    norm.set_ylabel("gradient norm")
    skipped = [step for number in (1, 2) for step in _skipped_steps(run, number)]
    if skipped:
        (marks,) = norm.plot(skipped, [0.95] * len(skipped), "x", color=RED, markersize=9, markeredgewidth=2)
        marks.set_transform(norm.get_xaxis_transform())
        marks.set_label("step skipped: gradient not finite")
        norm.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    return figure


def trust_figure(run: RunRecord) -> Figure | None:
    """A heat map: rows are tensors grouped by kind, columns are readings."""
    readings = [
        (line["step"] + _offset(run, number), line["trust_ratios"])
        for number, phase in run.phases.items()
        for line in phase.lines
        if line.get("trust_ratios")
    ]
    adapted = sorted({n for _, ratios in readings for n, r in ratios.items() if r != 1 and r}, key=_kind_and_layer)
    if len(readings) < 2 or not adapted:
        return None
    ratios = np.array([[r.get(name) or np.nan for _, r in readings] for name in adapted])
    steps = np.array([step for step, _ in readings], float)
    middles = (steps[1:] + steps[:-1]) / 2
    border = _offset(run, 2)
    crosses = (steps[:-1] <= border) & (border < steps[1:])  # a reading of phase 1 ends where its phase does
    middles[crosses] = border
    edges = np.concatenate([[1.5 * steps[0] - 0.5 * steps[1]], middles, steps[-1:]])

    kinds = [_kind_and_layer(name)[:2] for name in adapted]
    borders = [i for i in range(len(kinds) + 1) if i in (0, len(kinds)) or kinds[i] != kinds[i - 1]]
    sizes = np.diff(borders)
    row_inches = np.repeat(np.maximum(LABEL_INCHES / sizes, np.clip(8 / len(kinds), 0.05, 0.25)), sizes)
    tops = np.concatenate([[0.0], np.cumsum(row_inches)])

    figure, (axes,) = _panels(run, 1, height=tops[-1] + 1.5)
    mesh = axes.pcolormesh(np.maximum(edges, 0), tops, ratios, norm=LogNorm(), cmap="viridis")
    mesh.set_rasterized(True)  # thousands of cells would make an SVG of megabytes
    axes.invert_yaxis()
    axes.grid(visible=False)
    middles = [(tops[a] + tops[b]) / 2 for a, b in pairwise(borders)]
    axes.set_yticks(middles, [kinds[a][1] for a in borders[:-1]])
    axes.tick_params(axis="y", length=0)
    for border in borders[1:-1]:
        axes.axhline(tops[border], color="white", linewidth=2)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05)
    bar.set_label("trust ratio: norm of weights / norm of update")
    _plain_log_ticks(bar.ax.yaxis)
    return figure


def throughput_figure(run: RunRecord) -> Figure | None:
    """Sequences and real tokens a second, and padding where there was any."""
    if not any(phase.total("seconds") for phase in run.phases.values()):
        return None
    timed = {n: [line for line in phase.lines if all(line.get(k) is not None for k in TIMED) and line["seconds"] > 0]
             for n, phase in run.phases.items()}  # fmt: skip
    padded = any(line["padding"] for lines in timed.values() for line in lines)
    labels = ["sequences / s", "1000 real\ntokens / s"] + (["padding (%)"] if padded else [])
    figure, panels = _panels(run, len(labels), height=2.5 * len(labels))
    for number, lines in timed.items():
        steps = [line["step"] + _offset(run, number) for line in lines]
        speeds = (
            [line["sequences"] / line["seconds"] for line in lines],
            [line["tokens"] / line["seconds"] / 1000 for line in lines],
            [100 * line["padding"] for line in lines],
        )
        for axes, values in zip(panels, speeds[: len(labels)], strict=True):
            axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
            axes.plot(steps, _moving_mean(run, values), color=BLUE, linewidth=2)
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    return figure


def squad_figure(run: RunRecord) -> Figure | None:
    """F1 and EM with and without pretraining."""
    arms = [(label, run.arm(kind)) for kind, label in (("pretrained", "pretrained"), ("scratch", "random weights"))]
    found = [(label, arm.result) for label, arm in arms if arm]
    if not found:
        return None
    figure = Figure(figsize=(6, 4.5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    axes = figure.subplots()
    for i, (key, label, colour) in enumerate((("f1", "F1", BLUE), ("em", "exact match", ORANGE))):
        at = np.arange(len(found)) + (i - 0.5) * 0.38
        bars = axes.bar(at, [result[key] for _, result in found], width=0.36, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.set_xticks(range(len(found)), [label for label, _ in found])
    axes.set_xlim(-0.7, len(found) - 0.3)
    axes.set_ylim(0, 108)  # room for the number on a full bar
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(f"% over {found[0][1]['questions']:,} questions")
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.03), ncols=2, borderaxespad=0.2)
    return figure


def _panels(run: RunRecord, rows: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels over a common axis of steps, with the border between the phases drawn and named."""
    figure = Figure(figsize=(10, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    panels[-1].set_xlabel("optimizer step, both phases")
    border = _offset(run, 2)
    for axes in panels:
        axes.margins(x=0.01)
        if run.phases[2].lines:
            axes.axvline(border, color=GREY, linewidth=1.2, linestyle="--")
    if run.phases[2].lines:
        words = f"phase 2, {run.settings.phase2.seq_len} tokens \N{RIGHTWARDS ARROW}"
        axes = panels[0]
        axes.text(border, 1.01, words, color=GREY, ha="right", va="bottom", transform=axes.get_xaxis_transform())
    return figure, panels


def _columns(run: RunRecord, key: str) -> list[tuple[int, tuple[list[int], list[float]]]]:
    """(phase, (steps over both phases, values)) of the phases that have the column."""
    found = []
    for number, phase in run.phases.items():
        steps, values = phase.column(key)
        if steps:
            found.append((number, ([step + _offset(run, number) for step in steps], values)))
    return found


def _offset(run: RunRecord, number: int) -> int:
    """Steps before a phase: phase 1 as it was run, or as it was set where it is not finished."""
    return 0 if number == 1 else int((run.phases[1].result or {}).get("steps", run.settings.phase1.steps))


def _skipped_steps(run: RunRecord, number: int) -> list[int]:
    """Steps, over both phases, of which the log says that they were not applied."""
    steps, counts = run.phases[number].column("skipped")
    before = [0, *counts][: len(counts)]
    return [s + _offset(run, number) for s, a, b in zip(steps, before, counts, strict=True) if b > a]


def _moving_mean(run: RunRecord, values: list[float]) -> np.ndarray:
    """Centred mean over 2% of the whole run's points, less at the ends."""
    half = sum(len(phase.lines) for phase in run.phases.values()) // 100
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _plain_log_ticks(axis: Axis) -> None:
    """1, 2, 5, 10, ... written as such."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _kind_and_layer(name: str) -> tuple[int, str, int]:
    """Order of the kind, its name, and the layer (0 where there is none)."""
    layer = re.search(r"\.layer\.(\d+)\.", name)
    plain = re.sub(r"\.layer\.\d+\.", ".layer.", name)
    order = list(KINDS).index(plain) if plain in KINDS else len(KINDS)
    label: Any = KINDS.get(plain, plain.removeprefix("bert.").removeprefix("encoder.layer."))
    return order, label, int(layer[1]) if layer else 0
