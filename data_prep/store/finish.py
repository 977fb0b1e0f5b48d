"""What stands at the end of a store: the manifest, out of the shards' records."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_lamb.data.store import FORMAT_VERSION, SPLITS, read_documents
from bert_lamb.data.vocabulary import VOCABULARY
from bert_lamb.files import write_whole
from bert_lamb.settings import DataSettings
from bert_lamb.words import counted
from data_prep.reading.slices import Plan
from data_prep.shards.folder import StoreFolder
from data_prep.shards.make import ShardRecord, about_file
from data_prep.shards.tokenizer import Vocabulary
from data_prep.store.findings import random_next_shares, warnings
from data_prep.store.resume import libraries
from data_prep.text.document import most_frequent
from data_prep.text.squad_overlap import read_paragraphs
from data_prep.world import world

COUNTED = ("documents", "sentences", "tokens", "one_sentence_documents", "unknown_tokens")  # of each split
NAMED_FILES = 3  # that a note lists
NAMED_TEMPLATES = 30
NAMED_SHARDS = 20  # shards that a note lists by number


def make_manifest(
    folder: StoreFolder, data: DataSettings, settings: dict[str, Any], plan: Plan, vocabulary: Vocabulary,
    records: list[ShardRecord],
) -> dict[str, Any]:  # fmt: skip
    """The manifest of a complete store."""
    rejects: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    files: dict[str, dict[str, Any]] = {}
    for record in records:
        rejects.update(record.rejects)
        left_out.update(record.left_out)
        totals.update(record.counts)
        files |= record.files
    if plan.damages:
        rejects["damaged file"] += len(plan.damages)
    files[VOCABULARY] = about_file(folder.vocabulary_file, len(vocabulary.entries), 0)
    if data.source == "sample":
        files |= write_questions(folder, data)
    counts = {name: totals[f"train_{name}"] for name in COUNTED}
    counts |= {f"heldout_{name}": totals[f"heldout_{name}"] for name in COUNTED}
    squad = {"squad": squad_overlap(data, records)} if data.squad else {}
    counts |= {"records": sum(r.records for r in records), "rejected": sum(rejects.values())}
    instances = {split: add_up(split, records, data) for split in SPLITS}
    manifest = squad | {
        "format_version": FORMAT_VERSION,
        "settings": settings,
        "sources": plan.sources,
        "tokenizer": vocabulary.about(),
        "libraries": libraries(data),
        "split_rule": f"held out: BLAKE2b-64 of the cleaned text, over 2^64, below {data.heldout_share}",
        "counts": counts,
        "rejects": dict(rejects),
        "left_out": dict(left_out),
        "unigram_entropy_nats": unigram_entropy(folder, files, len(vocabulary.entries)),
        "files": files,
        "instances": instances,
        "random_next_share": random_next_shares(instances, records),
        "notes": notes(data, plan, vocabulary, records, counts)
        + squad_notes(data, squad)
        + gap_notes(records, data.gaps == "drop"),
    }
    return manifest | {"warnings": warnings(data, manifest, records)}


def squad_overlap(data: DataSettings, records: list[ShardRecord]) -> dict[str, int]:
    """How much of the SQuAD file stands in the corpus."""
    assert data.squad
    return {
        "paragraphs": len(read_paragraphs(data.squad)),
        "paragraphs_held": len({number for record in records for number in record.squad_paragraphs}),
        "documents": sum(record.squad_documents for record in records),
    }


def squad_notes(data: DataSettings, squad: dict[str, dict[str, int]]) -> list[str]:
    """What became of the documents that hold SQuAD's paragraphs."""
    return [
        f"{about['documents']} documents hold {about['paragraphs_held']} of {about['paragraphs']} paragraphs of the "
        f"SQuAD file; they are {'left out' if data.leave_out_squad else 'in the corpus'}."
        for about in squad.values()
    ]


def gap_notes(records: list[ShardRecord], dropped: bool) -> list[str]:
    """What is missing in the sentences of a dump, and by which templates or kinds of formula."""
    found: list[str] = []
    names: Counter[str] = Counter()
    for record in records:
        names.update(record.gap_templates)
    if names:
        listed = ", ".join(f"{name} ({count})" for name, count in most_frequent(names, NAMED_TEMPLATES).items())
        sentences, paragraphs = sum(r.gap_sentences for r in records), sum(r.gap_paragraphs for r in records)
        became = "were left out, since they lack" if dropped else "lack"
        found.append(
            f"{sentences} sentences in {paragraphs} paragraphs {became} the text of templates that are in no table, or "
            f"of formulas: {listed}. data.templates can name a file that says what templates show."
        )
    if left_open := sum(r.open_references for r in records):
        many = counted(left_open, "reference was", "references were")
        found.append(f"{many} never closed: each costs at most the rest of a sentence.")
    return found


def add_up(split: str, records: Iterable[ShardRecord], data: DataSettings) -> dict[str, list[dict[str, int]]]:
    """Instances of a split by length and pass, over all shards."""
    passes = data.passes if split == "train" else 1
    total = {
        str(length): [{"pass": p, "instances": 0, "tokens": 0, "random_next": 0} for p in range(passes)]
        for length in data.seq_lens
    }
    for record in records:
        for length, entries in record.instances.get(split, {}).items():
            for entry in entries:
                for name in ("instances", "tokens", "random_next"):
                    total[length][entry["pass"]][name] += entry[name]
    return total


def unigram_entropy(folder: StoreFolder, files: dict[str, Any], vocab_size: int) -> float:
    """Entropy of the train tokens' frequencies, in nats: the MLM loss of a model that knows these alone."""
    counts = np.zeros(vocab_size, np.int64)
    for name in sorted(files):
        if name.startswith("train/documents-"):
            counts += np.bincount(read_documents(folder.path / name).tokens, minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return round(float(-(shares * np.log(shares)).sum()), 6)  # rounded: sums differ in the last bits between CPUs


def notes(
    data: DataSettings, plan: Plan, vocabulary: Vocabulary, records: list[ShardRecord], counts: dict[str, int]
) -> list[str]:
    """What a reader should know, in plain sentences."""
    found = [f"Damaged input: {damage}." for damage in plan.damages]
    if counts["rejected"]:
        found.append(f"{counts['rejected']} of {counts['records']} records were rejected; samples are in rejects/.")
    lists: dict[int, list[str]] = {}
    for file in sorted({f.file for f in plan.files if f.file.sentences}, key=lambda f: (f.sentences, f.name)):
        lists.setdefault(file.sentences, []).append(file.name)
    for sentences, names in lists.items():
        found.append(
            f"Lists of sentences: {_first(names, NAMED_FILES)}. {sentences} consecutive ones are a document, "
            "whatever book they are from."
        )
    if vocabulary.trained and len(vocabulary.entries) < data.vocab_size:
        found.append(f"The text gave {len(vocabulary.entries)} vocabulary entries; {data.vocab_size} were asked for.")
    for split in SPLITS:
        numbers = [str(r.number) for r in records if split in r.pairless]
        if numbers:
            found.append(
                f"Shards of {split} with one document, hence without random pairs: {len(numbers)} "
                f"({_first(numbers, NAMED_SHARDS)})."
            )
    if not counts["heldout_documents"]:
        found.append("No document is held out: there will be no held-out loss.")
    return found


def _first(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def write_questions(folder: StoreFolder, data: DataSettings) -> dict[str, dict[str, Any]]:
    """The embedded world's questions in SQuAD's layout."""
    files = {}
    for split in ("train", "dev"):
        squad = world.questions(data.seed, split)
        path = folder.questions_file(split)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(squad, ensure_ascii=False).encode())
        rows = sum(len(p["qas"]) for article in squad["data"] for p in article["paragraphs"])
        files[folder.name_of(path)] = about_file(path, rows, 0)
    return files
