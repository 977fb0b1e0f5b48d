"""Whether a run may begin from another run's checkpoint (run.from_checkpoint), checked before anything is spent."""

from pathlib import Path
from typing import Any

import torch

from bert_lamb.data.vocabulary import strips_accents
from bert_lamb.jsonfiles import read_object
from bert_lamb.model import build_bert, misfits, tensor_shapes
from bert_lamb.optim import kept_of
from bert_lamb.run import (
    Origin,
    RunFolder,
    damage,
    data_folder,
    list_checkpoints,
    locate_run,
    origin_of,
    read_progress,
    run_of,
)
from bert_lamb.settings import Settings


def origin_problems(s: Settings, manifest: dict[str, Any]) -> list[str]:
    """What keeps these settings from going on from that checkpoint; none where the run has begun already.

    OriginError where there is no checkpoint at all.
    """
    origin = origin_of(s)
    if origin is None or list_checkpoints(locate_run(s).checkpoints(origin.phase)):
        return []
    path, key = Path(origin.path), f"run.from_checkpoint={s.run.from_checkpoint}"
    if wrong := damage(path):
        return [f"{key}: {wrong}: a damaged checkpoint is not loaded: name another one"]
    problems = [*_place(s, origin), *_vocabulary(s, path, manifest), *_fit(s, path, manifest)]
    return [f"{key}: {problem}" for problem in problems]


def _place(s: Settings, origin: Origin) -> list[str]:
    steps = s.phase(origin.phase).steps
    if origin.step <= steps:
        return []
    return [
        f"it is at step {origin.step} of phase {origin.phase}, beyond phase{origin.phase}.steps={steps}: raise the "
        "number of steps, or name an earlier checkpoint"
    ]


def _vocabulary(s: Settings, path: Path, manifest: dict[str, Any]) -> list[str]:
    """By the data of the checkpoint's run; a copy elsewhere tells the vocabulary's size alone, by its shapes."""
    run = run_of(path)
    theirs, _ = read_object(RunFolder(run).manifest_file) if run else (None, None)
    about = theirs.get("tokenizer") if theirs else None
    ours = manifest["tokenizer"]
    if not isinstance(about, dict) or not isinstance(about.get("lower_case"), bool):
        return []
    same = all(about.get(key) == ours[key] for key in ("sha256", "lower_case"))
    if same and strips_accents(about) == strips_accents(ours):
        return []
    return [
        f"its run used data with another vocabulary than {data_folder(s)}, so ids would mean other words: prepare with "
        "that run's vocab.txt (data.vocab), or choose its data"
    ]


def _fit(s: Settings, path: Path, manifest: dict[str, Any]) -> list[str]:
    with torch.device("meta"):
        bert = build_bert(s.model, manifest["tokenizer"]["size"], 0, seed=0)
    if wrong := misfits(bert, tensor_shapes(path / "model.safetensors")):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return [f"its weights do not fit model={s.model.name}: {'; '.join(wrong[:5])}{more}"]
    heads = (read_object(path / "config.json")[0] or {}).get("num_attention_heads")
    if heads != s.model.heads:
        return [f"its model has {heads} attention heads, but model.heads={s.model.heads}: set them to the same number"]
    return _moments(s, path, {name: tuple(p.shape) for name, p in bert.named_parameters()})


def _moments(s: Settings, path: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    found, progress = tensor_shapes(path / "optimizer.safetensors"), read_progress(path)
    if not found and progress.step == progress.skipped:
        return []  # no step was applied yet
    expected = {
        f"{name}/{part}": () if part == "step" else shape
        for name, shape in shapes.items()
        for part in kept_of(s.optimizer.preset, name, shape)
    }
    if found == expected:
        return []
    wanted = sorted({name.rpartition("/")[2] for name in expected} - {"step"})
    parts = sorted({name.rpartition("/")[2] for name in found} - {"step"})
    return [
        f"its optimizer's state ({', '.join(parts) or 'none'}) does not fit optimizer.preset="
        f"{s.optimizer.preset}, which keeps {', '.join(wanted)}: choose a preset of the same family"
    ]
