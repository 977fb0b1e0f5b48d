"""The chain of stages, each a command in a process of its own: for sweeps and rehearsals."""

import subprocess
import sys
from collections.abc import Sequence

STAGES = ("data_prep.prepare", "bert_lamb.pretrain", "bert_lamb.finetune", "bert_lamb.report")
LAST_LINES = 30  # of a stage's messages, kept for the reason of its failure


def first_failure(overrides: Sequence[str]) -> tuple[str | None, str | None]:
    """Runs all stages with these overrides until one fails: its module and its last words; None twice if none does."""
    for stage in STAGES:
        if words := run_stage(stage, overrides):
            return stage, words
    return None, None


def run_stage(stage: str, overrides: Sequence[str]) -> str | None:
    """Runs a stage, its messages shown; None where it ended well, else its last words."""
    process = subprocess.Popen([sys.executable, "-m", stage, *overrides], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        sys.stderr.write(line)
        lines = [*lines, line.rstrip()][-LAST_LINES:]
    if process.wait() == 0:
        return None
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    return "\n  ".join(lines[errors[-1] :] if errors else lines[-1:]) or f"exit code {process.returncode}"
