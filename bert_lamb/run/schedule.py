"""The learning rate of each phase, from its settings: for training, for the plan and for figures alike."""

from typing import Any

from bert_lamb.optim import Schedule, linear_epoch_warmup, square_root_scaled
from bert_lamb.settings import PhaseSettings, Settings


def schedule(s: Settings, phase_number: int) -> Schedule:
    """The learning rate of a phase; with handover.schedule=continue both phases share phase 1's."""
    continues, own = s.handover.schedule == "continue", scheduling_phase(s, phase_number)
    peak: Any = own.peak_lr  # checks.py refuses null in this phase
    warmup: Any = own.warmup_steps
    meant: Any = own.lr_batch
    if own.lr_rule == "untuned":
        peak = square_root_scaled(peak, meant, own.global_batch)
        warmup = linear_epoch_warmup(warmup * meant, meant, own.global_batch)
    return Schedule(
        peak_lr=peak,
        warmup_steps=warmup,
        hold_steps=own.hold_steps,  # type: ignore[arg-type]
        total_steps=s.phase1.steps + s.phase2.steps if continues else own.steps,
        decay_power=own.decay_power,  # type: ignore[arg-type]
        decay_origin=own.decay_origin,  # type: ignore[arg-type]
        first_step=s.phase1.steps if continues and phase_number == 2 else 0,
    )


def scheduling_phase(s: Settings, phase_number: int) -> PhaseSettings:
    """The phase whose schedule this one follows."""
    return s.phase1 if s.handover.schedule == "continue" else s.phase(phase_number)
