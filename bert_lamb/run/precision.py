"""The precision of a run: chosen once by the command, kept in the run folder, read there by every rank."""

import logging
from typing import Any

import torch

from bert_lamb.files import write_json
from bert_lamb.hardware import Precision, choose_precision
from bert_lamb.jsonfiles import object_or_aside
from bert_lamb.machine import device_name
from bert_lamb.run.folder import RunFolder, RunFolderError
from bert_lamb.settings import Settings

log = logging.getLogger(__name__)


def precision_here(s: Settings, folder: RunFolder, device: torch.device) -> Precision:
    """What the run would use on this machine: what it used here before, else what suits the machine; writes nothing."""
    before = _kept(folder)
    elsewhere = device.type == "cuda" and not torch.cuda.device_count()
    if s.hardware.precision == "auto" and before and not elsewhere and before.device == device_name(device):
        return before
    return choose_precision(s.hardware.precision, device, s.model)


def keep_precision(s: Settings, folder: RunFolder, device: torch.device) -> Precision:
    """`precision_here`, written down for the ranks; a warning where the run used another one on another machine."""
    before, now = _kept(folder), precision_here(s, folder, device)
    if s.hardware.precision != "auto":
        return now
    if before and before.name != now.name:
        log.warning(
            "  this run used %s on %s and goes on in %s on %s (%s); hardware.precision=%s would keep it as it was",
            before.name, before.device, now.name, now.device, now.why, before.name,
        )  # fmt: skip
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
