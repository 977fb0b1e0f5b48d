"""Where a run began that took over another run's checkpoint (run.from_checkpoint)."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bert_lamb.checksums import SUMS
from bert_lamb.errors import UserError
from bert_lamb.files import file_sha256
from bert_lamb.jsonfiles import read_object
from bert_lamb.run.progress import ProgressError, read_progress
from bert_lamb.settings import recipe_hash

ORIGIN = "origin.json"
TYPES = {"path": str, "sha256": str, "phase": int, "step": int}


class OriginError(UserError):
    """A run.from_checkpoint that names no checkpoint."""


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run began from."""

    path: str  # absolute; where it was
    sha256: str  # of its SHA256SUMS, hence of all its files
    phase: int
    step: int  # of that phase; phases before count as done
    run: str | None = None  # name of its run's folder, where it lay in one
    recipe: str | None = None  # hash of that run's recipe

    def deciding(self) -> dict[str, Any]:
        """What of it decides a result, and so belongs to the recipe: its content, wherever it lies."""
        return {"sha256": self.sha256, "phase": self.phase, "step": self.step}


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in: RUN/phaseN/checkpoints/step-N; None for a copy elsewhere."""
    run = checkpoint.absolute().parents[2] if len(checkpoint.absolute().parents) > 2 else None
    return run if run is not None and (run / "recipe.json").is_file() else None


def find_origin(from_checkpoint: str) -> Origin:
    """The checkpoint at a path, read as far as its checksums and its state; OriginError where there is none."""
    path = Path(from_checkpoint)
    try:
        sha256, progress = file_sha256(path / SUMS), read_progress(path)
    except (OSError, ProgressError) as error:
        raise OriginError(
            f"run.from_checkpoint={from_checkpoint}: no checkpoint there ({error}); name a folder such as "
            "runs/NAME/phase1/checkpoints/step-000500. A run that has begun from it goes on without it: name that run "
            "by run.name"
        ) from error
    run = run_of(path)
    recipe, _ = read_object(run / "recipe.json") if run else (None, None)
    name, hashed = (run.name if run else None), (recipe_hash(recipe) if recipe else None)
    return Origin(str(path.absolute()), sha256, progress.phase, progress.step, name, hashed)


def read_origin(folder: Path) -> Origin | None:
    """The origin that a run folder tells of; None where it tells of none, or its file is damaged."""
    value, _ = read_object(folder / ORIGIN, _fits)
    return Origin(**value) if value else None


def _fits(value: dict[str, Any]) -> bool:
    known = set(asdict(Origin("", "", 1, 0)))
    return (
        value.keys() <= known
        and all(type(value.get(key)) is kind for key, kind in TYPES.items())
        and value["phase"] in (1, 2)
        and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None
    )
