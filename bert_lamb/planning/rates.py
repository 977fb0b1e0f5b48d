"""How fast this machine runs the model: a few micro-batches of the real shape, timed before the first step.

Random tokens in sequences of full length, forward and backward, not compiled: a run that compiles is somewhat faster.
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bert_lamb.data.planner import MODEST_TOKENS, known_tokens, most_sequences
from bert_lamb.data.random_batch import random_batch
from bert_lamb.files import write_json
from bert_lamb.hardware import BUSY_CORES, taken_by_others
from bert_lamb.jsonfiles import object_or_aside
from bert_lamb.machine import device_name
from bert_lamb.model import build_bert, pretraining_losses, training_flops
from bert_lamb.settings import Settings, recipe_hash

log = logging.getLogger(__name__)

Rates = dict[int, tuple[float, str]]  # of phases 1 and 2: model TFLOP/s of a device, and where the number comes from
MOST_LAYERS = 2  # of a deep model: layers are alike, so that two tell its rate in a tenth of the time
ENOUGH_S = 2.0  # of a phase: no further micro-batch is timed after that
ROUNDS = 3  # of each size: a first one prepares kernels, and other programs disturb some
WORDS = "measured here, not compiled"


def _are_rates(value: dict[str, Any]) -> bool:
    return all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in value.values())


def measured_rates(
    s: Settings, devices: int, device: torch.device, precision: str, vocab_size: int, kept: Path | None
) -> Rates:
    """The rates of both phases; {} where the settings name a measurement, or the device is not in this machine.

    A phase whose micro-batches do not fit the memory has none.

    What an earlier start measured in the same way is read from the file `kept`, and what is new is added to it, unless
    the machine is busy with other programs just now.
    """
    if s.hardware.measured or (device.type == "cuda" and not torch.cuda.device_count()):
        return {}
    known: dict[str, float] = (object_or_aside(kept, _are_rates) if kept else None) or {}
    keys = {number: _key(s, number, devices, device, precision, vocab_size) for number in (1, 2)}
    if {*keys.values()} <= {*known}:
        return {number: (known[key], WORDS) for number, key in keys.items()}
    others = taken_by_others() if device.type == "cpu" else 0.0
    shared_by = devices if device.type == "cpu" else 1  # a CPU's cores are shared out
    found = {
        key: rate / shared_by
        for number, key in keys.items()
        if key not in known and (rate := _rate_if_it_fits(s, number, device, precision, vocab_size)) is not None
    }
    busy = others >= BUSY_CORES
    if kept and not busy:  # else it is of no use to a later start
        write_json(kept, known | found)
    words = f"{WORDS}, while other programs took {others:.1f} cores" if busy else WORDS
    told = {key: (rate, WORDS) for key, rate in known.items()} | {key: (rate, words) for key, rate in found.items()}
    return {number: told[key] for number, key in keys.items() if key in told}


def _rate_if_it_fits(s: Settings, number: int, device: torch.device, precision: str, vocab_size: int) -> float | None:
    """A phase's TFLOP/s; None, and a line, where the micro-batch does not fit. A GPU's memory is free again after it:
    the ranks need it."""
    try:
        return device_tflops(s, number, device, precision, vocab_size)
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = (str(error) or "out of memory").splitlines()[0]
        log.warning("phase %d: its rate is not measured but assumed, for the memory is too small (%s)", number, reason)
        return None
    finally:
        _release(device)


def _release(device: torch.device) -> None:
    gc.collect()  # a step's function and its model hold each other, and an error its frames
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_tflops(s: Settings, number: int, device: torch.device, precision: str, vocab_size: int) -> float:
    """Model TFLOP/s of a phase's micro-batches: the best of sizes up to the run's own, while time is left."""
    model, phase = replace(s.model, layers=min(s.model.layers, MOST_LAYERS)), s.phase(number)
    tokens = known_tokens(s.hardware.micro_batch_tokens, device.type == "cuda") or MODEST_TOKENS
    most = max(1, min(most_sequences(tokens, phase.seq_len), phase.global_batch))
    step = micro_batch_step(s, model, phase.seq_len, device, precision, vocab_size)
    doubled = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    best, spent_s = 0.0, 0.0  # sequences a second
    for sequences in np.repeat([*doubled, most], ROUNDS).tolist():
        seconds = step(sequences)
        best, spent_s = max(best, sequences / seconds), spent_s + seconds
        if spent_s > ENOUGH_S:
            break
    masked = max(1, round(s.masking.share * phase.seq_len))
    return best * training_flops(model, vocab_size, phase.seq_len, masked) / 1e12


def micro_batch_step(
    s: Settings, model, seq_len: int, device: torch.device, precision: str, vocab_size: int
) -> Callable[[int], float]:
    """A function that runs a micro-batch of so many sequences forward and backward and returns the seconds it took."""
    bert = build_bert(replace(model, init_from=None), vocab_size, 0, s.seed).train()
    bert.to(device=device, dtype=torch.float64 if precision == "fp64" else torch.float32)
    rng = np.random.default_rng(0)

    def step(sequences: int) -> float:
        batch = random_batch(rng, np.full(sequences, seq_len), seq_len, vocab_size, s.masking.share).to(device)
        _wait(device)
        started_s = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = pretraining_losses(bert, batch, s.hardware.recompute)
        (losses.mlm + losses.nsp).backward()
        _wait(device)
        seconds = time.perf_counter() - started_s
        bert.zero_grad()
        return seconds

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(s: Settings, number: int, devices: int, device: torch.device, precision: str, vocab_size: int) -> str:
    """Machine and everything that the rate depends on; readable where people want to know it."""
    h, phase = s.hardware, s.phase(number)
    about = [asdict(s.model), vocab_size, phase.global_batch, h.micro_batch_tokens, h.recompute, s.masking.share]
    where = f"{device_name(device)} x {devices}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{where}, {precision}, {phase.seq_len} tokens, {recipe_hash({'about': about})}"
