"""The verification: `python -m bert_lamb.verify [overrides]`, or `... FOLDER...` for any run folders.

Hashes everything again, whatever was hashed before: the prepared data against its manifest, every checkpoint and every
fine-tuned arm of the run against its SHA256SUMS. A disk that loses a bit changes no time of a file. Changes nothing.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bert_lamb.checksums import changed_files
from bert_lamb.data.manifest import MANIFEST, read_manifest
from bert_lamb.data.store import StoreError
from bert_lamb.errors import UserError
from bert_lamb.files import file_sha256
from bert_lamb.jsonfiles import read_lines, read_object
from bert_lamb.run import (
    RunFolder,
    damage,
    data_folder,
    is_event,
    is_metrics_line,
    is_phase_result,
    list_checkpoints,
    locate_run,
)
from bert_lamb.settings import Settings, command, recipe_hash
from bert_lamb.words import counted


class VerifyError(UserError):
    """What is damaged or missing, file by file."""


def verify(s: Settings) -> None:
    """The prepared data and the run that these settings name."""
    store = data_folder(s)
    wrong = verify_store_again(store)
    if (store / MANIFEST).is_file():
        wrong += verify_run(locate_run(s), store)
    finish(wrong)


def verify_folders(paths: list[Path]) -> None:
    """Run folders, and the prepared data that each one read, where it is here."""
    wrong = []
    for path in paths:
        folder = RunFolder(path)
        if not folder.settings_file.is_file():
            raise VerifyError(f"{path} is not a run folder: it has no settings.yaml")
        store = data_folder(folder.settings())
        if store.is_dir():
            wrong += verify_store_again(store)
        wrong += verify_run(folder, store)
    finish(wrong)


def finish(wrong: list[str]) -> None:
    """Nothing, or VerifyError with the whole list."""
    if wrong:
        count = "1 file is" if len(wrong) == 1 else f"{len(wrong)} files are"
        raise VerifyError(f"{count} damaged or missing:\n- " + "\n- ".join(wrong))


def verify_store_again(store: Path) -> list[str]:
    """Every file of the manifest, whatever its stamp says."""
    try:
        files = read_manifest(store)["files"]
    except StoreError as error:
        return told(store, 0, [str(error)])
    sums = {name: about["sha256"] for name, about in files.items()}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        changed = pool.map(lambda name: changed_files(store, sums, [name]), sums)
        wrong = [f"{store / name} does not match the manifest" for names in changed for name in names]
    return told(store, len(files), wrong)


def verify_run(folder: RunFolder, store: Path) -> list[str]:
    """Small files, checkpoints and arms of a run; nothing where it has not begun."""
    if not folder.settings_file.is_file():
        print(f"{folder.path}: no run there yet")
        return []
    wrong = _small_files(folder, store)
    print(f"{folder.path}: records, " + (f"{len(wrong)} damaged" if wrong else "readable and of one recipe"))
    for number in (1, 2):
        for path in list_checkpoints(folder.checkpoints(number)):
            found = damage(path)
            if path.is_dir():  # else a run that is at work has deleted it meanwhile
                wrong += told(path, len(list(path.iterdir())), [found] if found else [])
        wrong += _result(folder, number)
    for arm in folder.finished_arms():
        damaged = [f"{arm.path}: {what}" for what in arm.damaged()]
        wrong += told(arm.path, len(list(arm.path.iterdir())), damaged)
    return wrong


def told(part: Path, files: int, wrong: list[str]) -> list[str]:
    """Prints a part's line; returns what is wrong with it."""
    print(f"{part}: {counted(files, 'file')}, " + (f"{len(wrong)} damaged or missing" if wrong else "unchanged"))
    return wrong


def _small_files(folder: RunFolder, store: Path) -> list[str]:
    """Records have no checksums, but must be readable, and of the recipe and the data that the folder is of."""
    objects = [folder.plan_file, folder.machine_file, folder.manifest_file, folder.recipe_file, folder.origin_file]
    wrong = [problem for file in objects if (problem := read_object(file)[1])]
    logs = {folder.events_file: is_event, **{folder.metrics_file(n): is_metrics_line for n in (1, 2)}}
    for file, fits in logs.items():
        if bad := read_lines(file, fits)[1]:
            wrong.append(f"{file}: {counted(len(bad), 'line')} cannot be read")
    recipe: dict[str, Any] = read_object(folder.recipe_file)[0] or {}
    for manifest in (folder.manifest_file, store / MANIFEST):
        if recipe and manifest.is_file() and file_sha256(manifest) != recipe.get("data"):
            wrong.append(f"{manifest} is not the manifest of the data that the run used")
    start = f"{folder.settings().experiment}-"
    named = folder.path.name.removeprefix(start)
    if recipe and re.fullmatch("[0-9a-f]{10}", named) and named != recipe_hash(recipe):
        wrong.append(f"{folder.recipe_file} is not the recipe that the folder is named after")
    return wrong


def _result(folder: RunFolder, number: int) -> list[str]:
    """A phase's result.json, and the checkpoint that it names."""
    result, problem = read_object(folder.result_file(number), is_phase_result)
    if result and not (folder.phase(number) / result["checkpoint"]).is_dir():
        problem = f"{folder.phase(number) / result['checkpoint']} is missing, which result.json names"
    return told(folder.result_file(number), 1, [problem]) if problem else []


def main() -> None:
    """Folders on the command line are verified as they are; anything else is for Hydra."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    if not paths or not all(path.is_dir() for path in paths):
        command(verify)()
        return
    try:
        verify_folders(paths)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
