"""The pretraining step beside what people use today, on the same batches: `make bench`. Writes docs/results/speed.md.

Contenders take turns of a few steps on the same sequences; the first step of a turn is not counted. Every figure is a
median over all counted steps, with quartiles; ratios are of medians of one run. Hand-written loops run in whichever
precision is faster on this machine. A contender whose turn takes too long is given up, and the page says so. Ours is
the step of `pretrain`, LAMB included, on packed batches; the peers' are in peers/loops.py, with AdamW.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bert_lamb.batch import PackedBatch
from bert_lamb.bench import profile
from bert_lamb.bench.pages import quartiles
from bert_lamb.bench.peers.loops import HandLoop, TrainerLoop, padded, synchronize
from bert_lamb.bench.turns import Contender
from bert_lamb.data.loader import PhaseData
from bert_lamb.files import write_json
from bert_lamb.hardware import choose_precision
from bert_lamb.machine import machine_record, measured_on
from bert_lamb.model import bert_config, training_flops
from bert_lamb.optim import set_lr
from bert_lamb.parallel import Single, run_device
from bert_lamb.run import StepTotals, keep_precision, open_run
from bert_lamb.settings import Settings, compose_settings
from bert_lamb.training.assembly import Assembly
from bert_lamb.training.repeatable import repeat_to_the_bit, seed_dropout, set_deterministic

log = logging.getLogger(__name__)

VOCABULARY = 30_522  # of the model, whatever text is read: BERT's, whose head is most of a small model's work
LONG_PRODUCT_S, LARGEST_PRODUCT = 0.03, 8192  # of a product that is long enough to be timed, or wide enough
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
TRAINER = ("HF Trainer, fp32", "HF Trainer, bf16")  # the better of these two is what others are measured against


class Ours:
    """The step of `pretrain`, as a contender."""

    def __init__(self, s: Settings, data: PhaseData, run: Assembly) -> None:
        self._s, self._data, self._run, self.waited_s = s, data, run, 0.0
        self.losses = list[float]()

    def run(self, steps: list[int]) -> list[float]:
        """Seconds of each step; batches come from the loader as in training."""
        run, seconds, started_s = self._run, [], time.perf_counter()
        for _, step in zip(steps, self._data.steps(steps[0], steps[-1] + 1), strict=False):
            totals = StepTotals()
            batches = iter(step.batches)
            for index in range(step.micro_batches):
                waiting_s = time.perf_counter()
                batch = next(batches)
                self.waited_s += time.perf_counter() - waiting_s
                seed_dropout(self._s.seed, 1, step.number, index, 0)
                losses = run.losses(batch.to(run.strategy.device))
                (losses.mlm / step.denominators.masked + losses.nsp / step.denominators.sequences).backward()
                totals.add(losses, batch)
            set_lr(run.optimizer, 1e-4)
            run.optimizer.step()
            run.optimizer.zero_grad()
            totals.reduce(run.strategy, stop=False)
            self.losses.append(totals.loss(step.denominators))
            synchronize(run.strategy.device)
            now_s = time.perf_counter()
            seconds.append(now_s - started_s)
            started_s = now_s
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["tiny", "mini"], help="files of conf/model")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn; the first is not counted")
    parser.add_argument(
        "--give-up-after", type=float, default=180.0, metavar="SECONDS",
        help="a contender whose turn takes longer on this machine is given up, and the page says so",
    )  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="also where the time of our step goes, by operator")
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.md"))
    add_settings(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.profile:
        profile.name_generated_kernels()
    results = []
    for model in arguments.models:
        results.append(measure(model, arguments))
        log.info("\n%s", "\n".join(table(results[-1])))
    given = " ".join(sys.argv[1:])
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    figure = arguments.out.with_suffix(".png")
    draw(results, figure)
    arguments.out.write_text(page(results, f"make bench ARGS='{given}'" if given else "make bench", figure.name))
    log.info("%s", arguments.out)


def measure(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All contenders on one model."""
    with tempfile.TemporaryDirectory() as folder:
        s = settings_of(model, arguments, folder)
        device = run_device(s.hardware)
        run_folder = open_run(s)
        manifest = run_folder.manifest()
        manifest["tokenizer"]["size"] = VOCABULARY
        write_json(run_folder.manifest_file, manifest)
        keep_precision(s, run_folder, device)
        run = Assembly(s, run_folder, Single(device))
        data = run.data(1)
        contenders = line_up(s, run, data, device, folder)
        rounds = [range(i * arguments.steps, (i + 1) * arguments.steps) for i in range(arguments.rounds + 1)]
        counts: list[tuple[int, int]] = []  # real tokens and masked tokens of each counted step
        for number, steps in enumerate(rounds):
            packed = [whole_batch(data, i) for i in steps]
            for one in [c for c in contenders if c.given_up_s is None]:
                if one is contenders[-1]:
                    repeat_to_the_bit(s.hardware.deterministic, device)  # as `pretrain` does
                else:
                    set_deterministic(False)
                width = s.phase1.seq_len if one.takes_padded and one.run.fixed_width else None
                given: list[Any] = [padded(batch, width) for batch in packed] if one.takes_padded else list(steps)
                seconds = one.turn(number, given, arguments.give_up_after)
                took = f"{1000 * statistics.median(seconds[1:]):6.0f} ms/step" if seconds else given_up(one)
                log.info("%s  round %d/%d  %-46s %s", model, number, arguments.rounds, one.name, took)
            if number:
                counts += [(int(b.cu_seqlens[-1]), len(b.masked_positions)) for b in packed[1:]]
        profiled: Any = {}
        if arguments.profile and contenders[-1].given_up_s is None:
            last = rounds[-1][-1] + 1
            profiled["profile"] = profile.shares(lambda: contenders[-1].run.run([last, last + 1, last + 2]), device)
        return record(s, contenders, counts, device, run) | profiled


def whole_batch(data: PhaseData, step: int) -> PackedBatch:
    """A global batch as one packed batch, in no static shape."""
    return replace(data, static_shapes=False).make(data.order.step(step), np.arange(data.order.global_batch))


def line_up(s: Settings, run: Assembly, data: PhaseData, device: torch.device, folder: str) -> list[Contender]:
    """Today's ways, each idea on top of the one before, and ours."""
    config = bert_config(s.model, VOCABULARY, data.ids.pad)
    better = choose_precision("auto", device, s.model).name
    hand = {
        f"hand-written loop, {better}, sdpa": {},
        "the same, head on masked positions": {"masked_head": True},
    }
    if run.compiled:
        hand["hand-written loop, compiled"] = {"compiled": True}
        hand["the same, head on masked positions, compiled"] = {"masked_head": True, "compiled": True}
    ours = [Contender("ours" + (", compiled" if run.compiled else ", eager"), Ours(s, data, run), False)]
    return [
        *(Contender(name, TrainerLoop(config, device, folder, bf16="bf16" in name), True) for name in TRAINER),
        *(Contender(name, HandLoop(config, device, bf16=better == "bf16", **how), True) for name, how in hand.items()),
        *ours,
    ]  # fmt: skip


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The arguments that `settings_of` reads."""
    parser.add_argument("--batch", type=int, default=32, help="sequences a step")
    parser.add_argument("--seq-len", type=int, default=128, help="tokens of a sequence, among data.seq_lens")
    parser.add_argument("overrides", nargs="*", help="settings, e.g. model.dropout=0 model.attention_dropout=0")


def settings_of(model: str, arguments: argparse.Namespace, folder: str) -> Settings:
    """Phase 1 at the wanted length, with BERT's dropout; the embedded corpus unless told otherwise."""
    own = [
        f"model={model}", "model.dropout=0.1", "model.attention_dropout=0.1", f"phase1.global_batch={arguments.batch}",
        f"phase1.seq_len={arguments.seq_len}", f"hardware.micro_batch_tokens={arguments.batch * arguments.seq_len}",
        f"run.root={folder}",
        "run.name=bench", "run.wandb=disabled",
    ]  # fmt: skip
    return compose_settings([*own, *arguments.overrides])


def record(
    s: Settings, contenders: list[Contender], counts: list[tuple[int, int]], device: torch.device, run: Assembly
) -> dict[str, Any]:
    """What was measured, for the JSON file."""
    sequences = len(counts) * s.phase1.global_batch
    length, masked = (round(sum(c[i] for c in counts) / sequences) for i in (0, 1))
    flops = s.phase1.global_batch * training_flops(s.model, VOCABULARY, length, masked)
    ours: Any = contenders[-1].run
    return {
        "model": s.model.name, "batch": s.phase1.global_batch, "seq_len": s.phase1.seq_len,
        "dropout": [s.model.dropout, s.model.attention_dropout], "vocabulary": VOCABULARY,
        "real_tokens_a_step": sum(c[0] for c in counts) / len(counts), "flops_a_step": flops,
        "waited_for_loader": ours.waited_s / max(1e-9, sum(contenders[-1].seconds)),
        "matmul_tflops": matmul_rate(device, run.precision) / 1e12,
        "contenders": [
            {"name": c.name, "warm_up_s": c.warm_up_s, "seconds": c.seconds, "given_up_s": c.given_up_s}
            for c in contenders
        ],
        "machine": machine_record(device, 1) | {"precision": run.precision},
    }  # fmt: skip


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of square products in this precision: what the device reaches at best.

    Sizes are doubled until one takes a while, so that a slow type or machine ends soon.
    """
    dtype, best, size, took_s = DTYPES[precision], 0.0, 128, 0.0
    while took_s < LONG_PRODUCT_S and size < LARGEST_PRODUCT:
        size *= 2
        a, seconds = torch.randn(size, size, device=device, dtype=dtype), list[float]()
        for _ in range(7):
            started_s = time.perf_counter()
            a @ a
            synchronize(device)
            seconds.append(time.perf_counter() - started_s)
        took_s = min(seconds)
        best = max(best, 2 * size**3 / took_s)
    return best


def given_up(one: Contender) -> str:
    """What the log says instead of a time."""
    return f"given up: a turn took longer than {one.given_up_s:.0f} s"


def best_trainer(result: dict[str, Any]) -> float:
    """Median seconds of the better of transformers' own two; NaN where both were given up."""
    timed = [c["seconds"] for c in result["contenders"] if c["name"] in TRAINER and c["seconds"]]
    return min(map(statistics.median, timed), default=math.nan)


def table(result: dict[str, Any]) -> list[str]:
    """Markdown lines."""
    base = best_trainer(result)
    lines = [
        "| | ms/step (quartiles) | real tokens/s | times HF Trainer | TFLOP/s | first turn, s |",
        "|---|---|---|---|---|---|",
    ]
    for c in result["contenders"]:
        if not c["seconds"]:
            lines.append(f"| {c['name']} | given up: a turn took longer than {c['given_up_s']:.0f} s | | | | |")
            continue
        low, median, high = quartiles(c["seconds"])
        lines.append(
            f"| {c['name']} | {1000 * median:.0f} ({1000 * low:.0f}-{1000 * high:.0f}) | "
            f"{result['real_tokens_a_step'] / median:,.0f} | {base / median:.2f} | "
            f"{result['flops_a_step'] / median / 1e12:.3f} | {c['warm_up_s']:.0f} |"
        )
    return lines


def page(results: list[dict[str, Any]], command: str, figure: str) -> str:
    """The results page."""
    lines = [
        "# The step at the speed of the machine",
        "",
        f"`{command}`, {measured_on(results[0]['machine'])}. Contenders take turns on the same batches in one run; on "
        "a shared machine only ratios within a table are meaningful. FLOPs count the matrix products of real tokens, "
        "logits at masked positions only, and the backward pass as twice the forward pass.",
        "",
        f"![real tokens a second]({figure})",
    ]
    for result in results:
        lines += [
            "",
            f"## BERT-{result['model']}, {result['batch']} x {result['seq_len']}, vocabulary {result['vocabulary']:,}, "
            f"dropout {result['dropout'][0]:g} / {result['dropout'][1]:g}",
            "",
            *table(result),
            "",
            f"A {result['machine']['precision']} matrix product reaches {result['matmul_tflops']:.2f} TFLOP/s here. "
            f"Our step waited for its loader {100 * result['waited_for_loader']:.1f}% of the time.",
        ]
        if "profile" in result:
            lines += ["", "Where our step's time goes (each operator's own):", "", *profile.table(result["profile"])]
    return "\n".join(lines) + "\n"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """What each idea buys: real tokens a second, a panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(6.5 * len(results), 3.4), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        base = best_trainer(result)
        timed = [c for c in result["contenders"] if c["seconds"]]
        names = [c["name"] for c in timed]
        rates = [result["real_tokens_a_step"] / statistics.median(c["seconds"]) for c in timed]
        colors = ["#1f6feb" if name.startswith("ours") else "#9aa5b1" for name in names]
        bars = axis.barh(names, rates, color=colors)
        times = [f"{base / statistics.median(c['seconds']):.1f}x" for c in timed]
        axis.bar_label(bars, times, padding=3)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * max(rates))
        axis.set_xlabel("real tokens a second")
        axis.set_title(f"BERT-{result['model']}, {result['batch']} x {result['seq_len']} tokens")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
