"""What decides a pretraining result, its hash, and how two recipes differ (law 7: hardware and run are not in it)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bert_lamb.settings.schema import Settings

RECIPE_PARTS = ("seed", "model", "masking", "optimizer", "phase1", "phase2", "handover", "recovery")
SCALED = ("peak_lr", "warmup_steps")  # of a phase: with lr_rule=untuned the values for a batch of lr_batch


def as_dict(s: Settings) -> dict[str, Any]:
    """The settings as plain nested dictionaries."""
    return asdict(s)


def recipe(s: Settings, data_digest: str, origin: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that moves the pretrained weights: settings, the SHA-256 of the data's manifest, and the content of
    another run's checkpoint where the run begins from one."""
    whole = asdict(s)
    begun = {"origin": origin} if origin else {}  # left out of other runs, whose hashes it must not move
    return {part: whole[part] for part in RECIPE_PARTS} | {"data": data_digest} | begun


def finetune_recipe(s: Settings, data_digest: str, arm: str, origin: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that moves a fine-tuned arm; from random weights, pretraining does not."""
    whole = asdict(s)
    if arm == "scratch":
        about: dict[str, Any] = {"seed": s.seed, "model": whole["model"], "data": data_digest}
    else:
        about = recipe(s, data_digest, origin)
    return about | {"finetune": {k: v for k, v in whole["finetune"].items() if k != "arms"}, "arm": arm}


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Ten hexadecimal digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf that differs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a setting's value comes from: the entry of its key, or of the longest prefix."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((sources[prefix] for prefix in prefixes if prefix in sources), "ours, untested")


def recipe_rows(
    tree: dict[str, Any], preset: tuple[dict[str, Any], str], without_effect: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Key, value and source of every setting that decides the pretrained weights and the F1, for plan and report.

    tree: the whole settings, also of another version. preset: values and source of the optimizer's preset, which
    stand where a setting of the optimizer is null. without_effect: settings that its formula does not hold.
    """
    parts = {part: tree[part] for part in (*RECIPE_PARTS, "finetune") if part in tree}
    return [(key, *_value_and_source(key, value, tree, preset, without_effect)) for key, value in leaves(parts)]


def _value_and_source(
    key: str, value: Any, tree: dict[str, Any], preset: tuple[dict[str, Any], str], without_effect: Sequence[str]
) -> tuple[str, str]:
    group, _, leaf = key.partition(".")
    sources = tree.get("sources", {})
    if value is not None:
        meant = (tree.get(group) or {}).get("lr_batch") if leaf in SCALED and isinstance(tree[group], dict) else None
        derived = meant is not None and tree[group].get("lr_rule") == "untuned"
        return f"{value} at a batch of {meant}" if derived else str(value), source_of(sources, key)
    if group == "optimizer":
        values, source = preset
        if leaf in without_effect:
            return "not used", source
        return ("none" if values.get(leaf) is None and values else str(values.get(leaf, "the preset's"))), source
    if group == "phase2" and tree.get("handover", {}).get("schedule") == "continue":
        return "phase 1's schedule continues", source_of(sources, "handover.schedule")
    return "none", sources.get(key, "-")  # what is said of a group is not said of what it leaves out
