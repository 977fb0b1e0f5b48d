"""The page and the figure of `make bench-gpu`, from its JSON file."""

import re
from pathlib import Path
from typing import Any

from bert_lamb.bench.pages import quartiles
from bert_lamb.machine import measured_on

Figures = dict[str, Any]
OURS = re.compile(r"ours (\w+) (\d+) tokens=(\d+) dropout=([\d.]+)(?: (graphs|deterministic))?")
PEER = re.compile(r"(Trainer|loop) (\w+) (\d+) sequences=(\d+)")
WORDS = {"Trainer": "HF Trainer, bf16", "loop": "hand-written loop, bf16, sdpa", "ours": "ours, compiled"}
MODES = {"graphs": "ours, in CUDA graphs", "deterministic": "ours, deterministic"}


def best_product(figures: Figures) -> float | None:
    """TFLOP/s of the fastest bf16 product that was measured."""
    rates = [f["tflops"] for name, f in figures.items() if name.startswith("product") and "tflops" in f]
    return max(rates, default=None)


def steps(figures: Figures) -> list[dict[str, Any]]:
    """Every micro-batch that was measured: who, model, seq_len, size (words), dropout, and its figure."""
    rows = []
    for name, figure in figures.items():
        if ours := OURS.fullmatch(name):
            model, seq_len, tokens, dropout, mode = ours.groups()
            rows.append({"who": "ours" if mode is None else mode, "model": model, "seq_len": int(seq_len),
                         "size": f"{int(tokens):,} tokens", "dropout": float(dropout), **figure})  # fmt: skip
        elif peer := PEER.fullmatch(name):
            who, model, seq_len, batch = peer.groups()
            rows.append({"who": who, "model": model, "seq_len": int(seq_len), "size": f"{batch} sequences",
                         "dropout": 0.1, **figure})  # fmt: skip
    return rows


def cases(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Model and length, in the order of the file."""
    return list(dict.fromkeys((row["model"], row["seq_len"]) for row in rows))


def best(rows: list[dict[str, Any]], who: str) -> dict[str, Any] | None:
    """The fastest of one contender with BERT's dropout."""
    done = [row for row in rows if row["who"] == who and row["dropout"] > 0 and "tokens_s" in row]
    return max(done, key=lambda row: row["tokens_s"], default=None)


def page(figures: Figures, figure: str) -> str:
    """The results page."""
    top = best_product(figures)
    lines = [
        "# One GPU", "",
        f"`make bench-gpu`, {measured_on(figures['machine'])}. Random ids, sequences as long as English Wikipedia's; "
        "rates are of real tokens, medians of repeated micro-batches (forward and backward).", "",
        f"![real tokens a second]({figure})", "", "## Ceilings", "",
    ]  # fmt: skip
    for name, ceiling in figures.items():
        if name == "copy" and "gb_s" in ceiling:
            lines.append(f"- copy: {ceiling['gb_s']:,.0f} GB/s, read and written")
        elif name.startswith("product"):
            lines.append(f"- bf16 {name}: {ceiling.get('tflops', float('nan')):,.1f} TFLOP/s")
    rows = steps(figures)
    for model, seq_len in cases(rows):
        here = [row for row in rows if (row["model"], row["seq_len"]) == (model, seq_len)]
        trainer = best(here, "Trainer")
        lines += [
            "", f"## BERT-{model}, {seq_len} tokens", "",
            "| | micro-batch | dropout | ms (quartiles) | real tokens/s | times HF Trainer | TFLOP/s | of the product "
            "| filler | peak GiB | first turn, s |", "|---" * 11 + "|",
        ]  # fmt: skip
        lines += [_row(row, trainer, top) for row in here]
    lamb = {name: f for name, f in figures.items() if "ms" in f}
    if lamb:
        copy = figures.get("copy", {}).get("gb_s")
        lines += ["", "## The optimizer's step", "", "| | ms (quartiles) | bytes a parameter at the copy's speed |",
                  "|---|---|---|"]  # fmt: skip
        for name, f in lamb.items():
            moved = f"{f['ms'] / 1e3 * copy * 1e9 / f['parameters']:.0f}" if copy else "-"
            lines.append(f"| {name} | {_spread(f['seconds'])} | {moved} |")
    failed = {name: f["failed"] for name, f in figures.items() if "failed" in f}
    if failed:
        lines += ["", "## Not measured", "", *(f"- {name}: {why}" for name, why in failed.items())]
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any], trainer: dict[str, Any] | None, top: float | None) -> str:
    head = f"| {(WORDS | MODES)[row['who']]} | {row['size']} | {row['dropout']:g} | "
    if "tokens_s" not in row:
        return head + " | ".join(["-"] * 8) + " |"
    times = f"{row['tokens_s'] / trainer['tokens_s']:.2f}" if trainer else "-"
    share = f"{100 * row['tflops'] / top:.1f}%" if top else "-"
    filler = f"{100 * row['filler']:.1f}%" if "filler" in row else "padded"
    peak = f"{row['peak_gib']:.1f}" if row["peak_gib"] is not None else "-"
    return head + (
        f"{_spread(row['seconds'])} | {row['tokens_s']:,.0f} | {times} | {row['tflops']:.3g} | {share} | {filler} | "
        f"{peak} | {row['first_turn_s']:.0f} |"
    )


def _spread(seconds: list[float]) -> str:
    low, median, high = quartiles(seconds)
    return f"{1e3 * median:.3g} ({1e3 * low:.3g}-{1e3 * high:.3g})"


def draw(figures: Figures, path: Path) -> None:
    """Real tokens a second of the best of each, a panel a model and length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = steps(figures)
    panels = cases(rows)
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=(4.2 * max(1, len(panels)), 2.6), squeeze=False)
    for axis, (model, seq_len) in zip(axes[0], panels, strict=False):
        here = [row for row in rows if (row["model"], row["seq_len"]) == (model, seq_len)]
        found = [(who, best(here, who)) for who in WORDS]
        bars = [(who, row) for who, row in found if row is not None]
        base = best(here, "Trainer")
        drawn = axis.barh(
            [f"{who}\n{row['size']}" for who, row in bars], [row["tokens_s"] / 1e3 for _, row in bars],
            color=["#1f6feb" if who == "ours" else "#9aa5b1" for who, _ in bars],
        )  # fmt: skip
        if base:
            axis.bar_label(drawn, [f"{row['tokens_s'] / base['tokens_s']:.1f}x" for _, row in bars], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_xlabel("1000 real tokens a second")
        axis.set_title(f"BERT-{model}, {seq_len} tokens")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
