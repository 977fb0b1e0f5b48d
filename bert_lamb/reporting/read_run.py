"""Reads a run folder into one record: all that tables and figures are made of, and nothing from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bert_lamb.errors import UserError
from bert_lamb.jsonfiles import Fits, read_lines, read_object
from bert_lamb.run import (
    RESULT,
    ArmFolder,
    Origin,
    Part,
    RunFolder,
    is_arm_result,
    is_event,
    is_metrics_line,
    parts,
    precisions,
)
from bert_lamb.settings import SettingsFileError, load_yaml, mistyped, recipe_hash
from bert_lamb.words import counted

NEEDED = ("experiment", "seed", "model.name", "data.source", "phase1.steps", "phase1.global_batch", "phase2.steps",
          "phase2.global_batch", "phase2.seq_len", "finetune.dev_file")  # of settings, in every version  # fmt: skip


class ReportError(UserError):
    """A folder that is no run folder."""


@dataclass
class PhaseRecord:
    """One phase of pretraining, as far as it went."""

    lines: list[dict[str, Any]]  # of metrics.jsonl, by step; the last line of a step
    result: dict[str, Any] | None  # None: not finished
    begun_at: int = 0  # steps that another run had done before (run.from_checkpoint)

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

    @property
    def steps_here(self) -> int:
        """Steps that this run did itself."""
        return max(0, self.steps - self.begun_at)

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
    origin: Origin | None  # the checkpoint of another run that this one began from
    problems: list[str]  # files and lines that could not be read and are left out, and what was kept aside as damaged

    @property
    def parts(self) -> list[Part]:
        """Steps that were computed in one way, in their order."""
        return parts(self.events, {n: phase.steps for n, phase in self.phases.items()})

    @property
    def precision(self) -> str:
        """Of pretraining: "bf16", or "bf16, then fp32" of a run that changed it; "-" where nothing is known."""
        known = precisions(self.parts) or [p for p in [self.machine.get("precision")] if p]
        return ", then ".join(known) or "-"

    def arm(self, kind: str) -> ArmRecord | None:
        """The arm `pretrained` or `scratch`; of several, the one with the settings of the last start."""
        ours = [arm for arm in self.arms if arm.result["arm"] == kind]
        as_last = [arm for arm in ours if arm.settings.finetune == self.settings.finetune]
        return next(reversed(as_last or ours), None)


def read_run(path: Path) -> RunRecord:
    """The record of a run folder; whatever a stage has not written yet, or what is damaged, is empty."""
    folder = RunFolder(path)
    if not folder.settings_file.is_file():
        raise ReportError(f"{path} is not a run folder: it has no settings.yaml; run `make pretrain` first")
    settings = _settings(folder.settings_file)
    files: dict[Path, Fits] = {  # what the report takes from each file must be there
        folder.recipe_file: bool,
        folder.origin_file: bool,
        folder.manifest_file: _is_manifest,
        folder.machine_file: _is_machine,
        folder.plan_file: _is_plan,
        **{folder.result_file(n): bool for n in (1, 2)},
    }
    read = {file: read_object(file, fits) for file, fits in files.items()}
    value = {file: found or {} for file, (found, _) in read.items()}
    logs = {file: read_lines(file, is_metrics_line) for file in map(folder.metrics_file, (1, 2))}
    logs[folder.events_file] = read_lines(folder.events_file, is_event)
    steps, origin = {n: _steps(logs[folder.metrics_file(n)][0]) for n in (1, 2)}, folder.origin()
    begun_at = {n: origin.step if origin and origin.phase == n else 0 for n in (1, 2)}
    arms = [_arm(arm) for arm in folder.finished_arms()]
    problems = [
        *(problem for _, problem in read.values() if problem),
        *(f"{file}: {counted(len(bad), 'line')} cannot be read" for file, (_, bad) in logs.items() if bad),
        *(problem for _, wrong in arms for problem in wrong),
        *(f"{aside} was set aside as damaged" for aside in _kept_aside(path)),
    ]
    return RunRecord(
        name=f"{settings.experiment}-{recipe_hash(value[folder.recipe_file])}",
        settings=settings,
        manifest=value[folder.manifest_file],
        machine=value[folder.machine_file],
        plan=value[folder.plan_file],
        events=logs[folder.events_file][0],
        phases={n: PhaseRecord(steps[n], value[folder.result_file(n)] or None, begun_at[n]) for n in (1, 2)},
        arms=[arm for arm, _ in arms if arm],
        origin=origin,
        problems=[problem.replace(f"{path}/", "") for problem in problems],  # the same wherever the folder lies
    )


def plain(s: DictConfig) -> dict[str, Any]:
    """The settings as a plain tree."""
    return OmegaConf.to_container(s)  # type: ignore[return-value]


def _settings(path: Path) -> DictConfig:
    """settings.yaml as it is, not against today's schema: a report must outlive new settings."""
    try:
        settings = load_yaml(path)
    except SettingsFileError as error:
        raise ReportError(str(error)) from error
    if problem := mistyped(settings):
        raise ReportError(f"{path} is damaged: {problem}")
    if lost := [key for key in NEEDED if OmegaConf.select(settings, key) is None]:
        raise ReportError(f"{path} is damaged: it lacks {', '.join(lost)}")
    return settings


def _arm(arm: ArmFolder) -> tuple[ArmRecord | None, list[str]]:
    """An arm that has its result, and what is wrong with its files; no record where result or settings are damaged."""
    read = (RESULT, arm.settings_file.name, arm.machine_file.name)
    result, problem = read_object(arm.result_file, is_arm_result)
    machine, problem_of_machine = read_object(arm.machine_file, _is_machine)
    wrong = [f"{arm.path}/{what}" for what in arm.damaged(*read)] or [
        found for found in (problem, problem_of_machine) if found
    ]
    try:
        settings = _settings(arm.settings_file)
    except ReportError as error:
        return None, wrong or [str(error)]
    if result is None or arm.damaged(*read[:2]):
        return None, wrong
    return ArmRecord(arm.path.name, result, settings, machine or {}), wrong


def _kept_aside(path: Path) -> list[Path]:
    """What earlier starts found damaged, and renamed."""
    places = ("damaged-*", "phase*/damaged-*", "phase*/checkpoints/damaged-*", "squad/*/damaged-*")
    return sorted(found for place in places for found in path.glob(place))


def _steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines by step. A step that comes again after a roll-back or resume replaces all from there on."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


def _is_plan(value: dict[str, Any]) -> bool:
    phases = value.get("phases")
    return (
        all(_is_number(value.get(key)) for key in ("flops", "hours", "devices"))
        and value["devices"] > 0
        and isinstance(phases, list)
        and len(phases) == 2
        and all(isinstance(phase, dict) for phase in phases)
        and all(_is_number(phase.get(key)) for phase in phases for key in ("flops", "steps", "tflops"))
        and all(phase["steps"] > 0 and isinstance(phase.get("tflops_from"), str) for phase in phases)
    )


def _is_machine(value: dict[str, Any]) -> bool:
    words = (value.get("commit"), value.get("precision"))
    return isinstance(value.get("versions", {}), dict) and all(word is None or isinstance(word, str) for word in words)


def _is_manifest(value: dict[str, Any]) -> bool:
    tokenizer, entropy = value.get("tokenizer", {}), value.get("unigram_entropy_nats")
    return (
        all(isinstance(value.get(key, {}), dict) for key in ("counts", "tokenizer", "rejects"))
        and isinstance(value.get("notes", []), list)
        and isinstance(tokenizer.get("size", 0), int)
        and isinstance(tokenizer.get("sha256", ""), str)
        and (entropy is None or _is_number(entropy))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
