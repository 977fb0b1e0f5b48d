"""One phase and its checkpoints: where it begins or goes on, what is saved and when, where a roll-back goes to."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import BertForPreTraining, PreTrainedTokenizerBase

from bert_lamb.optim import RunOptimizer
from bert_lamb.parallel import Single
from bert_lamb.run import (
    CheckpointError,
    Origin,
    Progress,
    Retention,
    RunFolder,
    TrainingStoppedError,
    checkpoint_name,
    differences,
    find_origin,
    keep_aside,
    last_how,
    last_line,
    list_checkpoints,
    load_checkpoint,
    newest_quiet,
    newest_whole,
    restart_bias_correction,
    rollback_target,
    run_precision,
    save_checkpoint,
    step_of,
)
from bert_lamb.settings import Settings, kept_steps
from bert_lamb.training.way_out import way_out

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
        optimizer: RunOptimizer,
        phase_number: int,
        how: dict[str, Any],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._settings, self._folder, self._strategy = s, folder, strategy
        self._how = how  # as run/starts.py has it; of rank 0
        self._bert, self._optimizer, self._tokenizer = bert, optimizer, tokenizer
        self.phase_number = phase_number
        self._place = folder.checkpoints(phase_number)
        self._rollback_every = s.recovery.every if s.recovery.policy == "rollback" else None
        origin = folder.origin()
        self._origin = origin if origin and origin.phase == phase_number else None
        self._first_step = self._origin.step if self._origin else 0
        steps = kept_steps(s)[phase_number]
        self._keep = Retention(s.run.keep_checkpoints, self._rollback_every, self._first_step, steps)

    def restore(self) -> Progress:
        """Brings model and optimizer to where the phase begins or was cut. One path for both: from files."""
        newest = self._newest()
        if newest is not None:
            progress = load_checkpoint(newest, self._bert, self._optimizer)
            self._tell_resume(progress, newest)
            self._event("resume", phase=self.phase_number, step=progress.step, **self._with_how())
            return progress
        progress, begun_from = Progress(self.phase_number), {}
        if origin := self._origin:
            progress = self._begin_from(origin)
            if self._strategy.rank == 0:
                log.info("  phase %d begins at step %d, from %s", origin.phase, progress.step, origin.path)
            begun_from = {"from_checkpoint": origin.path, "step": progress.step}
        elif self.phase_number == 2:
            self._take_over()
        self._event("start", phase=self.phase_number, **begun_from, **self._with_how())
        if self._rollback_every or self._origin or progress.step in self._keep.steps:
            self.save(progress)  # so that there is always one to go back to, and another run's may be deleted
        return progress

    def recover(self, progress: Progress, trouble: str) -> None:
        """Stops the run, or brings model, optimizer and progress back to the last good checkpoint."""
        r, checkpoints = self._settings.recovery, list_checkpoints(self._place)
        good = rollback_target(checkpoints, r.every, self._first_step)
        if r.policy == "stop":
            raise self._diverged(f"{trouble}: the run has diverged")
        if progress.rollbacks == r.max_rollbacks:
            raise self._diverged(f"{trouble}, after {progress.rollbacks} roll-backs (max_rollbacks)")
        if good is None:
            raise self._diverged(f"{trouble}, and there is no checkpoint to go back to")
        if self._strategy.rank == 0:
            self._folder.event_once(
                "rolled back",
                phase=self.phase_number,
                step=progress.step,
                rollbacks=progress.rollbacks,
                to=good.name,
                because=trouble,
            )
        progress.roll_back(load_checkpoint(good, self._bert, self._optimizer))
        self._strategy.barrier()  # every rank has read before rank 0 writes
        if self._strategy.rank == 0:
            log.warning("%s; back to %s, with other sequences", trouble, good.name)
            for later in checkpoints[checkpoints.index(good) + 1 :]:
                keep_aside(later, "rolled-back")
        self.save(progress)

    def due(self, progress: Progress) -> bool:
        """Every so many steps while all is well, at the steps that are kept for good, and at the phase's end."""
        step, last = progress.step, self._settings.phase(self.phase_number).steps
        periods = (self._settings.run.checkpoint_every, self._rollback_every)
        due = any(step % every == 0 for every in periods if every)
        return (due and progress.quiet) or step in self._keep.steps or step == last

    def save(self, progress: Progress) -> None:
        """A checkpoint by rank 0; others wait, so that none runs ahead of what is safe."""
        if self._strategy.rank == 0:
            save_checkpoint(self._place, self._bert, self._optimizer, progress, self._keep, self._tokenizer)
        self._strategy.barrier()

    def stopped(self, progress: Progress) -> None:
        """Leaves a record of the step that a run was asked to stop after."""
        self._event("stop", phase=self.phase_number, step=progress.step)

    def finish(self, progress: Progress) -> None:
        """Writes the phase's result.json, last of all."""
        if self._strategy.rank == 0:
            line = last_line(self._folder.metrics_file(self.phase_number), progress.step)
            result: dict[str, Any] = {
                "checkpoint": f"checkpoints/{checkpoint_name(progress.step)}",
                "steps": progress.step,
                "skipped": progress.skipped,
                **{key: line[key] for key in LAST_NUMBERS if key in line},
                "precision": run_precision(self._settings, self._folder),
            }
            self._folder.finish_phase(self.phase_number, result)
        self._strategy.barrier()

    def _newest(self) -> Path | None:
        """The checkpoint to go on from. Rank 0 looks for all, so that every rank takes the same one."""
        newest: Path | None = None
        if self._strategy.rank == 0:
            newest, damaged = newest_whole(self._place)
            for what in damaged:
                log.warning("%s; the run goes on from %s", what, newest.name if newest else "its start")
                self._event("damaged checkpoint", phase=self.phase_number, what=what)
        found = -1 if newest is None else step_of(newest) or 0
        told = torch.tensor(found + 1, device=self._strategy.device)  # 0 on every other rank
        step = int(self._strategy.reduce_sums(told)) - 1
        return None if step < 0 else self._place / checkpoint_name(step)

    def _tell_resume(self, progress: Progress, newest: Path) -> None:
        """One line: where the phase goes on, and what is different now."""
        if self._strategy.rank == 0:
            changes = differences(last_how(self._folder) or {}, self._how)
            log.info(
                "  phase %d goes on from step %d of %d (%s)%s",
                self.phase_number, progress.step, self._settings.phase(self.phase_number).steps, newest.name,
                f"; different now: {', '.join(changes)}" if changes else "",
            )  # fmt: skip

    def _with_how(self) -> dict[str, Any]:
        return {"ranks": self._strategy.ranks, "how": self._how}

    def _begin_from(self, origin: Origin) -> Progress:
        """Weights, moments and place of another run's checkpoint; it must still be the one that was recorded."""
        if find_origin(origin.path).sha256 != origin.sha256:
            raise CheckpointError(f"run.from_checkpoint={origin.path} was changed since this run was opened")
        return load_checkpoint(Path(origin.path), self._bert, self._optimizer).continued()

    def _diverged(self, trouble: str) -> TrainingStoppedError:
        """The message's end is a command that leads on."""
        good = newest_quiet(list_checkpoints(self._place))
        return TrainingStoppedError(f"{trouble}. {way_out(self._settings, self._folder, self.phase_number, good)}")

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
