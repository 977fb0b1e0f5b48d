"""Every number that follows from the settings, the data and the devices: computed once, printed, never written back."""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bert_lamb.data.planner import known_tokens, most_sequences
from bert_lamb.errors import UserError
from bert_lamb.hardware import Precision
from bert_lamb.jsonfiles import parse_json
from bert_lamb.model import STATIC, activation_bytes, parameter_count, training_flops
from bert_lamb.optim import square_root_scaled
from bert_lamb.parallel import use_cuda
from bert_lamb.planning.rates import Rates
from bert_lamb.run.schedule import schedule, scheduling_phase
from bert_lamb.settings import Settings
from bert_lamb.words import counted, rate_words, rough_duration, times_read

OPTIMIZER_WORDS = {
    "paper": "LAMB as in the paper", "google": "LAMB as the authors' code", "apex": "LAMB as apex's FusedLAMB",
    "nvlamb": "LAMB as apex's NVLAMB", "nlamb": "N-LAMB", "nnlamb": "NN-LAMB", "lans": "LANS", "lars": "LARS",
    "adamw": "AdamW", "muon": "Muon and AdamW",
}  # fmt: skip
FAR_BELOW = 4  # times: the square-root rule then asks for half the learning rate (why 4: docs/schedules.md)
# What a step takes besides forward and backward, for the plan's hours only. Assumed, and told as assumed.
UPDATE_BYTES = 40  # per parameter, read and written by an optimizer's step: weights, gradients and two moments, fp32
MEMORY_BYTES_S = {"cuda": 3e12, "cpu": 2.5e10}  # an H100's copy; some cores of a CPU (docs/log.md)
SUM_BYTES = 8  # per parameter, sent by each device where gradients are summed: a ring sends fp32 twice
LINK_BYTES_S = {"cuda": 2e11, "cpu": 2e9}  # between devices of one node; guesses


class BudgetError(UserError):
    """A plan that cannot be made; the message says what to change."""


@dataclass(frozen=True)
class PhaseBudget:
    """What one phase takes."""

    seq_len: int
    steps: int
    global_batch: int  # sequences per step
    micro_batch: int | None  # sequences per forward pass and device, at most; None: as many as fit (fitting.py)
    micro_batches: int | None  # per device and step; fewer where they are planned by tokens and sequences are short
    sequences: int
    tokens: int  # padded, as papers count: sequences * seq_len
    flops: float  # of these padded tokens
    tflops: float  # model TFLOP/s that one device is taken to reach
    tflops_from: str  # "assumed", or which measurement
    first_lr: float  # of the first steps, at the peak and of the last step
    peak_lr: float
    last_lr: float
    passes: float | None  # times that the phase's data is read; None without prepared data
    memory_gib: float  # of a device, about: uncompiled, and without activations where the micro-batch is not known yet


@dataclass(frozen=True)
class Budget:
    """What a run takes."""

    devices: int
    precision: Precision
    phases: tuple[PhaseBudget, PhaseBudget]
    flops: float
    update_s: float  # of a step: the optimizer, and the sum of gradients over devices; assumed
    hours: float

    def record(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)


def batch_warnings(s: Settings) -> list[str]:
    """Phases whose batch is far below the one that their learning rate is meant for."""
    warnings = []
    for number in (1, 2):
        own, batch, peak = scheduling_phase(s, number), s.phase(number).global_batch, schedule(s, number).peak_lr
        meant = own.global_batch if own.lr_rule == "untuned" else own.lr_batch
        if meant is not None and batch * FAR_BELOW < meant:
            fitting = square_root_scaled(peak, meant, batch)
            warnings.append(
                f"phase{number}.global_batch={batch:,} is far below the {meant:,} that its peak learning rate of "
                f"{peak:.3g} is meant for; the square-root rule gives {fitting:.2g}"
            )
    return warnings


def vocabulary_size(s: Settings, manifest: dict[str, Any] | None) -> int:
    """Of the prepared data; without any, data.vocab_size."""
    return manifest["tokenizer"]["size"] if manifest else s.data.vocab_size


def budget(
    s: Settings, devices: int, precision: Precision, manifest: dict[str, Any] | None = None, rates: Rates | None = None
) -> Budget:
    """The budget on so many devices in this precision, at the rates that were measured on this machine, if any were."""
    vocab_size = vocabulary_size(s, manifest)
    phases = (
        _phase(s, 1, devices, precision.name, vocab_size, manifest, rates or {}),
        _phase(s, 2, devices, precision.name, vocab_size, manifest, rates or {}),
    )
    flops = sum(p.flops for p in phases)
    update_s = step_overhead_s(parameter_count(s.model, vocab_size), devices, "cuda" if use_cuda(s.hardware) else "cpu")
    hours = sum(p.flops / (p.tflops * 1e12 * devices) + p.steps * update_s for p in phases) / 3600
    return Budget(devices, precision, phases, flops, update_s, hours)


def step_overhead_s(parameters: int, devices: int, kind: str) -> float:
    """Seconds of a step that do not depend on its batch: many small steps take longer than few large ones."""
    shared = SUM_BYTES * (devices - 1) / devices / LINK_BYTES_S[kind]
    return parameters * (UPDATE_BYTES / MEMORY_BYTES_S[kind] + shared)


def device_rate(s: Settings, seq_len: int) -> tuple[float, str]:
    """Model TFLOP/s of one device for sequences of this length, and where the number comes from."""
    path = s.hardware.measured
    if path is None:
        return s.hardware.assumed_tflops, "assumed"
    try:
        figures = parse_json(Path(path).read_bytes())
        device, commit = str(figures["machine"]["device"]), str(figures["machine"]["commit"])
        tflops = {key: float(f["tflops"]) for key, f in figures.items() if "tflops" in f}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BudgetError(
            f"hardware.measured={path}: not a file that `make bench-gpu` wrote ({error}); name another, or null"
        ) from error
    dropout = 0.1 if s.model.dropout else 0.0
    name = re.compile(rf"ours {re.escape(s.model.name)} {seq_len} tokens=\d+ dropout={dropout}")
    rates = [rate for key, rate in tflops.items() if name.fullmatch(key) and 0 < rate < math.inf]
    if not rates:
        return s.hardware.assumed_tflops, f"assumed: {path} has no BERT-{s.model.name} at {seq_len} tokens"
    return max(rates), f"measured on {device}, commit {commit[:7]} ({path})"


def _phase(
    s: Settings,
    number: int,
    devices: int,
    precision: str,
    vocab_size: int,
    manifest: dict[str, Any] | None,
    rates: Rates,
) -> PhaseBudget:
    phase, lr = s.phase(number), schedule(s, number)
    h, cuda = s.hardware, use_cuda(s.hardware)
    tokens = known_tokens(h.micro_batch_tokens, cuda)
    masked = max(1, round(s.masking.share * phase.seq_len))
    memory = STATIC[precision] * parameter_count(s.model, vocab_size)
    micro = micro_batches = None
    if tokens:
        most = most_sequences(tokens, phase.seq_len)
        micro_batches = -(-phase.global_batch // (devices * most))
        micro = -(-phase.global_batch // (devices * micro_batches))
        rows = min(most, -(-phase.global_batch // devices))
        batch = (rows * phase.seq_len, phase.seq_len, rows * masked)
        memory += activation_bytes(s.model, vocab_size, *batch, precision, h.recompute, not cuda)
    sequences = phase.steps * phase.global_batch
    turns = (0, lr.warmup_steps - lr.first_step, lr.warmup_steps + lr.hold_steps - lr.first_step)  # highest at one
    rates_there = [lr(min(max(0, turn - before), phase.steps - 1)) for turn in turns for before in (0, 1)]
    tflops, source = rates.get(number) or device_rate(s, phase.seq_len)
    passes = None
    if manifest:
        tables = manifest["instances"]["train"][str(phase.seq_len)]
        passes = sequences * len(tables) / max(1, sum(t["instances"] for t in tables))
    return PhaseBudget(
        phase.seq_len, phase.steps, phase.global_batch, micro, micro_batches, sequences, sequences * phase.seq_len,
        sequences * training_flops(s.model, vocab_size, phase.seq_len, masked), tflops, source,
        lr(0), max(rates_there), lr(phase.steps - 1), passes, memory / 2**30,
    )  # fmt: skip


def budget_text(s: Settings, b: Budget) -> str:
    """The plan as people read it before they pay for it."""
    devices = f"{counted(b.devices, 'device')} (hardware={s.hardware.name})"
    steps, sequences = sum(p.steps for p in b.phases), sum(p.sequences for p in b.phases)
    in_all = f"{counted(steps, 'step')}, {_big(sequences)} sequences"
    lines = [f"{s.experiment}: BERT-{s.model.name}, {OPTIMIZER_WORDS[s.optimizer.preset]}, {in_all}, {devices}"]
    each = " on each device" if b.devices > 1 else ""
    for number, p in enumerate(b.phases, 1):
        rises = f"0 -> {p.peak_lr:.3g}" if p.first_lr == 0 else f"{p.first_lr:.3g}"
        rate = f"lr {rises} -> {p.last_lr:.2g}"
        read = f", {times_read(p.passes)}" if p.passes is not None else ""
        lines.append(
            f"  phase {number}: {counted(p.steps, 'step')} x {counted(p.global_batch, 'sequence')} x {p.seq_len} "
            f"tokens = {_big(p.tokens)} tokens{read}; {p.flops:.2e} FLOPs; {rate}"
        )
        own, given = schedule(s, number), s.phase(number)
        if given.lr_rule == "untuned":
            lines.append(
                f"           untuned rule: peak lr {own.peak_lr:.3g}, warm-up {own.warmup_steps:,} of "
                f"{counted(own.total_steps, 'step')}, from phase{number}.peak_lr={given.peak_lr} and "
                f"phase{number}.warmup_steps={given.warmup_steps} at a batch of {given.lr_batch}"
            )
        cut = f"micro-batches as large as the memory allows{each}"
        if p.micro_batches is not None and p.micro_batch is not None:
            cut = counted(p.micro_batches, "micro-batch", "micro-batches")
            cut += f" of up to {counted(p.micro_batch, 'sequence')}{each}"
        lines.append(f"           batch: {cut}")
    lines.append(f"  precision: {b.precision.name} ({b.precision.why})")
    most = max(p.memory_gib for p in b.phases)
    more = "" if b.phases[0].micro_batches else ", plus activations"
    size = f"{most:.1f} GiB" if most >= 1 else f"{1024 * most:.0f} MiB"
    lines.append(f"  memory: about {size} per device{more}")
    rates = rate_words(b.record()["phases"])
    lines.append(f"  {b.flops:.2e} FLOPs: {rough_duration(3600 * b.hours)} at {rates}")
    lines.append(
        f"  of these {rough_duration(steps * b.update_s)} for {counted(steps, 'step')} of the optimizer and the sum of "
        f"gradients, {1000 * b.update_s:.2g} ms each (assumed)"
    )
    lines += [f"  warning: {warning}" for warning in batch_warnings(s)]
    return "\n".join(lines)


def _big(count: int) -> str:
    """ "85.2 G", "7.37 M"."""
    if count < 1e6:
        return f"{count:,}"
    return f"{count / 1e9:.3g} G" if count >= 1e9 else f"{count / 1e6:.3g} M"
