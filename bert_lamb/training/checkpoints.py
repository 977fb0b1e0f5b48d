"""One phase and its checkpoints: where it begins or goes on, what is saved and when, where a roll-back goes to."""

import logging
from typing import Any

from transformers import BertForPreTraining

from bert_lamb.optim import Layerwise
from bert_lamb.parallel import Single
from bert_lamb.run import (
    Progress,
    RunFolder,
    TrainingStoppedError,
    last_line,
    list_checkpoints,
    load_checkpoint,
    restart_bias_correction,
    rollback_target,
    run_precision,
    save_checkpoint,
    set_aside,
)
from bert_lamb.settings import Settings

log = logging.getLogger(__name__)

LAST_NUMBERS = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "heldout_mlm_loss", "heldout_mlm_accuracy")


class PhaseCheckpoints:
    """The checkpoints of one phase, for one rank: rank 0 writes, the others wait."""

    def __init__(
        self,
        s: Settings,
        folder: RunFolder,
        strategy: Single,
        bert: BertForPreTraining,
        optimizer: Layerwise,
        phase_number: int,
    ) -> None:
        self._settings, self._folder, self._strategy = s, folder, strategy
        self._bert, self._optimizer = bert, optimizer
        self.phase_number = phase_number
        self._place = folder.checkpoints(phase_number)
        self._rollback_every = s.recovery.every if s.recovery.policy == "rollback" else None

    def restore(self) -> Progress:
        """Brings model and optimizer to where the phase begins or was cut. One path for both: from files."""
        checkpoints = list_checkpoints(self._place)
        if checkpoints:
            progress = load_checkpoint(checkpoints[-1], self._bert, self._optimizer)
            self._event("resume", phase=self.phase_number, step=progress.step, ranks=self._strategy.ranks)
            return progress
        if self.phase_number == 2:
            self._take_over()
        self._event("start", phase=self.phase_number, ranks=self._strategy.ranks)
        progress = Progress(self.phase_number)
        if self._rollback_every:
            self._strategy.barrier()  # every rank has seen that there is none yet
            self.save(progress)  # so that there is always one to go back to
        return progress

    def recover(self, progress: Progress, trouble: str) -> None:
        """Stops the run, or brings model, optimizer and progress back to the last good checkpoint."""
        r = self._settings.recovery
        way_out = f"The last good checkpoint stands; lower phase{self.phase_number}.peak_lr or raise its warmup_steps"
        if r.policy == "stop":
            raise TrainingStoppedError(f"{trouble}: the run has diverged. {way_out}")
        if progress.rollbacks == r.max_rollbacks:
            raise TrainingStoppedError(f"{trouble}, after {progress.rollbacks} roll-backs (max_rollbacks). {way_out}")
        checkpoints = list_checkpoints(self._place)
        good = rollback_target(checkpoints, r.every)
        if good is None:
            raise TrainingStoppedError(f"{trouble}, and there is no checkpoint to go back to. {way_out}")
        self._event("rolled back", phase=self.phase_number, step=progress.step, to=good.name, because=trouble)
        progress.roll_back(load_checkpoint(good, self._bert, self._optimizer))
        self._strategy.barrier()  # every rank has read before rank 0 writes
        if self._strategy.rank == 0:
            log.warning("%s; back to %s, with other sequences", trouble, good.name)
            for later in checkpoints[checkpoints.index(good) + 1 :]:
                set_aside(later)
        self.save(progress)

    def due(self, progress: Progress) -> bool:
        """Every so many steps while all is well, and at the phase's end."""
        step, last = progress.step, self._settings.phase(self.phase_number).steps
        periods = (self._settings.run.checkpoint_every, self._rollback_every)
        due = any(step % every == 0 for every in periods if every)
        return (due and progress.quiet) or step == last

    def save(self, progress: Progress) -> None:
        """A checkpoint by rank 0; others wait, so that none runs ahead of what is safe."""
        if self._strategy.rank == 0:
            keep = self._settings.run.keep_checkpoints
            save_checkpoint(self._place, self._bert, self._optimizer, progress, keep, self._rollback_every)
        self._strategy.barrier()

    def finish(self, progress: Progress) -> None:
        """Writes the phase's result.json, last of all."""
        if self._strategy.rank == 0:
            line = last_line(self._folder.metrics_file(self.phase_number), progress.step)
            result: dict[str, Any] = {
                "checkpoint": f"checkpoints/step-{progress.step:06d}",
                "steps": progress.step,
                "skipped": progress.skipped,
                **{key: line[key] for key in LAST_NUMBERS if key in line},
                "precision": run_precision(self._settings, self._folder),
            }
            self._folder.finish_phase(self.phase_number, result)
        self._strategy.barrier()

    def _take_over(self) -> None:
        """Phase 2's first weights, and its moments as the hand-over says, from phase 1's last checkpoint."""
        moments = self._settings.handover.moments
        result = self._folder.phase_result(1)
        assert result is not None
        self._optimizer.state.clear()
        keeps = self._optimizer if moments != "fresh" else None
        load_checkpoint(self._folder.phase(1) / result["checkpoint"], self._bert, keeps)
        if moments == "keep_reset_step":
            restart_bias_correction(self._optimizer)

    def _event(self, kind: str, **details: object) -> None:
        if self._strategy.rank == 0:
            self._folder.event(kind, **details)
