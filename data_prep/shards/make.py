"""One slice to one shard, which depends on its slice and the settings alone."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.store import (
    SPLITS,
    Documents,
    Spans,
    documents_name,
    spans_name,
    write_documents,
    write_spans,
)
from bert_lamb.files import file_sha256, write_whole
from bert_lamb.settings import DataSettings
from data_prep.reading.slices import Slice
from data_prep.shards.encoder import Encoder
from data_prep.shards.instances import make_instances
from data_prep.text.records import SAMPLE_LENGTH, Document, LeftOut, Reject, records
from data_prep.text.rules import Rules
from data_prep.text.sentences import clean, sentences, signature

WORK = ".work"  # below the store: one record per finished shard, gone once the manifest is written
BATCH = 256  # sentences tokenised at a time; larger ones were slower
DUPLICATE = "the same text as an earlier document"
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
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path: sha256, rows, tokens
    instances: dict[str, dict[str, list[dict[str, int]]]] = field(default_factory=dict)  # split: length: passes
    pairless: list[str] = field(default_factory=list)  # splits with fewer than two documents


def record_path(folder: Path, number: int) -> Path:
    return folder / WORK / f"shard-{number:05d}.json"


def read_record(folder: Path, number: int) -> ShardRecord | None:
    """The record of a finished shard; None where there is none, or a file is not as it was written."""
    path = record_path(folder, number)
    if not path.is_file():
        return None
    record = ShardRecord(**json.loads(path.read_text()))
    whole = all(
        (folder / n).is_file() and file_sha256(folder / n) == about["sha256"] for n, about in record.files.items()
    )
    return record if whole else None


class SplitBuilder:
    """Collects the documents of one split of one shard."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.titles: list[str] = []
        self.pieces: list[np.ndarray] = []
        self.token_counts: list[int] = []
        self.sentence_ends: list[np.ndarray] = []

    def add(self, document: Document, sentence_lengths: list[int], tokens: list[int], dtype: np.dtype) -> None:
        self.ids.append(document.id)
        self.titles.append(document.title)
        self.pieces.append(np.array(tokens, dtype))
        self.token_counts.append(len(tokens))
        self.sentence_ends.append(np.cumsum(sentence_lengths, dtype=np.uint32))

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
    folder: Path, data: DataSettings, encoder: Encoder, rules: Rules, part: Slice, texts: list[bytes | None]
) -> ShardRecord:
    """Writes every file of one shard, its record last."""
    record = ShardRecord(part.number)
    splits = {split: SplitBuilder() for split in SPLITS}
    rejects: list[Reject] = []
    reasons: Counter[str] = Counter()
    duplicates = frozenset(part.duplicates.tolist())
    kept = good_documents(records(part, texts, data), rules, duplicates, record, rejects, reasons)
    for document, lengths, tokens in tokenised(kept, data.language, encoder):
        if not tokens:
            add_reject(Reject(document.id, 0, "no token in it", document.text[:SAMPLE_LENGTH]), rejects, reasons)
            continue
        splits[split_of(document.text, data.heldout_share)].add(document, lengths, tokens, encoder.dtype)
    for split, builder in splits.items():
        if builder.ids:
            documents = builder.documents()
            name = f"{split}/{documents_name(part.number)}"
            write_documents(folder / name, documents)
            record.files[name] = about_file(folder / name, len(documents.ids), len(documents.tokens))
            record.counts[f"{split}_documents"] = len(documents.ids)
            record.counts[f"{split}_sentences"] = len(documents.sentence_ends)
            record.counts[f"{split}_tokens"] = len(documents.tokens)
            add_instances(folder, data, split, part.number, documents, record)
    record.rejects = dict(sorted(reasons.items()))
    write_rejects(folder, part.number, rejects)
    write_whole(record_path(folder, part.number), json.dumps(asdict(record)).encode())
    return record


def good_documents(
    found: Iterator[Document | Reject], rules: Rules, duplicates: frozenset[int], record: ShardRecord,
    rejects: list[Reject], reasons: Counter[str],
) -> Iterator[Document]:  # fmt: skip
    """Cleaned documents; what is none, or is left out by a rule, goes to the rejects."""
    left_out: Counter[str] = Counter()
    squad: set[int] = set()
    place = -1  # as cleaned_texts counts
    for item in found:
        cleaned = clean(item.text) if isinstance(item, Document) else ""
        place += bool(cleaned)
        if isinstance(item, Document) and cleaned:
            reason, held = (DUPLICATE, []) if place in duplicates else rules.judge(cleaned)
            record.squad_documents += bool(held)
            squad.update(held)
            if reason:
                item = LeftOut(item.id, item.line, reason, cleaned[:SAMPLE_LENGTH])
        if isinstance(item, LeftOut):
            add_reject(item, rejects, left_out)
        elif isinstance(item, Reject):
            record.records += 1
            add_reject(item, rejects, reasons)
        else:
            record.records += item.records
            if cleaned:
                yield replace(item, text=cleaned)
            else:
                add_reject(Reject(item.id, 0, "empty", ""), rejects, reasons)
    record.left_out = dict(sorted(left_out.items()))
    record.squad_paragraphs = sorted(squad)


def add_reject(item: Reject, rejects: list[Reject], reasons: Counter[str]) -> None:
    reasons[item.reason] += 1
    if reasons[item.reason] <= KEPT_REJECTS:
        rejects.append(item)


def split_of(cleaned: str, heldout_share: float) -> str:
    """Train or held out, by a hash of the text: equal texts never stand on both sides."""
    return "heldout" if signature(cleaned) < heldout_share * 2**64 else "train"


def tokenised(
    documents: Iterator[Document], language: str, encoder: Encoder
) -> Iterator[tuple[Document, list[int], list[int]]]:
    """Each document, its sentences' lengths in tokens, its tokens; sentences without a token are dropped."""
    for document in documents:
        lengths: list[int] = []
        tokens: list[int] = []
        pending = sentences(document.text, language)
        while batch := list(islice(pending, BATCH)):
            for ids in encoder.encode(batch):
                if ids:
                    lengths.append(len(ids))
                    tokens += ids
        yield document, lengths, tokens


def add_instances(
    folder: Path, data: DataSettings, split: str, number: int, documents: Documents, record: ShardRecord
) -> None:
    """Writes the instance tables of one documents file. Held-out documents are cut once."""
    if len(documents.ids) < 2:
        record.pairless.append(split)
    for seq_len in data.seq_lens:
        entries = record.instances.setdefault(split, {}).setdefault(str(seq_len), [])
        for pass_ in range(data.passes if split == "train" else 1):
            path, spans = write_instances(folder, data, split, number, documents, seq_len, pass_)
            tokens = int(spans.lengths.sum())
            record.files[path.relative_to(folder).as_posix()] = about_file(path, len(spans), tokens)
            random_next = len(spans) - int(spans.is_next.sum())
            entries.append({"pass": pass_, "instances": len(spans), "tokens": tokens, "random_next": random_next})


def write_instances(
    folder: Path, data: DataSettings, split: str, number: int, documents: Documents, seq_len: int, pass_: int
) -> tuple[Path, Spans]:
    """Cuts and writes one instance table."""
    spans = make_instances(documents, seq_len, data.short_share, (data.seed, split, pass_, number))
    path = folder / split / spans_name(seq_len, pass_, number)
    write_spans(path, spans)
    return path, spans


def about_file(path: Path, rows: int, tokens: int) -> dict[str, Any]:
    """The manifest's entry of one file."""
    return {"sha256": file_sha256(path), "rows": rows, "tokens": tokens}


def write_rejects(folder: Path, number: int, rejects: list[Reject]) -> None:
    """Samples of what was dropped, one JSON object a line; no file where nothing was."""
    path = folder / "rejects" / f"rejects-{number:05d}.jsonl"
    if rejects:
        lines = [json.dumps(asdict(r), ensure_ascii=False) for r in rejects]
        write_whole(path, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    else:
        path.unlink(missing_ok=True)
