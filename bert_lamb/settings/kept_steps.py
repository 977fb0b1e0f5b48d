"""`run.keep_at`: the steps of a run whose checkpoints are kept for good, as numbers or as shares of the run."""

import re
from collections.abc import Iterator

from bert_lamb.settings.schema import Settings

STEP = re.compile(r"[0-9]+")
SHARE = re.compile(r"0?\.[0-9]+|[01]\.0*|[0-9](\.[0-9]+)?e-[0-9]+")  # a number with a point, as YAML may write it


def kept_steps(s: Settings) -> dict[int, frozenset[int]]:
    """Of phases 1 and 2, the steps that `run.keep_at` names, counted from the beginning of the phase.

    Steps of the run go through both phases: with 900 steps in phase 1, step 1000 of the run is step 100 of phase 2.
    """
    found: dict[int, set[int]] = {1: set(), 2: set()}
    for entry in s.run.keep_at:
        step = _step(entry, _total(s))
        if step <= s.phase1.steps:
            found[1].add(step)
        else:
            found[2].add(step - s.phase1.steps)
    return {number: frozenset(steps) for number, steps in found.items()}


def keep_at_problems(s: Settings) -> Iterator[str]:
    """Entries that name no step of this run."""
    total = _total(s)
    for entry in s.run.keep_at:
        known = STEP.fullmatch(entry) or SHARE.fullmatch(entry)
        if known is None or _step(entry, total) > total:
            yield (
                f"run.keep_at has {entry}, which is no step of this run: give numbers of steps from 0 to {total}, or "
                "shares of the run with a decimal point, from 0.0 to 1.0"
            )


def _step(entry: str, total: int) -> int:
    return int(entry) if STEP.fullmatch(entry) else round(float(entry) * total)


def _total(s: Settings) -> int:
    return s.phase1.steps + s.phase2.steps
