"""The checkpoints of one phase's folder: which there are, how one takes its place, which are kept, which one is next.

step-000500/               a whole checkpoint; every other name is not resumed from, not counted and not deleted
.step-000500.tmp/          being written           .step-000500.old/      replaced by a new one of the same step
.step-000300.deleted/      being deleted           damaged-step-000500/   rolled-back-step-000500/    kept aside
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from bert_lamb.files import free_name, rename_synced
from bert_lamb.run.progress import ProgressError, read_progress

NAME = re.compile(r"step-([0-9]{6,})")
LEAVING = re.compile(r"\.(step-[0-9]{6,})\.(tmp|old|deleted)")


@dataclass(frozen=True)
class Retention:
    """Which checkpoints of a phase are not deleted."""

    newest: int  # how many
    every: int | None = None  # and the one that a roll-back to a multiple of so many steps would need,
    first: int = 0  # or one to the phase's first step
    steps: frozenset[int] = frozenset()  # and those of these steps


def checkpoint_name(step: int) -> str:
    """The folder's name of a step's checkpoint."""
    return f"step-{step:06d}"


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's name tells; None for any other name, a copy's for example."""
    found = NAME.fullmatch(path.name)
    return int(found[1]) if found and path.name == checkpoint_name(int(found[1])) else None


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders that are named as checkpoints, oldest first."""
    found = {step_of(path): path for path in folder.glob("step-*") if path.is_dir()}
    return [found[step] for step in sorted(step for step in found if step is not None)]


def publish(aside: Path, final: Path) -> None:
    """Gives a finished checkpoint its name; one of the same step that has the name makes room first."""
    replaced = _leaving(final, "old")
    if final.exists():
        final.rename(replaced)
    rename_synced(aside, final)
    _remove(replaced)


def being_written(final: Path) -> Path:
    """The folder in which the checkpoint `final` is written."""
    return _leaving(final, "tmp")


def put_back(folder: Path) -> None:
    """Ends what a kill left between the two renames of `publish`: the replaced checkpoint has its name again."""
    for path in folder.glob(".step-*.old"):
        found = LEAVING.fullmatch(path.name)
        if found and not (folder / found[1]).exists():
            path.rename(folder / found[1])


def remove_leavings(folder: Path) -> None:
    """Removes what killed processes left: half a checkpoint, half a deleted one, a replaced one."""
    put_back(folder)
    for path in folder.glob(".step-*"):
        if LEAVING.fullmatch(path.name):
            _remove(path)


def delete_old(folder: Path, saved: Path, keep: Retention) -> None:
    """Deletes the checkpoints up to the one just saved that `keep` does not name.

    Each loses its name first, so that a kill never leaves half of one under a checkpoint's name. Later ones than the
    one just saved are not ours to count or to delete.
    """
    checkpoints = list_checkpoints(folder)
    ours = checkpoints[: checkpoints.index(saved) + 1]
    target = rollback_target(ours, keep.every, keep.first) if keep.every else None
    for old in ours[: -keep.newest]:
        if old != target and step_of(old) not in keep.steps:
            aside = _leaving(old, "deleted")
            old.rename(aside)
            _remove(aside)


def rollback_target(checkpoints: list[Path], every: int, first: int = 0) -> Path | None:
    """The newest checkpoint of a multiple of `every` steps, or of the phase's first step, at which nothing was wrong.

    None where someone removed it. Other checkpoints exist only because the run happened to be stopped there; going
    back to one of them would make the result depend on that (law 2). One whose state cannot be read counts as good:
    it is kept, and refused by name where it is loaded.
    """
    steps = ((path, step_of(path)) for path in reversed(checkpoints))
    fixed = (path for path, step in steps if step is not None and (step % every == 0 or step == first))
    return next((path for path in fixed if is_quiet(path)), None)


def is_quiet(path: Path) -> bool:
    """Whether nothing was wrong at a checkpoint, or its state cannot be read."""
    try:
        return read_progress(path).quiet
    except ProgressError:
        return True


def newest_quiet(checkpoints: list[Path]) -> Path | None:
    """The newest checkpoint at which nothing was wrong."""
    return next((path for path in reversed(checkpoints) if is_quiet(path)), None)


def keep_aside(path: Path, because: str) -> Path:
    """Keeps a checkpoint under a name from which nothing resumes: `damaged-...` or `rolled-back-...`."""
    place = free_name(path.with_name(f"{because}-{path.name}"))
    path.rename(place)
    return place


def _leaving(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _remove(path: Path) -> None:
    """A folder, or a link to one; what cannot be removed now is tried again at the next save."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
