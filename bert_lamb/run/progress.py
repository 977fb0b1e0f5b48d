"""The state of a run besides weights and moments, and whether the run has gone wrong (law 2)."""

from dataclasses import dataclass, field
from statistics import median

from bert_lamb.settings import RecoverySettings


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

    def roll_back(self, to: "Progress") -> None:
        """Becomes `to` again, with other sequences from there on: those after the ones that were read last."""
        data_offset, skipped, rollbacks = self.data_offset + self.step - to.step, self.skipped, self.rollbacks
        vars(self).update(vars(to))
        self.data_offset, self.skipped, self.rollbacks = data_offset, skipped, rollbacks + 1
