"""Which precision suits this machine: what `hardware.precision=auto` means, decided by timing matrix products.

A list of processor flags would have to know every chip. Products of the model's own shapes tell the same in a fraction
of a second, on x86, Arm and Apple processors alike.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bert_lamb.machine import device_name
from bert_lamb.settings import ModelSettings

CLEARLY_FASTER = 1.2  # times fp32; ours: below that, bf16's coarser rounding buys too little
PRODUCT_FLOPS = 2e8  # of the three products that are timed: some milliseconds on a core or two
ROUNDS = 7  # at most, each type once a round; the best of each type counts
ENOUGH_S = 0.4  # no further round is begun after that, once there are two


@dataclass(frozen=True)
class Precision:
    """The precision of a run, and why it is this one."""

    name: str  # "bf16", "fp32" or "fp64"
    device: str  # that it was chosen for
    why: str

    def record(self) -> dict[str, Any]:
        """For precision.json."""
        return asdict(self)


def choose_precision(wanted: str, device: torch.device, model: ModelSettings) -> Precision:
    """`wanted` as it stands; "auto": bf16 where `device` has products for it that pay, else fp32."""
    if device.type == "cuda" and not torch.cuda.device_count():
        name = "bf16" if wanted == "auto" else wanted
        return Precision(name, "a GPU elsewhere", "assumed: torch sees no GPU here" if wanted == "auto" else "as set")
    device_words = device_name(device)
    if wanted != "auto":
        return Precision(wanted, device_words, "as set")
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        why = "the GPU has bf16 products" if supported else "the GPU has no bf16 products"
        return Precision("bf16" if supported else "fp32", device_words, why)
    fp32_s, bf16_s = product_seconds(model.hidden, model.intermediate)
    name = "bf16" if fp32_s >= CLEARLY_FASTER * bf16_s else "fp32"
    return Precision(name, device_words, f"{speed_words(fp32_s / bf16_s)} here")


def speed_words(times: float) -> str:
    """How the speed of bf16 compares, `times` being that of fp32's."""
    if times >= 1:
        return f"bf16 products are {times:.1f} times as fast as fp32 ones"
    return f"bf16 products take {1 / times:.1f} times as long as fp32 ones"


def product_seconds(hidden: int, intermediate: int) -> tuple[float, float]:
    """Best seconds of a feed-forward block's products, forward and backward, in fp32 and in bf16.

    The two types take turns, so that another program on the machine disturbs both. On one thread, since several would
    wait for the one that shares its core with another program.
    """
    tokens = max(32, round(PRODUCT_FLOPS / (6 * hidden * intermediate)))
    shapes = ((tokens, hidden), (hidden, intermediate), (tokens, intermediate))
    operands = {dtype: [torch.randn(shape).to(dtype) for shape in shapes] for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(operands, float("inf"))
    threads, began_s = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    for number in range(ROUNDS):
        if number >= 2 and time.perf_counter() - began_s > ENOUGH_S:
            break
        for dtype, tensors in operands.items():
            best[dtype] = min(best[dtype], _timed(*tensors))
    torch.set_num_threads(threads)
    return best[torch.float32], best[torch.bfloat16]


def _timed(inputs: Tensor, weight: Tensor, gradient: Tensor) -> float:
    """Seconds of output, gradient of the inputs and gradient of the weight."""
    started_s = time.perf_counter()
    _ = inputs @ weight
    _ = gradient @ weight.T
    _ = inputs.T @ gradient
    return time.perf_counter() - started_s
