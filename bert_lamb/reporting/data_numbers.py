"""What the files of a token store hold, counted for its report."""

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import read_documents, read_spans
from bert_lamb.data.vocabulary import VOCABULARY, read_vocabulary

SAMPLED = 100_000  # sequences drawn to fill budgets with


@dataclass
class StoreNumbers:
    """What is counted in the files of the training split."""

    manifest: dict[str, Any]
    vocabulary: list[str]
    token_counts: np.ndarray  # [V] occurrences of each entry
    document_lengths: np.ndarray  # [D] tokens
    sentence_lengths: np.ndarray  # sentences by their number of tokens
    sequence_lengths: dict[int, np.ndarray] = field(default_factory=dict)  # seq_len: sequences of pass 0 by length

    @property
    def passes(self) -> dict[int, list[dict[str, int]]]:
        """Of each length: instances, tokens, random_next of every pass."""
        return {int(length): passes for length, passes in self.manifest["instances"]["train"].items()}


def read_store(folder: Path) -> StoreNumbers:
    """Counts over all shards, one mapped file at a time."""
    manifest = read_manifest(folder)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    lengths = [int(length) for length in manifest["instances"]["train"]]
    numbers = StoreNumbers(
        manifest, vocabulary, np.zeros(len(vocabulary), np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64),
        {length: np.zeros(length + 1, np.int64) for length in lengths},
    )  # fmt: skip
    of_documents = []
    for name in sorted(manifest["files"]):
        if name.startswith("train/documents-"):
            documents = read_documents(folder / name)
            numbers.token_counts += np.bincount(documents.tokens, minlength=len(vocabulary))
            of_documents.append(np.diff(documents.token_starts))
            steps = np.diff(documents.sentence_ends.astype(np.int64), prepend=0)
            starts = documents.sentence_starts[:-1]
            steps[starts] = documents.sentence_ends[starts]  # ends count from the document's first token
            numbers.sentence_lengths = added(numbers.sentence_lengths, np.bincount(steps))
        for length in lengths:
            if name.startswith(f"train/seq{length}-pass0-"):
                counts = np.bincount(read_spans(folder / name).lengths, minlength=length + 1)
                numbers.sequence_lengths[length] += counts
    numbers.document_lengths = np.concatenate(of_documents)
    return numbers


def added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two arrays, the shorter one continued by zeros."""
    total = np.zeros(max(len(a), len(b)), np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def mean_length(counts: np.ndarray) -> float:
    """Mean of lengths given as sequences by length."""
    return float(np.arange(len(counts)) @ counts) / max(1, int(counts.sum()))


def fill(counts: np.ndarray, budget: int) -> float:
    """Share of token budgets that whole sequences, in random order, fill; one that does not fit opens the next budget.

    counts: sequences by length; up to SAMPLED are drawn from them. The last budget, still open, does not count.
    """
    draw = np.random.default_rng(0)
    lengths = np.repeat(np.arange(len(counts)), counts) if counts.sum() <= SAMPLED else draw.choice(
        len(counts), SAMPLED, p=counts / counts.sum()
    )  # fmt: skip
    closed, used, total = 0, 0, 0
    for length in draw.permutation(lengths).tolist():
        if used + length > budget:
            closed, total, used = closed + 1, total + used, 0
        used += length
    return total / (closed * budget) if closed else used / budget


def reasons(manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(reason, records, kind) of what is not in the store, the most frequent first."""
    kinds = (("rejects", "rejected"), ("left_out", "left out by rule"))
    found = chain(*([(r, n, words) for r, n in manifest.get(kind, {}).items()] for kind, words in kinds))
    return sorted(found, key=lambda item: (-item[1], item[0]))
