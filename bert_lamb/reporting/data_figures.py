"""The figures of a token store's report, as PNG."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MultipleLocator, NullLocator, PercentFormatter, StrMethodFormatter

from bert_lamb.reporting.data_numbers import StoreNumbers, fill, mean_length, reasons
from bert_lamb.reporting.figures import BLUE, GREEN, GREY, ORANGE, RED, STYLE

COLOURS = (BLUE, ORANGE, GREEN, RED)  # of the lengths, shortest first
BUDGETS = (1, 2, 4, 8, 16, 32, 64)  # of tokens, in sequences of full length
SHOWN_REASONS = 12
MOST = 0.995  # of the sentences are drawn; the few longer ones would flatten the rest
REASON_LENGTH = 50  # characters


def draw_data_figures(numbers: StoreNumbers, folder: Path) -> list[tuple[str, str]]:
    """Writes the figures; returns (file stem, caption) of each."""
    budgets = "Whole sequences in random order, as many as fit into a budget; dashed: a row of its own for each."
    balance = "Sequences with a random B, by pass. More than half: a lone sentence has no true B."
    makers = [
        ("lengths", lengths_figure, "Tokens of sentences, documents and sequences (those of pass 0)."),
        ("packing", packing_figure, f"Real tokens over positions. {budgets}"),
        ("next_sentence", next_figure, balance),
        ("unigram", unigram_figure, "How often each vocabulary entry occurs, the most frequent first."),
        ("reasons", reasons_figure, "Records that are not in the store."),
    ]
    drawn = []
    with matplotlib.rc_context(STYLE):
        for stem, maker, caption in makers:
            path = folder / f"{stem}.png"
            figure = maker(numbers)
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier report
                continue
            figure.savefig(path, dpi=120, metadata={"Software": None})
            drawn.append((stem, caption))
    return drawn


def lengths_figure(numbers: StoreNumbers) -> Figure:
    """Three panels: sentences, documents (logarithmic), sequences."""
    figure, (sentences, documents, sequences) = _panels(3, (15, 4.5))
    counts = numbers.sentence_lengths
    end = int(np.searchsorted(np.cumsum(counts), MOST * counts.sum())) + 1
    width = max(1, end // 60)
    edges = np.arange(0, end + width, width).tolist()
    sentences.hist(np.arange(end), edges, weights=counts[:end] / counts.sum(), color=BLUE)
    sentences.set(xlabel=f"tokens of a sentence (the shortest {MOST:.1%})", ylabel="share of sentences")
    sizes = numbers.document_lengths
    edges = np.geomspace(max(1, sizes.min()), sizes.max() + 1, 50).tolist()
    documents.hist(sizes, edges, weights=np.full(len(sizes), 1 / len(sizes)), color=BLUE)
    documents.set(xscale="log", xlabel="tokens of a document", ylabel="share of documents")
    for colour, (length, by_length) in zip(COLOURS, sorted(numbers.sequence_lengths.items()), strict=False):
        shorter = np.cumsum(by_length) / by_length.sum()
        sequences.plot(np.arange(length + 1) / length, shorter, color=colour, linewidth=2, label=f"length {length}")
    sequences.set(xlabel="tokens over the length", ylabel="share of sequences up to there")
    sequences.legend(loc="upper left")
    for axes, decimals in ((sentences, 1), (documents, 0), (sequences, 0)):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals))
    return figure


def packing_figure(numbers: StoreNumbers) -> Figure:
    """Fill of token budgets, and beside it that of padded rows."""
    figure, (axes,) = _panels(1, (8, 5))
    for colour, (length, counts) in zip(COLOURS, sorted(numbers.sequence_lengths.items()), strict=False):
        shares = [fill(counts, budget * length) for budget in BUDGETS]
        axes.plot(BUDGETS, shares, "-o", color=colour, linewidth=2, label=f"length {length}")
        axes.axhline(mean_length(counts) / length, color=colour, linestyle="--", linewidth=1.5)
    axes.set(xscale="log", xlabel="budget of tokens, in full sequences", ylabel="real tokens over positions")
    axes.xaxis.set_major_locator(FixedLocator(BUDGETS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(top=1.0)
    _legend_above(axes)
    return figure


def next_figure(numbers: StoreNumbers) -> Figure:
    """NSP balance of every pass."""
    figure, (axes,) = _panels(1, (8, 4.5))
    for colour, (length, passes) in zip(COLOURS, sorted(numbers.passes.items()), strict=False):
        shares = [p["random_next"] / max(1, p["instances"]) for p in passes]
        axes.plot([p["pass"] for p in passes], shares, "-o", color=colour, linewidth=2, label=f"length {length}")
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=2)
    axes.set(xlabel="pass", ylabel="random next sentence", ylim=(0, 1))
    axes.set_xticks(range(max(map(len, numbers.passes.values()))))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_above(axes)
    return figure


def unigram_figure(numbers: StoreNumbers) -> Figure:
    """Frequency by rank, both logarithmic, with the entropy beside it."""
    figure, (axes,) = _panels(1, (8, 5))
    counts = np.sort(numbers.token_counts[numbers.token_counts > 0])[::-1]
    axes.plot(np.arange(1, len(counts) + 1), counts / counts.sum(), color=BLUE, linewidth=2)
    axes.set(xscale="log", yscale="log", xlabel="rank of a vocabulary entry", ylabel="share of the tokens")
    entropy = numbers.manifest["unigram_entropy_nats"]
    words = f"entropy {entropy:.2f} nats,\nas {np.exp(entropy):,.0f} equally frequent entries"
    axes.text(0.03, 0.06, words, transform=axes.transAxes)
    return figure


def reasons_figure(numbers: StoreNumbers) -> Figure | None:
    """The most frequent reasons, each with its number."""
    found = reasons(numbers.manifest)[:SHOWN_REASONS]
    if not found:
        return None
    figure, (axes,) = _panels(1, (10, 1.3 + 0.42 * len(found)))
    colours = [RED if kind == "rejected" else BLUE for _, _, kind in found]
    names = [r if len(r) <= REASON_LENGTH else r[: REASON_LENGTH - 3] + "..." for r, _, _ in found]
    places = np.arange(len(found))
    bars = axes.barh(places, [count for _, count, _ in found], color=colours)
    axes.bar_label(bars, [f"{count:,} {kind}" for _, count, kind in found], padding=4)
    axes.set_yticks(places, names)
    axes.set(xscale="log", xlim=(0.7, 8 * max(count for _, count, _ in found)), xlabel="records")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.01), ncols=4, borderaxespad=0.2)


def _panels(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.set_axisbelow(True)
    return figure, panels
