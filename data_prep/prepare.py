"""The data stage: `python -m data_prep.prepare [overrides]`. Raw text to the token store, on all cores.

Goes on where it was cut, does nothing where the store is complete, rebuilds what is missing or damaged.
"""

import errno
import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bert_lamb.data.manifest import MANIFEST, write_manifest
from bert_lamb.data.store import SPLITS
from bert_lamb.settings import DataSettings, Settings, command
from data_prep.reading.slices import Plan, Slice, payloads
from data_prep.reading.sources import source_files
from data_prep.shards.make import WORK, ShardRecord, read_record, split_of
from data_prep.shards.tokenizer import TRAINING_BYTES, Vocabulary, given_vocabulary, train_vocabulary
from data_prep.store.duplicates import mark_duplicates
from data_prep.store.finish import make_manifest
from data_prep.store.plan_file import kept_plan, one_task_reads, slices_of_part
from data_prep.store.pool import Progress, core_count, records_in_order, run_slices
from data_prep.store.repair import check_finished
from data_prep.store.resume import PrepareError, asked_for, begin, deciding_settings, earlier_begun
from data_prep.text.records import Document, cleaned_texts, records
from data_prep.text.rules import Rules
from data_prep.text.sentences import clean

log = logging.getLogger(__name__)
EXIT_STOPPED = 75  # asked to stop, as the training stages say it: run the same command again
HOPELESS_RECORDS, HOPELESS_SHARE = (
    1000,
    0.5,
)  # so many first records, so many of them bad: no need to read the rest


@command
def main(s: Settings) -> None:
    """Prepares what the settings name."""
    with worded_errors(s.data):
        prepare(s.data, Path(s.data.root) / s.data.name)


@contextmanager
def worded_errors(data: DataSettings) -> Iterator[None]:
    """Asked to stop, or the disk fails: one message each."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        log.info("prepare was stopped; finished shards are kept, the same command goes on")
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise PrepareError(
                f"{error} (reading data.paths or writing below data.root={data.root}); finished shards are kept"
            ) from error
        raise PrepareError(
            f"no space left below data.root={data.root}: free some, or choose another data.root; finished "
            "shards are kept, the same command goes on"
        ) from error


def prepare(data: DataSettings, folder: Path) -> None:
    """Makes the token store in `folder`, whole, or the shards of one part of it."""
    given = given_vocabulary(data) if data.vocab else None
    settings = deciding_settings(data, given)
    if (folder / MANIFEST).is_file():
        check_finished(data, folder, settings, given)
        return
    plan, vocabulary = begun(data, folder, settings, given)
    if data.part is not None:
        make_part(data, folder, plan)
        return
    finished = make_shards(data, folder, plan.slices)
    check_rejects(data, [finished[n] for n in sorted(finished)], len(plan.damages), folder)
    manifest = make_manifest(folder, data, settings, plan, vocabulary, [finished[n] for n in sorted(finished)])
    check_size(manifest)
    write_manifest(folder, manifest)
    clear_work(folder)
    for note in manifest["notes"]:
        log.info("note: %s", note)
    log.info("%s", summary(manifest, folder))


def begun(
    data: DataSettings, folder: Path, settings: dict[str, Any], given: Vocabulary | None
) -> tuple[Plan, Vocabulary]:
    """Plan and vocabulary, as another task or an earlier run left them, else made now."""
    files, rules = source_files(data), Rules(data)
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    with one_task_reads(folder):
        plan = kept_plan(folder, data, settings, files, data.processes or core_count())
        check_input(data, plan)
        check_space(data, plan, folder)
        for name in (*SPLITS, "rejects"):
            (folder / name).mkdir(exist_ok=True)
        asked = asked_for(data, settings, plan)
        earlier = earlier_begun(folder, asked)
        if data.deduplicate:
            mark_duplicates(data, asked, folder, plan)
        return plan, begin(folder, asked, earlier, lambda: given or train_on(data, plan, rules))


def make_part(data: DataSettings, folder: Path, plan: Plan) -> None:
    """The shards of one part; the others' and the manifest are left to other tasks."""
    try:
        made = make_shards(data, folder, slices_of_part(plan, data.part, data.parts))
    except FileNotFoundError:
        if not (folder / MANIFEST).is_file():
            raise
        log.info("%s was completed by another command meanwhile", folder)
        return
    log.info(
        "data.part=%d of data.parts=%d is done, %d shards; when all are, `prepare` without data.part ends the store",
        data.part, data.parts, len(made),
    )  # fmt: skip


def check_input(data: DataSettings, plan: Plan) -> None:
    """Tells of damages; PrepareError where there is no text."""
    for damage in plan.damages:
        log.warning("damaged input, read as far as it goes: %s", damage)
    if not plan.slices:
        raise PrepareError(
            f"data.paths={data.paths}: no text in these files; {'; '.join(plan.damages) or 'all are empty'}"
        )


def check_space(data: DataSettings, plan: Plan, folder: Path) -> None:
    """Room for tokens (2 bytes for some 4 of text) and spans (13 bytes an instance)."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    tokens = plan.size / 4
    expected = 2 * tokens + sum(13 * data.passes * tokens / (0.7 * length) for length in data.seq_lens)
    free = shutil.disk_usage(there).free
    already = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.exists() else 0
    if expected - already > free:
        raise PrepareError(
            f"data.root={data.root}: about {expected / 1e9:.1f} GB are needed there, {free / 1e9:.1f} GB are "
            "free; choose another data.root, or fewer data.passes"
        )


def train_on(data: DataSettings, plan: Plan, rules: Rules) -> Vocabulary:
    """A vocabulary from the first training documents of every slice."""
    log.info("training a vocabulary of %d entries on up to %d MB", data.vocab_size, TRAINING_BYTES // 1_000_000)
    return train_vocabulary(training_texts(data, plan, rules), data)


def training_texts(data: DataSettings, plan: Plan, rules: Rules) -> Iterator[str]:
    """Up to TRAINING_BYTES, the same share of every slice; nothing that is held out."""
    quota = -(-TRAINING_BYTES // len(plan.slices))
    found = False
    for part, texts in payloads(plan.slices, data):
        left, duplicates = quota, frozenset(part.duplicates.tolist())
        for place, text in enumerate(cleaned_texts(part, texts, data)):
            if place in duplicates or rules.judge(text)[0]:
                continue
            if split_of(text, data.heldout_share) == "train":
                found = True
                yield text[:left]
                left -= len(text)
                if left <= 0:
                    break
    if not found:
        raise PrepareError(
            f"no usable document in the input, so no vocabulary can be trained{why_none(data, plan, rules)}"
        )


def why_none(data: DataSettings, plan: Plan, rules: Rules) -> str:
    """The first reason why a record was not taken, as a hint."""
    for part, texts in payloads(plan.slices[:1], data):
        for item in records(part, texts, data):
            if not isinstance(item, Document):
                return f"; the first record, {item.file} line {item.line}: {item.reason} ({item.sample})"
            if reason := rules.judge(clean(item.text))[0]:
                return f"; the first document, {item.id}, is left out: {reason}"
    return ""


def make_shards(data: DataSettings, folder: Path, slices: list[Slice]) -> dict[int, ShardRecord]:
    """A shard of each of these slices; those that are there already are kept."""
    finished = {s.number: r for s in slices if (r := read_record(folder, s.number))}
    todo = [s for s in slices if s.number not in finished]
    if finished:
        log.info("going on: %d of %d shards are finished", len(finished), len(slices))
    workers = min(data.processes or core_count(), max(1, len(todo)))
    log.info(
        "%d shard%s of %.1f MB to make with %d process%s into %s",
        len(todo), "s" * (len(todo) != 1), sum(s.size for s in todo) / 1e6,
        workers, "es" * (workers != 1), folder,
    )  # fmt: skip
    sizes = {s.number: s.size for s in slices}
    whole = sum(sizes.values())
    progress = Progress(whole, whole - sum(s.size for s in todo))

    def done(record: ShardRecord) -> None:
        finished[record.number] = record
        progress.add(sizes[record.number])
        check_hopeless(data, list(records_in_order(finished)), folder)

    run_slices(folder, data, todo, done)
    progress.end()
    return finished


def check_hopeless(data: DataSettings, first: list[ShardRecord], folder: Path) -> None:
    """Stops early where most of the input is bad; looks at shards in order, so the verdict never varies."""
    total, rejected = sum(r.records for r in first), sum(sum(r.rejects.values()) for r in first)
    if total >= HOPELESS_RECORDS and rejected > max(HOPELESS_SHARE, data.max_reject_share) * total:
        raise PrepareError(rejects_message(data, first, 0, folder))


def check_rejects(data: DataSettings, shards: list[ShardRecord], damaged: int, folder: Path) -> None:
    """Stops where more records were rejected than the settings allow."""
    total, rejected = sum(r.records for r in shards), sum(sum(r.rejects.values()) for r in shards)
    if rejected + damaged > data.max_reject_share * (total + damaged):
        raise PrepareError(rejects_message(data, shards, damaged, folder))


def rejects_message(data: DataSettings, shards: list[ShardRecord], damaged: int, folder: Path) -> str:
    reasons: dict[str, int] = {"damaged file": damaged} if damaged else {}
    for record in shards:
        for reason, count in record.rejects.items():
            reasons[reason] = reasons.get(reason, 0) + count
    lines = [f"- {count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))]
    return (
        f"{sum(reasons.values())} of {sum(r.records for r in shards)} records cannot be used, more than "
        f"data.max_reject_share={data.max_reject_share} allows:\n" + "\n".join(lines) + f"\nSamples with file and "
        f"line: {folder / 'rejects'}. Mend the input, or raise data.max_reject_share; the rest is kept."
    )


def check_size(manifest: dict[str, Any]) -> None:
    """A store that nothing can be trained on is none."""
    counts = manifest["counts"]
    left_out = ", ".join(f"{count} x {reason}" for reason, count in manifest["left_out"].items())
    for length, passes in manifest["instances"]["train"].items():
        if not all(p["instances"] for p in passes):
            raise PrepareError(
                f"the text gives no pair of sentences for data.seq_lens={length}: "
                f"{counts['documents']} documents with {counts['sentences']} sentences are left for training; "
                f"give more text{f' (left out by rules: {left_out})' if left_out else ''}"
            )


def clear_work(folder: Path) -> None:
    """Removes what only an unfinished store needs, and what a kill left half-written."""
    shutil.rmtree(folder / WORK)
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def summary(manifest: dict[str, Any], folder: Path) -> str:
    """What there is now, in a few lines."""
    counts, train = manifest["counts"], manifest["instances"]["train"]
    pairs = ", ".join(f"{passes[0]['instances']:,} of length {length}" for length, passes in train.items())
    return (
        f"{folder}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, {pairs} a pass; "
        f"{counts['heldout_documents']:,} documents held out; {counts['rejected']:,} records rejected; "
        f"unigram entropy {manifest['unigram_entropy_nats']:.3f} nats"
    )


if __name__ == "__main__":
    main()
