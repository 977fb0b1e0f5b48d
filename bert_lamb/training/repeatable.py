"""What makes a run end in the same bits however often it was cut: torch's kernels, and torch's draws."""

import os

import torch
import torch._inductor.config

from bert_lamb.hashing import Domain, key


def repeat_to_the_bit(asked: bool, device: torch.device) -> None:
    """Kernels that repeat to the bit, and none chosen by timing: where asked, and on a CPU always, where it is free."""
    repeat = asked or device.type == "cpu"
    if repeat:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at a process's first product
    set_deterministic(repeat)


def set_deterministic(on: bool) -> None:
    """torch's kernels and its compiler's, for the whole process."""
    torch._inductor.config.deterministic = on
    torch.use_deterministic_algorithms(on)


def seed_dropout(seed: int, phase: int, step: int, micro_batch: int, rank: int) -> None:
    """What torch's generators draw (a GPU's dropout) is a function of its place too: a resumed run draws the same."""
    torch.manual_seed(int(key(Domain.TORCH_DROPOUT, seed, phase, step, micro_batch, rank)) >> 1)
