"""Checks before the first step: data, devices, memory and disk. Every problem at once, with its way out (law 8)."""

import shutil
from pathlib import Path
from typing import Any

import psutil
import torch

from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.data.planner import equal_micro_batches, known_tokens, most_sequences
from bert_lamb.data.store import StoreError
from bert_lamb.data.vocabulary import strips_accents
from bert_lamb.model import STATIC, build_bert, parameter_count
from bert_lamb.optim import decay_groups, has_compiler
from bert_lamb.parallel import device_count, use_cuda
from bert_lamb.planning.cost import Budget
from bert_lamb.planning.origin import origin_problems
from bert_lamb.run import OriginError, RunFolder, data_folder, list_checkpoints, locate_run, precision_problems
from bert_lamb.settings import ModelSettings, Settings, kept_steps
from bert_lamb.tasks.squad_data import missing_files
from bert_lamb.words import counted


def preflight_problems(s: Settings) -> list[str]:
    """What would stop this run later, besides the settings themselves."""
    problems = [*_devices(s), *_compiler(s), *_split(s), *_patterns(s), *missing_files(s.finetune)]
    if s.model.init_from is not None and not Path(s.model.init_from).is_dir():
        problems.append(f"model.init_from={s.model.init_from}: no such folder")
    folder = data_folder(s)
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return [*problems, str(error)]
    try:
        problems += origin_problems(s, manifest)
    except OriginError as error:
        return [*problems, str(error)]
    wrong = _data(s, manifest)
    if not wrong and s.hardware.local_data is None:  # else each file is compared while it is copied
        wrong = verify_store(folder, manifest)
    run = locate_run(s)
    return problems + wrong + precision_problems(s, run) + _room(s, manifest, run)


def unused_devices(s: Settings) -> list[str]:
    """A GPU of this machine that is no CUDA device: said, since a user would expect it to be used."""
    if use_cuda(s.hardware) or not torch.backends.mps.is_available():
        return []
    return ["this machine's Apple GPU (mps) is not used: this project trains on CPUs and CUDA GPUs, here on the CPU"]


def memory_warnings(s: Settings, plan: Budget) -> list[str]:
    """Phases that may not fit, by the plan's count; uncompiled, so no refusal. None where the GPU is elsewhere."""
    if use_cuda(s.hardware) and not torch.cuda.device_count():
        return []
    memory, where = _memory(s)
    return [
        f"phase {number} may need about {phase.memory_gib:.1f} GiB, but {where} has {memory / 2**30:.1f}: lower "
        "hardware.micro_batch_tokens, set hardware.recompute=true, or choose a smaller model"
        for number, phase in enumerate(plan.phases, 1)
        if phase.micro_batches and phase.memory_gib * 2**30 > memory
    ]


def _memory(s: Settings) -> tuple[int, str]:
    """Bytes that a rank may use at most, and whose they are."""
    if use_cuda(s.hardware) and torch.cuda.device_count():
        return torch.cuda.get_device_properties(0).total_memory, "the GPU"
    return psutil.virtual_memory().total // max(1, device_count(s.hardware)), "each process"


def _devices(s: Settings) -> list[str]:
    if not use_cuda(s.hardware):
        return []
    there, asked = torch.cuda.device_count(), device_count(s.hardware)
    if there == 0:
        return [
            f"hardware={s.hardware.name} asks for {counted(asked, 'GPU')}, and torch finds none here: run it where "
            "they are, or choose hardware=auto or hardware=cpu"
        ]
    return [f"hardware.devices={asked}: this machine has {counted(there, 'GPU')}"] if asked > there else []


def _compiler(s: Settings) -> list[str]:
    if s.hardware.compile != "on" or use_cuda(s.hardware) or has_compiler():
        return []
    return ["hardware.compile=on: no C++ compiler works here; hardware.compile=auto runs without one"]


def _split(s: Settings) -> list[str]:
    problems, devices = [], device_count(s.hardware)
    tokens = known_tokens(s.hardware.micro_batch_tokens, use_cuda(s.hardware))
    if tokens is None:
        return []  # found when a phase begins, among those that can be
    for number in (1, 2):
        if s.phase(number).seq_len < 1:
            continue  # told of by the settings' own checks
        batch, micro = s.phase(number).global_batch, most_sequences(tokens, s.phase(number).seq_len)
        if micro > 0 and devices <= batch and not equal_micro_batches(batch, devices, micro):
            problems.append(
                f"phase{number}.global_batch={batch} cannot be cut into equally many micro-batches of at most {micro} "
                f"sequences on {counted(devices, 'device')}: raise hardware.micro_batch_tokens, or choose a multiple "
                f"of {devices}"
            )
    return problems


def _patterns(s: Settings) -> list[str]:
    """Parts of parameter names that match none; the names follow from the number of layers alone."""
    shape = ModelSettings("names", max(1, s.model.layers), 2, 1, 2, 2, 0.0, 0.0, 0.02)
    with torch.device("meta"):
        bert = build_bert(shape, vocab_size=2, pad_id=0, seed=0)
    try:
        decay_groups(bert, 0.0, True, s.optimizer.no_decay, s.optimizer.no_adapt)
    except ValueError as error:
        return [f"optimizer.{error}"]
    return []


def _data(s: Settings, manifest: dict[str, Any]) -> list[str]:
    problems = []
    if manifest["tokenizer"]["lower_case"] != s.data.lower_case:
        problems.append(
            f"data.lower_case={s.data.lower_case}, but the data in {data_folder(s)} was prepared with "
            f"{manifest['tokenizer']['lower_case']}: prepare it again under another data.name"
        )
    theirs, ours = strips_accents(manifest["tokenizer"]), s.data.strip_accents
    by_default = s.data.lower_case if not problems else theirs  # with another case the message above is enough
    if theirs != (by_default if ours is None else ours):
        problems.append(
            f"data.strip_accents={'null' if ours is None else ours}, but the data in {data_folder(s)} was prepared "
            f"with {theirs}: set data.strip_accents={str(theirs).lower()}, or prepare it again under another data.name"
        )
    for number in (1, 2):
        seq_len = s.phase(number).seq_len
        tables = manifest["instances"]["train"].get(str(seq_len))
        if tables is None:
            have = ", ".join(manifest["instances"]["train"])
            problems.append(
                f"phase{number}.seq_len={seq_len}: the data in {data_folder(s)} has only instances of {have} tokens; "
                "prepare it with that length in data.seq_lens"
            )
        elif any(t["instances"] == 0 for t in tables):
            problems.append(f"{data_folder(s)} has no instances of {seq_len} tokens: prepare it from more text")
    return problems


def _room(s: Settings, manifest: dict[str, Any], run: RunFolder) -> list[str]:
    problems = []
    size = parameter_count(s.model, manifest["tokenizer"]["size"])
    (memory, where), static = _memory(s), size * STATIC[s.hardware.precision]
    if static > memory:
        problems.append(
            f"model={s.model.name} needs {static / 2**30:.1f} GiB for weights, gradients and "
            f"moments alone, but {where} has {memory / 2**30:.1f} GiB: choose a smaller model"
        )
    root = Path(s.run.root)
    existing = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    needed, free = _bytes_to_come(s, size, run), shutil.disk_usage(existing).free
    if needed > free:
        problems.append(
            f"run.root={root} has {free / 2**30:.1f} GiB free, but checkpoints still need {needed / 2**30:.1f}: "
            "lower run.keep_checkpoints, shorten run.keep_at, or choose another disk"
        )
    return problems


def _bytes_to_come(s: Settings, size: int, folder: RunFolder) -> int:
    """What the checkpoints of both phases will still take: those that a run has written already lie on the disk."""
    each = 12 * size  # weights and two moments, fp32
    kept = s.run.keep_checkpoints + 1 + (s.recovery.policy == "rollback")  # one being written, one to go back to
    needed, for_good = 0, kept_steps(s)
    for number in (1, 2):
        there = sum(f.stat().st_size for p in list_checkpoints(folder.checkpoints(number)) for f in p.iterdir())
        needed += 0 if folder.result_file(number).is_file() else max(0, (kept + len(for_good[number])) * each - there)
    return needed
