"""A store that has its manifest: is it the one asked for? Files missing or damaged are made again."""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from bert_lamb.data.manifest import read_manifest, verify_store
from bert_lamb.data.store import read_documents
from bert_lamb.data.vocabulary import VOCABULARY
from bert_lamb.files import file_sha256, write_whole
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.dataset_rows import input_files
from data_prep.reading.hub_files import HubError
from data_prep.reading.slices import plan_input
from data_prep.reading.sources import SourceError
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import write_instances
from data_prep.shards.tokenizer import Vocabulary
from data_prep.store.duplicates import mark_duplicates
from data_prep.store.finish import write_questions
from data_prep.store.pool import core_count, run_slices
from data_prep.store.resume import PrepareError, asked_for, refuse_other

log = logging.getLogger(__name__)
SHARD_FILE = re.compile(r"(train|heldout)/(?:documents|seq(\d+)-pass(\d+))-(\d+)\.arrow")


def check_finished(data: DataSettings, folder: StoreFolder, settings: dict[str, Any], given: Vocabulary | None) -> None:
    """Says that the store is done, or makes it whole; PrepareError where it is another one."""
    manifest = read_manifest(folder.path)
    refuse_other(folder, manifest, {"settings": settings, "sources": sources_now(data, manifest)})
    if data.part is not None:
        log.info("prepared already: %s; `prepare` without data.part also checks it", folder.path)
        return
    if not verify_store(folder.path, manifest):
        shutil.rmtree(folder.work, ignore_errors=True)
        log.info("prepared already: %s, %s", folder.path, counted(manifest["counts"]["documents"], "document"))
        return
    repair(data, folder, settings, manifest, given)
    problems = verify_store(folder.path, manifest)
    if problems:
        raise PrepareError(
            "rebuilt files differ from the manifest (were they made with other versions of the libraries? "
            f"{manifest.get('libraries')}):\n"
            + "\n".join(f"- {p}" for p in problems)
            + f"\nDelete {folder.path} to prepare it again."
        )
    shutil.rmtree(folder.work, ignore_errors=True)
    log.info("%s is complete again", folder.path)


def sources_now(data: DataSettings, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The inputs by name and size, unread; the manifest's own where they are no longer there."""
    if data.source == "sample":
        return plan_input(data, input_files(data), 1).sources
    try:
        files = input_files(data)
    except (SourceError, HubError):
        return manifest["sources"]  # raw text may be deleted once it is prepared
    return [{"name": file.name, "bytes": Path(file.path).stat().st_size} for file in files]


def repair(
    data: DataSettings,
    folder: StoreFolder,
    settings: dict[str, Any],
    manifest: dict[str, Any],
    given: Vocabulary | None,
) -> None:
    """Makes the files again that are missing or not as the manifest says."""
    bad = [name for name, about in manifest["files"].items() if not is_whole(folder.path / name, about["sha256"])]
    log.info("missing or damaged, made again: %s", ", ".join(sorted(bad)))
    for name in bad:
        (folder.path / name).parent.mkdir(exist_ok=True)
    if VOCABULARY in bad:
        restore_vocabulary(folder, manifest, given)
    if any(name.startswith("squad/") for name in bad):
        write_questions(folder, data)
    shard_files = [match for name in bad if (match := SHARD_FILE.fullmatch(name))]
    slices = {int(m[4]) for m in shard_files if m[2] is None}  # without its documents a shard needs the raw text
    for match in shard_files:
        split, number = match[1], int(match[4])
        if number not in slices:
            documents = read_documents(folder.documents_file(split, number))
            write_instances(folder, data, split, number, documents, int(match[2]), int(match[3]))
    if slices:
        plan = plan_input(data, input_files(data), data.processes or core_count())
        refuse_other(folder, manifest, {"settings": manifest["settings"], "sources": plan.sources})
        folder.make_folders()
        if data.deduplicate:
            mark_duplicates(data, asked_for(data, settings, plan), folder, plan)
        run_slices(folder, data, [s for s in plan.slices if s.number in slices], lambda record: None)


def is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and os.access(path, os.R_OK) and file_sha256(path) == sha256


def restore_vocabulary(folder: StoreFolder, manifest: dict[str, Any], given: Vocabulary | None) -> None:
    """From the given file; a trained one is trained again with the whole store."""
    if given is None or given.sha256 != manifest["tokenizer"]["sha256"]:
        raise PrepareError(
            f"{folder.vocabulary_file} is missing or damaged, and was trained with this store: restore it "
            f"from a copy, or delete {folder.path} to prepare it again"
        )
    write_whole(folder.vocabulary_file, given.content)
