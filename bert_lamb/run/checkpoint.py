"""Checkpoints: whole or not at all, in files that explain themselves.

step-000500/  model.safetensors config.json (transformers opens this folder)  optimizer.safetensors  state.json
              SHA256SUMS (checked before anything is read back)
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

from bert_lamb.errors import UserError
from bert_lamb.files import file_sha256
from bert_lamb.model import load_weights, save_weights
from bert_lamb.run.progress import Progress

SUMS = "SHA256SUMS"


class CheckpointError(UserError):
    """A checkpoint that must not be loaded; the message names the file and the way out."""


def save_checkpoint(
    folder: Path, bert: BertForPreTraining, optimizer: torch.optim.Optimizer, progress: Progress, keep: int,
    every: int | None = None,
) -> Path:  # fmt: skip
    """Writes `folder/step-N` by rename after its checksums; keeps the newest `keep` ones, and the one that a roll-back
    to a multiple of `every` steps would need. Returns its path."""
    final = folder / f"step-{progress.step:06d}"
    aside = folder / f".{final.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_weights(bert, aside)
    save_file(_optimizer_tensors(bert, optimizer), aside / "optimizer.safetensors")
    (aside / "state.json").write_text(json.dumps(asdict(progress), indent=1) + "\n")
    sums = {path.name: file_sha256(path) for path in sorted(aside.iterdir())}
    (aside / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    replaced = folder / f".{final.name}.old"
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    aside.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    checkpoints = list_checkpoints(folder)
    spared = rollback_target(checkpoints, every) if every else None
    for old in checkpoints[:-keep]:
        if old != spared:
            shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda p: (len(p.name), p.name))


def verify_checkpoint(path: Path) -> None:
    """Refuses a checkpoint of which any file is missing or changed, and offers the one before."""
    others = [p for p in list_checkpoints(path.parent) if (len(p.name), p.name) < (len(path.name), path.name)]
    result = path.parents[1] / "result.json"  # a finished phase would else be taken as done
    damaged = f"{path} and {result}" if result.is_file() else str(path)
    way_out = f"remove {damaged} to " + (f"go on from {others[-1]}" if others else "start this phase again")
    sums_path = path / SUMS
    try:
        *lines, end = sums_path.read_bytes().decode().split("\n")
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if end:
            raise ValueError("its last line is cut")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{sums_path} cannot be read ({error}): the checkpoint is refused; {way_out}") from error
    needed = {"model.safetensors", "optimizer.safetensors", "state.json", "config.json"}
    for name in sorted(needed | sums.keys()):
        file = path / name
        if not file.is_file() or name not in sums or file_sha256(file) != sums[name]:
            raise CheckpointError(f"{file} does not match {SUMS}: the checkpoint is damaged and refused; {way_out}")


def load_checkpoint(path: Path, bert: BertForPreTraining, optimizer: torch.optim.Optimizer | None) -> Progress:
    """Weights, moments (unless optimizer is None) and progress of a verified checkpoint."""
    verify_checkpoint(path)
    load_weights(bert, path)
    if optimizer is not None:
        optimizer.state.clear()
        _load_optimizer(bert, optimizer, load_file(path / "optimizer.safetensors"))
    return read_progress(path)


def read_progress(path: Path) -> Progress:
    """A checkpoint's state.json."""
    return Progress(**json.loads((path / "state.json").read_text()))


def rollback_target(checkpoints: list[Path], every: int) -> Path | None:
    """The newest one of a multiple of `every` steps at which nothing was wrong; None where someone removed it. Others
    are there by the chance of when a run was cut, and where it goes back to must not depend on that (law 2)."""
    states = ((path, read_progress(path)) for path in reversed(checkpoints))
    return next((path for path, state in states if state.step % every == 0 and state.quiet), None)


def set_aside(path: Path) -> None:
    """Keeps a checkpoint that a roll-back has gone behind under a name from which nothing resumes."""
    place = path.with_name(f"rolled-back-{path.name}")
    shutil.rmtree(place, ignore_errors=True)
    path.rename(place)


def restart_bias_correction(optimizer: torch.optim.Optimizer) -> None:
    """Zeroes every tensor's step and keeps its moments (the hand-over `keep_reset_step`)."""
    for state in optimizer.state.values():
        state["step"].zero_()


def trained_parameters(bert: BertForPreTraining) -> Sequence[torch.nn.Parameter]:
    """Parameters in their one fixed order."""
    return [p for _, p in bert.named_parameters()]


def _optimizer_tensors(bert: BertForPreTraining, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.cpu().contiguous()
        for name, p in bert.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
    }


def _load_optimizer(
    bert: BertForPreTraining, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    parameters = dict(bert.named_parameters())
    for key, value in tensors.items():
        name, _, part = key.rpartition("/")
        optimizer.state[parameters[name]][part] = value.to(parameters[name].device)
