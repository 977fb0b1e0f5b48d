"""The state of a run besides weights and moments, and whether the run has gone wrong (law 2)."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import parse_json
from bert_lamb.settings import RecoverySettings

STATE = "state.json"


class ProgressError(UserError):
    """A state.json that this version cannot read."""


@dataclass
class Progress:
    """Everything that a resumed run must know besides weights and moments; a checkpoint's state.json."""

    phase: int
    step: int = 0  # optimizer steps finished in this phase, skipped ones included
    data_offset: int = 0  # steps by which the data runs ahead, after a roll-back
    skipped: int = 0  # steps not applied because their gradient was not finite
    skipped_in_row: int = 0
    high_in_row: int = 0  # steps in a row whose loss stood far above the recent ones
    rollbacks: int = 0  # of this phase
    recent_losses: list[float] = field(default_factory=list)  # of the last applied steps that were not high, nats
    pending: dict[str, float] = field(default_factory=dict)  # counts since the last line of metrics.jsonl

    def finish_step(self, loss: float, applied: bool, r: RecoverySettings) -> None:
        """Counts a step; one whose gradient was not finite was not applied, but its sequences are consumed."""
        self.step += 1
        if not applied:
            self.skipped += 1
            self.skipped_in_row += 1
            return
        self.skipped_in_row = 0
        full = len(self.recent_losses) == r.window
        if full and loss > median(self.recent_losses) + r.spike_nats:
            self.high_in_row += 1
        else:
            self.high_in_row = 0
            self.recent_losses = [*self.recent_losses, loss][-r.window :]

    def add_counts(self, **counts: float) -> dict[str, float]:
        """Adds a step's counts to those since the last line of metrics.jsonl; returns the sums."""
        self.pending = {name: self.pending.get(name, 0.0) + count for name, count in counts.items()}
        return self.pending

    @property
    def quiet(self) -> bool:
        """Whether nothing is wrong right now, so that a checkpoint would be one to go back to."""
        return not (self.skipped_in_row or self.high_in_row)

    def trouble(self, r: RecoverySettings) -> str | None:
        """What ends the run or rolls it back, in words; None while all is well."""
        if self.skipped_in_row >= r.max_skipped_in_row:
            return (
                f"phase {self.phase}, step {self.step}: {self.skipped_in_row} steps in a row "
                "(recovery.max_skipped_in_row) had no finite gradient"
            )
        if self.high_in_row >= r.spike_steps:
            return (
                f"phase {self.phase}, step {self.step}: the loss stood more than {r.spike_nats:g} nats "
                f"(recovery.spike_nats) above the {median(self.recent_losses):.3f} of the steps before, "
                f"{self.high_in_row} steps in a row (recovery.spike_steps)"
            )
        return None

    def continued(self) -> "Progress":
        """The state in which another run goes on from here: the same place in the data, nothing counted yet."""
        return Progress(self.phase, self.step, self.data_offset, recent_losses=[*self.recent_losses])

    def roll_back(self, to: "Progress") -> None:
        """Becomes `to` again, with other sequences from there on: those after the ones that were read last."""
        data_offset, skipped, rollbacks = self.data_offset + self.step - to.step, self.skipped, self.rollbacks
        vars(self).update(vars(to))
        self.data_offset, self.skipped, self.rollbacks = data_offset, skipped, rollbacks + 1


def read_progress(checkpoint: Path) -> Progress:
    """A checkpoint's state.json; ProgressError where it cannot be read or is of a newer version."""
    path = checkpoint / STATE
    try:
        progress = Progress(**parse_json(path.read_bytes()))
        if problem := _mistyped(progress):
            raise ValueError(problem)
        return progress
    except (OSError, ValueError, TypeError) as error:
        raise ProgressError(f"{path} cannot be read as the state of a run ({error})") from error


def _mistyped(progress: Progress) -> str | None:
    """The first field that does not hold what it is for, in words."""
    for name, value in vars(progress).items():
        numbers = {"recent_losses": list, "pending": dict}.get(name)
        if numbers is None and (type(value) is not int or not 0 <= value < 2**63):
            return f"{name!r} is not a count"
        if numbers is not None:
            held = list(value.values()) if isinstance(value, dict) else value
            if type(value) is not numbers or not all(type(number) in (int, float) for number in held):
                return f"{name!r} does not hold numbers"
    return None
