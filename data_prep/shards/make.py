"""One slice to one shard, which depends on its slice and the settings alone."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.manifest_form import is_store_file
from bert_lamb.data.store import (
    SPLITS,
    Documents,
    Spans,
    write_documents,
    write_spans,
)
from bert_lamb.files import file_sha256, write_whole
from bert_lamb.jsonfiles import read_object
from bert_lamb.settings import DataSettings
from data_prep.reading.slices import Slice
from data_prep.shards.encoder import Encoder, Tokenised, tokenised
from data_prep.shards.folder import StoreFolder
from data_prep.shards.instances import SPECIAL_PER_SEQUENCE, make_instances
from data_prep.shards.unknown import Unknown
from data_prep.text.document import SAMPLE_LENGTH, Document, Gaps, LeftOut, Reject, most_frequent
from data_prep.text.records import records
from data_prep.text.rules import Rules
from data_prep.text.sentences import clean, signature

DUPLICATE = "the same text as an earlier document"
KEPT_TEMPLATES = 1000  # names counted per slice
KEPT_UNKNOWN = 100  # characters and words counted per slice
KEPT_REJECTS = 100  # samples kept per slice and reason


@dataclass
class ShardRecord:
    """What the manifest must know of one shard."""

    number: int
    records: int = 0  # documents and rejects
    rejects: dict[str, int] = field(default_factory=dict)  # reason: number
    left_out: dict[str, int] = field(default_factory=dict)  # by a rule, no part of `records`
    squad_documents: int = 0  # that hold a paragraph of the SQuAD file, left out or not
    squad_paragraphs: list[int] = field(default_factory=list)  # that they hold, by number
    gap_templates: dict[str, int] = field(default_factory=dict)  # of a dump: what left gaps in sentences, most frequent
    gap_sentences: int = 0  # that lack what such a template or formula shows
    gap_paragraphs: int = 0
    open_references: int = 0  # of a dump: that are never closed
    counts: dict[str, int] = field(default_factory=dict)
    unknown_characters: dict[str, int] = field(default_factory=dict)  # of a sample; see unknown.Unknown
    unknown_words: dict[str, int] = field(default_factory=dict)
    unknown_too_long: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path: sha256, rows, tokens
    instances: dict[str, dict[str, list[dict[str, int]]]] = field(default_factory=dict)  # split: length: passes
    source_pairs: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # of a mix: length: source: all, random
    pairless: list[str] = field(default_factory=list)  # splits with fewer than two documents


def read_record(folder: StoreFolder, number: int) -> ShardRecord | None:
    """The record of a finished shard; None where there is none, or a file is not as it was written."""
    value, _ = read_object(folder.record_file(number), _is_record)
    if value is None:
        return None
    record = ShardRecord(**value)
    files = {folder.path / name: about["sha256"] for name, about in record.files.items()}
    whole = all(file.is_file() and file_sha256(file) == sha256 for file, sha256 in files.items())
    return record if whole else None


def _is_record(value: dict[str, Any]) -> bool:
    """Whether an object is a record as it is written here: no other fields, each of its kind, files of a store."""
    kinds = {name: type(kind) for name, kind in vars(ShardRecord(0)).items()}
    files = value.get("files")
    return (
        "number" in value
        and value.keys() <= kinds.keys()
        and all(type(held) is kinds[name] for name, held in value.items())
        and isinstance(files, dict)
        and all(is_store_file(n) and isinstance(a, dict) and isinstance(a.get("sha256"), str) for n, a in files.items())
    )


class SplitBuilder:
    """Collects the documents of one split of one shard."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.titles: list[str] = []
        self.pieces: list[np.ndarray] = []
        self.token_counts: list[int] = []
        self.sentence_ends: list[np.ndarray] = []

    def add(self, document: Document, made: Tokenised) -> None:
        self.ids.append(document.id)
        self.titles.append(document.title)
        self.pieces.append(made.ids)
        self.token_counts.append(len(made.ids))
        self.sentence_ends.append(np.cumsum(made.lengths, dtype=np.uint32))

    def documents(self) -> Documents:
        return Documents(
            ids=self.ids,
            tokens=np.concatenate(self.pieces),
            token_starts=np.cumsum([0, *self.token_counts], dtype=np.int64),
            sentence_ends=np.concatenate(self.sentence_ends),
            sentence_starts=np.cumsum([0, *map(len, self.sentence_ends)], dtype=np.int64),
            titles=self.titles if any(self.titles) else None,
        )


def make_shard(
    folder: StoreFolder, data: DataSettings, encoder: Encoder, rules: Rules, part: Slice, texts: list[bytes | None]
) -> ShardRecord:
    """Writes every file of one shard, its record last."""
    record = ShardRecord(part.number)
    splits = {split: SplitBuilder() for split in SPLITS}
    rejects, gaps, unknown = Rejects(), Gaps(), Unknown()
    for item in judged(records(part, texts, data), rules, frozenset(part.duplicates.tolist())):
        record.squad_documents += bool(item.squad)
        record.squad_paragraphs += item.squad
        record.records += item.records
        if isinstance(item.found, Reject):
            rejects.add(item.found)
            continue
        made = tokenised(item.found.text, data.language, encoder)
        if made.lengths:
            splits[split_of(item.found.text, data.heldout_share)].add(item.found, made)
            gaps.add(item.found.gaps)
            unknown.read(made.sentences_with(encoder.unknown), encoder.tokenizer)
        else:
            rejects.add(Reject(item.found.id, 0, "no token in it", item.found.text[:SAMPLE_LENGTH]))
    for split, builder in splits.items():
        if builder.ids:
            documents = builder.documents()
            write_split(folder, data, split, documents, record)
            record.counts[f"{split}_unknown_tokens"] = int(np.count_nonzero(documents.tokens == encoder.unknown))
    record.squad_paragraphs = sorted(set(record.squad_paragraphs))
    record.rejects, record.left_out = rejects.counts(Reject), rejects.counts(LeftOut)
    record.gap_sentences, record.gap_paragraphs = gaps.sentences, gaps.paragraphs
    record.open_references = gaps.open_references
    record.gap_templates = most_frequent(gaps.templates, KEPT_TEMPLATES)
    record.unknown_characters = most_frequent(unknown.characters, KEPT_UNKNOWN)
    record.unknown_words = most_frequent(unknown.words, KEPT_UNKNOWN)
    record.unknown_too_long = unknown.too_long
    write_rejects(folder, part.number, rejects.samples)
    write_whole(folder.record_file(part.number), json.dumps(asdict(record)).encode())
    return record


@dataclass
class Judged:
    """One record after the rules: a cleaned document, or why it is none."""

    found: Document | Reject
    records: int  # that it was made of; 0 where a rule left it out
    squad: list[int] = field(default_factory=list)  # numbers of the SQuAD paragraphs that it holds


def judged(found: Iterator[Document | Reject], rules: Rules, duplicates: frozenset[int]) -> Iterator[Judged]:
    """Every record in order, its text cleaned; `duplicates` are places among the documents that are not empty."""
    place = -1  # as cleaned_texts counts
    for item in found:
        if isinstance(item, Reject):
            yield Judged(item, records=not isinstance(item, LeftOut))
            continue
        cleaned = clean(item.text)
        if not cleaned:
            yield Judged(Reject(item.id, 0, "empty", ""), item.records)
            continue
        place += 1
        reason, held = (DUPLICATE, []) if place in duplicates else rules.judge(cleaned)
        if reason:
            yield Judged(LeftOut(item.id, item.line, reason, cleaned[:SAMPLE_LENGTH]), 0, held)
        else:
            yield Judged(replace(item, text=cleaned), item.records, held)


class Rejects:
    """What is no document of one slice: counted by reason, and the first samples of each reason."""

    def __init__(self) -> None:
        self.samples: list[Reject] = []
        self._counts: dict[type[Reject], Counter[str]] = {Reject: Counter(), LeftOut: Counter()}

    def add(self, item: Reject) -> None:
        counts = self._counts[type(item)]
        counts[item.reason] += 1
        if counts[item.reason] <= KEPT_REJECTS:
            self.samples.append(item)

    def counts(self, kind: type[Reject]) -> dict[str, int]:
        """Reason: number, in the order of the alphabet."""
        return dict(sorted(self._counts[kind].items()))


def split_of(cleaned: str, heldout_share: float) -> str:
    """Train or held out, by a hash of the text: equal texts never stand on both sides."""
    return "heldout" if signature(cleaned) < heldout_share * 2**64 else "train"


def write_split(folder: StoreFolder, data: DataSettings, split: str, documents: Documents, record: ShardRecord) -> None:
    """Writes one documents file and its instance tables, and counts them in the record."""
    path = folder.documents_file(split, record.number)
    write_documents(path, documents)
    record.files[folder.name_of(path)] = about_file(path, len(documents.ids), len(documents.tokens))
    record.counts[f"{split}_documents"] = len(documents.ids)
    record.counts[f"{split}_sentences"] = len(documents.sentence_ends)
    record.counts[f"{split}_tokens"] = len(documents.tokens)
    sentence_counts = np.diff(documents.sentence_starts)
    record.counts[f"{split}_one_sentence_documents"] = int(np.count_nonzero(sentence_counts == 1))
    ends = documents.sentence_ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    firsts = documents.sentence_starts[:-1]
    lengths[firsts] = ends[firsts]  # ends count from the document's first token
    for seq_len in data.seq_lens:  # sentences that leave no room for another one beside them
        full = int(np.count_nonzero(lengths >= seq_len - SPECIAL_PER_SEQUENCE))
        record.counts[f"{split}_sentences_of_{seq_len}"] = full
    add_instances(folder, data, split, documents, record)


def add_instances(
    folder: StoreFolder, data: DataSettings, split: str, documents: Documents, record: ShardRecord
) -> None:
    """Writes the instance tables of one documents file. Held-out documents are cut once."""
    if len(documents.ids) < 2:
        record.pairless.append(split)
    for seq_len in data.seq_lens:
        entries = record.instances.setdefault(split, {}).setdefault(str(seq_len), [])
        for pass_ in range(data.passes if split == "train" else 1):
            path, spans = write_instances(folder, data, split, record.number, documents, seq_len, pass_)
            tokens = int(spans.lengths.sum())
            record.files[folder.name_of(path)] = about_file(path, len(spans), tokens)
            random_next = len(spans) - int(spans.is_next.sum())
            entries.append({"pass": pass_, "instances": len(spans), "tokens": tokens, "random_next": random_next})
            if data.mix and split == "train":
                add_source_pairs(documents, spans, record.source_pairs.setdefault(str(seq_len), {}))


def add_source_pairs(documents: Documents, spans: Spans, pairs: dict[str, list[int]]) -> None:
    """Counts pairs, and those with a random B, by the source of a mix that A is from: the first part of its id."""
    owners = np.searchsorted(documents.token_starts, spans.a_start, side="right") - 1
    per_document = np.bincount(owners, minlength=len(documents.ids))
    random = np.bincount(owners, spans.is_next == 0, minlength=len(documents.ids)).astype(np.int64)
    for id_, count, random_next in zip(documents.ids, per_document.tolist(), random.tolist(), strict=True):
        found = pairs.setdefault(id_.split("/", 1)[0], [0, 0])
        found[0] += count
        found[1] += random_next


def write_instances(
    folder: StoreFolder, data: DataSettings, split: str, number: int, documents: Documents, seq_len: int, pass_: int
) -> tuple[Path, Spans]:
    """Cuts and writes one instance table of shard `number`."""
    spans = make_instances(documents, seq_len, data.short_share, (data.seed, split, pass_, number))
    path = folder.spans_file(split, seq_len, pass_, number)
    write_spans(path, spans)
    return path, spans


def about_file(path: Path, rows: int, tokens: int) -> dict[str, Any]:
    """The manifest's entry of one file."""
    return {"sha256": file_sha256(path), "rows": rows, "tokens": tokens}


def write_rejects(folder: StoreFolder, number: int, rejects: list[Reject]) -> None:
    """Samples of what was dropped, one JSON object a line; no file where nothing was."""
    path = folder.rejects_file(number)
    if rejects:
        lines = [json.dumps(asdict(r), ensure_ascii=False) for r in rejects]
        write_whole(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    else:
        path.unlink(missing_ok=True)
