"""Learning rates as pure functions of the step. Formulas, sources and figures: docs/schedules.md."""

import math
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor
from torch.optim import Optimizer

DECAY_ORIGINS = ("start", "warmup_end")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, a hold at the peak, then polynomial decay to 0 at `total_steps`.

    decay_origin "start": the decay counts from step 0, so that after warm-up and hold the factor drops from 1 to
    (1 - (warmup + hold) / total)^power, as google-research/bert's and NVIDIA's code do; "warmup_end": it counts from
    the end of warm-up and hold, without a drop. LANS (arXiv 2006.13484): hold_steps > 0, power 1, "warmup_end".
    """

    peak_lr: float
    warmup_steps: int
    total_steps: int
    decay_power: float = 1.0
    decay_origin: str = "start"
    first_step: int = 0  # steps done before, where one schedule spans two phases
    hold_steps: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for values that are no schedule."""
        for name, least in (("warmup_steps", 0), ("total_steps", 1), ("first_step", 0), ("hold_steps", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name}={value}: a whole number of steps is expected, at least {least}")
        for name in ("peak_lr", "decay_power"):
            if not 0 <= getattr(self, name) < math.inf:  # NaN included
                raise ValueError(f"{name}={getattr(self, name)}: must be a number, and not negative")
        if self.decay_origin not in DECAY_ORIGINS:
            raise ValueError(f"decay_origin={self.decay_origin!r}: choose one of {', '.join(DECAY_ORIGINS)}")
        if self.warmup_steps + self.hold_steps > self.total_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and hold_steps={self.hold_steps} do not fit into "
                f"total_steps={self.total_steps}: shorten them"
            )

    def __call__(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates of this phase. ValueError: step below 0."""
        if step < 0:
            raise ValueError(f"step={step}: steps are counted from 0")
        t, peak_until = step + self.first_step, self.warmup_steps + self.hold_steps
        if t < self.warmup_steps:
            return self.peak_lr * t / self.warmup_steps
        if t < peak_until:
            return self.peak_lr
        if t >= self.total_steps:
            return 0.0
        since = 0 if self.decay_origin == "start" else peak_until
        return self.peak_lr * (1 - (t - since) / (self.total_steps - since)) ** self.decay_power


def square_root_scaled(base_lr: float, base_batch: int, batch: int) -> float:
    """The paper's untuned rule: the learning rate grows with the square root of the batch."""
    return base_lr * (batch / base_batch) ** 0.5


def linear_epoch_warmup(base_sequences: float, base_batch: int, batch: int) -> int:
    """The paper's untuned rule: the epochs of warm-up grow with the batch. Returns steps: as many at any batch.

    base_sequences: read during warm-up at base_batch.
    """
    return round(base_sequences * (batch / base_batch) / batch)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Gives every parameter group this learning rate; a tensor is filled in place, since a captured step reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
