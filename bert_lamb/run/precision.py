"""The precision of a run: chosen once by the command, kept in the run folder, read there by every rank."""

from typing import Any

import torch

from bert_lamb.files import write_json
from bert_lamb.hardware import Precision, choose_precision
from bert_lamb.jsonfiles import object_or_aside
from bert_lamb.machine import device_name
from bert_lamb.run.folder import RunFolder, RunFolderError
from bert_lamb.run.starts import last_how
from bert_lamb.settings import Settings


def machine_precision(s: Settings, folder: RunFolder, device: torch.device) -> Precision:
    """What suits this machine: for `auto` what was chosen on it before, else what is faster here."""
    kept, elsewhere = _kept(folder), device.type == "cuda" and not torch.cuda.device_count()
    if s.hardware.precision == "auto" and kept and not elsewhere and kept.device == device_name(device):
        return kept
    return choose_precision(s.hardware.precision, device, s.model)


def precision_here(s: Settings, folder: RunFolder, device: torch.device) -> Precision:
    """What pretraining would use on this machine: for `auto` what the run's steps so far were computed in, if any."""
    before = last_how(folder)
    if s.hardware.precision == "auto" and before and "precision" in before:
        return Precision(before["precision"], device_name(device), "as in this run's steps so far")
    return machine_precision(s, folder, device)


def precision_problems(s: Settings, folder: RunFolder) -> list[str]:
    """A precision in the settings that is not that of the run's steps so far, unless run.allow_change says that a run
    of two precisions is meant."""
    before, asked = last_how(folder) or {}, s.hardware.precision
    if s.run.allow_change or asked == "auto" or before.get("precision", asked) == asked:
        return []
    return [
        f"hardware.precision={asked}, and the steps of {folder.path} so far were computed in {before['precision']}: "
        "leave hardware.precision at auto to go on as it was, choose another run.name, or set run.allow_change=true; "
        "the report then gives both parts"
    ]


def keep_precision(s: Settings, folder: RunFolder, device: torch.device) -> Precision:
    """`precision_here`, written down for the ranks."""
    now = precision_here(s, folder, device)
    write_json(folder.precision_file, now.record())
    return now


def run_precision(s: Settings, folder: RunFolder) -> str:
    """ "bf16", "fp32" or "fp64": the one that the command chose for all ranks."""
    if s.hardware.precision != "auto":
        return s.hardware.precision
    kept = _kept(folder)
    if kept is None:
        raise RunFolderError(
            f"{folder.precision_file} is missing, so that hardware.precision=auto is not decided yet: start this "
            "run by `python -m bert_lamb.pretrain`, or set hardware.precision"
        )
    return kept.name


def _kept(folder: RunFolder) -> Precision | None:
    value = object_or_aside(folder.precision_file, _is_precision)
    return Precision(**value) if value else None


def _is_precision(value: dict[str, Any]) -> bool:
    return value.keys() == {"name", "device", "why"} and all(isinstance(word, str) for word in value.values())
