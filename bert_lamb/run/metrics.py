"""Numbers go to metrics.jsonl always, to the console for people, and to W&B as a mirror that may fail."""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bert_lamb.batch import Denominators, LossSums, PackedBatch
from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import clean_lines, read_lines
from bert_lamb.optim import RunOptimizer
from bert_lamb.parallel import Single
from bert_lamb.run.eta import TimeLeft
from bert_lamb.run.folder import RunFolder
from bert_lamb.run.progress import Progress
from bert_lamb.settings import Settings
from bert_lamb.signals import StopRequest
from bert_lamb.words import duration

log = logging.getLogger(__name__)

CONSOLE_EVERY_S = 10.0  # a line that often, so that a log file stays readable


class TrainingStoppedError(UserError):
    """A run that cannot go on by itself."""


class Dashboard:
    """W&B, or nothing: training never stops for it."""

    def __init__(self, mode: str, project: str, run_name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._run = None
        if mode == "disabled":
            return
        if mode == "auto":
            mode = "online" if _has_key() else "offline"
        try:
            import wandb

            self._run = wandb.init(
                project=project, name=run_name, id=run_name, resume="allow", mode=mode, dir=str(folder),  # type: ignore[arg-type]
                config=settings, settings=wandb.Settings(silent=True),
            )  # fmt: skip
        except Exception as error:  # whatever W&B meets, the run goes on
            log.warning("W&B is off (%s); numbers are in metrics.jsonl; run.wandb=disabled hides this", error)

    def log(self, phase: int, numbers: dict[str, Any]) -> None:
        if self._run is None:
            return
        flat = {f"phase{phase}/{k}": v for k, v in numbers.items() if not isinstance(v, dict)}
        for name, ratio in numbers.get("trust_ratios", {}).items():
            flat[f"phase{phase}/trust_ratio/{name}"] = ratio
        try:
            self._run.log(flat)
        except Exception as error:
            log.warning("W&B stopped taking numbers (%s); metrics.jsonl has them all", error)
            self._run = None

    def close(self) -> None:
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                log.warning("W&B did not take its last numbers (%s); metrics.jsonl has them all", error)


class StepTotals:
    """Sums over one step's micro-batches; nothing is read back from the device before `reduce`."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._computed = 0
        self.stop = False  # whether any rank was asked to stop

    def add(self, losses: LossSums, batch: PackedBatch) -> None:
        parts = (losses.mlm, losses.nsp, losses.mlm_correct, losses.nsp_correct)
        sums = torch.stack([p.detach().double() for p in parts])
        self._sums = sums if self._sums is None else self._sums + sums
        self._computed += len(batch.input_ids)

    def reduce(self, strategy: Single, stop: StopRequest | bool) -> None:
        """Sums over ranks, so that every rank sees the same numbers and stops at the same step."""
        assert self._sums is not None
        mine = torch.cat([self._sums, self._sums.new_tensor([self._computed, bool(stop)])])
        self.mlm, self.nsp, self.mlm_correct, self.nsp_correct, computed, stops = strategy.reduce_sums(mine).tolist()
        self.computed_tokens = int(computed)  # filler included
        self.stop = stops > 0

    def loss(self, counts: Denominators) -> float:
        """The global batch's loss, nats."""
        return self.mlm / counts.masked + self.nsp / counts.sequences


class MetricsLog:
    """One phase's metrics.jsonl and its console lines, with the time left. Ranks other than 0 write nothing."""

    def __init__(
        self, folder: RunFolder, s: Settings, progress: Progress, names: Sequence[str], dashboard: Dashboard | None,
        flops: Callable[[Denominators], float], strategy: Single,
    ) -> None:  # fmt: skip
        self._run = s.run
        self._phase = progress.phase
        self._steps = s.phase(progress.phase).steps
        self._time_left = TimeLeft(self._steps)
        self._names = names
        self._dashboard = dashboard
        self._flops = flops
        self._strategy = strategy
        self._peak_tflops = s.hardware.peak_tflops
        self._last_line_s = -CONSOLE_EVERY_S
        self._folder = folder
        if dashboard is not None:
            path = folder.metrics_file(progress.phase)
            path.parent.mkdir(parents=True, exist_ok=True)
            clean_lines(path, is_metrics_line)
            self._file = path.open("a")

    def step(
        self, progress: Progress, counts: Denominators, totals: StepTotals, optimizer: RunOptimizer, seconds: float,
        heldout: dict[str, float],
    ) -> None:  # fmt: skip
        """Takes a finished step and writes its line, if due."""
        if progress.skipped_in_row and self._dashboard is not None:
            self._skipped(progress, optimizer)
        pending = progress.add_counts(
            sequences=counts.sequences,
            tokens=counts.tokens,
            computed=totals.computed_tokens,
            seconds=seconds,
            flops=self._flops(counts),
        )
        if not (self._due(progress.step, self._run.log_every) or heldout):
            return
        progress.pending = {}
        if self._dashboard is None:
            return
        mlm, nsp = totals.mlm / counts.masked, totals.nsp / counts.sequences
        line: dict[str, Any] = {
            "step": progress.step,
            "loss": totals.loss(counts),
            "mlm_loss": mlm,
            "nsp_loss": nsp,
            "mlm_accuracy": totals.mlm_correct / counts.masked,
            "nsp_accuracy": totals.nsp_correct / counts.sequences,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "grad_norm": float(optimizer.grad_norm),  # type: ignore[arg-type]
            "skipped": progress.skipped,
            "sequences": int(pending["sequences"]),  # from here to "mfu" since the line before
            "tokens": int(pending["tokens"]),
            "padding": 1 - pending["tokens"] / pending["computed"],
            "seconds": round(pending["seconds"], 4),
            "tflops": pending["flops"] / pending["seconds"] / self._strategy.ranks / 1e12,  # a device, of real tokens
        }
        if self._peak_tflops is not None:
            line["mfu"] = line["tflops"] / self._peak_tflops
        line["peak_memory_gib"] = round(peak_memory(self._strategy.device) / 2**30, 3)
        if optimizer.trust_ratios and self._due(progress.step, self._run.trust_ratios_every):
            ratios = torch.stack(list(optimizer.trust_ratios.values())).tolist()
            line["trust_ratios"] = dict(zip(self._names, (round(r, 6) for r in ratios), strict=True))
        self._write(line | heldout)

    def close(self) -> None:
        if self._dashboard is not None:
            self._file.close()

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._steps

    def _write(self, line: dict[str, Any]) -> None:
        assert self._dashboard is not None
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        self._dashboard.log(self._phase, finite)
        now_s, step = time.monotonic(), line["step"]
        left_s = self._time_left.after(step, now_s)
        if now_s - self._last_line_s < CONSOLE_EVERY_S and step != self._steps and "heldout_mlm_loss" not in line:
            return
        self._last_line_s = now_s
        left = "" if left_s is None else f"{duration(left_s)} left"
        heldout = ""
        if "heldout_mlm_loss" in line:
            heldout = f"held-out mlm {line['heldout_mlm_loss']:.3f} acc {line['heldout_mlm_accuracy']:.3f}  "
        log.info(
            "phase %d  step %d/%d  loss %.3f  mlm %.3f  acc %.3f  %slr %.2e  %.0f tokens/s  %s%s",
            self._phase, step, self._steps, line["loss"], line["mlm_loss"], line["mlm_accuracy"],
            heldout, line["learning_rate"], line["tokens"] / line["seconds"],
            f"MFU {100 * line['mfu']:.1f}%  " if "mfu" in line else "", left,
        )  # fmt: skip

    def _skipped(self, progress: Progress, optimizer: RunOptimizer) -> None:
        """Tells of a step without a finite gradient."""
        self._folder.event_once(
            "skipped", phase=progress.phase, step=progress.step, rollbacks=progress.rollbacks,
            in_row=progress.skipped_in_row,
        )  # fmt: skip
        log.warning(
            "phase %d, step %d: the gradient's norm is %f; the step is not applied (%d in a row)",
            progress.phase, progress.step, float(optimizer.grad_norm), progress.skipped_in_row,  # type: ignore[arg-type]
        )  # fmt: skip


def last_line(path: Path, step: int) -> dict[str, Any]:
    """The line of `step` that counts: the last one, since a resumed run may write it again. Empty where it is lost."""
    lines, _ = read_lines(path, is_metrics_line)
    return next((line for line in reversed(lines) if line["step"] == step), {})


def is_metrics_line(value: dict[str, Any]) -> bool:
    """Whether an object is a line of metrics.jsonl: a step, and numbers by name."""
    ratios = value.get("trust_ratios", {})
    numbers = [v for name, v in value.items() if name != "trust_ratios"]
    return (
        type(value.get("step")) is int
        and isinstance(ratios, dict)
        and all(v is None or isinstance(v, int | float) for v in [*numbers, *ratios.values()])
    )


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or this process on a CPU's machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
