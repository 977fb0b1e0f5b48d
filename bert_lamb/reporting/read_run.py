"""Reads a run folder into one record: all that tables and figures are made of, and nothing from elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bert_lamb.errors import UserError
from bert_lamb.run import RunFolder
from bert_lamb.settings import RECIPE_PARTS, leaves, recipe_hash, source_of


class ReportError(UserError):
    """A folder that is no run folder."""


@dataclass
class PhaseRecord:
    """One phase of pretraining, as far as it went."""

    lines: list[dict[str, Any]]  # of metrics.jsonl, by step; the last line of a step
    result: dict[str, Any] | None  # None: not finished

    def column(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the lines that have a finite value."""
        found = [(line["step"], line[key]) for line in self.lines if line.get(key) is not None]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, key: str) -> float | None:
        """The newest value."""
        values = self.column(key)[1]
        return values[-1] if values else None

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.lines[-1]["step"] if self.lines else 0

    def total(self, key: str) -> float:
        """Sum over all lines."""
        return sum(self.column(key)[1])


@dataclass
class ArmRecord:
    """One fine-tuned arm that has its result."""

    name: str  # of its folder
    result: dict[str, Any]
    settings: DictConfig
    machine: dict[str, Any]


@dataclass
class RunRecord:
    """A run folder's content."""

    name: str  # experiment and recipe hash, whatever the folder is called now
    settings: DictConfig
    manifest: dict[str, Any]
    machine: dict[str, Any]
    plan: dict[str, Any]
    events: list[dict[str, Any]]
    phases: dict[int, PhaseRecord]
    arms: list[ArmRecord]

    def arm(self, kind: str) -> ArmRecord | None:
        """The arm `pretrained` or `scratch`; of several, the one with the settings of the last start."""
        ours = [arm for arm in self.arms if arm.result["arm"] == kind]
        as_last = [arm for arm in ours if arm.settings.finetune == self.settings.finetune]
        return next(reversed(as_last or ours), None)


def read_run(path: Path) -> RunRecord:
    """The record of a run folder; whatever a stage has not written yet is empty."""
    folder = RunFolder(path)
    if not folder.settings_file.is_file():
        raise ReportError(f"{path} is no run folder: it has no settings.yaml; run `make pretrain` first")
    settings = _settings(folder.settings_file)
    arms = [
        ArmRecord(
            name=arm.path.name,
            result=_json(arm.result_file),
            settings=_settings(arm.settings_file),
            machine=_json(arm.machine_file) or {},
        )
        for arm in folder.finished_arms()
    ]
    return RunRecord(
        name=f"{settings.experiment}-{recipe_hash(_json(folder.recipe_file) or {})}",
        settings=settings,
        manifest=_json(folder.manifest_file) or {},
        machine=_json(folder.machine_file) or {},
        plan=_json(folder.plan_file) or {},
        events=list(_jsonl(folder.events_file)),
        phases={n: PhaseRecord(_steps(folder.metrics_file(n)), _json(folder.result_file(n))) for n in (1, 2)},
        arms=arms,
    )


def recipe_rows(s: DictConfig) -> list[tuple[str, str, str]]:
    """Key, value and source of everything that decides the pretrained weights and the F1."""
    parts = {part: plain(s)[part] for part in (*RECIPE_PARTS, "finetune") if part in s}  # older runs lack some
    unset = {"optimizer": "the preset's", "phase2": "phase 1's schedule goes on"}  # what null means there
    return [
        (key, unset.get(key.split(".")[0], "none") if value is None else str(value), source_of(s.sources, key))
        for key, value in leaves(parts)
    ]


def plain(s: DictConfig) -> dict[str, Any]:
    """The settings as a plain tree."""
    return OmegaConf.to_container(s)  # type: ignore[return-value]


def _settings(path: Path) -> DictConfig:
    """settings.yaml as it is, not against today's schema: a report must outlive new settings."""
    return OmegaConf.load(path)  # type: ignore[return-value]


def _steps(metrics: Path) -> list[dict[str, Any]]:
    """Lines by step. A step that comes again after a roll-back or resume replaces all from there on."""
    kept: list[dict[str, Any]] = []
    for line in _jsonl(metrics):
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line; a run that was cut while writing leaves half of one."""
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue
