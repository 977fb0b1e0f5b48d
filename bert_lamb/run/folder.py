"""The run folder: what lies where, and the rule that one folder holds one recipe.

runs/<experiment>-<recipe hash>/
  settings.yaml data_manifest.json machine.json plan.json recipe.json events.jsonl
  origin.json (where it began from another run's checkpoint)
  phase1/  metrics.jsonl  checkpoints/step-000500/  result.json (last: done)
  phase2/  the same       squad/<arm>-<hash>-seed0/  report/
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bert_lamb.checksums import SUMS, SumsError, changed_files, read_sums
from bert_lamb.data.manifest import MANIFEST, read_manifest_file
from bert_lamb.data.vocabulary import VOCABULARY
from bert_lamb.errors import UserError
from bert_lamb.files import file_sha256, write_json, write_whole
from bert_lamb.jsonfiles import clean_lines, object_or_aside, parse_json, read_lines, read_object
from bert_lamb.locks import sole_use
from bert_lamb.run.origin import ORIGIN, Origin, OriginError, find_origin, read_origin
from bert_lamb.settings import Settings, difference, read_settings, recipe, recipe_hash, settings_yaml


class RunFolderError(UserError):
    """A run folder that these settings must not touch."""


SETTINGS = "settings.yaml"  # of a run's last start, and of each arm
MACHINE = "machine.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"  # written last: the phase or arm is done
PREDICTIONS = "predictions.json"
ARM_FILES = (SETTINGS, MACHINE, METRICS, PREDICTIONS, "config.json", "model.safetensors", VOCABULARY)  # besides RESULT
CHECKPOINT = re.compile(r"checkpoints/step-[0-9]{6,}")  # what a phase's result.json may name


@dataclass(frozen=True)
class ArmFolder:
    """Paths of one fine-tuned arm: the model, its answers, and what it came from."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / SETTINGS

    @property
    def machine_file(self) -> Path:
        return self.path / MACHINE

    @property
    def metrics_file(self) -> Path:
        return self.path / METRICS

    @property
    def predictions_file(self) -> Path:
        return self.path / PREDICTIONS

    @property
    def result_file(self) -> Path:
        return self.path / RESULT

    def result(self) -> dict[str, Any] | None:
        """A finished arm's result, else None; a damaged one is kept aside, and the arm counts as not finished."""
        return object_or_aside(self.result_file, is_arm_result)

    def damaged(self, *names: str) -> list[str]:
        """Of these files, by default all, those that do not match the arm's checksums, in words. None of an arm that
        an older version wrote, without any."""
        if not (self.path / SUMS).exists():
            return []
        try:
            sums = read_sums(self.path)
        except SumsError as error:
            return [f"{SUMS} cannot be read ({error})"]
        changed = changed_files(self.path, sums, names or {*sums, *ARM_FILES, RESULT})
        return [f"{name} does not match {SUMS}" for name in changed]


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and its small files."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / SETTINGS

    @property
    def manifest_file(self) -> Path:
        """The copy of the data's manifest."""
        return self.path / "data_manifest.json"

    @property
    def machine_file(self) -> Path:
        return self.path / MACHINE

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def precision_file(self) -> Path:
        """What `hardware.precision=auto` is on the machine of the last start."""
        return self.path / "precision.json"

    @property
    def rates_file(self) -> Path:
        """How fast the machines of this run are, as measured for the plan."""
        return self.path / "rates.json"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.json"

    @property
    def origin_file(self) -> Path:
        return self.path / ORIGIN

    @property
    def micro_batches_file(self) -> Path:
        """Tokens of a micro-batch that were found by trial."""
        return self.path / "micro_batches.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def stacks(self) -> Path:
        """Where each rank stood when one of them had hung."""
        return self.path / "stacks"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def phase(self, number: int) -> Path:
        return self.path / f"phase{number}"

    def metrics_file(self, number: int) -> Path:
        return self.phase(number) / METRICS

    def checkpoints(self, number: int) -> Path:
        """The folder of a phase's checkpoints."""
        return self.phase(number) / "checkpoints"

    def result_file(self, number: int) -> Path:
        return self.phase(number) / RESULT

    def arm(self, name: str) -> ArmFolder:
        """A fine-tuned arm by the name of its folder."""
        return ArmFolder(self.path / "squad" / name)

    def finished_arms(self) -> list[ArmFolder]:
        """The arms that have a result, by name."""
        return [ArmFolder(path.parent) for path in sorted(self.path.glob(f"squad/*/{RESULT}"))]

    def phase_result(self, number: int) -> dict[str, Any] | None:
        """A finished phase's result, else None; a damaged one is kept aside, and is made again from the checkpoint."""
        return object_or_aside(self.result_file(number), is_phase_result)

    def origin(self) -> Origin | None:
        """The checkpoint of another run that this one began from, if it did."""
        return read_origin(self.path)

    def finish_phase(self, number: int, result: dict[str, Any]) -> None:
        """Written last: its presence says that the phase is done."""
        write_json(self.result_file(number), result)

    def weights(self) -> Path:
        """The folder of the pretrained weights."""
        result = self.phase_result(2)
        if result is None:
            raise RunFolderError(
                f"{self.path} has no finished pretraining; run `make pretrain` with these settings first"
            )
        return self.phase(2) / result["checkpoint"]

    def settings(self) -> Settings:
        """The settings of the last start."""
        return read_settings(self.settings_file)

    def manifest(self) -> dict[str, Any]:
        """The copy of the data's manifest; StoreError where it must not be used."""
        return read_manifest_file(self.manifest_file)

    def event(self, kind: str, **details: Any) -> None:
        """Appends to events.jsonl: starts, resumes, skips, whatever a report should tell."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **details}
        clean_lines(self.events_file, is_event)
        with self.events_file.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def event_once(self, kind: str, *, phase: int, step: int, rollbacks: int, **details: Any) -> None:
        """An event of one step, told once: a run that was cut does some steps again, and goes wrong again in them.

        `rollbacks` is how many there were before: after one, the step reads other sequences and is another event.
        """
        place = {"event": kind, "phase": phase, "step": step, "rollbacks": rollbacks}
        for event in reversed(read_lines(self.events_file, is_event)[0]):
            if event["event"] == "start" and event.get("phase") == phase:
                break  # what stands before belongs to an earlier beginning of this phase
            if all(event.get(key) == value for key, value in place.items()):
                return
        self.event(kind, phase=phase, step=step, rollbacks=rollbacks, **details)


def data_folder(s: Settings) -> Path:
    """Where the settings' token store lies."""
    return Path(s.data.root) / s.data.name


def is_event(value: dict[str, Any]) -> bool:
    """Whether an object is a line of events.jsonl."""
    how = value.get("how", {})
    return (
        isinstance(value.get("event"), str)
        and all(isinstance(value.get(key, 1), int) for key in ("phase", "step"))
        and isinstance(how, dict)
        and how.get("precision", "fp32") in ("bf16", "fp32", "fp64")
    )


def is_phase_result(value: dict[str, Any]) -> bool:
    """Whether an object is a phase's result.json: what it names is a checkpoint of that phase and nothing else."""
    return isinstance(value.get("checkpoint"), str) and CHECKPOINT.fullmatch(value["checkpoint"]) is not None


def is_arm_result(value: dict[str, Any]) -> bool:
    """Whether an object is an arm's result.json: it has all that reports and evaluations read."""
    numbers = ("f1", "em", "questions", "train_questions", "steps", "skipped", "loss", "seconds")
    return (
        isinstance(value.get("arm"), str)
        and isinstance(value.get("unmatched"), list)
        and all(isinstance(value.get(key), int | float) for key in numbers)
    )


def origin_of(s: Settings) -> Origin | None:
    """The checkpoint that these settings begin from; of a run that is named, and has begun, as its folder tells."""
    path = s.run.from_checkpoint
    if path is None:
        return None
    try:
        return find_origin(path)
    except OriginError:
        known = read_origin(Path(s.run.root) / s.run.name) if s.run.name else None
        if known is None or known.path != str(Path(path).absolute()):
            raise
        return known


def locate_run(s: Settings) -> RunFolder:
    """The folder that belongs to these settings, whether it exists or not; needs prepared data."""
    name = s.run.name or f"{s.experiment}-{recipe_hash(recipe(s, _digest(s), _deciding(origin_of(s))))}"
    return RunFolder(Path(s.run.root) / name)


@contextmanager
def held_run(s: Settings) -> Iterator[tuple[RunFolder, tuple[int, ...]]]:
    """`open_run`, with the folder kept from any other command, before anything is written into it.

    Yields the descriptors of the lock too: a process that inherits them holds the folder as long as it lives.
    """
    path = locate_run(s).path
    path.mkdir(parents=True, exist_ok=True)
    with sole_use(path, "wait for it, stop it, or choose another run.name") as lock:
        yield open_run(s), lock


def open_run(s: Settings) -> RunFolder:
    """Creates the folder of these settings, or goes on in it; refuses one that holds another recipe."""
    folder, origin = locate_run(s), origin_of(s)
    new = recipe(s, _digest(s), _deciding(origin))
    old, problem = read_object(folder.recipe_file)
    if problem:
        raise RunFolderError(
            f"{problem}, so nothing tells whose run this is: choose another run.name, or delete that file if "
            "the folder is of these very settings"
        )
    if old:
        lines = difference(old, parse_json(json.dumps(new)))
        if lines:
            raise RunFolderError(
                f"{folder.path} holds a run of another recipe:\n- " + "\n- ".join(lines)
                + "\nchoose another run.name (RUN=name), or none to have one made from the recipe"
            )  # fmt: skip
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.recipe_file, new)
    if origin:
        write_json(folder.origin_file, asdict(origin))
    write_whole(folder.manifest_file, (data_folder(s) / MANIFEST).read_bytes())
    write_whole(folder.settings_file, settings_yaml(s).encode())
    return folder


def _deciding(origin: Origin | None) -> dict[str, Any] | None:
    return origin.deciding() if origin else None


def _digest(s: Settings) -> str:
    path = data_folder(s) / MANIFEST
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: no prepared data there; run `make prepare` with the same settings")
    return file_sha256(path)
