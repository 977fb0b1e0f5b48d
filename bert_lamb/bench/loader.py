"""The loader alone, on one core, beside what a GPU needs: `make bench-loader`. Writes docs/results/loader.md.

Order, masks, packing and rounding up, as `pretrain` makes its batches; CPU time of this process, so that a busy machine
does not count. Reads a prepared store (the embedded corpus by default), cut at 128 and 512 tokens.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import torch

from bert_lamb.bench.pages import quartiles
from bert_lamb.data.instances import InstanceTables
from bert_lamb.data.loader import PhaseData
from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.masking import MaskRule
from bert_lamb.data.order import Order
from bert_lamb.data.packing import SpecialIds
from bert_lamb.machine import machine_record, measured_on
from bert_lamb.model import training_flops
from bert_lamb.run import data_folder
from bert_lamb.settings import compose_settings
from bert_lamb.words import counted

log = logging.getLogger(__name__)

LENGTHS, BUDGET, GLOBAL_BATCH = (128, 512), 65_536, 4096
GPU_TFLOPS = 475  # 60% of the 790 dense bf16 TFLOP/s that an H200 reaches
VOCABULARY, SHARE = 30_522, 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="global batches that are timed, each by itself")
    parser.add_argument("--out", type=Path, default=Path("docs/results/loader.md"))
    parser.add_argument("overrides", nargs="*", help="settings, e.g. data=text data.name=mine")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # threads that wait for the next small copy would count as work
    folder = data_folder(compose_settings(arguments.overrides))
    manifest = read_manifest(folder)
    rows = [measure(folder, manifest, seq_len, arguments.steps) for seq_len in LENGTHS]
    arguments.out.write_text(page(rows, manifest))
    log.info("%s", arguments.out.read_text())


def measure(folder: Path, manifest: dict[str, Any], seq_len: int, steps: int) -> dict[str, Any]:
    """Sequences a second of one core, and what one GPU needs of them."""
    data = phase_data(folder, manifest, seq_len)
    rates, tokens, computed = [], 0, 0
    for number in range(1 + steps):
        started_s = time.process_time()
        chosen = data.order.step(number)
        step, makers = data.plan(number, chosen)
        batches = [data.make(chosen, rows) for rows in makers]
        if number:  # the first maps the files
            rates.append(GLOBAL_BATCH / (time.process_time() - started_s))
            tokens += step.denominators.tokens
            computed += sum(len(batch.input_ids) for batch in batches)
    sizes = {name: compose_settings([f"model={name}"]).model for name in ("base", "large")}
    flops = {name: training_flops(m, VOCABULARY, seq_len, round(SHARE * seq_len)) for name, m in sizes.items()}
    return {
        "seq_len": seq_len, "rates": rates, "mean_length": tokens / (steps * GLOBAL_BATCH),
        "filler": 1 - tokens / computed, "need": {name: GPU_TFLOPS * 1e12 / f for name, f in flops.items()},
    }  # fmt: skip


def phase_data(folder: Path, manifest: dict[str, Any], seq_len: int) -> PhaseData:
    """A phase as one GPU's rank sees it."""
    ids, vocab_size = SpecialIds.of(manifest), manifest["tokenizer"]["size"]
    tables = InstanceTables(folder, manifest, "train", seq_len)
    return PhaseData(
        tables=tables,
        order=Order(0, 1, tables.sizes, GLOBAL_BATCH),
        rule=MaskRule(0, 1, SHARE, ids.mask, vocab_size, None),
        ids=ids,
        seq_len=seq_len, micro_batch_tokens=BUDGET, padded=False, rank=0, ranks=1, static_shapes=True, prefetch=1,
        pinned=False,
    )  # fmt: skip


def page(rows: list[dict[str, Any]], manifest: dict[str, Any]) -> str:
    """The results page."""
    machine = machine_record(torch.device("cpu"), 1)
    lines = [
        "# The loader alone", "",
        f"`make bench-loader`, {measured_on(machine)}. CPU time on one core; {manifest['counts']['tokens']:,} "
        f"tokens in {counted(len([n for n in manifest['files'] if 'train/documents' in n]), 'shard')}, "
        f"micro-batches of {BUDGET:,} tokens. What a GPU needs is for full sequences at {GPU_TFLOPS} TFLOP/s, 60% "
        "of what an H200's matrix units reach.", "",
        "| tokens | sequences/s per core (quartiles) | mean length | filler | BERT-Base on one H200 needs | "
        "BERT-Large needs |", "|---" * 6 + "|",
    ]  # fmt: skip
    for row in rows:
        low, median, high = quartiles(row["rates"])
        lines.append(
            f"| {row['seq_len']} | {median:,.0f} ({low:,.0f}-{high:,.0f}) | {row['mean_length']:.0f} | "
            f"{100 * row['filler']:.1f}% | {row['need']['base']:,.0f} | {row['need']['large']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
