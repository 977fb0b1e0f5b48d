"""How many tokens a device's micro-batch holds where `hardware.micro_batch_tokens` is null: as many as fit its memory.

Found by trial when a phase begins, on the phase's own batches, and kept in the run folder; a resumed run on the same
devices tries nothing. What is found depends on the memory that was free; another number draws other dropout on a GPU.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bert_lamb.batch import PackedBatch
from bert_lamb.data.loader import PhaseData
from bert_lamb.data.planner import equal_micro_batches, most_sequences
from bert_lamb.files import write_json
from bert_lamb.jsonfiles import object_or_aside
from bert_lamb.parallel import Single
from bert_lamb.run import RunFolder, TrainingStoppedError

log = logging.getLogger(__name__)

SHARE = 0.9  # of a device's memory; ours: the rest is for fragments and for what others allocate
MOST = 2**17  # tokens; ours, as far as bench/gpu.py measures: by then the products have long been large enough


def explain_memory(stage: Callable[[RunFolder], None]) -> Callable[[RunFolder], None]:
    """The stage, whose running out of a GPU's memory becomes a message that names the settings."""

    @functools.wraps(stage)
    def explained(folder: RunFolder) -> None:
        try:
            stage(folder)
        except torch.OutOfMemoryError as error:
            h = folder.settings().hardware
            raise TrainingStoppedError(
                f"the device is out of memory with hardware.micro_batch_tokens={h.micro_batch_tokens or 'null'}, "
                f"hardware.recompute={str(h.recompute).lower()}: "
                + ("lower the first, or set it to null to have it found" if h.micro_batch_tokens else
                   f"delete {folder.micro_batches_file} to have the first found anew, or give a number")
                + f", or set the second to true ({str(error).splitlines()[0]})"
            ) from error  # fmt: skip

    return explained


def fitted_tokens(
    folder: RunFolder, number: int, data: PhaseData, strategy: Single, how: str, gib: Callable[[PackedBatch], float],
    room_gib: float,
) -> int:  # fmt: skip
    """Tokens of this phase's micro-batches: remembered, or the most that fit every rank.

    `how` tells what else memory depends on: what was found with other words is not used. `gib` is the peak memory of a
    step with this micro-batch, inf where it does not fit; `room_gib` what it may be.
    """
    path, key = folder.micro_batches_file, f"phase {number}, {how}"
    known = (object_or_aside(path, _is_found) if strategy.rank == 0 else None) or {}
    remembered = torch.tensor(known.get(key, {"tokens": 0})["tokens"], device=strategy.device)
    if tokens := int(strategy.reduce_sums(remembered)):  # rank 0 looks for all, so that none goes on alone
        return tokens
    tried = candidates(data)
    peaks = peaks_of(data, tried, gib, room_gib)
    fit = torch.tensor([peak <= SHARE * room_gib for peak in peaks], dtype=torch.float32, device=strategy.device)
    count = int((strategy.reduce_sums(fit) == strategy.ranks).sum())
    if count == 0 and peaks[0] <= SHARE * room_gib:
        raise TrainingStoppedError(f"phase {number}: {tried[0]} tokens do not fit the device of another rank")
    if count == 0:
        raise TrainingStoppedError(
            f"phase {number}: a micro-batch of {tried[0]} tokens needs {peaks[0]:.1f} GiB, weights and moments "
            f"included, and {SHARE * room_gib:.1f} GiB may be used: choose a smaller model, or hardware.recompute=true"
        )
    tokens, peak = tried[count - 1], peaks[count - 1]
    if strategy.rank == 0:
        found = {"tokens": tokens, "peak_gib": round(peak, 2), "of_gib": round(room_gib, 2)}
        write_json(path, known | {key: found})
        log.info("  phase %d: micro-batches of %s tokens (%.1f of %.1f GiB)", number, f"{tokens:,}", peak, room_gib)
    return tokens


def _is_found(value: dict[str, Any]) -> bool:
    return all(isinstance(found, dict) and type(found.get("tokens")) is int for found in value.values())


def candidates(data: PhaseData) -> list[int]:
    """seq_len and its doubles, up to a rank's share of the global batch, that leave no rank without a micro-batch."""
    whole, ranks, length = data.order.global_batch, data.ranks, data.seq_len
    doubles = [length << i for i in range(32) if length << i <= MOST and whole > ranks * (1 << i) // 2]
    return [tokens for tokens in doubles if equal_micro_batches(whole, ranks, most_sequences(tokens, length))]


def peaks_of(
    data: PhaseData, tried: Sequence[int], gib: Callable[[PackedBatch], float], room_gib: float
) -> list[float]:
    """Peak memory for each number of tokens, rising; inf for all that follow one that does not fit."""
    chosen, peaks = data.order.step(0), list[float]()
    for tokens in tried:
        if peaks and peaks[-1] > SHARE * room_gib:
            peaks.append(float("inf"))
            continue
        full = replace(data, micro_batch_tokens=tokens, static_shapes=True)  # filler costs memory as tokens do
        peaks.append(gib(full.make(chosen, full.plan(0, chosen)[1][0])))
    return peaks


def room_gib(device: torch.device) -> float:
    """What this process may take of a GPU: what it holds already, and what is free."""
    return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / 2**30


def peak_gib(device: torch.device, work: Callable[[], None]) -> float:
    """A GPU's peak memory in this process during `work`, all that stood before it included; inf where it ran out."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        work()
        return torch.cuda.max_memory_allocated(device) / 2**30
    except torch.OutOfMemoryError:
        return float("inf")
    finally:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # the run's own peak goes to metrics.jsonl
