"""A token store being made, step by step. Each step goes on with what an earlier run, or another task, left."""

import logging
import shutil
from typing import Any

from bert_lamb.data.manifest import write_manifest
from bert_lamb.data.vocabulary import UNKNOWN
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.dataset_rows import input_files, keep_rows
from data_prep.reading.slices import Plan, Slice
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import ShardRecord, read_record
from data_prep.shards.tokenizer import Vocabulary, given_vocabulary
from data_prep.store.duplicates import mark_duplicates
from data_prep.store.finish import make_manifest
from data_prep.store.plan_file import kept_plan, one_task_reads, slices_of_part
from data_prep.store.pool import ProgressBar, core_count, records_in_order, run_slices
from data_prep.store.repair import check_finished
from data_prep.store.resume import asked_for, begin, deciding_settings, earlier_begun
from data_prep.store.verdicts import check_hopeless, check_input, check_rejects, check_size, check_space
from data_prep.store.vocabulary import train_on
from data_prep.text.rules import Rules

log = logging.getLogger(__name__)


class StoreBuild:
    """Its steps in order: `plan`, `vocabulary`, `shards`, `finish`. A store that is complete needs `check` alone."""

    def __init__(self, folder: StoreFolder, data: DataSettings) -> None:
        self.folder, self._data = folder, data
        self._given = given_vocabulary(data) if data.vocab else None
        self._settings = deciding_settings(data, self._given)
        self._plan = Plan([], [])
        self._vocabulary: Vocabulary | None = None
        self._finished: dict[int, ShardRecord] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the store has its manifest."""
        return self.folder.manifest_file.is_file()

    def check(self) -> None:
        """Of a complete store: is it the one asked for? What is missing or damaged is made again."""
        check_finished(self._data, self.folder, self._settings, self._given)

    def plan(self) -> Plan:
        """Reads the input once: checksums, where slices are cut, which documents are duplicates."""
        data, self._rules = self._data, Rules(self._data)
        self.folder.work.mkdir(parents=True, exist_ok=True)
        with one_task_reads(self.folder):
            if data.source == "hf":
                keep_rows(data)
            files = input_files(data)
            self._plan = kept_plan(self.folder, data, self._settings, files, data.processes or core_count())
            check_input(data, self._plan)
            check_space(data, self._plan, self.folder)
            self.folder.make_folders()
            self._asked = asked_for(data, self._settings, self._plan)
            earlier_begun(self.folder, self._asked)  # refuses the folder of another store before more is done
            if data.deduplicate:
                mark_duplicates(data, self._asked, self.folder, self._plan)
        return self._plan

    def vocabulary(self) -> None:
        """The given vocabulary, or one trained on this input; as another task or an earlier run left it, if one did."""
        with one_task_reads(self.folder):
            earlier = earlier_begun(self.folder, self._asked)
            self._vocabulary = begin(
                self.folder, self._asked, earlier, lambda: self._given or train_on(self._data, self._plan, self._rules)
            )

    def shards(self) -> None:
        """A shard of each slice, or of the slices of data.part; those that are there already are kept."""
        data = self._data
        try:
            self._finished = make_shards(data, self.folder, slices_of_part(self._plan, data.part, data.parts))
        except FileNotFoundError:
            if data.part is None or not self.is_complete:
                raise
            log.info("%s has been completed by another command", self.folder.path)

    def finish(self) -> None:
        """Writes the manifest, last of all, and clears the work folder. A part leaves that to the closing command."""
        data, folder = self._data, self.folder
        if self.is_complete:  # by another command, while this one made its part
            return
        if data.part is not None:
            log.info(
                "data.part=%d of data.parts=%d is done (%s); when all parts are done, run `prepare` without "
                "data.part to complete the store",
                data.part,
                data.parts,
                counted(len(self._finished), "shard"),
            )
            return
        assert self._vocabulary is not None
        records = [self._finished[number] for number in sorted(self._finished)]
        check_rejects(data, records, len(self._plan.damages), folder)
        manifest = make_manifest(folder, data, self._settings, self._plan, self._vocabulary, records)
        check_size(manifest)
        write_manifest(folder.path, manifest)
        clear_work(folder)
        for warning in manifest["warnings"]:
            log.warning("%s", warning)
        for note in manifest["notes"]:
            log.info("note: %s", note)
        log.info("%s", summary(manifest, folder))


def make_shards(data: DataSettings, folder: StoreFolder, slices: list[Slice]) -> dict[int, ShardRecord]:
    """A shard of each of these slices; those that are there already are kept."""
    finished = {s.number: r for s in slices if (r := read_record(folder, s.number))}
    todo = [s for s in slices if s.number not in finished]
    if finished:
        log.info("resuming: %d of %s are finished", len(finished), counted(len(slices), "shard"))
    workers = min(data.processes or core_count(), max(1, len(todo)))
    log.info(
        "making %s (%.1f MB of text) with %s in %s",
        counted(len(todo), "shard"),
        sum(s.size for s in todo) / 1e6,
        counted(workers, "process", "processes"),
        folder.path,
    )
    sizes = {s.number: s.size for s in slices}
    whole = sum(sizes.values())
    progress = ProgressBar(whole, whole - sum(s.size for s in todo))

    def done(record: ShardRecord) -> None:
        finished[record.number] = record
        progress.add(sizes[record.number])
        check_hopeless(data, list(records_in_order(finished)), folder)

    run_slices(folder, data, todo, done)
    progress.end()
    return finished


def clear_work(folder: StoreFolder) -> None:
    """Removes what only an unfinished store needs, and what a kill left half-written."""
    shutil.rmtree(folder.work)
    for path in folder.path.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def summary(manifest: dict[str, Any], folder: StoreFolder) -> str:
    """What there is now, in a few lines."""
    counts, train = manifest["counts"], manifest["instances"]["train"]
    pairs = ", ".join(f"{passes[0]['instances']:,} of length {length}" for length, passes in train.items())
    shares = manifest["random_next_share"].get("train", {})
    random_next = ", ".join(f"{share:.1%} of length {length}" for length, share in shares.items())
    return (
        f"{folder.path}: {counted(counts['documents'], 'document')}, {counted(counts['tokens'], 'token')}; pairs per "
        f"pass: {pairs}; {counted(counts['heldout_documents'], 'document')} held out; "
        f"{counted(counts['rejected'], 'record')} rejected; unigram entropy {manifest['unigram_entropy_nats']:.3f} "
        f"nats; B is random in {random_next or 'no pair'}; {UNKNOWN}: "
        f"{counts['unknown_tokens'] / max(1, counts['tokens']):.3%} of the tokens, "
        f"{counts['heldout_unknown_tokens'] / max(1, counts['heldout_tokens']):.3%} of the held-out ones"
    )
