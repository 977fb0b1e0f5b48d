"""Learning rates as pure functions of the step."""

from dataclasses import dataclass

from torch.optim import Optimizer


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then polynomial decay to 0 at `total_steps`.

    decay_origin "start": the decay counts from step 0, so that after the warm-up the factor drops from 1 to
    (1 - warmup / total)^power, as google-research/bert's and NVIDIA's code do; "warmup_end": it counts from the peak.
    """

    peak_lr: float
    warmup_steps: int
    total_steps: int
    decay_power: float = 1.0
    decay_origin: str = "start"
    first_step: int = 0  # steps done before, where one schedule spans two phases

    def __call__(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates of this phase."""
        t = step + self.first_step
        if t < self.warmup_steps:
            return self.peak_lr * t / self.warmup_steps
        since = 0 if self.decay_origin == "start" else self.warmup_steps
        return self.peak_lr * max(0.0, 1 - (t - since) / (self.total_steps - since)) ** self.decay_power


def square_root_scaled(base_lr: float, base_batch: int, batch: int) -> float:
    """The paper's untuned rule: the learning rate grows with the square root of the batch."""
    return base_lr * (batch / base_batch) ** 0.5


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Gives every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
