"""The chain of stages, each a command in a process of its own: for sweeps and rehearsals."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from types import FrameType
from typing import NoReturn

from bert_lamb.errors import EXIT_STOPPED
from bert_lamb.signals import StopRequest

log = logging.getLogger(__name__)

STAGES = ("data_prep.prepare", "bert_lamb.pretrain", "bert_lamb.finetune", "bert_lamb.report")
LAST_LINES = 30  # of a stage's messages, kept for the reason of its failure


class StopStages(StopRequest):
    """Asked to stop, the running stage is asked too; asked again some seconds later, both end at once."""

    def __init__(self) -> None:
        self.running: subprocess.Popen[str] | None = None
        super().__init__()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.running is not None:
            self.running.terminate()  # first, since a second request ends this process in the next line
        super()._receive(number, frame)


@cache
def stop_stages() -> StopStages:
    """The one of this process: a request that comes between two trials counts too."""
    return StopStages()


def first_failure(overrides: Sequence[str]) -> tuple[str | None, str | None]:
    """Runs all stages with these overrides until one fails: its module and its last words; None twice if none does.

    SystemExit with EXIT_STOPPED where this process or a stage was asked to stop: no further stage begins.
    """
    for stage in STAGES:
        if words := run_stage(stage, overrides):
            return stage, words
    return None, None


def run_stage(stage: str, overrides: Sequence[str]) -> str | None:
    """Runs a stage and shows its messages; None if it ended well, else its last words. SystemExit as above."""
    stop = stop_stages()
    if stop:
        end_stopped(stage)
    process = subprocess.Popen([sys.executable, "-m", stage, *overrides], stderr=subprocess.PIPE, text=True)
    stop.running = process
    if stop:  # while the stage was started
        process.terminate()
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        sys.stderr.write(line)
        lines = [*lines, line.rstrip()][-LAST_LINES:]
    code = process.wait()
    stop.running = None
    if code == EXIT_STOPPED or (stop and code):
        end_stopped(stage)
    if code == 0:
        return None
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    return "\n  ".join(lines[errors[-1] :] if errors else lines[-1:]) or f"exit code {code}"


def end_stopped(stage: str) -> NoReturn:
    """Ends this process as a stage that was asked to stop ends."""
    log.info("stopped at %s; run the same command again to go on", stage)
    sys.exit(EXIT_STOPPED)
