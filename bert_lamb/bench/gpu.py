"""What one GPU does with BERT: `make bench-gpu`. Ceilings, our step, transformers' Trainer, the LAMB step.

Needs torch, transformers and this repository, no data: sequences are random ids of lengths as English Wikipedia gives
them. Every figure goes to a JSON file as soon as it is measured; what stands there is not measured again, so parts
(`--part`) and cut runs add up. The page and the figure are made from that file, on any machine (`--part page`).
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

from bert_lamb.batch import PackedBatch
from bert_lamb.bench.gpu_page import draw, page
from bert_lamb.bench.peers.loops import HandLoop, TrainerLoop, padded, plain_bert, synchronize
from bert_lamb.bench.random_batches import SHARE, VOCABULARY, of_sequences, packed, real_lengths
from bert_lamb.data.masking import masked_counts
from bert_lamb.jsonfiles import read_object
from bert_lamb.machine import machine_record
from bert_lamb.model import batch_flops, pretraining_losses, takes_varlen
from bert_lamb.optim import Lamb, decay_groups
from bert_lamb.training.repeatable import repeat_to_the_bit

log = logging.getLogger(__name__)

PARTS = ("ceilings", "ours-base", "ours-large", "peers", "lamb", "modes", "page")


@dataclass(frozen=True)
class Size:
    """One BERT, as Devlin et al. 2018 size it, and what is tried with it."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    budgets: tuple[int, ...]  # tokens of a micro-batch
    batches: dict[int, tuple[int, ...]]  # by sequence length: sequences of a padded micro-batch, for the peers


MODELS = {
    "base": Size(12, 768, 12, 3072, (16_384, 32_768, 65_536, 131_072), {128: (128, 256, 512), 512: (32, 64, 128)}),
    "large": Size(24, 1024, 16, 4096, (16_384, 32_768, 65_536), {128: (64, 128, 256), 512: (16, 32, 64)}),
}
DRY = {name: Size(layers, 64, 2, 128, (1024,), {128: (4,), 512: (2,)}) for name, layers in (("base", 1), ("large", 2))}


class Results:
    """Figures by name, in a file that is whole after every one."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self._path = path
        self.figures: dict[str, Any] = _figures(path) if path.is_file() else {}
        self.figures.setdefault("machine", machine)
        there = self.figures["machine"]["device"]
        if there != machine["device"]:
            raise SystemExit(f"{path} holds figures of another device ({there}, this is {machine['device']}): --out")

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        """Measures what is not there yet; a failure is a result too, and does not end the rest."""
        if name in self.figures and "failed" not in self.figures[name]:
            return
        started_s = time.perf_counter()
        try:
            figure = work()
        except (RuntimeError, ImportError) as error:  # out of memory is a RuntimeError
            figure = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        figure["took_s"] = round(time.perf_counter() - started_s, 1)
        self.figures[name] = figure
        partial = self._path.with_suffix(".tmp")
        partial.write_text(json.dumps(self.figures, indent=1) + "\n")
        partial.replace(self._path)
        log.info("%-46s %s", name, {k: v for k, v in figure.items() if k != "seconds"})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _figures(path: Path) -> dict[str, Any]:
    """What was measured before; the machine and one record a measurement."""
    figures, problem = read_object(path, lambda value: all(isinstance(figure, dict) for figure in value.values()))
    if figures is None:
        raise SystemExit(problem or f"{path} is missing")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu.json"))
    parser.add_argument("--dry", action="store_true", help="tiny models and few steps: that it runs, here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.part == ["page"]:
        figures = _figures(arguments.out)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu" and not arguments.dry:
            raise SystemExit("no GPU here; --dry shows that the script runs")
        results = Results(arguments.out, machine_record(device, 1))
        bench = Bench(device, arguments.dry, results)
        work = {"ceilings": bench.ceilings, "ours-base": lambda: bench.ours("base"),
                "ours-large": lambda: bench.ours("large"), "peers": bench.peers, "lamb": bench.lamb,
                "modes": bench.modes}  # fmt: skip
        for part in arguments.part:
            if part in work:
                work[part]()
        figures = results.figures
    if "page" in arguments.part:
        figure = arguments.out.with_suffix(".png")
        draw(figures, figure)
        arguments.out.with_suffix(".md").write_text(page(figures, figure.name))
        log.info("%s", arguments.out.with_suffix(".md"))


class Bench:
    """The parts, each a list of figures."""

    def __init__(self, device: torch.device, dry: bool, results: Results) -> None:
        self._device, self._dry, self._results = device, dry, results
        self._models = DRY if dry else MODELS
        self._precision = torch.float32 if device.type == "cpu" else torch.bfloat16  # bf16 may crawl on a CPU
        self._steps = 2 if dry else 8

    def ceilings(self) -> None:
        """What the device reaches at best: copying, and bf16 products of the shapes that BERT has."""
        self._results.measure("copy", self._copy)
        for n, k, m in ((64, 64, 64),) if self._dry else ((8192, 8192, 8192), (65536, 1024, 1024), (65536, 1024, 4096)):
            self._results.measure(f"product {n} x {k} x {m}", partial(self._product, n, k, m))

    def ours(self, name: str) -> None:
        """Our micro-batch, forward and backward, over budgets of tokens, with BERT's dropout and without."""
        size = self._models[name]
        for seq_len in (128, 512):
            for budget in size.budgets:
                for p in (0.1, 0.0):
                    if p == 0.1 or budget == size.budgets[-1]:
                        key = f"ours {name} {seq_len} tokens={budget} dropout={p}"
                        self._results.measure(key, partial(self._ours, size, seq_len, budget, p))

    def modes(self) -> None:
        """What else torch can be asked for: CUDA graphs, where launches weigh most; kernels that repeat to the bit.

        In a process of their own: cuBLAS reads how to repeat before its first product.
        """
        for mode, which in (("graphs", 0), ("deterministic", -1)):
            for name, size in self._models.items():
                budget = size.budgets[which]
                key = f"ours {name} 128 tokens={budget} dropout=0.1 {mode}"
                self._results.measure(key, partial(self._ours, size, 128, budget, 0.1, mode))

    def peers(self) -> None:
        """transformers' Trainer and a hand-written loop, on padded batches of the same lengths."""
        for name, size in self._models.items():
            for seq_len, batches in size.batches.items():
                for batch in batches:
                    for who in ("Trainer", "loop"):
                        key = f"{who} {name} {seq_len} sequences={batch}"
                        self._results.measure(key, partial(self._peer, who, size, seq_len, batch))

    def lamb(self) -> None:
        """One optimizer step by each path, beside torch's fused AdamW."""
        paths: dict[str, dict[str, Any]] = {
            "Lamb foreach": {"foreach": True}, "Lamb fused": {"fused": True}, "Lamb plain": {"foreach": False},
            "AdamW fused": {},
        }  # fmt: skip
        for name, size in self._models.items():
            for path, how in paths.items():
                if path == "Lamb fused" and self._device.type == "cpu":
                    continue
                self._results.measure(f"{path}, {name}", partial(self._optimizer, path, size, how))

    def _copy(self) -> dict[str, Any]:
        source = torch.ones(2**20 if self._dry else 2**28, device=self._device)
        target = torch.empty_like(source)
        seconds = self._timed(lambda: target.copy_(source), 10)
        return {"gb_s": 2 * source.nbytes / statistics.median(seconds) / 1e9, "seconds": seconds}

    def _product(self, n: int, k: int, m: int) -> dict[str, Any]:
        a = torch.randn(n, k, device=self._device, dtype=self._precision)
        b = torch.randn(k, m, device=self._device, dtype=self._precision)
        seconds = self._timed(lambda: a @ b, 20)
        return {"tflops": 2 * n * k * m / statistics.median(seconds) / 1e12, "seconds": seconds}

    def _ours(self, size: Size, seq_len: int, budget: int, p: float, mode: str = "") -> dict[str, Any]:
        torch.compiler.reset()  # else the process's ninth shape would run uncompiled
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        repeat_to_the_bit(mode == "deterministic", self._device)
        bert = plain_bert(bert_config(size, p), 0, self._device)
        for parameter in bert.parameters():  # a global batch adds to gradients, and graphs could not keep new ones
            parameter.grad = torch.zeros_like(parameter)
        batches = list(packed(seq_len, budget, 4, takes_varlen(self._device, self._precision), self._dry))
        how = "reduce-overhead" if mode == "graphs" else None
        losses = pretraining_losses if self._dry else torch.compile(pretraining_losses, dynamic=False, mode=how)

        def step(batch: PackedBatch) -> None:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision is torch.bfloat16):
                sums = losses(bert, batch)
            (sums.mlm / 1e4 + sums.nsp / 1e2).backward()

        return self._steps_of(bert, batches, step, size)

    def _steps_of(
        self, bert: BertForPreTraining, batches: list[PackedBatch], step: Callable[[PackedBatch], None], size: Size
    ) -> dict[str, Any]:
        """Seconds, tokens, FLOPs and memory of micro-batches; the first turn compiles."""
        moved = [batch.to(self._device) for batch in batches]
        started_s = time.perf_counter()
        for batch in moved:
            step(batch)
        synchronize(self._device)
        first_s = time.perf_counter() - started_s
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        seconds = [s for batch in moved for s in self._timed(partial(step, batch), self._steps)]
        lengths = [real_lengths(batch) for batch in batches]
        return {
            "seconds": seconds, "first_turn_s": first_s,
            **rates(lengths, statistics.median(seconds), size),
            "filler": 1 - sum(int(b.cu_seqlens[-1]) for b in batches) / sum(len(b.input_ids) for b in batches),
            "peak_gib": peak_gib(self._device),
        }  # fmt: skip

    def _peer(self, who: str, size: Size, seq_len: int, batch: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            config, bf16 = bert_config(size, 0.1), self._precision is torch.bfloat16
            loop: Any = (
                TrainerLoop(config, self._device, folder, bf16=bf16) if who == "Trainer"
                else HandLoop(config, self._device, bf16=bf16)
            )  # fmt: skip
            packs = list(of_sequences(seq_len, batch, self._steps))
            arrays = [padded(pack) for pack in packs]
            first = loop.run(arrays[:2])
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            seconds = loop.run(arrays)[1:]
        lengths = [real_lengths(pack) for pack in packs]
        return {
            "seconds": seconds, "first_turn_s": sum(first), **rates(lengths, statistics.median(seconds), size),
            "peak_gib": peak_gib(self._device),
        }  # fmt: skip

    def _optimizer(self, path: str, size: Size, how: dict[str, Any]) -> dict[str, Any]:
        bert = plain_bert(bert_config(size, 0.0), 0, self._device)
        for p in bert.parameters():
            p.grad = torch.full_like(p, 1e-3)
        groups = decay_groups(bert, 0.01)
        optimizer: Any = (
            torch.optim.AdamW(bert.parameters(), lr=1e-6, fused=True) if path == "AdamW fused"
            else Lamb(groups, lr=1e-6, max_grad_norm=1.0, **how)
        )  # fmt: skip
        started_s = time.perf_counter()
        optimizer.step()
        synchronize(self._device)
        first_s, seconds = time.perf_counter() - started_s, self._timed(optimizer.step, 10)
        parameters = sum(p.numel() for p in bert.parameters())
        return {"seconds": seconds, "ms": 1e3 * statistics.median(seconds), "first_turn_s": first_s,
                "parameters": parameters}  # fmt: skip

    def _timed(self, work: Callable[[], object], times: int) -> list[float]:
        work()
        seconds = []
        for _ in range(2 if self._dry else times):
            synchronize(self._device)
            started_s = time.perf_counter()
            work()
            synchronize(self._device)
            seconds.append(time.perf_counter() - started_s)
        return seconds


def bert_config(size: Size, dropout: float) -> BertConfig:
    """transformers' configuration of a size."""
    return BertConfig(
        vocab_size=VOCABULARY, num_hidden_layers=size.layers, hidden_size=size.hidden, num_attention_heads=size.heads,
        intermediate_size=size.intermediate, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip


def rates(lengths: list[np.ndarray], seconds: float, size: Size) -> dict[str, float]:
    """Real tokens and model FLOPs a second, at so many seconds for each of these batches."""
    every = np.concatenate(lengths)
    tokens, squares = float(every.sum()) / len(lengths), float((every**2).sum()) / len(lengths)
    masked = float(masked_counts(every, SHARE).sum()) / len(lengths)
    flops = batch_flops(size, VOCABULARY, tokens, squares, masked, len(every) / len(lengths))
    return {"tokens_s": tokens / seconds, "sequences_s": len(every) / len(lengths) / seconds,
            "tflops": flops / seconds / 1e12}  # fmt: skip


def peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


if __name__ == "__main__":
    main()
