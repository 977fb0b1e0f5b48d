"""A rehearsal: `python -m bert_lamb.rehearse experiment=bert_large_64k_32k`. A recipe's whole chain in about a minute.

It keeps of the recipe: both phases and their sequence lengths, the form of the schedule, hand-over, masking, optimizer,
recovery, all stages. It makes small: the model, the batches, the steps, the text and the questions. The settings that
it replaces are printed; those of the command line come last and win.
"""

import logging
import sys
from collections.abc import Sequence

from bert_lamb.run.stages import first_failure
from bert_lamb.settings import Settings, command, compose_settings, given_arguments

log = logging.getLogger(__name__)

STEPS = (24, 8)  # of the phases
SEQUENCES = (64, 16)  # of a step
LAYERS, HIDDEN, HEADS = 2, 64, 2
TEXT = (
    "data=sample",
    "data.name=rehearsal",
    "data.articles=1500",
    "data.books=80",
    "data.passes=1",
    "finetune.train_file=${data.root}/${data.name}/squad/train.json",
    "finetune.dev_file=${data.root}/${data.name}/squad/dev.json",
    "finetune.max_train_questions=160",
    "finetune.epochs=1",
)  # the embedded corpus, and some of its questions


@command(checked=False)  # what is checked is the small recipe, by its stages
def main(_: Settings) -> None:
    """Prints what is replaced, then runs the stages; exit code 1 where one fails."""
    given = given_arguments()
    replaced = rehearsal_overrides(given)
    chosen = [argument for argument in given if argument.startswith(("experiment=", "--config-dir="))]
    others = [argument for argument in given if argument not in chosen]
    log.info("rehearsal of %s; replaced:\n  %s", " ".join(chosen) or "the default experiment", "\n  ".join(replaced))
    failed, words = first_failure([*chosen, *replaced, *others])
    if failed:
        sys.exit(f"error: the rehearsal failed in {failed}: {words}")


def rehearsal_overrides(given: Sequence[str]) -> list[str]:
    """The settings that make the recipe of these overrides small, as overrides of the command line."""
    s = compose_settings([*given, *TEXT])
    lengths = sorted({s.phase1.seq_len, s.phase2.seq_len})
    phases = [line for number in (1, 2) for line in phase_overrides(s, number)]
    return [
        *TEXT,
        f"data.seq_lens=[{','.join(map(str, lengths))}]",
        f"run.name=rehearsal-{s.experiment}",
        f"model.layers={LAYERS}",
        f"model.hidden={HIDDEN}",
        f"model.heads={HEADS}",
        f"model.intermediate={4 * HIDDEN}",
        f"model.name=rehearsal-{LAYERS}x{HIDDEN}",
        "hardware=auto",
        *phases,
        f"recovery.every={STEPS[1]}",
        f"recovery.window={STEPS[1]}",
        "run.log_every=1",
        f"run.checkpoint_every={STEPS[1]}",
        f"run.heldout_every={STEPS[1]}",
        "run.heldout_sequences=64",
        f"hardware.micro_batch_tokens={16 * max(lengths)}",
        "hardware.compile=off",
        "run.wandb=disabled",
    ]


def phase_overrides(s: Settings, number: int) -> list[str]:
    """A phase's steps and batch; warm-up and hold keep their share of its steps, the peak learning rate stays."""
    phase, key, steps = s.phase(number), f"phase{number}", STEPS[number - 1]
    lines = [f"{key}.steps={steps}", f"{key}.global_batch={SEQUENCES[number - 1]}"]
    if phase.warmup_steps is None or phase.hold_steps is None:  # phase 1's schedule goes on
        return lines
    whole = s.phase1.steps + s.phase2.steps if s.handover.schedule == "continue" else phase.steps
    small = sum(STEPS) if s.handover.schedule == "continue" else steps
    warmup = scaled(phase.warmup_steps, whole, small)
    hold = min(scaled(phase.hold_steps, whole, small), small - 1 - warmup)
    return [
        *lines,
        f"{key}.warmup_steps={warmup}",
        f"{key}.hold_steps={hold}",
        f"{key}.lr_batch={SEQUENCES[number - 1]}",
        f"{key}.lr_rule=given",
    ]


def scaled(steps: int, whole: int, small: int) -> int:
    """A part of a schedule as the same share of a smaller one; at least a step where there was one."""
    return min(small - 1, max(min(steps, 1), round(steps * small / whole)))


if __name__ == "__main__":
    main()
