"""Checkpoints: whole or not at all, in files that explain themselves.

step-000500/  model.safetensors config.json tokenizer.json tokenizer_config.json (transformers opens this folder)
              optimizer.safetensors state.json (to go on from)  SHA256SUMS (checked before anything is read back)
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import BertForPreTraining, PreTrainedTokenizerBase

from bert_lamb.checksums import SUMS, SumsError, changed_files, read_sums, write_sums
from bert_lamb.errors import UserError
from bert_lamb.model import load_weights, save_tensors, save_weights
from bert_lamb.run.progress import STATE, Progress, ProgressError, read_progress
from bert_lamb.run.retention import (
    Retention,
    being_written,
    checkpoint_name,
    delete_old,
    keep_aside,
    list_checkpoints,
    publish,
    put_back,
    remove_leavings,
    step_of,
)

log = logging.getLogger(__name__)

MOMENTS = "optimizer.safetensors"
FILES = ("config.json", "model.safetensors", MOMENTS, STATE)


class CheckpointError(UserError):
    """A checkpoint that must not be loaded; the message names the file and the way out."""


def save_checkpoint(
    folder: Path,
    bert: BertForPreTraining,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    keep: Retention,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Writes `folder/step-N` and returns its path: files and checksums to the disk, then the name.

    Then deletes the older checkpoints that `keep` does not name.
    """
    remove_leavings(folder)
    final = folder / checkpoint_name(progress.step)
    aside = being_written(final)
    aside.mkdir(parents=True)
    save_weights(bert, aside)
    save_tensors(_optimizer_tensors(bert, optimizer), aside / MOMENTS)
    (aside / STATE).write_text(json.dumps(asdict(progress), indent=1) + "\n")
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    write_sums(aside, sorted(path.name for path in aside.iterdir()))
    publish(aside, final)
    delete_old(folder, final, keep)
    return final


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that matches its checksums, and a sentence on each newer one, which is kept aside.

    None where there is no checkpoint at all; where there are some and none is whole, CheckpointError and nothing moved.
    """
    put_back(folder)
    checkpoints = list_checkpoints(folder)
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoints):
        if (found := damage(path)) is None:
            break
        damaged.append((path, found))
    if damaged and len(damaged) == len(checkpoints):
        verify_checkpoint(damaged[0][0])
    return (checkpoints[-len(damaged) - 1] if checkpoints else None), [
        f"{found}; kept aside as {keep_aside(path, 'damaged').name}" for path, found in damaged
    ]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, the file named: missing, changed, or of another step than its name tells."""
    try:
        sums = read_sums(path)
    except SumsError as error:
        return f"{path / SUMS} cannot be read ({error})"
    if changed := changed_files(path, sums, {*FILES, *sums}):
        return f"{path / changed[0]} does not match {SUMS}"
    try:
        step = read_progress(path).step
    except ProgressError as error:
        return str(error)
    if step_of(path) not in (None, step):
        return f"{path / STATE} is of step {step}: the folder was given another checkpoint's name"
    return None


def verify_checkpoint(path: Path) -> None:
    """Refuses a checkpoint of which any file is missing or changed, and offers the one before."""
    found = damage(path)
    if found is None:
        return
    checkpoints = list_checkpoints(path.parent)
    step = step_of(path) or 0
    before = [p for p in checkpoints if (step_of(p) or 0) < step]
    later = [p.name for p in checkpoints if (step_of(p) or 0) > step]  # else these would be gone on from
    result = path.parents[1] / "result.json"  # a finished phase would else be taken as done
    in_the_way = [str(path), *later, *([str(result)] if result.is_file() else [])]
    way_out = f"remove {' and '.join(in_the_way)} to " + (
        f"go on from {before[-1]}" if before else "start this phase again"
    )
    raise CheckpointError(f"{found}: the checkpoint is damaged and refused; {way_out}")


def load_checkpoint(path: Path, bert: BertForPreTraining, optimizer: torch.optim.Optimizer | None) -> Progress:
    """Weights, moments (unless optimizer is None) and progress of a verified checkpoint."""
    verify_checkpoint(path)
    load_weights(bert, path)
    if optimizer is not None:
        optimizer.state.clear()
        _load_optimizer(bert, optimizer, load_file(path / MOMENTS))
    return read_progress(path)


def restart_bias_correction(optimizer: torch.optim.Optimizer) -> None:
    """Zeroes every tensor's step and keeps its moments (the hand-over `keep_reset_step`)."""
    for state in optimizer.state.values():
        if "step" in state:  # Muon corrects nothing, and counts none
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
        p = parameters[name]
        # moments are fp32, or their parameter's type where it is wider
        dtype = value.dtype if part == "step" else torch.promote_types(p.dtype, torch.float32)
        optimizer.state[p][part] = value.to(p.device, dtype)
