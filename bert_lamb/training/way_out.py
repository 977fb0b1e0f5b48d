"""What a run that has diverged tells its user: the command that starts a gentler run from its last good checkpoint."""

import shlex
from pathlib import Path

from bert_lamb.jsonfiles import read_object
from bert_lamb.run import RunFolder
from bert_lamb.run.schedule import scheduling_phase
from bert_lamb.settings import Settings

GENTLER = 0.5  # of the peak learning rate; ours, a suggestion


def way_out(s: Settings, folder: RunFolder, phase_number: int, checkpoint: Path | None) -> str:
    """Sentences with the very command; without a checkpoint, the command of a run that starts anew."""
    owner = 1 if scheduling_phase(s, phase_number) is s.phase1 else 2
    peak = s.phase(owner).peak_lr
    assert peak is not None, "checks.py refuses a phase without a learning rate of its own"
    plan, _ = read_object(folder.plan_file)
    given = plan.get("overrides") if plan else None
    replaced = {"run.name", "run.from_checkpoint", f"phase{owner}.peak_lr"}
    kept = [str(text) for text in given if _key(str(text)) not in replaced] if isinstance(given, list) else []
    begin = [f"run.from_checkpoint={checkpoint.absolute()}"] if checkpoint else []
    command = ["python", "-m", "bert_lamb.pretrain", *kept, *begin, f"phase{owner}.peak_lr={peak * GENTLER:g}"]
    what = (
        f"The checkpoint {checkpoint} is good. A new run, with a folder of its own, goes on from it with half of the "
        "peak learning rate by"
        if checkpoint
        else "There is no checkpoint yet. A new run with half of the peak learning rate starts by"
    )
    return f"{what}\n  {shlex.join(command)}\nGive the later stages the same settings"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
