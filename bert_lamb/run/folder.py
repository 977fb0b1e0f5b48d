"""The run folder: what lies where, and the rule that one folder holds one recipe.

runs/<experiment>-<recipe hash>/
  settings.yaml data_manifest.json machine.json plan.json recipe.json events.jsonl
  phase1/  metrics.jsonl  checkpoints/step-000500/  result.json (last: done)
  phase2/  the same       squad/<arm>-<hash>-seed0/  report/
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_lamb.files import drop_half_line, file_sha256, write_whole
from bert_lamb.settings import Settings, difference, read_settings, recipe, recipe_hash, settings_yaml


class RunFolderError(Exception):
    """A run folder that these settings must not touch."""

    for_people = True


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and its small files."""

    path: Path

    def phase(self, number: int) -> Path:
        return self.path / f"phase{number}"

    def phase_result(self, number: int) -> dict[str, Any] | None:
        """A finished phase's result.json, else None."""
        path = self.phase(number) / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def finish_phase(self, number: int, result: dict[str, Any]) -> None:
        """Written last: its presence says that the phase is done."""
        self.write_json(f"phase{number}/result.json", result)

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
        return read_settings(self.path / "settings.yaml")

    def manifest(self) -> dict[str, Any]:
        """The copy of the data's manifest."""
        return json.loads((self.path / "data_manifest.json").read_text())

    def write_json(self, name: str, value: Any) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps any other command from training in this folder; the lock ends with the process."""
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"{self.path} is in use by another process: wait for it, stop it, or choose another run.name"
                ) from None
            yield

    def event(self, kind: str, **details: Any) -> None:
        """Appends to events.jsonl: starts, resumes, skips, whatever a report should tell."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **details}
        path = self.path / "events.jsonl"
        drop_half_line(path)
        with path.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def data_folder(s: Settings) -> Path:
    """Where the settings' token store lies."""
    return Path(s.data.root) / s.data.name


def locate_run(s: Settings) -> RunFolder:
    """The folder that belongs to these settings, whether it exists or not; needs prepared data."""
    name = s.run.name or f"{s.experiment}-{recipe_hash(recipe(s, _digest(s)))}"
    return RunFolder(Path(s.run.root) / name)


def open_run(s: Settings) -> RunFolder:
    """Creates the folder of these settings, or goes on in it; refuses one that holds another recipe."""
    folder = locate_run(s)
    new = recipe(s, _digest(s))
    recipe_path = folder.path / "recipe.json"
    if recipe_path.is_file():
        lines = difference(json.loads(recipe_path.read_text()), json.loads(json.dumps(new)))
        if lines:
            raise RunFolderError(
                f"{folder.path} holds a run of another recipe:\n- " + "\n- ".join(lines)
                + "\nchoose another run.name (RUN=name), or none to have one made from the recipe"
            )  # fmt: skip
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("recipe.json", new)
    write_whole(folder.path / "data_manifest.json", (data_folder(s) / "manifest.json").read_bytes())
    write_whole(folder.path / "settings.yaml", settings_yaml(s).encode())
    return folder


def _digest(s: Settings) -> str:
    path = data_folder(s) / "manifest.json"
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: no prepared data there; run `make prepare` with the same settings")
    return file_sha256(path)
