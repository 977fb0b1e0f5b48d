"""Whether the fast step learns what transformers' own learns: `make bench-parity`. Writes docs/results/parity.md.

Three runs over the same batches with the same AdamW, precision and dropout (BERT's): transformers' loss with two seeds
(weights and dropout), and ours from the first one's weights. Ours may differ from the first no more than the second
does.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForPreTraining

from bert_lamb.bench.peers.loops import padded, plain_bert
from bert_lamb.bench.step import VOCABULARY, add_settings, settings_of, whole_batch
from bert_lamb.data.loader import PhaseData
from bert_lamb.machine import machine_record, measured_on
from bert_lamb.model import bert_config, pretraining_losses
from bert_lamb.parallel import Single, run_device
from bert_lamb.run import keep_precision, open_run
from bert_lamb.training.assembly import Assembly
from bert_lamb.words import duration

log = logging.getLogger(__name__)

WINDOW, WARMUP, LR = 20, 20, 3e-4  # steps of a mean; of warm-up; AdamW's learning rate behind it
Loss = Callable[[BertForPreTraining, PhaseData, int], tuple[Tensor, Tensor]]  # of a step: all, and its MLM part


def theirs(bert: BertForPreTraining, data: PhaseData, step: int) -> tuple[Tensor, Tensor]:
    """transformers' own loss; its MLM part from the logits that it made."""
    arrays = {name: value.to(bert.device) for name, value in padded(whole_batch(data, step)).items()}
    out: Any = bert(**arrays)
    chosen = arrays["labels"] >= 0
    return out.loss, F.cross_entropy(out.prediction_logits.detach()[chosen].float(), arrays["labels"][chosen])


def ours(losses: Callable[..., Any]) -> Loss:
    """Our sums over the batch's counts, in the shapes that training compiles."""

    def loss(bert: BertForPreTraining, data: PhaseData, step: int) -> tuple[Tensor, Tensor]:
        batch = data.make(data.order.step(step), np.arange(data.order.global_batch))
        sums = losses(bert, batch.to(bert.device))
        mlm = sums.mlm / (batch.masked_labels >= 0).sum()
        return mlm + sums.nsp / data.order.global_batch, mlm.detach()

    return loss


def curve(name: str, bert: BertForPreTraining, loss: Loss, data: PhaseData, steps: int, precision: str) -> list[float]:
    """MLM losses of a run."""
    optimizer = torch.optim.AdamW(bert.parameters(), lr=LR, weight_decay=0.01, fused=True)
    values: list[float] = []
    started_s = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP)
        with torch.autocast(bert.device.type, torch.bfloat16, enabled=precision == "bf16"):
            total, mlm = loss(bert, data, step)
        total.backward()
        torch.nn.utils.clip_grad_norm_(bert.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        values.append(mlm.item())
        if (step + 1) % WINDOW == 0:
            left = duration((time.monotonic() - started_s) / (step + 1) * (steps - step - 1))
            log.info("%-24s step %d/%d  mlm %.4f  %s left", name, step + 1, steps, np.mean(values[-WINDOW:]), left)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="file of conf/model")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("docs/results/parity.md"))
    add_settings(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        s = settings_of(arguments.model, arguments, folder)
        device = run_device(s.hardware)
        run_folder = open_run(s)
        keep_precision(s, run_folder, device)
        run = Assembly(s, run_folder, Single(device))
        data = run.data(1)
        config = bert_config(s.model, VOCABULARY, data.ids.pad)
        losses = torch.compile(pretraining_losses, dynamic=False) if run.compiled else pretraining_losses
        plans: list[tuple[str, int, Loss]] = [
            ("ours", 0, ours(losses)), ("transformers", 0, theirs), ("transformers, other seed", 1, theirs),
        ]  # fmt: skip
        curves = {}
        for name, seed, loss in plans:
            bert = plain_bert(config, seed, device)
            torch.manual_seed(seed)  # transformers' dropout
            curves[name] = curve(name, bert, loss, data, arguments.steps, run.precision)
    machine = machine_record(device, 1) | {"precision": run.precision}
    arguments.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "mlm": curves}) + "\n")
    figure = arguments.out.with_suffix(".png")
    draw(curves, figure)
    title = f"BERT-{arguments.model}, {arguments.steps} steps of {arguments.batch} x {arguments.seq_len} tokens"
    arguments.out.write_text(page(title, curves, machine, figure.name))
    log.info("%s", arguments.out)


def means(values: list[float]) -> np.ndarray:
    """Means over windows of WINDOW steps."""
    return np.array(values).reshape(-1, WINDOW).mean(1)


def page(title: str, curves: dict[str, list[float]], machine: dict[str, Any], figure: str) -> str:
    """The results page."""
    smooth = {name: means(values) for name, values in curves.items()}
    base = smooth["transformers"]
    from_ours, from_seed = np.abs(smooth["ours"] - base), np.abs(smooth["transformers, other seed"] - base)
    lines = [
        "# What the fast step learns", "",
        f"`make bench-parity`, {measured_on(machine)}. {title}, vocabulary {VOCABULARY:,}, dropout 0.1, "
        f"{machine['precision']}, AdamW at {LR:g}; all three train on the same batches. MLM loss in nats, means of "
        f"{WINDOW} steps.", "",
        f"- Ours differs from transformers by {from_ours.mean():.4f} on average, {from_ours.max():.4f} at most.",
        f"- Another seed of transformers differs by {from_seed.mean():.4f} on average, {from_seed.max():.4f} at most.",
        "", f"![MLM loss]({figure})", "",
        "| steps | " + " | ".join(smooth) + " |", "|---" * (1 + len(smooth)) + "|",
    ]  # fmt: skip
    for i in range(len(base)):
        row = " | ".join(f"{values[i]:.4f}" for values in smooth.values())
        lines.append(f"| {i * WINDOW + 1}-{(i + 1) * WINDOW} | {row} |")
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """The three curves, and how far two of them are from the first of transformers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    base = means(curves["transformers"])
    steps = WINDOW * (1 + np.arange(len(base)))
    styles = {"ours": ("#1f6feb", "-"), "transformers": ("#333333", "--"), "transformers, other seed": ("#9aa5b1", "-")}
    for name, (color, line) in styles.items():
        left.plot(steps, means(curves[name]), line, color=color, label=name)
        if name != "transformers":
            right.plot(steps, np.abs(means(curves[name]) - base), line, color=color, label=name)
    left.set_ylabel("MLM loss (nats)")
    right.set_ylabel("distance from transformers (nats)")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
